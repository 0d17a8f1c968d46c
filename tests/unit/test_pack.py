"""Packs: as exact as single records, for filters and for every consumer."""

import contextlib
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from telemetry.domain import no_measurement, pack
from telemetry.domain import reading as readings_of
from telemetry.domain.pack import (
    MAX_READINGS,
    comparable,
    decode,
    encode,
    is_comparable,
    rounded_up,
)
from telemetry.domain.reading import FIELDS, METRICS, Reading
from telemetry.domain.rule import Rule, breaching_value, filter_pattern
from telemetry.domain.validation import NothingMeasured, Parsed
from telemetry.domain.validation import decode as decode_one
from telemetry.domain.window import add_readings, window_key
from telemetry.errors import Rejected

from emulator.event_pattern import matches

AT_MS = 1_795_224_600_000  # 2026-11-21T01:30:00Z
TRACE = "1-67891233-abcdef012345678912345678"
JSON = dict[str, Any]


def values(name: str) -> st.SearchStrategy[float]:
    """A metric's valid values: plain ones, and doubles with all their digits."""
    least, most = FIELDS[name]["minimum"], FIELDS[name]["maximum"]
    plain = st.integers(int(least) * 100, int(most) * 100).map(lambda each: each / 100)
    edges = st.sampled_from([least, most])
    # adding 0.0: what is stored has no -0.0
    return plain | st.floats(least, most).map(lambda each: each + 0.0) | edges


metrics = st.fixed_dictionaries({}, optional={name: values(name) for name in METRICS}).filter(bool)
readings = st.builds(
    Reading,
    st.sampled_from(["pump-1", "pump-2"]),
    st.integers(0, 20).map(lambda each: AT_MS + each * 700) | st.integers(0, 10**12),
    metrics,
    st.sampled_from([None, AT_MS]),
    st.sampled_from([None, TRACE]),
    st.sampled_from([None, "mqtt"]),
    st.sampled_from([None, AT_MS + 1]),
)
requests = st.lists(readings, max_size=30)


def unpacked(data: bytes) -> list[Parsed | Rejected]:
    """What a record's readings are."""
    found = decode(data)
    return [decode_one(data)] if found is None else found.outcomes


def same(one: Reading, other: Reading) -> bool:
    """Whether two readings are equal bit for bit."""
    return repr(one._replace(metrics=dict(sorted(one.metrics.items())))) == repr(
        other._replace(metrics=dict(sorted(other.metrics.items())))
    )


def packed(*given: Reading) -> bytes:
    (record,) = pack.pack(given)
    return record.data


def reading(after_ms: int = 0, **found: float) -> Reading:
    return Reading("pump-1", AT_MS + after_ms, found or {"temperature": 20.5}, AT_MS, TRACE)


def raw(**changes: Any) -> JSON:
    """The document of a pack of three readings, with other values of some fields."""
    data = packed(reading(0, temperature=20.5), reading(1_000, temperature=41.25), reading(2_500))
    return {**json.loads(data), **changes}


def columns(**changes: Any) -> JSON:
    return {"readings": {**raw()["readings"], **changes}}


def test_a_pack_has_its_extremes_on_top_and_its_readings_in_columns() -> None:
    data = packed(
        reading(1_000, temperature=21.5, humidity=40.0),
        reading(0, temperature=39.0000004),
        reading(2_500, humidity=39.9999996),
    )
    assert json.loads(data) == {
        "device_id": "pump-1",
        "recorded_at": AT_MS,
        "temperature": 39.000001,
        "humidity": 40.0,
        "received_at": AT_MS,
        "trace_id": TRACE,
        "low": {"temperature": 21.5, "humidity": 39.999999},
        "readings": {
            "after_ms": [1_000, 0, 2_500],
            "temperature": [21.5, 39.0000004, None],
            "humidity": [40.0, None, 39.9999996],
        },
    }


def test_a_reading_alone_is_a_single_record() -> None:
    assert packed(reading()) == readings_of.encode(reading())


@pytest.mark.parametrize(
    "value",
    [38.333333333333336, 38.299999237060547, 38.1234567, 0.00001, 5e-324, 6e9, 4e9 + 2**-20],
)
def test_a_value_that_filters_cannot_compare_goes_as_a_pack_of_one(value: float) -> None:
    assert not is_comparable(value)
    assert json.loads(packed(reading(pressure=value)))["readings"] == {
        "after_ms": [0],
        "pressure": [value],
    }


@pytest.mark.parametrize("value", [0.0, 38.0, 38.123456, -0.0001, 999_999_999.999999, 4e9])
def test_a_value_with_few_digits_is_comparable(value: float) -> None:
    assert is_comparable(value)


