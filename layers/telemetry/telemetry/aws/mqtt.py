"""What comes over MQTT and isn't put on the stream by an IoT rule itself: a message at a time.

A rule hands a message to `ingest`. What its action couldn't deliver, and what Lambda gave up on,
waits in the overflow queue for `drain`, in the form that each of them writes:

- IoT's error document: https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html
- Lambda's record of a failed asynchronous invocation, with the event as requestPayload:
  https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
- the event itself, which an operator's release puts there.

There is no answer to a device: a message with anything in it that isn't a reading, or with a metric
that is refused, goes to quarantine, whole and byte for byte. Once it is released, its readings are
duplicates.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from telemetry.aws.quarantine import QuarantineEntry
from telemetry.domain.admission import MAX_READINGS, Poster, Refusal, admit
from telemetry.domain.formats import Body, Schemas, decode
from telemetry.domain.reading import Reading, shown
from telemetry.domain.times import LATEST_MS
from telemetry.errors import Rejected

VIA = "mqtt"  # stamped on what comes past the counting of `ingest`; the rule's SQL says the same
BASIC_INGEST = "$aws/rules/"  # then the rule's name, then the topic
GZIPPED = "-gzip"  # "+", as in Internet media types, is a wildcard to MQTT
# What a topic's last level says of the body, as HTTP's Content-Type would.
CONTENT_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "avro": "application/avro",
    "protobuf": "application/x-protobuf",
}
MARK = '"topic"'  # is in all three documents, and in no reading


class Message(NamedTuple):
    """A message of a device: what was published, where, and when the rule got it."""

    topic: str
    device_id: str
    format: str
    body: bytes
    received_at_ms: int
    released: str | None = None  # by which release of the quarantine it comes


class Intake(NamedTuple):
    """What became of a message: so many of its documents were refused, and these metrics."""

    readings: list[Reading]
    refused: int
    entries: list[QuarantineEntry]  # the message, for the quarantine, where anything was refused
    partly: Sequence[Refusal] = ()  # metrics of documents whose other metrics are readings
    left_out: int = 0  # values that stand for no measurement


def of_event(event: dict[str, Any]) -> Message:
    """The message in an event of a rule; raises Rejected where it is none."""
    try:
        topic, device_id, body = event["topic"], event["device_id"], event["body"]
        received_at_ms, form = event["received_at"], event.get("format") or "json"
        data = base64.b64decode(body, validate=True)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Rejected(f"is not an event of an IoT rule: {error!r}", value=event) from None
    texts = (topic, device_id, form)
    is_instant = type(received_at_ms) is int and 0 <= received_at_ms <= LATEST_MS
    if not all(isinstance(text, str) for text in texts) or not is_instant:
        raise Rejected(
            "is not an event of an IoT rule: a field has another type or range", value=event
        )
    released = event.get("released")
    return Message(
        topic,
        device_id,
        form,
        data,
        received_at_ms,
        released if isinstance(released, str) else None,
    )


def to_event(message: Message) -> dict[str, Any]:
    """The event in which a rule hands a message on."""
    return {
        "topic": message.topic,
        "device_id": message.device_id,
        "format": message.format,
        "body": base64.b64encode(message.body).decode(),
        "received_at": message.received_at_ms,
    }


def of_overflow(body: str, sent_at_ms: int | None) -> Message | None:
    """The message in a body of the overflow queue; None where there are overflowed readings.

    IoT's error document doesn't say when the message came: `sent_at_ms`, when the document was
    queued, a moment later, stands for it.
    """
    if MARK not in body:
        return None
    try:
        document = json.loads(body)
        if "base64OriginalPayload" in document:
            return _of_error(document, sent_at_ms)
        event = document.get("requestPayload", document)
        return of_event(event) if "topic" in event else None
    except (ValueError, TypeError, AttributeError, RecursionError, Rejected):
        return None  # line by line, then: each is a reading or goes to quarantine


def _of_error(document: dict[str, Any], sent_at_ms: int | None) -> Message:
    topic = document["topic"]
    levels = topic.split("/")  # telemetry/<device>/readings, telemetry/<device>/batch/<format>
    if topic.startswith(BASIC_INGEST):
        levels = levels[3:]
    event = {
        "topic": topic,
        "device_id": levels[1] if len(levels) > 1 else "",
        "format": levels[3] if len(levels) > 3 else "json",
        "body": document["base64OriginalPayload"],
        "received_at": sent_at_ms,
    }
    return of_event(event)


def take(
    message: Message, retention_ms: int, stage: str, schemas: Schemas, trace_id: str | None = None
) -> Intake:
    """Check every document of a message as `ingest` does one that comes over HTTP.

    The clock is the rule's, so a message is the same however often it is delivered. Raises
    Unavailable where a schema can't be had now.
    """
    try:
        documents = decoded(message, schemas)
    except Rejected as error:
        entry = _entry(message, stage, error.reason, error.field, error.value)
        return Intake([], 1, [entry])
    poster = Poster(message.device_id)
    admission = admit(documents, poster, message.received_at_ms, retention_ms, trace_id)
    refusals = [each for each in admission.refusals if each["index"] not in admission.empty]
    intake = Intake(admission.readings, len(refusals), [], admission.partly, admission.left_out)
    if not refusals and not intake.partly:
        return intake
    first = (refusals or intake.partly)[0]
    notes = []
    if len(documents) > 1:
        notes.append(f"document {first['index'] + 1} of {len(documents)}")
        notes += [f"{len(refusals)} are refused"] if refusals else []
    if not refusals:
        notes.append("its other metrics are stored")
    reason = first["reason"] + (f" ({'; '.join(notes)})" if notes else "")
    entry = _entry(message, stage, reason, first["field"], first["value"])
    return intake._replace(entries=[entry._replace(is_partly=not refusals)])


def uncounted(readings: Sequence[Reading]) -> list[Reading]:
    """The readings, marked as come past the counting of `ingest`."""
    return [reading._replace(via=VIA) for reading in readings]


def decoded(message: Message, schemas: Schemas) -> list[Any]:
    """The documents in a message, by its format; raises Rejected, or Unavailable for a schema."""
    name = message.format.removesuffix(GZIPPED)
    if name not in CONTENT_TYPES:
        known = ", ".join(CONTENT_TYPES)
        reason = f"is not a format of a batch: {known}, or one of them with {GZIPPED}"
        raise Rejected(reason, field="topic", value=message.format)
    encoding = "gzip" if name != message.format else None
    return decode(Body(message.body, CONTENT_TYPES[name], encoding), schemas, MAX_READINGS)


def _entry(
    message: Message, stage: str, reason: str, field: str | None, value: Any
) -> QuarantineEntry:
    """How the quarantine holds a message: released, `drain` gets it.

    Its name is made from its content, so a message that is delivered again is the same.
    """
    event = json.dumps(to_event(message)).encode()
    digest = hashlib.sha256(event).hexdigest()[:16]
    return QuarantineEntry(
        f"mqtt:{digest}",
        stage,
        VIA,
        reason,
        field,
        shown(value),
        None,
        None,
        message.device_id,
        message.received_at_ms,
        event,
        device_id=message.device_id,
        released=message.released,
    )
