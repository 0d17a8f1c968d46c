"""Ingest stage: accept readings, put the valid ones on the stream, refuse the rest in the answer.

Readings come over HTTPS, or in batches over MQTT. MQTT has no answer, so a message with something
refused goes to quarantine.
"""

import functools
import os
import time
from collections.abc import Sequence
from typing import Any, Protocol

from telemetry.aws import events, http, mqtt
from telemetry.aws.clients import client
from telemetry.aws.observe import (
    count,
    count_at,
    current_trace_id,
    log,
    observed,
)
from telemetry.aws.overflow import Overflow
from telemetry.aws.quarantine import Appender, QuarantineEntry
from telemetry.aws.queue import Queue
from telemetry.aws.refusals import Refusal, log_refused, refusal, refusal_of_entry
from telemetry.aws.schemas import schemas as reading_schemas
from telemetry.aws.stream import Stream
from telemetry.domain.admission import MAX_READINGS, Admission, Poster, admit
from telemetry.domain.formats import Schemas, decode
from telemetry.domain.reading import Reading
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import IngestSettings

# InfluxDB's API, for fleets that wrote to InfluxDB before: docs/influx.md
INFLUX_ROUTES = ("/write", "/api/v2/write", "/query", "/ping")
HTTPS, INFLUX = "https", "line protocol"  # the way in, for the log of refusals
ROUTES = ("/devices/{device_id}/readings", "/readings", *INFLUX_ROUTES)


class ReadingSink(Protocol):
    """Takes readings; returns those it couldn't take."""

    def put(self, readings: list[Reading]) -> list[Reading]: ...


class QuarantineSink(Protocol):
    """Takes quarantine entries; returns whether it could."""

    def keep(self, entries: Sequence[QuarantineEntry]) -> bool: ...


def run(
    event: dict[str, Any],
    now_ms: int,
    retention_ms: int,
    stream: ReadingSink,
    overflow: ReadingSink,
    schemas: Schemas,
    trace_id: str | None = None,
) -> dict[str, Any]:
    """Answer 202 only for readings that the stream or, failing that, the overflow queue has."""
    if event["resource"] in INFLUX_ROUTES:
        return run_influx(event, now_ms, retention_ms, stream, overflow, trace_id)
    device_id, grant = http.path_parameter(event, "device_id"), http.granted(event)
    subject = grant.get("subject")
    if device_id is None and grant.get("role") != "gateway":
        reason = "Only a gateway posts for other devices."
        log_refused([refusal(subject, None, reason)], HTTPS, subject)
        return http.respond(403, {"message": reason})
    poster = Poster(device_id, grant.get("prefix", ""))
    try:
        documents = decode(http.read_body(event), schemas, MAX_READINGS)
    except Unavailable as error:
        return http.refuse(error)
    except Rejected as error:
        log_refused([refusal(device_id, error.field, error.reason)], HTTPS, subject)
        return http.refuse(error)
    admission = admit(documents, poster, now_ms, retention_ms, trace_id)
    log_refused([*admission.refusals, *admission.partly], HTTPS, subject)
    lost = _keep(admission, len(admission.refusals), now_ms, stream, overflow)
    if lost:
        return _unavailable(admission, lost, trace_id)
    body = {
        "accepted": len(admission.readings),
        "rejected": admission.refusals,
        "partly": admission.partly,
        "trace_id": trace_id,
    }
    return http.respond(202 if admission.readings else 400, body)


def run_influx(
    event: dict[str, Any],
    now_ms: int,
    retention_ms: int,
    stream: ReadingSink,
    overflow: ReadingSink,
    trace_id: str | None = None,
) -> dict[str, Any]:
    """Accept InfluxDB's line protocol, and answer as InfluxDB does; otherwise as `run`."""
    # only these requests pay for the import
    from telemetry.aws import influx_api  # noqa: PLC0415
    from telemetry.domain.influx_mapping import judge_batch  # noqa: PLC0415

    if event["resource"] not in (influx_api.V1_WRITE, influx_api.V2_WRITE):
        try:
            return influx_api.answer(event)
        except Rejected as error:
            return influx_api.refuse(event, error)
    grant = http.granted(event)
    if grant.get("role") not in ("device", "gateway"):
        return influx_api.forbid(event)
    device_id = grant["subject"] if grant["role"] == "device" else None
    poster = Poster(device_id, grant.get("prefix", ""))
    try:
        batch = influx_api.read(event, poster, now_ms)
    except Rejected as error:
        log_refused([refusal(device_id, error.field, error.reason)], INFLUX, grant["subject"])
        return influx_api.refuse(event, error)
    places = [f"line {point.line}" for point in batch.points]
    admission = admit(batch.documents, poster, now_ms, retention_ms, trace_id, places)
    judgement = judge_batch(batch, admission)
    refused: list[Refusal] = [*admission.refusals, *judgement.admission.partly]
    refused += [
        refusal(fault.device_id, fault.field, str(fault), fault.value) for fault in batch.faults
    ]
    log_refused(refused, INFLUX, grant["subject"])
    lost = _keep(judgement.admission, judgement.dropped, now_ms, stream, overflow)
    if batch.ignored:
        count(FieldsIgnored=batch.ignored.total())
        log.info("fields that are no metric", extra={"fields": batch.ignored.most_common(10)})
    if lost:
        return influx_api.unavailable(event)
    if batch.has_no_metric:
        return influx_api.nothing_stored(event, batch)
    return influx_api.written(event, judgement.faults, judgement.dropped, batch.ignored)


