"""Ingest: what is acknowledged is on the stream or in the overflow queue; the rest is explained."""

import base64
import bisect
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from telemetry.aws import refusals
from telemetry.aws.overflow import Overflow, overflowed
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Stream
from telemetry.domain.reading import Reading
from telemetry.domain.times import to_iso

from functions.ingest.handler import run
from tests import writers
from tests.fakes import KnownSchemas, MemoryKinesis, MemorySqs
from tests.functions.incoming import NOW_MS, TRACE, body_of, documents_in, request

DAY_MS = 86_400_000
RETENTION_MS = 30 * DAY_MS
Counted = Callable[[str], float]
Logged = Callable[[str], list[dict[str, Any]]]


class Stage:
    """The function with its stream and its overflow queue in memory."""

    def __init__(self) -> None:
        self.kinesis = MemoryKinesis()
        self.sqs = MemorySqs()
        self.schemas = KnownSchemas()
        self.waits: list[float] = []
        self.is_packing = True

    def run(self, event: dict[str, Any]) -> dict[str, Any]:
        stream = Stream(self.kinesis, "readings", self.waits.append, is_packing=self.is_packing)
        overflow = Overflow(Queue(self.sqs, "overflow"))
        return run(event, NOW_MS, RETENTION_MS, stream, overflow, self.schemas, TRACE)

    def post(self, body: Any, device_id: str | None = "pump-1", prefix: str = "") -> dict[str, Any]:
        if device_id is None:
            return self.run(request("POST", "/readings", body, role="gateway", prefix=prefix))
        path = {"device_id": device_id}
        return self.run(request("POST", "/devices/{device_id}/readings", body, path))

    def put(self) -> list[dict[str, Any]]:
        return documents_in(self.kinesis.records)

    def overflowed(self) -> list[int]:
        """The offsets from NOW_MS of what overflowed."""
        return [
            reading.recorded_at_ms - NOW_MS
            for body in self.sqs.bodies
            for reading in overflowed(body)[0]
        ]

    def is_untouched(self) -> bool:
        return self.kinesis.calls == [] and self.sqs.bodies == []


@pytest.fixture
def stage() -> Stage:
    return Stage()


def valid(offset_ms: int = 0, **fields: Any) -> dict[str, Any]:
    return {"recorded_at": NOW_MS + offset_ms, "temperature": 21.5, **fields}


def test_a_reading_is_put_on_the_stream_in_canonical_form(stage: Stage, counted: Counted) -> None:
    sent = {"recorded_at": "2026-11-21T02:30:00.250+01:00", "humidity": 40, "temperature": 21.5}
    response = stage.post(sent)
    assert response["statusCode"] == 202
    expected = {"accepted": 1, "rejected": [], "partly": [], "trace_id": TRACE}
    assert body_of(response) == expected
    (record,) = stage.kinesis.records
    assert record["PartitionKey"] == "pump-1"
    # metrics at the top level, in the schema's order: where the event filters look
    assert record["Data"] == (
        b'{"device_id":"pump-1","recorded_at":1795224600250,"temperature":21.5,"humidity":40.0,'
        b'"received_at":1795224600000,"trace_id":"%s"}' % TRACE.encode()
    )
    assert counted("ReadingsAccepted") == 1


def test_a_reading_is_counted_in_the_minute_that_it_is_stamped_with(
    stage: Stage, counted: Callable[..., float]
) -> None:
    stage.post(valid(0))
    (record,) = stage.kinesis.records
    assert json.loads(record["Data"])["received_at"] == NOW_MS
    assert counted("ReadingsAccepted", NOW_MS) == 1


def test_a_list_is_taken_reading_by_reading(stage: Stage, counted: Counted) -> None:
    bad = valid(1, temperature=412.0)
    response = stage.post([valid(0), bad, valid(2), {"recorded_at": NOW_MS}])
    assert response["statusCode"] == 202
    assert body_of(response) == {
        "accepted": 2,
        "rejected": [
            {
                "index": 1,
                "device_id": "pump-1",
                "field": "temperature",
                "value": 412.0,
                "reason": "412.0 is above 150.0 °C",
            },
            {
                "index": 3,
                "device_id": "pump-1",
                "field": None,
                "value": None,
                "reason": "has none of the metrics temperature, humidity, pressure, battery",
            },
        ],
        "partly": [],
        "trace_id": TRACE,
    }
    assert [put["recorded_at"] - NOW_MS for put in stage.put()] == [0, 2]
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (2, 2)


