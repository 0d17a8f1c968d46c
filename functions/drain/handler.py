"""Drain stage: put readings from the overflow queue on the stream, once it takes them again."""

import functools
import os
from typing import Any

from telemetry.aws.clients import client
from telemetry.aws.observe import count, log, observed
from telemetry.aws.overflow import overflowed
from telemetry.aws.stream import Stream
from telemetry.errors import Rejected
from telemetry.settings import DrainSettings


def run(event: dict[str, Any], stream: Stream) -> dict[str, Any]:
    """Answer with the messages that must come back: those of which a reading wasn't taken."""
    failures, drained = [], 0
    for message in event["Records"]:
        try:
            readings = overflowed(message["body"])
        except Rejected as error:  # it waits, and its age raises an alarm
            log.error("not readings", extra={"id": message["messageId"], "why": str(error)})
            failures.append({"itemIdentifier": message["messageId"]})
            continue
        if stream.put(readings):
            failures.append({"itemIdentifier": message["messageId"]})
        else:
            drained += len(readings)
    count(ReadingsDrained=drained)
    return {"batchItemFailures": failures}


@functools.cache
def wired() -> tuple[Stream]:
    settings = DrainSettings.read(os.environ)
    return (Stream(client("kinesis", attempts=1), settings.stream_name),)


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """An SQS event in, a partial batch response out."""
    return run(event, *wired())
