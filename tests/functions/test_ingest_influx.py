"""Ingest for fleets that come from InfluxDB: the same promises, in InfluxDB's form."""

import base64
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.aws.influx_api import MAX_BODY_BYTES
from telemetry.aws.overflow import Overflow, overflowed
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Stream

from functions.ingest.handler import run
from tests.fakes import KnownSchemas, MemoryKinesis, MemorySqs
from tests.functions.incoming import NOW_MS, TRACE, body_of, documents_in, request

NOW_NS = NOW_MS * 1_000_000
RETENTION_MS = 30 * 86_400_000
WRITES = ["/write", "/api/v2/write"]
Counted = Callable[[str], float]
Logged = Callable[[str], list[dict[str, Any]]]
Event = dict[str, Any]


class Stage:
    """The function with its stream and its overflow queue in memory."""

    def __init__(self) -> None:
        self.kinesis = MemoryKinesis()
        self.sqs = MemorySqs()

    def run(self, event: Event) -> dict[str, Any]:
        stream = Stream(self.kinesis, "readings", lambda _seconds: None)
        overflow = Overflow(Queue(self.sqs, "overflow"))
        return run(event, NOW_MS, RETENTION_MS, stream, overflow, KnownSchemas(), TRACE)

    def write(
        self, lines: str | bytes, route: str = "/write", precision: str | None = None, **grant: str
    ) -> dict[str, Any]:
        query = {"db": "telegraf", "bucket": "b", "org": "o"}
        query |= {"precision": precision} if precision else {}
        return self.run(sent(lines, route, query, **grant))

    def put(self) -> list[dict[str, Any]]:
        return documents_in(self.kinesis.records)

    def is_untouched(self) -> bool:
        return self.kinesis.calls == [] and self.sqs.bodies == []


def sent(
    lines: str | bytes, route: str = "/write", query: dict[str, str] | None = None, **grant: str
) -> Event:
    """A write of a gateway's, or of whom `grant` says; bytes come in base64."""
    who = {"subject": "site", "role": "gateway", "prefix": "", **grant}
    text = base64.b64encode(lines).decode() if isinstance(lines, bytes) else lines
    event = request("POST", route, text, None, query, **who)
    event["isBase64Encoded"] = isinstance(lines, bytes)
    return event


def error(response: dict[str, Any], status: int = 400) -> str:
    """What a 1.x error says, which a header repeats."""
    assert response["statusCode"] == status
    body = body_of(response)
    assert list(body) == ["error"]
    assert response["headers"]["X-Influxdb-Error"].startswith(body["error"].split("°")[0][:400])
    return str(body["error"])


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("route", WRITES)
def test_points_are_put_on_the_stream_as_readings(
    stage: Stage, counted: Counted, route: str
) -> None:
    lines = (
        f"weather,host=pi-1,room=a temperature=21.5,humidity=40i {NOW_NS}\n"
        f"weather,host=pi-2 battery=3.7 {NOW_NS - 1}\n"
    )
    response = stage.write(lines, route)
    assert response["statusCode"] == 204
    assert response["body"] == ""
    assert response["headers"] == {"X-Influxdb-Version": "1.8-telemetry"}
    stamps = {"received_at": NOW_MS, "trace_id": TRACE}
    first = {"device_id": "pi-1", "recorded_at": NOW_MS, "temperature": 21.5, "humidity": 40.0}
    second = {"device_id": "pi-2", "recorded_at": NOW_MS - 1, "battery": 3.7}
    assert stage.put() == [{**first, **stamps}, {**second, **stamps}]
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (2, 0)


@pytest.mark.parametrize(("precision", "unit"), [("ms", 1), ("s", 1_000), ("m", 60_000)])
def test_times_are_read_in_the_precision_of_the_request(
    stage: Stage, precision: str, unit: int
) -> None:
    stage.write(f"m,host=a temperature=1 {NOW_MS // unit}", precision=precision)
    assert [each["recorded_at"] for each in stage.put()] == [NOW_MS]


def test_a_partial_write_names_the_lines_in_the_form_of_influxdb_1(
    stage: Stage, counted: Counted
) -> None:
    lines = (
        f"m,host=a temperature=1 {NOW_NS}\n"
        "m,host=a temperature=\n"
        f"m,host=a temperature=412 {NOW_NS + 1_000_000}\n"
        f"m temperature=3 {NOW_NS}\n"
        f"m,host=a temperature=0.5 {NOW_NS + 1}\n"
    )
    assert error(stage.write(lines)) == (
        "partial write: "
        "line 2, column 22: field temperature: '' is none of "
        '21.5, 21i, 21u, true, false, "text"; '
        "line 3: temperature: 412.0 is above 150.0 °C; "
        "line 4: none of the tags device_id, device, host is there to name the device; "
        "line 5: temperature: 0.5 differs from 1.0, which line 1 has for the same device and "
        "instant; the larger value is kept "
        "dropped=4"
    )
    assert [each["temperature"] for each in stage.put()] == [1]
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (1, 4)