def test_a_request_whose_readings_are_all_rejected_is_a_bad_request(stage: Stage) -> None:
    response = stage.post([valid(temperature=-91), {"recorded_at": NOW_MS, "colour": "red"}])
    assert response["statusCode"] == 400
    body = body_of(response)
    assert (body["accepted"], body["partly"]) == (0, [])
    assert [each["field"] for each in body["rejected"]] == ["temperature", "colour"]
    assert stage.is_untouched()


def test_a_device_need_not_name_itself_and_cannot_name_another_device(stage: Stage) -> None:
    batch = [valid(0), valid(1, device_id="pump-1"), valid(2, device_id="pump-2")]
    (refusal,) = body_of(stage.post(batch))["rejected"]
    assert (refusal["index"], refusal["field"], refusal["value"]) == (2, "device_id", "pump-2")
    assert {put["device_id"] for put in stage.put()} == {"pump-1"}


def test_a_gateways_readings_keep_each_devices_key_however_many_come_at_once(
    stage: Stage,
) -> None:
    batch = [valid(index, device_id=f"plant-7-{index % 4}") for index in range(500)]
    stage.post(batch, device_id=None, prefix="plant-7-")
    for record in stage.kinesis.records:
        assert record["PartitionKey"] == json.loads(record["Data"])["device_id"]


def test_a_gateway_posts_for_the_devices_of_its_prefix_alone(stage: Stage) -> None:
    batch = [valid(0, device_id="plant-7-a"), valid(1, device_id="plant-8-a"), valid(2)]
    body = body_of(stage.post(batch, device_id=None, prefix="plant-7-"))
    assert [put["device_id"] for put in stage.put()] == ["plant-7-a"]
    assert [(each["index"], each["field"]) for each in body["rejected"]] == [
        (1, "device_id"),
        (2, "device_id"),
    ]
    assert "plant-7-" in body["rejected"][0]["reason"]
    assert body["rejected"][1]["reason"] == "is missing"


def test_only_a_gateway_posts_for_other_devices(stage: Stage) -> None:
    for grant in ({}, {"role": "device"}, {"role": "admin", "prefix": ""}):
        answer = stage.run(request("POST", "/readings", valid(device_id="a"), None, None, **grant))
        assert answer["statusCode"] == 403
    assert stage.put() == []


def test_a_gateway_of_every_device_has_an_empty_prefix(stage: Stage) -> None:
    stage.post([valid(device_id="a"), valid(device_id="b")], device_id=None)
    assert [put["device_id"] for put in stage.put()] == ["a", "b"]


@pytest.mark.parametrize(
    ("offset_ms", "is_taken"),
    [(300_000, True), (300_001, False), (-RETENTION_MS, True), (-RETENTION_MS - 1, False)],
)
def test_readings_from_the_future_or_before_the_retention_are_rejected(
    stage: Stage, offset_ms: int, is_taken: bool
) -> None:
    response = stage.post(valid(offset_ms))
    assert response["statusCode"] == (202 if is_taken else 400)
    if not is_taken:
        (refusal,) = body_of(response)["rejected"]
        assert refusal["field"] == "recorded_at"
        assert refusal["value"] == to_iso(NOW_MS + offset_ms)


@pytest.mark.parametrize("count", [0, 501])
def test_a_request_brings_1_to_500_readings(stage: Stage, count: int) -> None:
    response = stage.post([valid(index) for index in range(count)])
    assert response["statusCode"] == 400
    assert f"{count} elements" in body_of(response)["message"]
    assert stage.is_untouched()


def test_500_readings_are_one_call(stage: Stage) -> None:
    response = stage.post([valid(index) for index in range(500)])
    assert body_of(response)["accepted"] == 500
    assert stage.kinesis.calls == [1]
    stage.is_packing = False
    stage.post([valid(index) for index in range(500)])
    assert stage.kinesis.calls == [1, 500]


