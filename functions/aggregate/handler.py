"""Aggregate stage: add each reading on the stream to its window."""

import functools
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from telemetry.aws import events, stream
from telemetry.aws.clients import client
from telemetry.aws.generations import Generations
from telemetry.aws.items import DynamoItems
from telemetry.aws.observe import (
    count,
    count_at,
    link,
    log,
    milliseconds,
    observed,
)
from telemetry.aws.pace import Pace
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.refusals import log_refused
from telemetry.aws.stream import Record, Stream
from telemetry.aws.windows import KEY, Added, Windows
from telemetry.domain.accounting import (
    DUPLICATE,
    FOREIGN,
    LEFT_OUT,
    QUARANTINED,
    REFUSED,
    SETTLED,
    STORED,
    Metric,
)
from telemetry.domain.reading import Reading, shown
from telemetry.domain.rule import shipped_rules
from telemetry.domain.times import minute_of
from telemetry.domain.unseen import limits_of
from telemetry.domain.window import MAX_READINGS, Fate
from telemetry.errors import Rejected
from telemetry.settings import AggregateSettings

WINDOW_FULL = Rejected(f"window_full: the window has {MAX_READINGS} readings already")
REFUSED_KEPT = 10  # records with refused metrics that go to quarantine, of each device and batch
DEVICES_LOGGED = 10
BY_MINUTE = (FOREIGN, *SETTLED, REFUSED, LEFT_OUT)
Outcome = tuple[Record, Metric | None]  # a record and the metric that counts it; None: it failed
METRIC_OF_FATE: dict[Fate | None, Metric | None] = {
    Fate.STORED: STORED,
    Fate.DUPLICATE: DUPLICATE,
    Fate.OVERFLOW: QUARANTINED,
    None: None,  # it couldn't be stored, and is delivered again
}


class RecordSink(Protocol):
    """Puts readings, or records' bytes, each with its device id; returns those it couldn't put."""

    def put(self, readings: Sequence[Reading]) -> list[Reading]: ...

    def put_lines(self, lines: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]: ...


def run(
    event: dict[str, Any],
    now_ms: int,
    windows: Windows,
    quarantine: Quarantine,
    sink: RecordSink,
    pace: Pace,
    limits: Mapping[str, float],
) -> dict[str, Any]:
    """Store every reading of the batch; answer with the record to resume from, if any.

    A reading of a pack is a record by itself here. The readings of a bundle go back on the stream,
    where event filters see each of them. So does a breach that bypassed `ingest` with more digits
    than filters compare; `limits` has the rules' limits by metric. After that, records that aren't
    readings go to quarantine, and so do records with refused metrics, whose readings are stored.
    Both steps stop before the first failed record: it and the records after it are delivered again,
    and would be quarantined and counted twice. So do all readings of its pack, which can only be
    delivered as a whole.
    """
    pace.begin()
    decoded = stream.checked(stream.decode(event), windows.retention_ms)
    records = [stream.opened(record, limits) for record in decoded]
    readings = [record.reading for record in records if record.reading]
    added = windows.add([reading for reading in readings if reading.metrics])
    records = _with_unreadable(records, added)
    outcomes = list(zip(records, _metrics_of(records, added.fates), strict=True))
    failed = [record for record, metric in outcomes if metric is None]
    failed += _put_back(_until_first(failed, outcomes), sink, pace)
    until_first = _until_first(failed, outcomes)
    bad = [record for record, metric in until_first if _is_bad(record, metric)]
    partly = _first_of_each_device(
        record for record, metric in until_first if metric is not QUARANTINED
    )
    unquarantined = quarantine.put(
        [(record, record.rejected or WINDOW_FULL) for record in bad],
        [(record, Rejected.all_of(record.refused)) for record in partly],
    )
    failed += unquarantined
    received = [reading.received_at_ms for reading in readings if reading.received_at_ms]
    if received:
        milliseconds(ReadingLag=max(0, now_ms - min(received)))
    link("windows", (reading.trace_id for reading in readings), readings=len(readings))
    if failed:
        log.warning("some readings can't be stored now", extra={"failed": len(failed)})
    answer = stream.resume_from(records, [record.sequence_number for record in failed])
    # counted in the present minute, where alarms look, not in the minute of receipt
    count(
        ReadingsConflicting=added.conflicts.total(),
        RecordsQuarantined=0 if unquarantined else len(bad),
    )
    if added.conflicts:
        devices = added.conflicts.most_common(DEVICES_LOGGED)
        log.warning("values differ from those stored for their instant", extra={"devices": devices})
    processed = _until_first(failed, outcomes)
    _count_by_minute(processed)
    for via, refusals in _refusals(processed).items():
        log_refused(refusals, via)
    return answer


def _put_back(outcomes: Sequence[Outcome], sink: RecordSink, pace: Pace) -> list[Record]:
    """Put on the stream what filters haven't seen; return records that couldn't be put.

    These are breaches, and the readings of bundles up to the first that couldn't be put. Readings
    that are sent again are duplicates. The pace limits how many bundles an invocation puts.
    """
    breaches = [(record, record.again) for record, _ in outcomes if record.again]
    untaken = {id(each) for each in sink.put([again for _, again in breaches])} if breaches else ()
    failed = [record for record, again in breaches if id(again) in untaken]
    for record, _ in _until_first(failed, outcomes):
        if record.bundle is None:
            continue
        if pace.is_over:
            return [*failed, record]
        if not _put_all(*stream.put_back(record), sink, pace):
            return [*failed, record]
    return failed


