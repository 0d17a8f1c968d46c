"""Aggregate stage: add each reading on the stream to its window."""

import functools
import os
import time
from typing import Any

from telemetry.aws import stream
from telemetry.aws.clients import client
from telemetry.aws.generations import Generations
from telemetry.aws.items import DynamoItems
from telemetry.aws.observe import count, link, log, milliseconds, observed
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Record
from telemetry.aws.windows import KEY, Windows
from telemetry.domain.reading import Reading
from telemetry.domain.window import MAX_READINGS
from telemetry.errors import Rejected
from telemetry.settings import AggregateSettings

WINDOW_FULL = Rejected(f"window_full: the window has {MAX_READINGS} readings already")


def run(
    event: dict[str, Any], now_ms: int, windows: Windows, quarantine: Quarantine
) -> dict[str, Any]:
    """Store every reading of the batch; answer with the record to resume from, if any.

    What can't be a reading is quarantined last, and only up to that record: what comes after it
    is delivered again, and would be quarantined twice.
    """
    records = stream.decode(event)
    readings = [record.reading for record in records if record.reading]
    added = windows.add(readings)
    failed = _records_of(records, added.unstored)
    rejected = [(record, record.rejected) for record in records if record.rejected]
    rejected += [(record, WINDOW_FULL) for record in _records_of(records, added.overflow)]
    checkpoint = _until_first(records, failed)
    due = [(record, reason) for record, reason in rejected if record.sequence_number in checkpoint]
    unquarantined = quarantine.put(due)
    failed += unquarantined
    count(
        ReadingsStored=added.stored,
        ReadingsDuplicate=added.duplicates,
        ReadingsConflicting=added.conflicts,
        ReadingsQuarantined=len(due) - len(unquarantined),
    )
    received = [reading.received_at_ms for reading in readings if reading.received_at_ms]
    if received:
        milliseconds(ReadingLag=max(0, now_ms - min(received)))
    link("windows", (reading.trace_id for reading in readings), readings=len(readings))
    if failed:
        log.warning("some readings can't be stored now", extra={"failed": len(failed)})
    return stream.resume_from(records, [record.sequence_number for record in failed])


def _records_of(records: list[Record], readings: list[Reading]) -> list[Record]:
    """The records that brought these very readings."""
    wanted = {id(reading) for reading in readings}
    return [record for record in records if id(record.reading) in wanted]


def _until_first(records: list[Record], failed: list[Record]) -> set[str]:
    """Sequence numbers of the records before the first failed one."""
    stop = {record.sequence_number for record in failed}
    until = set()
    for record in records:
        if record.sequence_number in stop:
            break
        until.add(record.sequence_number)
    return until


@functools.cache
def wired() -> tuple[Windows, Quarantine]:
    settings = AggregateSettings.read(os.environ)
    dynamodb, table, region = client("dynamodb"), settings.windows_table, settings.aws_region
    items = DynamoItems(dynamodb, table, KEY)
    generations = Generations(dynamodb, table, region, items)
    queue = Queue(client("sqs"), settings.quarantine_url)
    return (
        Windows(items, region, settings.retention_ms, generations.written),
        Quarantine(queue, client("s3"), settings.failures_bucket),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A Kinesis event in, a partial batch response out."""
    return run(event, int(time.time() * 1000), *wired())