def test_a_request_is_one_record_with_the_highest_values_where_filters_look(stage: Stage) -> None:
    batch = [valid(at, temperature=20.0 + at) for at in range(10)]
    batch[4] = valid(4, temperature=41.0000001)
    assert body_of(stage.post(batch))["accepted"] == 10
    (record,) = stage.kinesis.records
    assert record["PartitionKey"] == "pump-1"
    document = json.loads(record["Data"])
    assert (document["temperature"], document["low"]) == (41.000001, {"temperature": 20.0})
    stamps = {"device_id": "pump-1", "received_at": NOW_MS, "trace_id": TRACE}
    assert stage.put() == [{**stamps, **each} for each in batch]


def test_a_gateways_devices_have_records_of_their_own(stage: Stage) -> None:
    batch = [valid(at, device_id=f"pump-{at % 3}") for at in range(7)]
    assert body_of(stage.post(batch, None))["accepted"] == 7
    keys = [record["PartitionKey"] for record in stage.kinesis.records]
    assert keys == ["pump-0", "pump-1", "pump-2"]
    assert len(stage.put()) == 7


def test_a_pack_that_nothing_takes_is_named_reading_by_reading(
    stage: Stage, counted: Counted
) -> None:
    stage.kinesis.refuses = lambda record: record["PartitionKey"] == "pump-1"
    stage.sqs.down = True
    batch = [valid(at, device_id=f"pump-{at % 2}") for at in range(6)]
    body = body_of(stage.post(batch, None))
    assert (body["accepted"], body["not_taken"]) == (3, [1, 3, 5])
    assert counted("ReadingsAccepted") == 3


def test_a_pack_that_the_stream_does_not_take_overflows_whole(
    stage: Stage, counted: Counted
) -> None:
    stage.kinesis.refuses = lambda record: record["PartitionKey"] == "pump-1"
    batch = [valid(at, device_id=f"pump-{at % 2}") for at in range(6)]
    assert body_of(stage.post(batch, None))["accepted"] == 6
    assert stage.overflowed() == [1, 3, 5]
    assert counted("ReadingsOverflowed") == 3


def test_a_device_that_sends_too_much_for_a_shard_is_spread(stage: Stage) -> None:
    stage.is_packing = False
    stage.post([valid(index) for index in range(500)])
    keys = [record["PartitionKey"] for record in stage.kinesis.records]
    assert keys == ["pump-1"] * 250 + ["pump-1/1"] * 250


def test_a_body_over_a_mebibyte_is_too_large(stage: Stage) -> None:
    body = json.dumps(valid())
    assert stage.post(body.ljust(1_048_576))["statusCode"] == 202
    response = stage.post(body.ljust(1_048_577))
    assert response["statusCode"] == 413
    assert "1048577 bytes" in body_of(response)["message"]
    assert len(stage.kinesis.records) == 1


def test_a_body_in_base64_is_read(stage: Stage) -> None:
    event = request(
        "POST", "/devices/{device_id}/readings", json.dumps(valid()), {"device_id": "pump-1"}
    )
    event["body"] = base64.b64encode(event["body"].encode()).decode()
    event["isBase64Encoded"] = True
    assert stage.run(event)["statusCode"] == 202


def in_bytes(data: bytes, **headers: str) -> dict[str, Any]:
    """A device's request as API Gateway hands on a binary body."""
    event = request("POST", "/devices/{device_id}/readings", None, {"device_id": "pump-1"})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = base64.b64encode(data).decode()
    return {**event, "headers": named, "body": body, "isBase64Encoded": True}


SENT = [valid(index, device_id="pump-1") for index in range(3)]


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("application/x-ndjson", writers.lines(SENT)),
        ("application/avro", writers.glue(SENT, 1)),
        ("avro/binary", writers.container(SENT)),
        ("application/x-protobuf", writers.readings(SENT)),
    ],
)
def test_readings_in_each_format_are_put_as_the_same_records(
    stage: Stage, content_type: str, data: bytes
) -> None:
    stage.post(SENT)
    as_json = [record["Data"] for record in stage.kinesis.records]
    stage.kinesis.records.clear()
    plain = in_bytes(data, Content_Type=content_type)
    zipped = in_bytes(writers.zipped(data), content_type=content_type, CONTENT_ENCODING="gzip")
    for event in (plain, zipped):
        response = stage.run(event)
        assert (response["statusCode"], body_of(response)["accepted"]) == (202, 3)
    assert [record["Data"] for record in stage.kinesis.records] == as_json * 2