def test_refused_points_of_a_gateway_are_logged_by_device_and_field(
    stage: Stage, logged: Logged
) -> None:
    lines = (
        f'm,host=a temperature="hot" {NOW_NS}\n'
        "m,host=b temperature=\n"
        f"m,host=c temperature=412 {NOW_NS}\n"
        f"m,host=d! humidity=1 {NOW_NS}\n"
        "m,host\n"
    )
    stage.write(lines)
    found = {(line["device_id"], line["field"]) for line in logged("refused")}
    assert found == {
        ("a", "m.temperature"),
        ("b", None),
        ("c", "temperature"),
        ("d!", "tag host"),
        (None, None),
    }


def test_a_partial_write_names_the_lines_in_the_form_of_influxdb_2(stage: Stage) -> None:
    lines = f"m,host=a temperature=1 {NOW_NS}\nm,host=a temperature=nan {NOW_NS}\n"
    response = stage.write(lines, "/api/v2/write")
    assert response["statusCode"] == 400
    message = (
        "partial write: line 2, column 22: field temperature: 'nan' is none of "
        '21.5, 21i, 21u, true, false, "text" dropped=1'
    )
    assert body_of(response) == {"code": "invalid", "message": message, "line": 2}
    assert len(stage.put()) == 1


def test_of_many_faults_ten_are_told_and_all_are_counted(stage: Stage, counted: Counted) -> None:
    told = error(stage.write("x\n" * 100))
    assert told.count("the fields are missing") == 10
    assert told.endswith("; and 90 more dropped=100")
    assert counted("ReadingsRejected") == 100
    assert stage.is_untouched()


def test_a_field_that_is_no_metric_is_named_and_counted_without_an_error(
    stage: Stage, counted: Counted
) -> None:
    lines = f"cpu,host=a idle=90,user=5 {NOW_NS}\ncpu idle=80\nm,host=a temperature=1 {NOW_NS}"
    response = stage.write(lines)
    assert response["statusCode"] == 204
    assert response["headers"]["X-Telemetry-Ignored"] == "cpu.idle (2), cpu.user (1)"
    assert (counted("ReadingsAccepted"), counted("FieldsIgnored")) == (1, 3)
    many = stage.write("".join(f"cpu f{index}=1\n" for index in range(12)))
    assert many["headers"]["X-Telemetry-Ignored"].endswith(", and 2 more")


@pytest.mark.parametrize("route", WRITES)
def test_a_write_of_which_nothing_is_kept_is_an_error_with_the_entry_that_keeps_a_field(
    stage: Stage, counted: Counted, route: str
) -> None:
    response = stage.write(f"weather,host=a Temperature=21.5,Humidity=41 {NOW_NS}", route)
    assert response["statusCode"] == 400
    body = body_of(response)
    message = body["error"] if route == "/write" else body["message"]
    assert message == (
        "partial write: no field is a metric: weather.Temperature (1), weather.Humidity (1); an "
        "entry under `metrics` in influx.yaml keeps one: {field: Temperature, metric: temperature} "
        "dropped=1"
    )
    assert response["headers"]["X-Telemetry-Ignored"].startswith("weather.Temperature (1)")
    assert (counted("FieldsIgnored"), counted("ReadingsRejected")) == (2, 0)
    assert stage.is_untouched()


@pytest.mark.parametrize(("route", "key"), [("/write", "error"), ("/api/v2/write", "message")])
def test_a_coding_that_is_not_read_is_a_415(stage: Stage, route: str, key: str) -> None:
    event = sent(b"m,host=a temperature=1", route)
    event["headers"] = {"Content-Encoding": "br"}
    response = stage.run(event)
    assert response["statusCode"] == 415
    assert "supported is one of gzip, deflate, identity" in body_of(response)[key]


def test_a_deflated_body_is_read(stage: Stage) -> None:
    event = sent(zlib.compress(f"m,host=a temperature=1 {NOW_NS}".encode()))
    event["headers"] = {"content-encoding": "deflate"}
    assert stage.run(event)["statusCode"] == 204


def test_a_header_has_no_newline_and_nothing_but_ascii(stage: Stage) -> None:
    response = stage.write('"\u00fc\\\r\u0000" v=1 z\u00fc\nm \u20ac=1')
    for value in (*response["headers"].values(), *stage.write("\u20ac a=1")["headers"].values()):
        assert all(" " <= each <= "~" for each in value)


