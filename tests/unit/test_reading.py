"""Readings: what the schema says is taken, everything else is refused with field and reason."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from telemetry.domain.decoders.text import json_documents
from telemetry.domain.reading import Reading, check_time, encode, shown
from telemetry.domain.schema import latest, versions
from telemetry.domain.validation import Parsed, decode, parse
from telemetry.errors import Rejected

SCHEMAS = Path(__file__).parents[2] / "schemas"
AT_MS = 1_795_224_600_000  # 2026-11-21T01:30:00Z
RANGES = {
    "temperature": (-90.0, 150.0, "°C"),
    "humidity": (0.0, 100.0, "%RH"),
    "pressure": (300.0, 1_100.0, "hPa"),
    "battery": (0.0, 60.0, "V"),
}
DEVICE_FIELDS = "device_id, recorded_at, temperature, humidity, pressure, battery"


MEANT = ", and milliseconds are meant"


def repr_of(value: object) -> str:
    """A parameter's name, of a length that fits into a line."""
    return "huge" if isinstance(value, int) and value > 2**70 else ascii(value)[:30]


def document(**fields: Any) -> dict[str, Any]:
    return {"device_id": "pump-1", "recorded_at": AT_MS, "temperature": 20.0, **fields}


def refusal(**fields: Any) -> tuple[str | None, Any, str]:
    """Why a document isn't taken, or one field of it isn't."""
    try:
        (error,) = parse(document(**fields)).refused
    except Rejected as rejected:
        error = rejected
    return error.field, error.value, error.reason


def test_a_document_becomes_a_reading() -> None:
    raw = document(humidity=40, pressure=1_013.25, battery=None)
    metrics = {"temperature": 20.0, "humidity": 40.0, "pressure": 1_013.25}
    assert parse(raw).reading == Reading("pump-1", AT_MS, metrics)


@pytest.mark.parametrize("metric", RANGES)
def test_a_metrics_limits_belong_to_its_range(metric: str) -> None:
    least, most, _ = RANGES[metric]
    for value in (least, most):
        assert parse(document(**{metric: value})).reading.metrics[metric] == value


@pytest.mark.parametrize("metric", RANGES)
def test_a_value_beyond_a_metrics_limits_is_refused_with_limit_and_unit(metric: str) -> None:
    least, most, unit = RANGES[metric]
    below, above = math.nextafter(least, -math.inf), math.nextafter(most, math.inf)
    assert refusal(**{metric: below}) == (metric, below, f"{below} is below {least} {unit}")
    assert refusal(**{metric: above}) == (metric, above, f"{above} is above {most} {unit}")


@pytest.mark.parametrize("metric", RANGES)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, True, False, "warm", "", [20.0], {}, 10**400, -(10**400)],
    ids=repr_of,
)
def test_a_metric_is_a_finite_number_and_nothing_like_one(metric: str, value: Any) -> None:
    field, shown_value, reason = refusal(**{metric: value})
    assert field == metric
    assert shown_value is value
    assert reason in {
        f"is not a finite number of {RANGES[metric][2]}",
        f"{value} is above {RANGES[metric][1]} {RANGES[metric][2]}",
        f"{value} is below {RANGES[metric][0]} {RANGES[metric][2]}",
    }


def test_a_zero_has_no_sign() -> None:
    reading = parse(document(temperature=-0.0, humidity=-0.0, battery=0)).reading
    signs = [math.copysign(1, value) for value in reading.metrics.values()]
    assert signs == [1, 1, 1]
    data = b'{"device_id":"a","recorded_at":1,"temperature":-0.0}'
    (value,) = decode(data).reading.metrics.values()
    assert math.copysign(1, value) == 1


@pytest.mark.parametrize("device_id", ["a", "-", "_", "pump-17_B", "x" * 128])
def test_a_device_id_is_of_letters_digits_hyphen_and_underscore(device_id: str) -> None:
    assert parse(document(device_id=device_id)).reading.device_id == device_id