@given(requests)
def test_unpacking_gives_what_was_packed(request: list[Reading]) -> None:
    records = pack.pack(request)
    found = [outcome for each in records for outcome in unpacked(each.data)]
    kept = [each for record in records for each in record.readings]
    assert len(kept) == len(request)
    assert {id(each) for each in kept} == {id(each) for each in request}
    for before, after in zip(kept, found, strict=True):
        assert isinstance(after, Parsed)
        assert same(before, after.reading)
        assert not after.refused


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
@example([-0.0, 5e-324, 0.1 + 0.2])
def test_columns_keep_every_float_bit_for_bit(numbers: list[float]) -> None:
    request = [reading(place, temperature=each) for place, each in enumerate(numbers)]
    column = json.loads(encode(request))["readings"]["temperature"]
    assert [each.hex() for each in column] == [each.hex() for each in numbers]


@given(requests)
def test_readings_of_a_device_and_its_stamps_share_a_record(request: list[Reading]) -> None:
    kinds = {(each.device_id, *each[3:]) for each in request}
    assert len(pack.pack(request)) == len(kinds)


def test_a_request_is_one_record_and_more_readings_are_several() -> None:
    many = [reading(place) for place in range(2 * MAX_READINGS + 1)]
    assert [len(each.readings) for each in pack.pack(many)] == [MAX_READINGS, MAX_READINGS, 1]


def test_a_pack_stays_below_its_bytes_with_many_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"metric_{place}" for place in range(100)]
    monkeypatch.setattr(pack, "METRICS", names)
    many = [reading(place, **dict.fromkeys(names, -1 / 3 - 1e-9)) for place in range(500)]
    found = pack.pack(many)
    assert sum(len(each.readings) for each in found) == 500
    assert all(len(each.data) < 600_000 for each in found)


def test_without_packing_each_reading_is_a_record() -> None:
    found = pack.pack([reading(0), reading(1), reading(2, temperature=1 / 3)], is_packing=False)
    assert [len(each.readings) for each in found] == [1, 1, 1]
    assert [decode(each.data) is None for each in found] == [True, True, False]


# Filters.

thresholds = st.integers(-90 * 10**6, 150 * 10**6).map(lambda each: each / 10**6)
close = st.builds(
    lambda threshold, ulps: threshold + ulps * math.ulp(threshold), thresholds, st.integers(-3, 3)
)


@given(st.lists(values("temperature") | close, min_size=1, max_size=5), thresholds)
@example([38.00000001], 38.0)
@example([38.0], 38.0)
@example([38.0000004], 38.0)
def test_a_filter_passes_a_pack_exactly_if_one_of_its_readings_breaches(
    temperatures: list[float], above: float
) -> None:
    assume(all(-90 <= each <= 150 for each in temperatures))
    assert_filtered(temperatures, above)


@given(st.lists(close, min_size=1, max_size=3), st.data())
def test_a_filter_passes_a_pack_exactly_if_one_breaches_near_its_threshold(
    temperatures: list[float], data: st.DataObject
) -> None:
    near = data.draw(st.sampled_from(temperatures))
    steps = data.draw(st.integers(-1, 1))
    above = round(near + steps * 1e-6, 6)
    assume(-90 <= above < 150)
    assert_filtered(temperatures, above)


def assert_filtered(temperatures: Sequence[float], above: float) -> None:
    rule = Rule(name="hot", metric="temperature", above=above, clears_below=-95, severity="info")
    (pattern,) = filter_pattern([rule])
    request = [reading(place, temperature=each + 0.0) for place, each in enumerate(temperatures)]
    (record,) = pack.pack(request)
    passes = matches(json.dumps(pattern), f'{{"data":{record.data.decode()}}}')
    assert passes == any(breaching_value(rule, each) is not None for each in request)


@given(st.floats(-5e9, 5e9))
@example(1e9)
@example(999_999_999.9999999)
def test_what_is_rounded_up_is_the_least_comparable_number_from_there(value: float) -> None:
    up = rounded_up(value)
    step = 1e-6 if abs(value) < 1e9 else 1e-5
    assert up >= value
    assert up - value <= step + math.ulp(value)
    text = pack.plain(up)
    assert "e" not in text
    assert len(text.partition(".")[2]) <= 6
    assert len(text.replace(".", "").lstrip("-0")) <= 15
    assert float(text) == up


# Any packing is worth the same.


def split(request: list[Reading], cuts: list[int]) -> list[bytes]:
    """A request's records if it came in parts."""
    ends = sorted({0, len(request), *(cut % (len(request) + 1) for cut in cuts)})
    parts = [request[first:last] for first, last in itertools.pairwise(ends)]
    return [each.data for part in parts for each in pack.pack(part)]


