"""Alert stage: join each breach on the stream into its episode.

The mapping's filter, compiled from the rules, lets only breaches through. What isn't a reading is
left to `aggregate`, which sees every record and quarantines it once; so is what came past `ingest`
with a time that it wouldn't take.
"""

import functools
import os
from typing import Any

from telemetry.aws import stream
from telemetry.aws.alerts import KEY, Alerts
from telemetry.aws.clients import client
from telemetry.aws.items import DynamoItems
from telemetry.aws.observe import count, link, log, observed
from telemetry.domain import rule as rules_of
from telemetry.domain.episode import Breach, EpisodeKey
from telemetry.domain.rule import Rule
from telemetry.settings import AlertSettings


def run(
    event: dict[str, Any], rules: tuple[Rule, ...], alerts: Alerts, retention_ms: int
) -> dict[str, Any]:
    """Join every breach of the batch; answer with the record to resume from, if any."""
    records = stream.checked(stream.decode(event), retention_ms)
    breaches: dict[EpisodeKey, list[Breach]] = {}
    sources: dict[EpisodeKey, list[str]] = {}
    for record in records:
        reading = record.reading
        if reading is None:
            continue
        for rule in rules:
            value = rules_of.breach(rule, reading)
            if value is None:
                continue
            key = EpisodeKey(reading.device_id, rule.name)
            breach = Breach(reading.recorded_at_ms, value, reading.trace_id)
            breaches.setdefault(key, []).append(breach)
            sources.setdefault(key, []).append(record.sequence_number)
    joined = alerts.join(breaches)
    count(EpisodesOpened=sum(result.change == "opened" for result in joined.values()))
    for key, result in joined.items():
        if result.change == "opened" and result.state:
            log.info("episode opened", extra={"device_id": key.device_id, "rule": key.rule})
            link("episode", [result.state.trace_id], device_id=key.device_id, rule=key.rule)
    failed = [number for key in breaches.keys() - joined.keys() for number in sources[key]]
    return stream.resume_from(records, failed)


@functools.cache
def wired() -> tuple[tuple[Rule, ...], Alerts, int]:
    settings = AlertSettings.read(os.environ)
    rules = rules_of.shipped_rules()
    items = DynamoItems(client("dynamodb"), settings.alerts_table, KEY)
    severities = {rule.name: rule.severity for rule in rules}
    return rules, Alerts(items, settings.aws_region, severities), settings.retention_ms


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A Kinesis event in, a partial batch response out."""
    return run(event, *wired())
