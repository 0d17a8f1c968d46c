"""Drain stage: put readings from the overflow queue on the stream, once it takes them again."""

import functools
import os
from typing import Any

from telemetry.aws.clients import client
from telemetry.aws.observe import count, log, observed
from telemetry.aws.overflow import overflowed, unreadable
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.stream import Stream
from telemetry.settings import DrainSettings


def run(event: dict[str, Any], stream: Stream, quarantine: Quarantine) -> dict[str, Any]:
    """Answer with the messages that must come back: those of which a line found no place.

    A reading's place is the stream; what isn't one goes to quarantine, once the readings beside
    it are on the stream.
    """
    failures, drained, quarantined = [], 0, 0
    for message in event["Records"]:
        readings, rejected = overflowed(message["body"])
        held = [unreadable(message, *each) for each in rejected]
        if stream.put(readings) or not quarantine.keep(held):
            failures.append({"itemIdentifier": message["messageId"]})
            continue
        drained += len(readings)
        quarantined += len(held)
        for each in held:
            log.error("not a reading", extra={"held": each.name, "why": each.reason})
    count(ReadingsDrained=drained, ReadingsQuarantined=quarantined)
    return {"batchItemFailures": failures}


@functools.cache
def wired() -> tuple[Stream, Quarantine]:
    settings = DrainSettings.read(os.environ)
    return (
        Stream(client("kinesis", attempts=1), settings.stream_name),
        Quarantine(client("s3"), settings.failures_bucket),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """An SQS event in, a partial batch response out."""
    return run(event, *wired())