@given(requests, st.lists(st.integers(0, 30), max_size=4))
def test_windows_are_the_same_for_any_packing(request: list[Reading], cuts: list[int]) -> None:
    def windows(records: list[bytes]) -> Any:
        found: dict[Any, Any] = {}
        for data in records:
            for outcome in unpacked(data):
                assert isinstance(outcome, Parsed)
                key = window_key(outcome.reading)
                found[key] = add_readings(found.get(key), [outcome.reading]).state
        return found

    singly = [readings_of.encode(each) for each in request]
    assert windows(split(request, cuts)) == windows(singly)


# What isn't valid.

cells = (
    values("temperature")
    | st.none()
    | st.sampled_from(["44", "", True, 412.0, -91, [], {}, math.nan, 10**30, 44, -0.0, 'a"b'])
)


@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=6),
    st.sampled_from(
        [{}, {"colour": "red"}, {"received_at": "x"}, {"device_id": "a/b"}, {"via": 7}]
    ),
)
def test_each_reading_of_a_pack_is_judged_as_a_record_of_its_own(
    rows: list[tuple[Any, Any]], changes: JSON
) -> None:
    names = ["temperature", "humidity"]
    top: JSON = {"device_id": "pump-1", "recorded_at": AT_MS, "received_at": AT_MS, **changes}
    table = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    numbers = {
        name: [each for each in column if type(each) in (int, float) and not math.isnan(each)]
        for name, column in table.items()
    }
    document = {
        **top,
        **{name: max(found) for name, found in numbers.items() if found},
        "low": {name: min(found) for name, found in numbers.items() if found},
        "readings": {"after_ms": list(range(len(rows))), **table},
    }
    found = decode(json.dumps(document).encode())
    assert found is not None
    for place, row in enumerate(rows):
        present = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        single = {**top, "recorded_at": AT_MS + place, **present}
        assert shown(found.outcomes[place]) == shown(judged(json.dumps(single).encode()))
        # and its own document says the same again
        assert shown(judged(found.documents[place])) == shown(found.outcomes[place])


def judged(data: bytes) -> Parsed | Rejected:
    try:
        return decode_one(data)
    except Rejected as error:
        return error


def shown(outcome: Parsed | Rejected) -> str:
    if isinstance(outcome, Rejected):
        return f"{type(outcome).__name__} {outcome.field} {outcome.reason} {outcome.value!r}"
    return f"{outcome.reading} {sorted(map(str, outcome.refused))} {outcome.left_out}"


def test_a_bad_reading_takes_no_other_of_its_pack_along() -> None:
    document = raw(temperature=412.0, **columns(temperature=[20.5, 412.0, 21.0]))
    found = decode(json.dumps(document).encode())
    assert found is not None
    first, bad, last = found.outcomes
    assert isinstance(first, Parsed)
    assert isinstance(last, Parsed)
    assert isinstance(bad, Rejected)
    assert bad.reason == "412.0 is above 150.0 °C"
    assert json.loads(found.documents[1]) == {
        "device_id": "pump-1",
        "recorded_at": AT_MS + 1_000,
        "temperature": 412.0,
        "received_at": AT_MS,
        "trace_id": TRACE,
    }


def test_a_value_that_stands_for_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = no_measurement.load("no_measurement: [{metric: temperature, values: [-85]}]")
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    found = decode(
        packed(reading(0, temperature=-85.0, humidity=1.0), reading(1, temperature=-85.0))
    )
    assert found is not None
    partly, nothing = found.outcomes
    assert isinstance(partly, Parsed)
    assert (partly.reading.metrics, partly.left_out) == ({"humidity": 1.0}, 1)
    assert isinstance(nothing, NothingMeasured)


def test_two_readings_of_an_instant_are_both_there() -> None:
    pair = [reading(0, temperature=20.0), reading(0, temperature=21.0)]
    found = decode(packed(*pair))
    assert found is not None
    assert [each.reading for each in found.outcomes if isinstance(each, Parsed)] == pair