def test_a_device_writes_its_own_points_and_needs_no_tag(stage: Stage) -> None:
    pump = {"subject": "pump-1", "role": "device"}
    assert stage.write(f"m temperature=1 {NOW_NS}", **pump)["statusCode"] == 204
    assert stage.write(f"m,device=pump-1 humidity=2 {NOW_NS}", **pump)["statusCode"] == 204
    told = error(stage.write(f"m,host=pump-2 temperature=3 {NOW_NS}", **pump))
    assert told == (
        "partial write: line 1: device_id: differs from the device that posts, pump-1; "
        "it is 'pump-2' dropped=1"
    )
    assert [each["device_id"] for each in stage.put()] == ["pump-1", "pump-1"]


def test_a_gateway_writes_for_the_devices_of_its_prefix_alone(stage: Stage) -> None:
    lines = f"m,host=hall-1-a temperature=1 {NOW_NS}\nm,host=hall-2-a temperature=2 {NOW_NS}"
    told = error(stage.write(lines, prefix="hall-1-"))
    assert "line 2: device_id: is not one of this gateway's devices" in told
    assert [each["device_id"] for each in stage.put()] == ["hall-1-a"]


@pytest.mark.parametrize("route", WRITES)
def test_other_roles_may_not_write(stage: Stage, route: str) -> None:
    for role in ("operator", "admin", ""):
        answer = stage.write(f"m,host=a temperature=1 {NOW_NS}", route, role=role)
        assert answer["statusCode"] == 403
    assert stage.is_untouched()


def test_a_compressed_body_is_read_whether_or_not_api_gateway_has_unpacked_it(
    stage: Stage,
) -> None:
    lines = f"m,host=a temperature=1 {NOW_NS}".encode()
    for body in (lines, gzip.compress(lines), lines.decode()):
        assert stage.write(body)["statusCode"] == 204
    assert [each["temperature"] for each in stage.put()] == [1, 1, 1]


def test_a_body_that_is_broken_gzip_is_refused(stage: Stage) -> None:
    packed = gzip.compress(b"m,host=a temperature=1")
    assert "ends within its compressed data" in error(stage.write(packed[:-4]))
    assert "can't be decompressed" in error(stage.write(packed[:10] + b"\xff" * 9))
    assert "goes on behind the end of its gzip member" in error(stage.write(packed + packed))
    assert stage.is_untouched()


@pytest.mark.parametrize(
    ("pack", "why"),
    [
        (bytes, "bytes; send it in parts"),
        (gzip.compress, "bytes decompressed; a request may bring so many"),
    ],
)
def test_a_body_over_4_mebibytes_is_too_large(
    stage: Stage, pack: Callable[[bytes], bytes], why: str
) -> None:
    line = f"m,host=a temperature=1 {NOW_NS}".encode()
    assert stage.write(pack(line.ljust(MAX_BODY_BYTES)))["statusCode"] == 204
    told = error(stage.write(pack(line.ljust(MAX_BODY_BYTES + 1))), 413)
    assert told == f"body: has more than 4194304 {why}"
    assert len(stage.put()) == 1


def test_a_body_that_swells_is_unpacked_no_further_than_its_limit(stage: Stage) -> None:
    event = sent(gzip.compress(bytes(64 * MAX_BODY_BYTES), compresslevel=1))
    tracemalloc.start()
    try:
        error(stage.run(event), 413)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * MAX_BODY_BYTES


def test_over_5000_points_are_too_many_so_that_telegraf_sends_halves(stage: Stage) -> None:
    lines = "".join(f"m,host=a temperature=1 {NOW_MS - index}\n" for index in range(5_000))
    assert stage.write(lines, precision="ms")["statusCode"] == 204
    assert stage.kinesis.calls == [10]  # 500 readings a record
    response = stage.write(lines + "m,host=a temperature=1 1", "/api/v2/write", "ms")
    assert response["statusCode"] == 413
    assert body_of(response) == {
        "code": "request too large",
        "message": "body: has more than 5000 points; send it in parts",
    }
    assert len(stage.put()) == 5_000


def test_another_precision_is_refused(stage: Stage) -> None:
    told = error(stage.write("m,host=a temperature=1 1", precision="ps"))
    assert told == "precision: is not one of n, ns, u, us, ms, s, m, h; it is 'ps'"


@pytest.mark.parametrize("body", ["", "# nothing\n\n"])
def test_a_write_of_nothing_is_fine_as_it_is_with_influxdb(stage: Stage, body: str) -> None:
    assert stage.write(body)["statusCode"] == 204