def test_a_line_that_is_no_json_is_refused_with_its_index(stage: Stage) -> None:
    data = writers.lines([valid(0)]) + b"{oops\n" + writers.lines([valid(1)])
    response = stage.run(in_bytes(data, Content_Type="application/x-ndjson"))
    assert response["statusCode"] == 202
    (refusal,) = body_of(response)["rejected"]
    assert (refusal["index"], refusal["field"], refusal["value"]) == (1, None, "{oops")
    assert refusal["reason"].startswith("is not JSON: Expecting property name")
    assert body_of(response)["accepted"] == 2


def test_a_decoded_record_that_is_no_reading_is_refused_alone(stage: Stage) -> None:
    sent = [valid(0), valid(1, temperature=412.0), valid(2, humidity=float("nan")), valid(3)]
    for data, content_type in (
        (writers.glue([{**each, "device_id": "pump-1"} for each in sent]), "application/avro"),
        (writers.readings(sent), "application/protobuf"),
    ):
        body = body_of(stage.run(in_bytes(data, Content_Type=content_type)))
        assert body["accepted"] == 3
        for name, expected in (
            ("rejected", (1, "temperature", "412.0 is above 150.0 °C")),
            ("partly", (2, "humidity", "is not a finite number of %RH")),
        ):
            (told,) = body[name]
            assert (told["index"], told["field"], told["reason"]) == expected
        assert [set(put) & LIMITS.keys() for put in stage.put()[1:2]] == [{"temperature"}]
        stage.kinesis.records.clear()


def test_a_record_that_cannot_be_decoded_refuses_the_request_and_says_which(
    stage: Stage, counted: Counted
) -> None:
    response = stage.run(in_bytes(writers.glue(SENT)[:-1], Content_Type="application/avro"))
    assert response["statusCode"] == 400
    assert (body_of(response)["index"], body_of(response)["field"]) == (2, "body")
    assert body_of(response)["reason"].startswith("ends within a record (record 2, byte ")
    assert stage.is_untouched()
    with pytest.raises(KeyError):
        counted("ReadingsAccepted")


def test_a_type_that_is_not_read_is_answered_with_those_that_are(stage: Stage) -> None:
    response = stage.run(in_bytes(b"<a/>", Content_Type="text/xml"))
    assert response["statusCode"] == 415
    assert body_of(response)["value"] == "text/xml"
    assert "application/avro" in body_of(response)["reason"]
    assert stage.run(in_bytes(b"{}", Content_Encoding="br"))["statusCode"] == 415


def test_a_bomb_is_answered_with_413(stage: Stage) -> None:
    response = stage.run(in_bytes(writers.zipped(bytes(2**21)), Content_Encoding="gzip"))
    assert response["statusCode"] == 413
    assert stage.is_untouched()


def test_without_the_registry_requests_that_need_it_get_503(
    stage: Stage,
) -> None:
    stage.schemas.down = True
    response = stage.run(in_bytes(writers.glue(SENT), Content_Type="application/avro"))
    assert response["statusCode"] == 503
    assert int(response["headers"]["Retry-After"]) > 0
    assert stage.is_untouched()
    others = in_bytes(writers.container(SENT), Content_Type="application/avro")
    assert stage.run(others)["statusCode"] == 202


def test_only_the_records_that_failed_are_put_again(stage: Stage) -> None:
    stage.is_packing = False
    unlucky = {NOW_MS + 1: 2, NOW_MS + 3: 1}  # how often each is refused

    def refuses(record: dict[str, Any]) -> bool:
        at_ms = json.loads(record["Data"])["recorded_at"]
        unlucky[at_ms] = unlucky.get(at_ms, 0) - 1
        return unlucky[at_ms] >= 0

    stage.kinesis.refuses = refuses
    response = stage.post([valid(index) for index in range(5)])
    assert body_of(response)["accepted"] == 5
    assert stage.kinesis.calls == [5, 2, 1]
    assert sorted(put["recorded_at"] - NOW_MS for put in stage.put()) == [0, 1, 2, 3, 4]
    assert stage.sqs.bodies == []


