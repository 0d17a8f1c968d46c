"""Alert stage: join each breach on the stream into its episode.

The mapping's filter, compiled from the rules, passes only breaches. This stage ignores records that
aren't readings, and those that bypassed `ingest` with a time that `ingest` refuses: `aggregate`
sees every record and quarantines them once.
"""

import functools
import itertools
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from telemetry.aws import events, stream
from telemetry.aws.alerts import KEY, Alerts
from telemetry.aws.clients import client
from telemetry.aws.items import DynamoItems
from telemetry.aws.observe import count, link, log, observed
from telemetry.aws.quarantine import Quarantine, entry_of_record
from telemetry.aws.stream import Record
from telemetry.domain.episode import Breach, EpisodeKey
from telemetry.domain.rule import Rule, breaching_value, shipped_rules
from telemetry.errors import Rejected
from telemetry.settings import AlertSettings


def run(
    event: dict[str, Any],
    rules: tuple[Rule, ...],
    alerts: Alerts,
    retention_ms: int,
    quarantine: Quarantine,
) -> dict[str, Any]:
    """Join every breach of the batch; answer with the record to resume from, if any.

    A breach of an episode that this code can't read goes to quarantine, if it comes before that
    record. If it were retried until the mapping gives up, later alerts of all devices would wait.
    """
    records = stream.checked(stream.decode(event), retention_ms)
    breaches: dict[EpisodeKey, list[Breach]] = {}
    sources: dict[EpisodeKey, list[int]] = {}  # places in `records`
    for place, record in enumerate(records):
        reading = record.reading
        if reading is None:
            continue
        for rule in rules:
            value = breaching_value(rule, reading)
            if value is None:
                continue
            key = EpisodeKey(reading.device_id, rule.name)
            breach = Breach(reading.recorded_at_ms, value, reading.trace_id)
            breaches.setdefault(key, []).append(breach)
            sources.setdefault(key, []).append(place)
    unreadable: dict[EpisodeKey, Rejected] = {}
    joined = alerts.join(breaches, unreadable)
    count(EpisodesOpened=sum(result.change == "opened" for result in joined.values()))
    for key, result in joined.items():
        if result.change == "opened" and result.state:
            log.info("episode opened", extra={"device_id": key.device_id, "rule": key.rule})
            link("episode", [result.state.trace_id], device_id=key.device_id, rule=key.rule)
    unwritten = breaches.keys() - joined.keys() - unreadable.keys()
    failed = {records[place].sequence_number for key in unwritten for place in sources[key]}
    whys = {place: why for key, why in unreadable.items() for place in sources[key]}
    failed |= _put_aside(records, failed, whys, quarantine)
    return stream.resume_from(records, failed)


def _put_aside(
    records: Sequence[Record],
    failed: Collection[str],
    whys: Mapping[int, Rejected],
    quarantine: Quarantine,
) -> set[str]:
    """Quarantine records before the first failed one; return the numbers of those it couldn't.

    `whys` has the reasons, by place in `records`.
    """
    before = itertools.takewhile(lambda record: record.sequence_number not in failed, records)
    to_quarantine = [(record, whys[place]) for place, record in enumerate(before) if place in whys]
    entries = []
    for record, why in to_quarantine:
        reason = f"episode_unreadable: this version can't read it: {why}"
        entries.append(entry_of_record(record, "alert", Rejected(reason)))
    if not quarantine.keep(entries):
        return {record.sequence_number for record, _ in to_quarantine}
    count(RecordsQuarantined=len(entries))
    return set()


@functools.cache
def wired() -> tuple[tuple[Rule, ...], Alerts, int, Quarantine]:
    settings = AlertSettings.read(os.environ)
    rules = shipped_rules()
    items = DynamoItems(client("dynamodb"), settings.alerts_table, KEY)
    severities = {rule.name: rule.severity for rule in rules}
    return (
        rules,
        Alerts(items, settings.aws_region, severities),
        settings.retention_ms,
        Quarantine(client("s3"), settings.failures_bucket),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A Kinesis event in, a partial batch response out."""
    events.expect("alert", event, events.STREAM)
    return run(event, *wired())