def test_points_overflow_while_the_stream_is_away(stage: Stage, counted: Counted) -> None:
    stage.kinesis.down = True
    assert stage.write(f"m,host=a temperature=1 {NOW_NS}")["statusCode"] == 204
    (body,) = stage.sqs.bodies
    assert [each.metrics for each in overflowed(body)[0]] == [{"temperature": 1}]
    assert (counted("ReadingsAccepted"), counted("ReadingsOverflowed")) == (1, 1)


class HangingKinesis(MemoryKinesis):
    """Each call waits for its timeout, then fails."""

    seconds = 0.0

    def put_records(self, **call: Any) -> dict[str, Any]:
        self.seconds += 3.0
        self.down = True
        return super().put_records(**call)


def test_a_stream_that_hangs_leaves_the_time_to_put_5000_points_in_the_queue() -> None:
    kinesis, sqs = HangingKinesis(), MemorySqs()
    stream = Stream(kinesis, "readings", lambda _seconds: None, lambda: kinesis.seconds)
    lines = "\n".join(f"m,host=a temperature=1 {NOW_NS - at * 1_000_000}" for at in range(5_000))
    overflow = Overflow(Queue(sqs, "overflow"))
    answer = run(sent(lines), NOW_MS, RETENTION_MS, stream, overflow, KnownSchemas(), TRACE)
    assert answer["statusCode"] == 204
    assert kinesis.seconds <= 9  # of the function's 25; the queue may hang as long
    assert sum(len(overflowed(body)[0]) for body in sqs.bodies) == 5_000
    assert all(len(body) <= 262_144 for body in sqs.bodies)  # what SQS takes everywhere


@pytest.mark.parametrize("route", WRITES)
def test_all_is_to_be_sent_again_when_nothing_takes_a_point(
    stage: Stage, counted: Counted, route: str
) -> None:
    stage.kinesis.refuses = lambda record: b'"temperature":2' in record["Data"]
    stage.sqs.down = True
    lines = f"m,host=a temperature=1 {NOW_NS}\nm,host=b temperature=2 {NOW_NS}\nbad"
    response = stage.write(lines, route)
    assert response["statusCode"] == 503
    assert int(response["headers"]["Retry-After"]) > 0
    if route == "/write":
        assert "send it again" in error(response, 503)
    else:
        assert body_of(response)["code"] == "unavailable"
    assert (counted("ReadingsAccepted"), counted("ReadingsRejected")) == (1, 1)


# What clients ask when they start.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_ping_is_answered_with_a_version(stage: Stage, method: str) -> None:
    response = stage.run(request(method, "/ping", subject="a", role="device"))
    assert (response["statusCode"], response["body"]) == (204, "")
    assert response["headers"]["X-Influxdb-Version"].startswith("1.8")


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ("q=" + quote_plus('CREATE DATABASE "telegraf"'), None),
        (None, {"q": "create database x"}),
    ],
)
def test_a_database_need_not_be_created_and_none_is(
    stage: Stage, body: str | None, query: dict[str, str] | None
) -> None:
    response = stage.run(request("POST", "/query", body, None, query, role="gateway"))
    assert response["statusCode"] == 200
    (result,) = body_of(response)["results"]
    assert "error" not in result  # which is what clients look at
    assert result["messages"][0]["text"].startswith("nothing is created")
    assert stage.is_untouched()


def test_there_are_no_databases(stage: Stage) -> None:
    response = stage.run(request("GET", "/query", None, None, {"q": "SHOW DATABASES"}))
    series = {"name": "databases", "columns": ["name"]}
    assert body_of(response) == {"results": [{"statement_id": 0, "series": [series]}]}


@pytest.mark.parametrize("query", ["SELECT * FROM m", "DROP DATABASE telegraf", ""])
def test_any_other_query_is_refused_with_where_to_ask(stage: Stage, query: str) -> None:
    response = stage.run(request("POST", "/query", f"q={quote_plus(query)}"))
    assert "GET /devices/{device_id}/windows" in error(response)


def test_a_query_of_too_many_fields_is_refused(stage: Stage) -> None:
    response = stage.run(request("POST", "/query", "a=1&" * 20 + "q=SHOW+DATABASES"))
    assert "is not answered here" in error(response)


@given(
    st.text(max_size=80) | st.text('m,host=a temperature1 \n"\\', max_size=60),
    st.sampled_from(["/write", "/api/v2/write", "/query"]),
    st.booleans(),
)
def test_no_body_makes_it_fail(text: str, route: str, is_base64: bool) -> None:
    stage = Stage()
    event = sent(text, route)
    event["isBase64Encoded"] = is_base64
    response = stage.run(event)
    assert response["statusCode"] in (204, 400)
    json.dumps(response)