def test_retries_wait_longer_and_longer_for_a_second_and_a_half_in_all(stage: Stage) -> None:
    stage.kinesis.down = True
    stage.post(valid())
    assert len(stage.kinesis.calls) == 6
    # 0.05 + 0.1 + 0.2 + 0.4 + 0.75 s, each at least half of it
    assert 0.75 <= sum(stage.waits) <= 1.5


def test_only_readings_that_were_not_taken_are_put_again(stage: Stage) -> None:
    stage.is_packing = False
    stage.post([valid(0), valid(1)])
    assert (stage.kinesis.calls, stage.waits) == ([2], [])
    unlucky = [NOW_MS + 1]
    stage.kinesis.refuses = lambda record: (
        json.loads(record["Data"])["recorded_at"] in unlucky and bool(unlucky.pop())
    )
    stage.post([valid(0), valid(1)])
    assert (stage.kinesis.calls, len(stage.waits)) == ([2, 2, 1], 1)


def test_a_call_has_no_more_bytes_than_kinesis_takes_with_the_keys_that_count_too() -> None:
    kinesis = MemoryKinesis()
    line = ("d" * 128, b"x" * 999_900)  # five of them without their keys are less than 5 MB
    assert Stream(kinesis, "readings", lambda _seconds: None).put_lines([line] * 5) == []
    assert kinesis.calls == [4, 1]


def test_a_stream_that_hangs_leaves_time_for_the_overflow_queue(stage: Stage) -> None:
    now_seconds = 100.0

    class Hanging(MemoryKinesis):
        down = True

        def put_records(self, **arguments: Any) -> dict[str, Any]:
            nonlocal now_seconds
            now_seconds += 3  # the client's patience
            return super().put_records(**arguments)

    stream = Stream(Hanging(), "readings", stage.waits.append, lambda: now_seconds)
    batch = [Reading("pump-1", NOW_MS + index, {"temperature": 20.0}) for index in range(3)]
    assert stream.put(batch) == batch
    # of ingest's 25 s; the queue's three attempts may hang as long
    assert now_seconds - 100 + sum(stage.waits) <= 12
    assert len(stage.waits) <= 3  # nor does it wait for a call that it won't make


def refuse_odd(record: dict[str, Any]) -> bool:
    return bool(json.loads(record["Data"])["recorded_at"] % 2)


def test_readings_that_the_stream_does_not_take_overflow_and_are_accepted(
    stage: Stage, counted: Counted
) -> None:
    stage.is_packing = False
    stage.kinesis.refuses = refuse_odd
    response = stage.post([valid(index) for index in range(6)])
    assert response["statusCode"] == 202
    assert body_of(response)["accepted"] == 6
    assert [put["recorded_at"] - NOW_MS for put in stage.put()] == [0, 2, 4]
    assert stage.overflowed() == [1, 3, 5]
    assert (counted("ReadingsAccepted"), counted("ReadingsOverflowed")) == (6, 3)


def test_all_readings_overflow_while_the_stream_is_away(stage: Stage) -> None:
    stage.kinesis.down = True
    response = stage.post([valid(index) for index in range(500)])
    assert (response["statusCode"], body_of(response)["accepted"]) == (202, 500)
    assert stage.overflowed() == list(range(500))


def test_readings_that_nothing_takes_are_named_to_be_sent_again(
    stage: Stage, counted: Counted
) -> None:
    stage.is_packing = False
    stage.kinesis.refuses = refuse_odd
    stage.sqs.down = True
    response = stage.post([valid(0), valid(1), valid(2, temperature="hot"), valid(3), valid(4)])
    assert response["statusCode"] == 503
    assert int(response["headers"]["Retry-After"]) > 0
    body = body_of(response)
    assert body["accepted"] == 2
    assert body["not_taken"] == [1, 3]
    assert [each["index"] for each in body["rejected"]] == [2]
    assert body["message"]
    assert [put["recorded_at"] - NOW_MS for put in stage.put()] == [0, 4]
    assert counted("ReadingsAccepted") == 2