MALFORMED: list[tuple[JSON, str, str]] = [
    (columns(temperature=[1, 2]), "readings.temperature", "has 2 values, and after_ms has 3"),
    (columns(temperature="hot"), "readings.temperature", "is not a list"),
    (columns(temperature=None), "readings.temperature", "is not a list"),
    (columns(after_ms=[0, -1, 2]), "readings.after_ms[1]", "is not a whole number"),
    (columns(after_ms=[0, 1.5, 2]), "readings.after_ms[1]", "is not a whole number"),
    (columns(after_ms=[0, True, 2]), "readings.after_ms[1]", "is not a whole number"),
    (columns(after_ms=[]), "readings.after_ms", "is not a list of 1 to 500 times"),
    (columns(after_ms=7), "readings.after_ms", "is not a list of 1 to 500 times"),
    (columns(after_ms=[0] * 501), "readings.after_ms", "is not a list of 1 to 500 times"),
    ({"readings": {}}, "readings.after_ms", "is not a list of 1 to 500 times"),
    (columns(device_id=["a", "b", "c"]), "readings.device_id", "which a pack has once"),
    (columns(via=["a", "b", "c"]), "readings.via", "which a pack has once"),
    ({"recorded_at": "2026-11-21T01:30:00Z"}, "recorded_at", "is not whole epoch milliseconds"),
    ({"low": 7}, "low", "is not an object"),
    ({"temperature": 41.0}, "temperature", "is below the highest value"),
    ({"temperature": "41.25"}, "temperature", "is below the highest value"),
    ({"temperature": None}, "temperature", "is below the highest value"),
    ({"low": {"temperature": 20.6}}, "low.temperature", "is above the lowest value"),
    ({"low": {}}, "low.temperature", "is above the lowest value"),
    ({"humidity": 40.0}, "readings.humidity", "has a highest value but no column"),
]


@pytest.mark.parametrize(("change", "field", "reason"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_pack_is_rejected_as_a_whole_with_its_reason(
    change: JSON, field: str, reason: str
) -> None:
    data = json.dumps(raw(**change)).encode()
    with pytest.raises(Rejected) as found:
        decode(data)
    assert found.value.field == field
    assert reason in found.value.reason


@pytest.mark.parametrize(
    ("once", "twice", "field"),
    [
        ('"readings": {', '"readings": {"temperature": [1, 1, 1], ', "readings.temperature"),
        ('"low": {', '"low": {"temperature": 1, ', "low.temperature"),
        ('"low": {', '"temperature": 1, "low": {', "temperature"),
        ('"low": {', '"low": {}, "low": {', "low"),
    ],
)
def test_a_name_twice_in_a_pack_is_refused_by_name(once: str, twice: str, field: str) -> None:
    data = json.dumps(raw()).replace(once, twice).encode()
    with pytest.raises(Rejected, match="is there twice") as found:
        decode(data)
    assert found.value.field == field


@pytest.mark.parametrize("odd", ["9" * 5_000, "1e400", "-Infinity", '"\\ud800"', "-0"])
@pytest.mark.parametrize("place", ["cell", "after", "stamp", "unknown", "recorded_at"])
def test_no_number_or_text_makes_unpacking_fail(odd: str, place: str) -> None:
    text = json.dumps(raw())
    before, after = {
        "cell": ("[20.5, 41.25", f"[20.5, {odd}"),
        "after": ("[0, 1000", f"[0, {odd}"),
        "stamp": (f'"received_at": {AT_MS}', f'"received_at": {odd}'),
        "unknown": ('"low"', f'"colour": {odd}, "low"'),
        "recorded_at": (f'"recorded_at": {AT_MS}', f'"recorded_at": {odd}'),
    }[place]
    assert before in text
    try:
        found = decode(text.replace(before, after, 1).encode())
    except Rejected:
        return
    assert found is None or len(found.outcomes) == len(found.documents) == 3


@pytest.mark.parametrize(
    "data",
    [
        readings_of.encode(reading()),
        b'{"readings":[{"device_id":"a"}]}',
        b'{"readings":7}',
        b'"readings"',
        b'{"readings"',
        b"",
    ],
)
def test_other_records_are_no_packs(data: bytes) -> None:
    assert decode(data) is None


def test_a_device_cannot_post_a_pack_as_a_reading() -> None:
    document = {"device_id": "pump-1", "recorded_at": AT_MS, "temperature": 1.0, "readings": {}}
    with pytest.raises(Rejected, match="readings: is how the pipeline packs readings"):
        decode_one(json.dumps(document).replace('s"', '\\u0073"').encode())


def test_a_record_with_many_digits_is_made_comparable_and_others_stay() -> None:
    odd = readings_of.encode(reading(temperature=1 / 3))
    found = decode(comparable(odd))
    assert found is not None
    assert [each.reading for each in found.outcomes if isinstance(each, Parsed)] == [
        reading(temperature=1 / 3)
    ]
    partly = b'{"device_id":"a","recorded_at":1,"temperature":0.3333333333333333,"humidity":200}'
    for data in (readings_of.encode(reading()), b"poison", packed(reading(0), reading(1)), partly):
        assert comparable(data) == data


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_pack_or_none_or_rejected(data: bytes) -> None:
    for each in (data, b'{"readings":' + data, b'{"readings":{"after_ms":[' + data):
        with contextlib.suppress(Rejected):
            decode(each)
