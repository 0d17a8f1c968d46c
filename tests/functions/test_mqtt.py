"""MQTT: what rules hand to ingest, and what the overflow queue keeps of it for drain."""

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.aws import mqtt
from telemetry.aws.mqtt import Message
from telemetry.aws.overflow import Overflow
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Stream
from telemetry.domain import no_measurement
from telemetry.errors import Rejected, Unavailable

from functions.drain import handler as drain
from functions.ingest import handler as ingest
from tests import writers
from tests.fakes import KnownSchemas, MemoryKinesis, MemoryS3, MemorySqs
from tests.functions.incoming import NOW_MS, TRACE, documents_in, sqs

Counted = Callable[..., float]
RETENTION_MS = 30 * 86_400_000
MINUTE_MS = NOW_MS
GOOD = {"recorded_at": NOW_MS, "temperature": 21.5}
OWN = {"device_id": "pump-1", **GOOD}
BAD = {"recorded_at": NOW_MS, "humidity": -2.0}
STORED = {"device_id": "pump-1", **GOOD, "received_at": NOW_MS, "trace_id": TRACE}
NOTHING_FAILED: dict[str, Any] = {"batchItemFailures": []}


class Stage:
    """Both functions, their stream, queue and bucket in memory."""

    def __init__(self) -> None:
        self.kinesis, self.sqs, self.bucket = MemoryKinesis(), MemorySqs(), MemoryS3()
        self.stream = Stream(self.kinesis, "readings", lambda _seconds: None)
        self.quarantine = Quarantine(self.bucket, "failures")
        self.schemas = KnownSchemas()

    def ingest(self, event: dict[str, Any]) -> None:
        overflow = Overflow(Queue(self.sqs, "overflow"))
        ingest.run_message(
            event, RETENTION_MS, self.stream, overflow, self.quarantine, self.schemas, TRACE
        )

    def drain(self, *bodies: str) -> dict[str, Any]:
        event = sqs(bodies)
        for record in event["Records"]:
            record["attributes"] = {"SentTimestamp": str(NOW_MS)}
        return drain.run(event, self.stream, self.quarantine, RETENTION_MS, self.schemas)

    def put(self) -> list[dict[str, Any]]:
        return documents_in(self.kinesis.records)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def published(body: Any, form: str = "json", device_id: str = "pump-1") -> dict[str, Any]:
    """The event of a rule."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    topic = f"telemetry/{device_id}/batch/{form}"
    return mqtt.to_event(Message(topic, device_id, form, data, NOW_MS))


def error_of_iot(body: Any, topic: str = "telemetry/pump-1/readings") -> str:
    """What an error action writes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    document = {
        "ruleName": "telemetry_ReadingRule_1",
        "topic": topic,
        "cloudwatchTraceId": "7e146a2c-95b5-6caf-98b9-50e3969734c7",
        "clientId": "pump-1",
        "base64OriginalPayload": base64.b64encode(data).decode(),
        "failures": [{"failedAction": "KinesisAction", "failedResource": "readings"}],
    }
    return json.dumps(document)


def failure_of_lambda(event: dict[str, Any]) -> str:
    """What Lambda writes of an invocation that it has given up."""
    document = {
        "version": "1.0",
        "requestContext": {"condition": "RetriesExhausted", "approximateInvokeCount": 3},
        "requestPayload": event,
        "responsePayload": {"errorType": "Unavailable"},
    }
    return json.dumps(document)


LINES = b"\n".join(json.dumps(each).encode() for each in (GOOD, GOOD))


@pytest.mark.parametrize(
    ("body", "form", "count"),
    [
        ([GOOD, GOOD], "json", 2),
        (GOOD, "json", 1),
        (LINES, "ndjson", 2),
        (LINES + b"\r\n\n", "ndjson", 2),
        (gzip.compress(LINES), "ndjson-gzip", 2),
        (gzip.compress(json.dumps([GOOD]).encode()), "json-gzip", 1),
        ([{**GOOD, "device_id": "pump-1"}], "json", 1),
        (writers.glue([OWN, OWN], 1), "avro", 2),
        (gzip.compress(writers.container([OWN])), "avro-gzip", 1),
        (writers.readings([OWN]), "protobuf", 1),
    ],
)
def test_a_batch_goes_on_the_stream_as_if_it_had_come_over_https(
    stage: Stage, counted: Counted, body: Any, form: str, count: int
) -> None:
    stage.ingest(published(body, form))
    assert stage.put() == [STORED] * count
    assert counted("ReadingsAccepted", MINUTE_MS) == count
    assert stage.bucket.lines() == []