def test_one_of_two_equal_readings_that_was_not_taken_is_named(stage: Stage) -> None:
    stage.is_packing = False
    taken: list[bytes] = []

    def refuses(record: dict[str, Any]) -> bool:
        is_second = record["Data"] in taken
        taken.append(record["Data"])
        return is_second

    stage.kinesis.refuses = refuses
    stage.sqs.down = True
    body = body_of(stage.post([valid(0), valid(0)]))
    assert (body["accepted"], body["not_taken"]) == (1, [1])


# Malformed bodies: documents that are nearly readings, JSON that isn't one, and bytes at large.

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**70, 2**80)
    | st.floats()
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=4,
)
names = st.sampled_from(
    ["device_id", "recorded_at", "temperature", "humidity", "pressure", "battery", "received_at"]
) | st.text(max_size=8)
nearly = st.dictionaries(names, anything, min_size=1, max_size=5).map(
    lambda fields: {"recorded_at": NOW_MS, "temperature": 20.0, **fields}
)
documents = (anything | nearly | st.lists(nearly, max_size=4)).map(json.dumps)


def damaged(document: str, at: int, letter: str) -> list[str]:
    """A document as it is, cut, with a letter changed, and with one too many."""
    at %= len(document)
    before, after = document[:at], document[at:]
    return [document, before, before + letter + after[1:], before + letter + after]


