"""MQTT messages that an IoT rule doesn't put on the stream itself, one at a time.

A rule hands such a message to `ingest`. Messages that the rule couldn't deliver, or that Lambda
gave up on, wait in the overflow queue for `drain`, in one of these forms:

- IoT's error document: https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html
- Lambda's record of a failed asynchronous invocation, with the event as requestPayload:
  https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
- the event itself, put there by an operator's release.

A device gets no answer over MQTT. So a message with a document that isn't a reading, or with a
refused metric, goes to quarantine, whole and byte for byte. If it is released later, its valid
readings are duplicates.
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

VIA = "mqtt"  # stamped on readings that `ingest` doesn't count; the rule's SQL stamps the same
BASIC_INGEST = "$aws/rules/"  # then the rule's name, then the topic
GZIPPED = "-gzip"  # "+", as in Internet media types, is a wildcard to MQTT
# A topic's last level, and the HTTP Content-Type that it stands for.
CONTENT_TYPES = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "avro": "application/avro",
    "protobuf": "application/x-protobuf",
}
MARK = '"topic"'  # is in all three forms, and in no reading


class Message(NamedTuple):
    """A device's message: its topic and body, and when the rule got it."""

    topic: str
    device_id: str
    format: str
    body: bytes
    received_at_ms: int
    released: str | None = None  # the release from quarantine that sent it, if one did


class Intake(NamedTuple):
    """A message's readings, the number of its refused documents, and its quarantine entries.

    `lines` has readings that `aggregate` judges: their devices and bytes.
    """

    readings: list[Reading]
    refused: int
    entries: list[QuarantineEntry]
    partly: Sequence[Refusal] = ()  # refused metrics of accepted documents
    left_out: int = 0  # values that stand for no measurement
    lines: Sequence[tuple[str, bytes]] = ()


def of_event(event: dict[str, Any]) -> Message:
    """Return the message in a rule's event; raise Rejected if it isn't one."""
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
    """Return the event in which a rule hands a message on."""
    return {
        "topic": message.topic,
        "device_id": message.device_id,
        "format": message.format,
        "body": base64.b64encode(message.body).decode(),
        "received_at": message.received_at_ms,
    }


def of_overflow(body: str, sent_at_ms: int | None) -> Message | None:
    """Return the MQTT message in a body of the overflow queue; None if it holds plain readings.

    IoT's error document doesn't say when the message came, so `sent_at_ms` is used: the document
    was queued a moment later.
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
        return None  # read line by line then: each is a reading, or goes to quarantine


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
    """Check every document of a message as `ingest` checks those of an HTTP request.

    The clock is the rule's, so each delivery of a message has the same result. Raise Unavailable if
    a schema can't be fetched now.
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
    """Return the readings with the stamp that `ingest` hasn't counted them."""
    return [reading._replace(via=VIA) for reading in readings]


def decoded(message: Message, schemas: Schemas) -> list[Any]:
    """Return the documents in a message; raise Rejected, or Unavailable for a schema."""
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
    """Return a message's quarantine entry; a release sends it to `drain`.

    The name is made from the content, so each delivery of a message makes the same entry.
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