def _keep(
    admission: Admission, refused: int, now_ms: int, stream: ReadingSink, overflow: ReadingSink
) -> list[Reading]:
    """Put readings on the stream, or else in the overflow queue; return those neither took.

    `refused` is the number of refused documents, to be counted.
    """
    readings = admission.readings
    left = stream.put(readings)
    lost = overflow.put(left) if left else []
    count_at(
        now_ms,  # the readings have the same stamp, so the counts of the minute balance
        ReadingsAccepted=len(readings) - len(lost),
        ReadingsRejected=refused,
        ReadingsOverflowed=len(left) - len(lost),
        MetricsRefused=len(admission.partly),
        MetricsLeftOut=admission.left_out,
    )
    if lost:
        message = "neither the stream nor the overflow queue took readings"
        log.error(message, extra={"lost": len(lost)})
    return lost


def run_message(
    event: dict[str, Any],
    retention_ms: int,
    stream: ReadingSink,
    overflow: ReadingSink,
    quarantine: QuarantineSink,
    schemas: Schemas,
    trace_id: str | None = None,
) -> None:
    """Store all parts of a message from an IoT rule; raise Unavailable if one can't be stored.

    Lambda then retries, and finally sends the message to the overflow queue. The parts that were
    stored are counted; a retry makes duplicates of them.
    """
    message = mqtt.of_event(event)
    intake = mqtt.take(message, retention_ms, "ingest", schemas, trace_id)
    left = stream.put(intake.readings)
    lost = overflow.put(left) if left else []
    is_kept = quarantine.keep(intake.entries)
    count_at(
        message.received_at_ms,
        ReadingsAccepted=len(intake.readings) - len(lost),
        ReadingsRejected=intake.refused,
        ReadingsOverflowed=len(left) - len(lost),
        MetricsRefused=len(intake.partly) if is_kept else 0,
        MetricsLeftOut=intake.left_out,
    )
    count(ReadingsQuarantined=intake.refused if is_kept else 0)
    bad = [each for each in intake.entries if not each.is_partly]
    log_refused([*intake.partly, *map(refusal_of_entry, bad)], mqtt.VIA)
    if lost or not is_kept:
        refused = 0 if is_kept else intake.refused + len(intake.partly)
        raise Unavailable(f"no place for {len(lost)} readings and {refused} that are refused")


def _unavailable(admission: Admission, lost: list[Reading], trace_id: str | None) -> dict[str, Any]:
    """Return 503 with `not_taken`, the readings that the device must send again."""
    missing = {id(reading) for reading in lost}
    not_taken = [
        index
        for index, reading in zip(admission.indexes, admission.readings, strict=True)
        if id(reading) in missing
    ]
    body = {
        "message": "The pipeline can't take readings now; send those in not_taken again.",
        "accepted": len(admission.readings) - len(lost),
        "not_taken": not_taken,
        "rejected": admission.refusals,
        "partly": [each for each in admission.partly if each["index"] not in not_taken],
        "trace_id": trace_id,
    }
    return http.respond(503, body, {"Retry-After": str(http.RETRY_AFTER_SECONDS)})


@functools.cache
def wired() -> tuple[int, Stream, Overflow, Appender, Schemas]:
    """Make the collaborators, once per execution environment.

    Stream and Queue retry by themselves, so their clients don't: 9 s for a stream that hangs and
    9 s for the queue are within this function's timeout.
    """
    settings = IngestSettings.read(os.environ)
    return (
        settings.retention_ms,
        Stream(
            client("kinesis", attempts=1),
            settings.stream_name,
            is_packing=settings.pack_readings,
        ),
        Overflow(Queue(client("sqs", attempts=1), settings.overflow_url)),
        Appender(client("s3"), settings.failures_bucket),
        reading_schemas(settings),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any] | None:
    """API Gateway's proxy event in, its response out; or an IoT rule's event."""
    events.expect("ingest", event, events.routes(*ROUTES), events.MESSAGE)
    retention_ms, stream, overflow, quarantine, schemas = wired()
    trace_id = current_trace_id()
    if "httpMethod" not in event:
        run_message(event, retention_ms, stream, overflow, quarantine, schemas, trace_id)
        return None
    now_ms = int(time.time() * 1000)
    return run(event, now_ms, retention_ms, stream, overflow, schemas, trace_id)