def readings_in(body: str) -> int:
    """How many readings a body brings, by an oracle that knows nothing of pydantic or schemas."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    found = [
        (each["recorded_at"], metrics_in(each))
        for each in (document if isinstance(document, list) else [document])
        if is_of_a_reading(each)
    ]
    largest: dict[tuple[int, str], float] = {}
    for at_ms, metrics in found:
        for name, value in metrics.items():
            largest[at_ms, name] = max(value, largest.get((at_ms, name), value))
    return sum(
        any(value == largest[at_ms, name] for name, value in metrics.items())
        for at_ms, metrics in found
    )


LIMITS = {
    "temperature": (-90, 150),
    "humidity": (0, 100),
    "pressure": (300, 1_100),
    "battery": (0, 60),
}


STAMPS = {"received_at", "trace_id", "via", "replayed_at"}


def is_of_a_reading(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and not document.keys() & STAMPS
        and document.get("device_id", "pump-1") == "pump-1"
        and is_now(document.get("recorded_at"))
    )


def metrics_in(document: Any) -> dict[str, float]:
    return {
        name: document[name]
        for name, limits in LIMITS.items()
        if is_within(document.get(name), *limits)
    }


def is_now(value: Any) -> bool:
    return type(value) is int and NOW_MS - RETENTION_MS <= value <= NOW_MS + 300_000


def is_within(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(documents, st.integers(0), st.characters())
def test_of_1000_bodies_none_makes_it_fail_and_only_readings_are_put(
    document: str, at: int, letter: str
) -> None:
    for body in damaged(document, at, letter):
        check(body)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        "\ud800",
        '"\\ud800"',
        '{"\\ud800": 1}',
        "\x00",
        "\ufeff[]",
        "9" * 5_000,
        '{"temperature": ' + "9" * 4_000 + "}",
        '{"recorded_at": 1e400, "temperature": NaN, "humidity": -Infinity}',
        "[" * 100_000,
        f'{{"recorded_at": {NOW_MS}, "temperature": 20, "temperature": "x"}}',
    ],
)
def test_no_odd_body_makes_it_fail(body: str) -> None:
    check(body)


def check(body: str) -> None:
    stage = Stage()
    response = stage.post(body)
    count = readings_in(body)
    assert response["statusCode"] == (202 if count else 400)
    assert body_of(response).get("accepted", 0) == count
    assert len(stage.put()) == count


def is_too_deep(depth: int) -> bool:
    try:
        json.loads("[" * depth + "]" * depth)
    except RecursionError:
        return True
    return False


def test_no_depth_of_nesting_makes_it_fail(stage: Stage) -> None:
    """Nesting in an unknown field: it is refused alone, where the body can be parsed."""
    deepest = bisect.bisect_left(range(200_000), True, key=is_too_deep)
    start = f'{{"recorded_at": {NOW_MS}, "temperature": 20.0, "x": '
    # around what Python's parser takes here: what it takes, something after it may not
    for depth in range(deepest - 60, deepest + 5):
        response = stage.post(start + "[" * depth + "]" * depth + "}")
        taken = body_of(response).get("accepted", 0)
        assert response["statusCode"] == (202 if taken else 400)
        assert [each["field"] for each in body_of(response).get("partly", [])] == ["x"] * taken
    assert all("x" not in put for put in stage.put())


@pytest.mark.parametrize("encoded", ["%%%", "AAA", "é", "////"])
def test_a_body_that_is_no_base64_is_a_bad_request(stage: Stage, encoded: str) -> None:
    event = request("POST", "/devices/{device_id}/readings", encoded, {"device_id": "pump-1"})
    assert stage.run({**event, "isBase64Encoded": True})["statusCode"] == 400
    assert stage.is_untouched()


def test_no_body_is_a_bad_request(stage: Stage) -> None:
    assert stage.post(None)["statusCode"] == 400


def test_a_path_that_is_no_device_id_is_a_bad_request(stage: Stage) -> None:
    response = stage.post(valid(), device_id="a b\n")
    assert response["statusCode"] == 400
    assert body_of(response)["rejected"][0]["field"] == "device_id"
    assert stage.is_untouched()


def test_an_answer_repeats_no_more_of_a_value_than_a_person_reads(stage: Stage) -> None:
    (refusal,) = body_of(stage.post(valid(temperature="x" * 10_000)))["rejected"]
    assert refusal["value"] == "x" * 100 + "…"
    (refusal,) = body_of(stage.post(valid(**{"y" * 10_000: 1})))["partly"]
    assert refusal["field"] == "y" * 100 + "…"


def test_a_metric_that_is_refused_takes_no_other_with_it(stage: Stage, counted: Counted) -> None:
    bad = valid(1, temperature="unavailable", humidity=55, tempratur=20)
    response = stage.post([valid(0), bad])
    assert response["statusCode"] == 202
    body = body_of(response)
    assert (body["accepted"], body["rejected"]) == (2, [])
    assert body["partly"] == [
        {
            "index": 1,
            "device_id": "pump-1",
            "field": "temperature",
            "value": "unavailable",
            "reason": "is not a finite number of °C",
        },
        {
            "index": 1,
            "device_id": "pump-1",
            "field": "tempratur",
            "value": 20,
            "reason": "is not a field of a reading; its fields are "
            "device_id, recorded_at, temperature, humidity, pressure, battery",
        },
    ]
    assert [set(put) & LIMITS.keys() for put in stage.put()] == [{"temperature"}, {"humidity"}]
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (2, 0)
    assert counted("MetricsRefused") == 2


def test_a_refused_metric_is_logged_with_device_field_value_and_reason(
    stage: Stage, logged: Logged
) -> None:
    stage.post([valid(index, humidity=101 + index) for index in range(12)])
    (line,) = logged("refused")  # of one field of one device: a line for all of them
    names = ("device_id", "field", "value", "reason", "count")
    assert [line[name] for name in names] == [
        "pump-1",
        "humidity",
        101,
        "101 is above 100.0 %RH",
        12,
    ]


def test_a_reading_to_send_again_is_not_listed_as_partly_accepted(stage: Stage) -> None:
    stage.kinesis.down = stage.sqs.down = True
    response = stage.post(valid(humidity=101))
    assert response["statusCode"] == 503
    body = body_of(response)
    assert (body["not_taken"], body["partly"]) == ([0], [])


def test_an_answer_with_the_most_refusals_fits_lambdas_limit(
    stage: Stage,
) -> None:
    fields = {f"\u00e9{number}": "\u00e9" for number in range(60)}
    body = [valid(index, humidity="x" * 100, **fields) for index in range(500)]
    text = json.dumps(body, ensure_ascii=False)
    assert len(text.encode()) < 1_048_576
    answer = stage.post(text)
    assert body_of(answer)["accepted"] == 500
    assert len(answer["body"]) < 6_000_000
    assert "as 55 more of this reading aren't" in answer["body"]


def refused(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of what was refused."""
    names = ("device_id", "field", "reason", "value", "count", "via", "poster")
    lines = [vars(line) for line in caplog.records if line.message == "refused"]
    return [{name: line[name] for name in names} for line in lines]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """This minute has had no line yet."""
    monkeypatch.setattr(refusals, "_refusals", refusals.Refusals())