@pytest.mark.parametrize(
    ("body", "form", "field", "reason"),
    [
        (b"\xff", "json", "body", "is not JSON"),
        ([], "json", "body", "has 0 elements; a request brings 1 to 500"),
        (b"\n \n", "ndjson", "body", "has no lines"),
        (GOOD, "xml", "topic", "is not a format of a batch: json, ndjson"),
        (gzip.compress(b"1" * 60)[:-9], "json-gzip", "body", "ends within its compressed data"),
        (gzip.compress(b"")[:10] + b"\xff" * 9, "json-gzip", "body", "can't be decompressed"),
        (gzip.compress(b" " * 1_048_577), "json-gzip", "body", "has more than 1048576 bytes"),
        (b"[" * 50_000, "json", "body", "is nested too deeply"),
        (b"\x03\x00" + bytes(16), "avro", "schema_id", "is not the id of a version"),
        (b"\xff", "protobuf", "body", "ends within a number"),
    ],
)
def test_a_message_that_cannot_be_read_goes_to_quarantine_with_its_bytes(
    stage: Stage, counted: Counted, body: Any, form: str, field: str, reason: str
) -> None:
    event = published(body, form)
    stage.ingest(event)
    (held,) = stage.bucket.lines()
    assert (held["function"], held["source"], held["field"]) == ("ingest", "mqtt", field)
    assert held["reason"].startswith(reason)
    assert json.loads(base64.b64decode(held["data"])) == event
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (0, 1)
    assert counted("ReadingsQuarantined") == 1


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (BAD, "humidity"),
        ({**GOOD, "device_id": "pump-2"}, "device_id"),
        ({**GOOD, "via": "mqtt"}, "via"),
        ({**GOOD, "received_at": NOW_MS}, "received_at"),
        ({**GOOD, "trace_id": TRACE}, "trace_id"),
        ({**GOOD, "recorded_at": NOW_MS + 300_001}, "recorded_at"),
        ({**GOOD, "recorded_at": NOW_MS - RETENTION_MS - 1}, "recorded_at"),
        (17, None),
    ],
)
def test_valid_readings_of_a_partly_bad_batch_go_on_and_the_whole_batch_is_quarantined(
    stage: Stage, counted: Counted, document: Any, field: str | None
) -> None:
    event = published([GOOD, document, document])
    stage.ingest(event)
    assert stage.put() == [STORED]
    (held,) = stage.bucket.lines()
    assert (held["field"], held["partition_key"]) == (field, "pump-1")
    assert held["reason"].endswith("(document 2 of 3; 2 are refused)")
    assert json.loads(base64.b64decode(held["data"])) == event
    assert counted("ReadingsRejected", MINUTE_MS) == counted("ReadingsQuarantined") == 2


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b'[ {"recorded_at":1, "temperature": 1e1},{"recorded_at":1.0,"\\u0061": 2}]', "json"),
        (gzip.compress(json.dumps([GOOD, {"\u20ac" * 60_000: 1}]).encode()), "json-gzip"),
        (writers.glue([OWN, {**OWN, "received_at": NOW_MS}]), "avro"),
        (writers.readings([OWN, {"device_id": "pump-2", **GOOD}]), "protobuf"),
    ],
)
def test_a_messages_own_bytes_are_quarantined_and_can_be_released(
    stage: Stage, body: bytes, form: str
) -> None:
    stage.ingest(published(body, form))
    (held,) = stage.bucket.lines()
    released = base64.b64decode(held["data"]).decode()
    assert base64.b64decode(json.loads(released)["body"]) == body
    assert len(released) < 262_144  # as much as a message of SQS may have
    assert stage.drain(released) == NOTHING_FAILED
    again = {line["name"] for line in stage.bucket.lines()}
    assert again == {held["name"]}


def test_a_message_is_held_to_the_times_of_when_the_rule_got_it(
    stage: Stage, counted: Counted
) -> None:
    late_ms = NOW_MS + RETENTION_MS
    in_time = [{**GOOD, "recorded_at": at_ms} for at_ms in (NOW_MS, late_ms + 300_000)]
    early, ahead = ({**GOOD, "recorded_at": at_ms} for at_ms in (NOW_MS - 1, late_ms + 300_001))
    stage.ingest({**published([early, *in_time, ahead]), "received_at": late_ms})
    assert [(each["recorded_at"], each["received_at"]) for each in stage.put()] == [
        (NOW_MS, late_ms),
        (late_ms + 300_000, late_ms),
    ]
    assert counted("ReadingsAccepted", late_ms) == counted("ReadingsRejected", late_ms) == 2


def test_a_message_that_is_delivered_again_is_quarantined_once(stage: Stage) -> None:
    for _ in range(2):
        stage.ingest(published([BAD, GOOD]))
    assert len(stage.bucket.lines()) == 1


