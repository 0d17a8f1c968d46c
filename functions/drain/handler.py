"""Drain stage: put readings from the overflow queue on the stream, once it takes them again."""

import functools
import os
from typing import Any

from telemetry.aws import events, mqtt
from telemetry.aws.clients import client
from telemetry.aws.mqtt import Intake
from telemetry.aws.observe import count, log, observed
from telemetry.aws.overflow import entry_of_line, overflowed, sent_at_ms
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.refusals import log_refused, refusal_of_entry
from telemetry.aws.schemas import schemas as reading_schemas
from telemetry.aws.stream import Stream
from telemetry.domain.formats import Schemas
from telemetry.errors import Unavailable
from telemetry.settings import DrainSettings


def run(
    event: dict[str, Any],
    stream: Stream,
    quarantine: Quarantine,
    retention_ms: int,
    schemas: Schemas,
) -> dict[str, Any]:
    """Move each message's readings to the stream, its other lines to quarantine.

    Answer with the messages that must come back, because a part of them couldn't be moved. A line
    goes to quarantine only after the message's readings are on the stream. A reading of which a
    value is refused now goes on as it is: `aggregate` counts and keeps what is wrong with it.
    """
    failures: list[dict[str, str]] = []
    drained, quarantined, refused, left_out = 0, 0, 0, 0
    for message in event["Records"]:
        try:
            intake = contents(message, retention_ms, schemas)
        except Unavailable as error:
            log.warning("a schema can't be fetched now", extra={"why": str(error)})
            failures.append({"itemIdentifier": message["messageId"]})
            continue
        # one message must not stop the others
        except Exception:  # noqa: BLE001
            log.exception("a message can't be read", extra={"id": message["messageId"]})
            failures.append({"itemIdentifier": message["messageId"]})
            continue
        left = stream.put(intake.readings) or stream.put_lines(intake.lines)
        if left or not quarantine.keep(intake.entries):
            failures.append({"itemIdentifier": message["messageId"]})
            continue
        drained += len(intake.readings) + len(intake.lines)
        refused += len(intake.partly)
        left_out += intake.left_out
        bad = [each for each in intake.entries if not each.is_partly]
        quarantined += len(bad)
        log_refused([*intake.partly, *map(refusal_of_entry, bad)], "overflow")
    count(
        ReadingsDrained=drained,
        ReadingsQuarantined=quarantined,
        MetricsRefused=refused,
        MetricsLeftOut=left_out,
    )
    return {"batchItemFailures": failures}


def contents(message: dict[str, Any], retention_ms: int, schemas: Schemas) -> Intake:
    """Return the content of an SQS message: overflowed readings, or a device's MQTT message.

    Raise Unavailable if the schema of an MQTT message can't be fetched now.
    """
    published = mqtt.of_overflow(message["body"], sent_at_ms(message))
    if published is not None:
        intake = mqtt.take(published, retention_ms, "drain", schemas)
        return intake._replace(readings=mqtt.uncounted(intake.readings))
    found = overflowed(message["body"])
    entries = [entry_of_line(message, *each) for each in found.rejected]
    return Intake(found.readings, len(entries), entries, lines=found.lines)


@functools.cache
def wired() -> tuple[Stream, Quarantine, int, Schemas]:
    settings = DrainSettings.read(os.environ)
    return (
        Stream(
            client("kinesis", attempts=1),
            settings.stream_name,
            is_packing=settings.pack_readings,
        ),
        Quarantine(client("s3"), settings.failures_bucket),
        settings.retention_ms,
        reading_schemas(settings),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """An SQS event in, a partial batch response out."""
    events.expect("drain", event, events.MESSAGES)
    return run(event, *wired())