@pytest.mark.usefixtures("lines")
def test_an_operator_finds_refusals_by_device_field_and_reason(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"device_id": "pump-7", "recorded_at": NOW_MS, "temperature": 412.0}
    documents = [bad, {"device_id": "pump-8", "recorded_at": NOW_MS, "humidity": 1.0}, {}, 7]
    granted: dict[str, Any] = {"role": "gateway", "prefix": "", "subject": "gateway-1"}
    stage.run(request("POST", "/readings", documents, **granted))
    assert refused(caplog) == [
        {
            "device_id": "pump-7",
            "field": "temperature",
            "reason": "412.0 is above 150.0 °C",
            "value": 412.0,
            "count": 1,
            "via": "https",
            "poster": "gateway-1",
        },
        {
            "device_id": None,
            "field": "device_id",
            "reason": "is missing",
            "value": None,
            "count": 1,
            "via": "https",
            "poster": "gateway-1",
        },
        {
            "device_id": None,
            "field": None,
            "reason": "is not a JSON object with a reading's fields",
            "value": None,
            "count": 1,
            "via": "https",
            "poster": "gateway-1",
        },
    ]


PROTOBUF = b"\x0a\x0f\x0a\x06pump-7\x10\x80\xf5\xe9\x8f\xa14"


@pytest.mark.usefixtures("lines")
@pytest.mark.parametrize(
    ("body", "content_type", "device_id", "field"),
    [
        (b'[{"device_id":"pump-7","humidity":1,"humidity":2}]', "json", "pump-7", "humidity"),
        (b'{"device_id":"pump-7","humidity":1,"humidity":2}', "x-ndjson", "pump-7", "humidity"),
        (b'{"device_id":"pump-7","device_id":"pump-8"}', "x-ndjson", None, "device_id"),
        (b'{ "device_id" : "pump-7","humidity":', "x-ndjson", "pump-7", None),
        (b'{"device_id":"pump 7","humidity":', "x-ndjson", None, None),
        (PROTOBUF, "x-protobuf", "pump-7", None),
    ],
)
def test_a_gateways_reading_that_a_decoder_refused_is_found_by_its_device(
    stage: Stage,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    content_type: str,
    device_id: str | None,
    field: str | None,
) -> None:
    event = request("POST", "/readings", None, role="gateway", prefix="", subject="gateway-1")
    event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    event["headers"] = {"Content-Type": f"application/{content_type}"}
    (told,) = body_of(stage.run(event))["rejected"]
    (line,) = refused(caplog)
    for each in (told, line):
        assert (each["device_id"], each["field"]) == (device_id, field)


@pytest.mark.usefixtures("lines")
def test_a_body_that_cannot_be_read_is_found_by_its_device(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.post("{")
    (line,) = refused(caplog)
    assert (line["device_id"], line["field"]) == ("pump-1", "body")


def test_a_reading_with_a_name_twice_is_refused_with_its_index_and_the_others_are_taken(
    stage: Stage,
) -> None:
    good = json.dumps(valid())
    twice = good.replace("{", '{"temperature": 39.5, ')
    for body, content_type in (
        (f"[{good}, {twice}]", "application/json"),
        (f"{good}\n{twice}\n", "application/x-ndjson"),
    ):
        event = request("POST", "/devices/{device_id}/readings", None, {"device_id": "pump-1"})
        event |= {"body": body, "headers": {"Content-Type": content_type}}
        response = stage.run(event)
        assert response["statusCode"] == 202
        (refusal,) = body_of(response)["rejected"]
        assert (refusal["index"], refusal["field"]) == (1, "temperature")
        assert refusal["reason"] == "is there twice, as 39.5 and 21.5; leave one out"
    assert [each["temperature"] for each in stage.put()] == [21.5, 21.5]