def test_the_same_bytes_of_two_devices_are_two_in_quarantine(stage: Stage) -> None:
    stage.ingest(published(BAD, device_id="pump-1"))
    stage.ingest(published(BAD, device_id="pump-2"))
    held = stage.bucket.lines()
    assert len({line["name"] for line in held}) == 2
    assert {line["reason"] for line in held} == {"-2.0 is below 0.0 %RH"}


def test_parts_that_cannot_be_stored_are_retried_and_stored_parts_are_counted(
    stage: Stage, counted: Counted
) -> None:
    stage.sqs.down = True
    stage.stream = Stream(stage.kinesis, "readings", lambda _seconds: None, is_packing=False)
    stage.kinesis.refuses = lambda record: json.loads(record["Data"])["temperature"] == 30.0
    with pytest.raises(Unavailable, match="no place for 1 readings"):
        stage.ingest(published([GOOD, {"recorded_at": NOW_MS + 1, "temperature": 30.0}]))
    assert counted("ReadingsAccepted", MINUTE_MS) == 1


def test_a_record_whose_schema_can_not_be_had_now_waits_for_it(stage: Stage) -> None:
    event = published(writers.glue([OWN]), "avro")
    stage.schemas.down = True
    with pytest.raises(Unavailable, match="the schema registry"):
        stage.ingest(event)
    body = failure_of_lambda(event)
    assert stage.drain(body) == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert stage.bucket.lines() == []
    stage.schemas.down = False
    assert stage.drain(body) == NOTHING_FAILED
    assert [each["via"] for each in stage.put()] == ["mqtt"]


def test_a_line_that_is_no_json_is_quarantined_with_its_message(stage: Stage) -> None:
    event = published(LINES + b"\n{", "ndjson")
    stage.ingest(event)
    assert stage.put() == [STORED] * 2
    (held,) = stage.bucket.lines()
    assert json.loads(base64.b64decode(held["data"])) == event


def test_a_refused_document_that_finds_no_place_is_tried_again(
    stage: Stage, counted: Counted
) -> None:
    stage.bucket.down = True
    with pytest.raises(Unavailable, match="and 1 that are refused"):
        stage.ingest(published([GOOD, BAD]))
    assert stage.put() == [STORED]
    assert counted("ReadingsQuarantined") == 0