@pytest.mark.parametrize(
    "device_id",
    [
        "",
        "x" * 129,
        "pump 1",
        "pump-1\n",
        "\npump-1",
        "pump/1",
        "pump.1",
        "pümp",
        "\uff11",
        "a\x00",
        "*",
    ],
)
def test_any_other_device_id_is_refused_with_the_pattern(device_id: str) -> None:
    field, value, reason = refusal(device_id=device_id)
    assert (field, value) == ("device_id", device_id)
    assert reason == "does not match ^[A-Za-z0-9_-]{1,128}$, as pump-17 does"


@pytest.mark.parametrize("device_id", [None, 17, True, ["pump-1"]])
def test_a_device_id_is_a_string(device_id: Any) -> None:
    assert refusal(device_id=device_id) == ("device_id", device_id, "is not a string")


@pytest.mark.parametrize(
    ("recorded_at", "expected"),
    [
        (0, 0),
        (253_402_300_799_999, 253_402_300_799_999),
        ("2026-11-21T01:30:00Z", AT_MS),
        ("2026-11-21T01:30:00.250Z", AT_MS + 250),
        ("2026-11-21T01:30:00.2509Z", AT_MS + 250),  # down to the millisecond
        ("2026-11-21T03:00:00+01:30", AT_MS),
        ("2026-11-20T20:30:00-05:00", AT_MS),
        ("2026-11-21 01:30:00+00:00", AT_MS),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_the_event_time_is_epoch_milliseconds_or_iso_8601(recorded_at: Any, expected: int) -> None:
    assert parse(document(recorded_at=recorded_at)).reading.recorded_at_ms == expected


@pytest.mark.parametrize(
    "recorded_at",
    [
        "2026-11-21T01:30:00",  # without an offset nobody knows when that was
        "2026-11-21",
        "01:30:00Z",
        "2026-13-21T01:30:00Z",
        "2026-11-21T25:30:00Z",
        "now",
        "",
        "2026-11-21T01:30:00Z\n",
        math.nan,
        math.inf,
        True,
        None,
        [],
    ],
    ids=repr_of,
)
def test_any_other_event_time_is_refused_with_both_forms(recorded_at: Any) -> None:
    field, _, reason = refusal(recorded_at=recorded_at)
    assert field == "recorded_at"
    assert reason == "is neither an ISO 8601 time with an offset nor whole epoch milliseconds"


@pytest.mark.parametrize(
    "recorded_at",
    [-1, 253_402_300_800_000, 10**4_000, "1969-12-31T23:59:59.999Z", 1e300, -1e300],
    ids=repr_of,
)
def test_an_event_time_outside_of_1970_to_9999_is_refused(recorded_at: Any) -> None:
    field, _, reason = refusal(recorded_at=recorded_at)
    assert field == "recorded_at"
    assert reason.endswith(("is below 0", "is above 253402300799999"))


def test_nanoseconds_as_a_float_are_named_as_such() -> None:
    assert refusal(recorded_at=1.795622350948e18) == (
        "recorded_at",
        1.795622350948e18,
        f"1.795622350948e+18 is above 253402300799999; it looks like nanoseconds{MEANT}",
    )


@pytest.mark.parametrize("text", ["1795224600000.0", "1.7952246e12", "1795224600000.00e0"])
def test_whole_milliseconds_may_be_written_as_a_float(text: str) -> None:
    raw = document(recorded_at=json.loads(text))
    assert parse(raw).reading.recorded_at_ms == 1_795_224_600_000
    record = f'{{"device_id":"a","recorded_at":{text},"temperature":1}}'.encode()
    assert decode(record).reading.recorded_at_ms == 1_795_224_600_000


@pytest.mark.parametrize(
    ("recorded_at", "reason"),
    [
        (1_795_224_600_000.5, "has a fraction; whole epoch milliseconds are meant"),
        (
            1_795_224_600.25,
            "has a fraction; whole epoch milliseconds are meant; it looks like seconds" + MEANT,
        ),
        ("1795224600000", "is a string; epoch milliseconds are a number, not a string"),
        (
            1_795_224_600_000_000,
            "1795224600000000 is above 253402300799999; it looks like microseconds" + MEANT,
        ),
        (
            1_795_224_600_000_000_000,
            "1795224600000000000 is above 253402300799999; it looks like nanoseconds" + MEANT,
        ),
    ],
    ids=repr_of,
)
def test_an_event_time_of_another_kind_is_told_as_that(recorded_at: Any, reason: str) -> None:
    assert refusal(recorded_at=recorded_at) == ("recorded_at", recorded_at, reason)


def test_an_event_time_that_looks_like_seconds_is_told_as_that_with_the_value_as_sent() -> None:
    now_ms = 1_795_224_600_000
    seconds = parse(document(recorded_at=1_795_224_600)).reading
    with pytest.raises(Rejected) as caught:
        check_time(seconds, now_ms, 86_400_000)
    assert caught.value.value == 1_795_224_600
    assert (
        caught.value.reason
        == "looks like seconds; epoch milliseconds are meant, as 1795224600000 is now"
    )
    uptime = parse(document(recorded_at="1970-01-01T00:20:34Z")).reading
    with pytest.raises(Rejected) as caught:
        check_time(uptime, now_ms, 86_400_000, "1970-01-01T00:20:34Z")
    assert caught.value.value == "1970-01-01T00:20:34Z"
    assert caught.value.reason.endswith("it is 1970-01-01T00:20:34.000Z: is the clock set?")


@pytest.mark.parametrize("text", ["21.5", "21,5", "-3", " 20 "])
def test_a_metric_in_quotes_is_told_to_be_a_string(text: str) -> None:
    reason = f"{json.dumps(text)} is a string; a number is written without quotes"
    assert refusal(temperature=text) == ("temperature", text, reason)


def test_the_envelope_of_the_things_stack_is_told_where_the_reading_is() -> None:
    raw = {"end_device_ids": {}, "received_at": "", "uplink_message": {"decoded_payload": {}}}
    with pytest.raises(Rejected) as caught:
        parse(raw)
    assert caught.value.field == "uplink_message"
    assert "decoded_payload" in caught.value.reason


@pytest.mark.parametrize("name", ["device_id", "recorded_at"])
def test_a_missing_field_is_named(name: str) -> None:
    raw = document()
    del raw[name]
    with pytest.raises(Rejected, match=f"^{name}: is missing$") as caught:
        parse(raw)
    assert caught.value.value is None


def test_a_reading_has_at_least_one_metric() -> None:
    with pytest.raises(Rejected, match="temperature, humidity, pressure, battery") as caught:
        parse({"device_id": "pump-1", "recorded_at": AT_MS, "temperature": None})
    assert caught.value.field is None


@pytest.mark.parametrize("name", ["colour", "Temperature", "", "temperature ", "metrics", "é"])
def test_an_unknown_field_is_refused_with_those_there_are(name: str) -> None:
    reason = f"is not a field of a reading; its fields are {DEVICE_FIELDS}"
    assert refusal(**{name: 1}) == (name, 1, reason)


@pytest.mark.parametrize("name", ["received_at", "trace_id", "via", "replayed_at"])
@pytest.mark.parametrize("value", [None, 1, "1-5759e988-bd862e3fe1be46a994272793"])
def test_what_the_pipeline_stamps_is_not_taken_from_devices(name: str, value: Any) -> None:
    assert refusal(**{name: value}) == (name, value, "is set by the pipeline, not by devices")


@pytest.mark.parametrize("raw", [None, 1, "text", [], [document()], True, 1.5])
def test_a_document_is_an_object(raw: Any) -> None:
    with pytest.raises(Rejected, match="is not a JSON object"):
        parse(raw)


class TestThePoster:
    def test_need_not_say_who_it_is(self) -> None:
        raw = document()
        del raw["device_id"]
        assert parse(raw, "pump-9").reading.device_id == "pump-9"
        assert "device_id" not in raw  # the document is the caller's

    def test_may_say_who_it_is(self) -> None:
        assert parse(document(), "pump-1").reading.device_id == "pump-1"

    @pytest.mark.parametrize("claimed", ["pump-2", "", None, 1, ["pump-1"]])
    def test_may_not_say_that_it_is_another(self, claimed: Any) -> None:
        with pytest.raises(Rejected) as caught:
            parse(document(device_id=claimed), "pump-1")
        assert (caught.value.field, caught.value.value) == ("device_id", claimed)
        assert "pump-1" in caught.value.reason


class TestItsTime:
    NOW, RETENTION = AT_MS, 1_000_000

    @pytest.mark.parametrize("offset_ms", [0, 300_000, -1_000_000])
    def test_is_between_the_retention_and_five_minutes_ahead(self, offset_ms: int) -> None:
        check_time(Reading("a", AT_MS + offset_ms, {}), self.NOW, self.RETENTION)

    def test_is_no_further_ahead(self) -> None:
        with pytest.raises(Rejected, match=r"5 minutes after.*2026-11-21T01:30:00\.000Z") as caught:
            check_time(Reading("a", AT_MS + 300_001, {}), self.NOW, self.RETENTION)
        assert caught.value.field == "recorded_at"
        assert caught.value.value == "2026-11-21T01:35:00.001Z"

    def test_is_no_older_than_windows_are_kept(self) -> None:
        with pytest.raises(Rejected, match=r"oldest accepted now is 2026-11-21T01:13:20\.000Z"):
            check_time(Reading("a", AT_MS - 1_000_001, {}), self.NOW, self.RETENTION)


# On the stream.

metric_values = {
    name: st.floats(least, most).map(lambda value: value + 0.0)
    for name, (least, most, _) in RANGES.items()
}
readings = st.builds(
    Reading,
    st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True),
    st.integers(0, 253_402_300_799_999),
    st.fixed_dictionaries({}, optional=metric_values).filter(bool),
    st.none() | st.integers(0, 253_402_300_799_999),
    st.none() | st.from_regex(r"1-[0-9a-f]{8}-[0-9a-f]{24}", fullmatch=True),
    st.none() | st.just("mqtt"),
    st.none() | st.integers(0, 253_402_300_799_999),
)


@given(readings)
def test_a_reading_comes_off_the_stream_as_it_went_on(reading: Reading) -> None:
    assert decode(encode(reading)).reading == reading


def test_a_reading_is_on_the_stream_in_one_form() -> None:
    reading = Reading("a", 1, {"temperature": 38.5, "battery": 3.0}, 2, "1-2", "mqtt")
    fields = (
        b'{"device_id":"a","recorded_at":1,"temperature":38.5,"battery":3.0,'
        b'"received_at":2,"trace_id":"1-2","via":"mqtt"'
    )
    assert encode(reading) == fields + b"}"
    assert encode(reading._replace(replayed_at_ms=3)) == fields + b',"replayed_at":3}'


@given(readings)
def test_canonical_json_is_what_the_avro_schema_says(reading: Reading) -> None:
    record = json.loads(encode(reading))
    assert fastavro.validate(record, AVRO, raise_errors=True)


AVRO = fastavro.parse_schema(latest("reading"))


@pytest.mark.parametrize("name", ["reading", "window", "alert"])
def test_each_version_of_a_schema_is_avro_and_says_which_it_is(name: str) -> None:
    numbers = [schema["version"] for schema in versions(name)]
    assert numbers == list(range(1, len(list((SCHEMAS / name).iterdir())) + 1))
    for schema in versions(name):
        assert fastavro.parse_schema(schema)
        assert json.loads((SCHEMAS / name / f"v{schema['version']}.avsc").read_text()) == schema


def test_avro_keeps_a_reading_as_it_is() -> None:
    assert isinstance(AVRO, dict)
    names = [field["name"] for field in AVRO["fields"]]
    assert names == [*DEVICE_FIELDS.split(", "), "received_at", "trace_id", "via", "replayed_at"]
    defaults = {field["name"]: field.get("default", "none") for field in AVRO["fields"]}
    # BACKWARD compatibility: what older writers left out has a value
    assert [name for name, value in defaults.items() if value == "none"] == [
        "device_id",
        "recorded_at",
    ]


valid_record = b'{"device_id":"a","recorded_at":1,"temperature":2.5}'
pieces = st.sampled_from(
    [
        b'"temperature":',
        b"1e999",
        b"-",
        b"NaN",
        b'"\xff"',
        b"\x00",
        b"{",
        b"[",
        b'"\\ud800"',
        b"9" * 400,
    ]
)


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(
        lambda value: json.dumps(value).encode()
    )
    | st.tuples(st.integers(0, len(valid_record)), pieces).map(
        lambda cut: valid_record[: cut[0]] + cut[1] + valid_record[cut[0] :]
    )
)
@example(valid_record)
@example(b"[" * 100_000)
@example(b'{"device_id":"a","recorded_at":1,"temperature":' + b"9" * 5_000 + b"}")
@example(b'{"device_id":"a","recorded_at":' + b"9" * 4_200 + b',"temperature":1}')
@example(b'{"device_id":"a","recorded_at":1,"temperature":1,"received_at":' + b"9" * 4_200 + b"}")
@example(b"\xef\xbb\xbf" + valid_record)
def test_any_bytes_are_a_reading_or_rejected(data: bytes) -> None:
    try:
        reading = decode(data).reading
    except Rejected as error:
        json.dumps([error.field, shown(error.value), error.reason])
    else:
        assert decode(encode(reading)).reading == reading


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        (b'"recorded_at"', b'"temperature":1,"recorded_at"', "temperature"),
        (b'"recorded_at"', b'"temperature" : "x\\"","recorded_at"', "temperature"),
        (b'"recorded_at"', b'"\\u0074emperature":1,"recorded_at"', "temperature"),
        (b'"recorded_at"', b'"battery":null,"battery":null,"recorded_at"', "battery"),
        (b'"device_id"', b'"device_id":"b","device_id"', "device_id"),
    ],
)
def test_a_record_with_a_name_twice_is_rejected_by_name(old: bytes, new: bytes, name: str) -> None:
    raw = document(trace_id="1-2", temperature=20.0, humidity=None)
    for recorded_at in (1_795_224_600_000, "2026-11-21T01:30:00Z"):
        record = json.dumps({**raw, "recorded_at": recorded_at}).encode()
        assert decode(record).reading.metrics == {"temperature": 20.0}
        with pytest.raises(Rejected, match=f"^{name}: is there twice, as"):
            decode(record.replace(old, new))