def _put_all(
    readings: list[Reading], lines: list[tuple[str, bytes]], sink: RecordSink, pace: Pace
) -> bool:
    """Put readings and records on the stream; return whether it took all of them.

    A shard takes 1,000 records a second. So a large bundle needs several puts, each of what is
    left: what a delivery puts is forgotten, and the next one begins with the whole bundle.
    """
    while readings or lines:
        if pace.is_over:
            return False
        before = len(readings) + len(lines)
        readings = sink.put(readings)
        lines = sink.put_lines(lines)
        if len(readings) + len(lines) == before:
            return False
    return True


def _is_bad(record: Record, metric: Metric | None) -> bool:
    """Return whether a record goes to quarantine; a bundle does if a document of it is refused."""
    return metric is QUARANTINED and (record.bundle is None or record.bundle.refused > 0)


def _with_unreadable(records: Iterable[Record], added: Added) -> list[Record]:
    """Return the same records; those whose window this code can't read are rejected.

    Newer code wrote the window, or it is damaged, so no retry can store them. If they were retried
    until the mapping gives up, all devices of their shard would wait.
    """
    places = itertools.count()
    marked = []
    for record in records:
        measured = record.reading and record.reading.metrics
        why = added.unreadable.get(next(places)) if measured else None
        if why:
            reason = f"window_unreadable: its window can't be read by this version: {why}"
            record = record._replace(rejected=Rejected(reason))  # noqa: PLW2901
        marked.append(record)
    return marked


def _metrics_of(records: Sequence[Record], fates: Iterable[Fate | None]) -> list[Metric | None]:
    """Return the metric that counts each record; `fates` are those of the records with metrics.

    A reading without a measurement brings nothing new, so it counts as a duplicate. A bundle counts
    only for its refused documents, and a reading that is put on the stream again when it comes.
    """
    of_readings = iter(fates)
    metrics: list[Metric | None] = []
    for record in records:
        fate = next(of_readings) if record.reading and record.reading.metrics else None
        if record.rejected or record.bundle:
            metrics.append(QUARANTINED)
        elif record.again or (record.reading and not record.reading.metrics):
            metrics.append(DUPLICATE)
        else:
            metrics.append(METRIC_OF_FATE[fate])
    return metrics


def _first_of_each_device(records: Iterable[Record]) -> list[Record]:
    """Return each device's first REFUSED_KEPT records with refused metrics.

    They are enough to see what is wrong with the device. The archive has the bytes of all of them.
    """
    seen: Counter[str] = Counter()
    first = []
    for record in records:
        if record.refused and record.identified:
            seen[record.identified.device_id] += 1
            if seen[record.identified.device_id] <= REFUSED_KEPT:
                first.append(record)
    return first


def _refusals(outcomes: Iterable[Outcome]) -> dict[str, list[dict[str, Any]]]:
    """Return the refused metrics of records, as they are logged, by the way in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record, _ in outcomes:
        identified = record.identified
        if identified is None:
            continue
        found.setdefault(identified.via or stream.VIA, []).extend(
            {
                "device_id": identified.device_id,
                "field": error.field,
                "value": shown(error.value),
                "reason": error.reason,
            }
            for error in record.refused
        )
    return found


def _until_first(failed: Iterable[Record], outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the outcomes before the first failed record; the rest is delivered again."""
    stop = {record.sequence_number for record in failed}
    return list(itertools.takewhile(lambda each: each[0].sequence_number not in stop, outcomes))


def _count_by_minute(outcomes: Iterable[Outcome]) -> None:
    """Count each record in the minute of its receipt, in which `ingest` counted it.

    Of a bundle, only refused documents count; its readings count when they come as records. So does
    a reading that was put on the stream again; what was refused of it counts now.
    """
    minutes: dict[int, Counter[Metric | None]] = {}
    for record, metric in outcomes:
        counted = minutes.setdefault(minute_of(record.received_at_ms), Counter())
        times = record.bundle.refused if record.bundle else int(record.again is None)
        counted[metric] += times
        counted[FOREIGN] += times * record.bypassed_ingest
        counted[REFUSED] += len(record.refused)
        counted[LEFT_OUT] += record.left_out
    for minute_ms, counted in minutes.items():
        count_at(minute_ms, **{metric.name: counted[metric] for metric in BY_MINUTE})


@functools.cache
def wired() -> tuple[Windows, Quarantine, Stream, Pace, dict[str, float]]:
    settings = AggregateSettings.read(os.environ)
    dynamodb, table, region = client("dynamodb"), settings.windows_table, settings.aws_region
    items = DynamoItems(dynamodb, table, KEY)
    generations = Generations(dynamodb, table, region, items)
    return (
        Windows(items, region, settings.retention_ms, generations.written),
        Quarantine(client("s3"), settings.failures_bucket),
        Stream(
            client("kinesis", attempts=1),
            settings.stream_name,
            is_packing=settings.pack_readings,
        ),
        Pace(),
        limits_of(shipped_rules()),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A Kinesis event in, a partial batch response out."""
    events.expect("aggregate", event, events.STREAM)
    return run(event, int(time.time() * 1000), *wired())