def test_a_message_with_a_refused_metric_is_kept_and_its_other_metrics_go_on(
    stage: Stage, counted: Counted, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    event = published([GOOD, {"recorded_at": NOW_MS + 1, "temperature": 999, "humidity": 40}])
    stage.ingest(event)
    assert [put.get("temperature", put.get("humidity")) for put in stage.put()] == [21.5, 40]
    (held,) = stage.bucket.lines()
    assert (held["field"], held["value"], held["is_partly"]) == ("temperature", 999, True)
    reason = "999 is above 150.0 °C (document 2 of 2; its other metrics are stored)"
    assert held["reason"] == reason
    assert json.loads(base64.b64decode(held["data"])) == event
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (2, 0)
    assert (counted("MetricsRefused", MINUTE_MS), counted("ReadingsQuarantined")) == (1, 0)
    (line,) = logged("refused")
    assert (line["device_id"], line["field"]) == ("pump-1", "temperature")


def test_of_two_values_of_one_instant_in_a_message_the_smaller_is_kept_in_quarantine(
    stage: Stage,
) -> None:
    stage.ingest(published([GOOD, {**GOOD, "temperature": 20.0, "humidity": 40}]))
    assert [put["temperature"] for put in stage.put() if "temperature" in put] == [21.5]
    (held,) = stage.bucket.lines()
    assert held["is_partly"]
    assert "20.0 differs from 21.5" in held["reason"]


def test_refused_parts_of_a_message_in_drain_are_counted_there(
    stage: Stage, counted: Counted
) -> None:
    sent = json.dumps({**GOOD, "humidity": -2.0})
    event = published(json.loads(sent))
    assert stage.drain(json.dumps(event)) == NOTHING_FAILED
    assert [put["temperature"] for put in stage.put()] == [21.5]
    assert (counted("MetricsRefused"), counted("ReadingsQuarantined")) == (1, 0)
    (held,) = stage.bucket.lines()
    assert held["reason"] == "-2.0 is below 0.0 %RH (its other metrics are stored)"


def test_a_message_that_measured_nothing_is_no_fault(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = no_measurement.load("no_measurement: [{metric: temperature, values: [-127]}]")
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    stage.ingest(published({**GOOD, "temperature": -127}))
    assert (stage.put(), stage.bucket.lines()) == ([], [])
    assert (counted("MetricsLeftOut", MINUTE_MS), counted("ReadingsRejected")) == (1, 0)


def test_readings_wait_in_the_overflow_queue_as_they_would_go_on_the_stream(
    stage: Stage, counted: Counted
) -> None:
    stage.kinesis.down = True
    stage.ingest(published([GOOD, GOOD]))
    assert counted("ReadingsOverflowed", MINUTE_MS) == 2
    stage.kinesis.down = False
    assert stage.drain(*stage.sqs.bodies) == NOTHING_FAILED
    assert stage.put() == [STORED] * 2


@pytest.mark.parametrize("prefix", ["", "$aws/rules/telemetry_BatchRule_1/"])
def test_a_message_that_iot_could_not_deliver_goes_on_as_the_rule_would_have_sent_it(
    stage: Stage, counted: Counted, prefix: str
) -> None:
    bodies = [
        error_of_iot(GOOD, f"{prefix}telemetry/pump-1/readings"),
        error_of_iot(LINES, f"{prefix}telemetry/pump-1/batch/ndjson"),
    ]
    assert stage.drain(*bodies) == NOTHING_FAILED
    stamped = {"device_id": "pump-1", **GOOD, "received_at": NOW_MS, "via": "mqtt"}
    assert stage.put() == [stamped] * 3
    assert counted("ReadingsDrained") == 3


def test_messages_that_lambda_gave_up_on_or_that_were_released_go_on_uncounted(
    stage: Stage,
) -> None:
    event = published([GOOD])
    assert stage.drain(failure_of_lambda(event), json.dumps(event)) == NOTHING_FAILED
    assert (
        stage.put() == [{**GOOD, "device_id": "pump-1", "received_at": NOW_MS, "via": "mqtt"}] * 2
    )


def test_a_message_with_bad_documents_goes_from_drain_to_quarantine(stage: Stage) -> None:
    assert stage.drain(error_of_iot(BAD), error_of_iot(b"\x00")) == NOTHING_FAILED
    assert [(held["function"], held["source"]) for held in stage.bucket.lines()] == [
        ("drain", "mqtt")
    ] * 2
    assert stage.put() == []


@pytest.mark.parametrize(
    "body",
    [
        '{"topic": 1, "base64OriginalPayload": ""}',
        '{"topic": "a", "base64OriginalPayload": "!"}',
        '{"requestPayload": {"topic": "a"}}',
        '{"requestPayload": 17, "x": "topic"}',
        '{"topic": "a", "device_id": 1, "body": "", "received_at": 1}',
        '["topic"]',
        '{"x": "topic"}',
    ],
)
def test_a_line_that_only_looks_like_a_message_goes_to_quarantine(stage: Stage, body: str) -> None:
    assert stage.drain(body) == NOTHING_FAILED
    (held,) = stage.bucket.lines()
    assert (held["source"], base64.b64decode(held["data"]).decode()) == ("overflow", body)


@pytest.mark.parametrize(
    "event", [{}, {"topic": "a", "device_id": "b", "body": "!", "received_at": 1}, {"topic": None}]
)
def test_an_event_that_is_no_rules_is_an_error(stage: Stage, event: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="is not an event of an IoT rule"):
        stage.ingest(event)


@given(st.binary(max_size=300), st.sampled_from(["json", "ndjson", "json-gzip", "ndjson-gzip"]))
def test_any_bytes_are_readings_or_refused(body: bytes, form: str) -> None:
    message = Message(f"telemetry/a/batch/{form}", "a", form, body, NOW_MS)
    taken = mqtt.take(message, RETENTION_MS, "ingest", KnownSchemas())
    assert taken.readings or taken.refused
    assert mqtt.of_event(mqtt.to_event(message)) == message


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        (
            '"temperature":21.5,"temperature":39.5',
            "temperature",
            "is there twice, as 21.5 and 39.5",
        ),
        ('"recorded_at":1795224600', "recorded_at", "looks like seconds"),
        ('"recorded_at":1795224600000000', "recorded_at", "it looks like microseconds"),
    ],
)
def test_the_quarantine_gives_the_same_reason_for_a_message_as_an_answer(
    stage: Stage, text: str, field: str, reason: str
) -> None:
    twice = "recorded_at" not in text
    rest = f'"recorded_at":{NOW_MS}' if twice else '"temperature":20'
    stage.ingest(published(f"{{{text},{rest}}}".encode()))
    (held,) = stage.bucket.lines()
    assert held["field"] == field
    assert reason in held["reason"]
    assert stage.put() == []


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_a_message_may_have_a_mark_before_and_a_c_strings_end_behind(
    stage: Stage, form: str
) -> None:
    stage.ingest(published(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\0", form))
    assert stage.put() == [STORED]
    assert stage.bucket.lines() == []