Outcome = tuple[Reading | None, list[tuple[str | None, str]]]


def outcome(read: Callable[[], Parsed]) -> Outcome:
    """Return the reading, and the field and reason of each refusal."""
    try:
        parsed = read()
    except Rejected as error:
        return None, [(error.field, error.reason)]
    return parsed.reading, [(each.field, each.reason) for each in parsed.refused]


def over_http(text: str) -> Outcome:
    def read() -> Parsed:
        (raw,) = json_documents(text.encode(), 1)
        if isinstance(raw, Rejected):
            raise raw
        return parse(raw)

    return outcome(read)


def on_the_stream(text: str) -> Outcome:
    return outcome(lambda: decode(text.encode()))


VALUES = [
    "20",
    "null",
    "NaN",
    "1" * 5_000,
    '"\\ud800"',
    '"a \\"temperature\\": b"',
    '{"temperature": 2}',
    '{"device_id": "x", "recorded_at": [NaN], "humidity": ' + "9" * 5_000 + "}",
    '{"via": "lora", "temperature": 1, "temperature": 2}',
]
NAMES = ["temperature", "humidity", "device_id", "sensor", "meta", "\\ud800"]
FIRST = f'"device_id": "pump-1", "recorded_at": {AT_MS}, "pressure": 1013.25'


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=4))
@example([("temperature", "20"), ("sensor", VALUES[6])])
@example([("meta", '{"device_id": "x"}')])
@example([("meta", '{"via": "lora"}')])
@example([("foo", "1"), ("foo", "2")])
@example([("foo", '"\\\\"'), ("foo", "2")])
@example([("temperature", "20"), ("humidity", "1" * 5_000)])
@example([("temperature", "20"), ("sensor", '"\\ud800"')])
@example([("sensor", "1" * 5_000), ("sensor", "2"), ("temperature", "20"), ("temperature", "2")])
def test_a_document_has_one_outcome_over_http_and_on_the_stream(
    fields: list[tuple[str, str]],
) -> None:
    text = "".join(f', "{name}": {value}' for name, value in fields)
    assert on_the_stream(f"{{{FIRST}{text}}}") == over_http(f"{{{FIRST}{text}}}")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('"sensor": {"temperature": 2, "pressure": 3}', "sensor"),
        ('"meta": {"device_id": "x", "via": "lora"}', "meta"),
        ('"foo": 1, "foo": "\\\\"', "foo"),
        ('"foo": [{"battery": 1, "battery": 2}]', "foo"),
        ('"humidity": ' + "1" * 5_000, "humidity"),
        ('"foo": ' + "1" * 5_000, "foo"),
        ('"foo": "\\ud800"', "foo"),
    ],
)
def test_an_odd_field_takes_no_metric_with_it(text: str, field: str) -> None:
    for outcome_of in (over_http, on_the_stream):
        reading, refused = outcome_of(f"{{{FIRST}, {text}}}")
        assert reading == Reading("pump-1", AT_MS, {"pressure": 1_013.25})
        assert [name for name, _ in refused] == [field]


@pytest.mark.parametrize("trace_id", ["", "x" * 65, "a b", "1-é", "1-2\n"])
def test_a_trace_id_that_is_none_is_rejected(trace_id: str) -> None:
    with pytest.raises(Rejected) as caught:
        decode(json.dumps(document(trace_id=trace_id)).encode())
    assert caught.value.field == "trace_id"


@pytest.mark.parametrize("received_at", [-1, 253_402_300_800_000, "1", 1.5, True])
def test_a_received_at_that_is_no_time_is_rejected(received_at: Any) -> None:
    with pytest.raises(Rejected) as caught:
        decode(json.dumps(document(received_at=received_at)).encode())
    assert caught.value.field == "received_at"


# Values in answers and logs.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (2**63 - 1, 2**63 - 1),
        (2**70, "1180591620717411303424"),
        pytest.param(10**5_000, "a int", id="more digits than Python prints"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 100 + "…"),
        (b"\x00\xff", "AP8="),
        ([1, {"a": math.nan}], '[1, {"a": NaN}]'),
        (["x" * 200], '["' + "x" * 98 + "…"),
        ("\ud800", "?"),
    ],
)
def test_a_value_is_shown_as_json_and_not_at_length(value: Any, expected: Any) -> None:
    assert shown(value) == expected
    json.dumps(shown(value), allow_nan=False).encode()


def test_a_value_nested_too_deeply_is_shown_by_its_kind() -> None:
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]
    try:
        assert shown(nested) == "a list"
    finally:
        while nested:  # taken apart by hand: freeing it whole recurses too
            nested = nested.pop()
