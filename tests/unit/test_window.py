"""Windows are sets: no order, repetition or split of what comes can change them."""

import contextlib
import math
import statistics
import struct
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry.domain.reading import Reading
from telemetry.domain.window import (
    EMPTY,
    MAX_READINGS,
    Contested,
    Fate,
    Statistics,
    Window,
    WindowKey,
    add_readings,
    count_contested,
    decode,
    encode,
    is_within,
    merge,
    summarize,
    window_key,
)
from telemetry.errors import Rejected

MINUTE_MS = 1_795_224_600_000
NAMES = ("battery", "humidity", "temperature")


def reading(offset_ms: int, **metrics: float) -> Reading:
    return Reading("pump-1", MINUTE_MS + offset_ms, metrics or {"temperature": 20.0})


# few offsets and values, so that readings meet each other
values = st.sampled_from([-1.5, 0.0, 2.25, 40.0])
metrics_of = st.dictionaries(st.sampled_from(NAMES), values, min_size=1)
few_readings = st.builds(
    lambda offset, metrics: reading(offset, **metrics), st.integers(0, 5), metrics_of
)
batches = st.lists(few_readings, max_size=12)
windows = st.dictionaries(
    st.integers(0, 59_999),
    st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.floats(allow_nan=False).map(lambda value: value + 0.0)
        | st.integers(-5, 5).map(Contested),
        min_size=1,
        max_size=4,
    ),
    max_size=12,
)


def of(readings: list[Reading]) -> Window:
    return add_readings(None, readings).state


def oracle(readings: list[Reading]) -> Window:
    """The slow way: of each instant and metric the largest value that came."""
    cells: dict[tuple[int, str], list[float]] = {}
    for each in readings:
        for name, value in each.metrics.items():
            cells.setdefault((each.recorded_at_ms - MINUTE_MS, name), []).append(value)
    window: dict[int, dict[str, float]] = {}
    for (offset, name), candidates in cells.items():
        window.setdefault(offset, {})[name] = max(candidates)
    return window


@given(batches)
def test_a_window_has_every_instant_and_metric_that_came(readings: list[Reading]) -> None:
    assert of(readings) == oracle(readings)


@given(batches, st.randoms(use_true_random=False), st.data())
def test_order_repetition_and_splits_change_nothing(
    readings: list[Reading], random: Random, data: st.DataObject
) -> None:
    repeated = readings + data.draw(st.lists(st.sampled_from(readings))) if readings else []
    random.shuffle(repeated)
    window: Window | None = None
    while repeated:
        size = data.draw(st.integers(1, len(repeated)))
        window = add_readings(window, repeated[:size]).state
        repeated = repeated[size:]
    assert encode(window or EMPTY) == encode(of(readings))


@given(batches)
def test_a_value_is_contested_where_another_came_for_its_instant(readings: list[Reading]) -> None:
    came: dict[tuple[int, str], set[float]] = {}
    for each in readings:
        for name, value in each.metrics.items():
            came.setdefault((each.recorded_at_ms - MINUTE_MS, name), set()).add(value)
    found = decode(encode(of(readings)))
    assert {
        (offset, name): isinstance(value, Contested)
        for offset, metrics in found.items()
        for name, value in metrics.items()
    } == {cell: len(values) > 1 for cell, values in came.items()}
    assert count_contested(found) == sum(len(values) > 1 for values in came.values())


@given(batches, batches)
def test_adding_is_merging(first: list[Reading], second: list[Reading]) -> None:
    merged = encode(merge(of(first), of(second)))
    assert encode(add_readings(of(first), second).state) == merged == encode(of(first + second))


@given(batches, batches)
def test_a_window_is_within_another_that_it_adds_nothing_to(
    first: list[Reading], second: list[Reading]
) -> None:
    whole = of(first + second)
    assert is_within(of(first), whole)
    assert is_within(whole, of(first)) == (encode(whole) == encode(of(first)))


@given(batches, batches, batches)
def test_merging_is_a_union(a: list[Reading], b: list[Reading], c: list[Reading]) -> None:
    x, y, z = of(a), of(b), of(c)
    assert encode(merge(x, y)) == encode(merge(y, x))
    assert encode(merge(merge(x, y), z)) == encode(merge(x, merge(y, z)))
    assert encode(merge(x, x)) == encode(x)
    assert encode(merge(x, EMPTY)) == encode(merge(EMPTY, x)) == encode(x)


@given(batches, batches)
def test_every_reading_is_stored_duplicate_or_overflow(
    first: list[Reading], second: list[Reading]
) -> None:
    before = of(first)
    addition = add_readings(before, second)
    assert len(addition.fates) == len(second)
    grown = len(addition.state) - len(before)
    assert grown <= addition.fates.count(Fate.STORED)  # some bring only a metric
    again = add_readings(addition.state, second)
    assert list(again.fates) == [Fate.DUPLICATE] * len(second)
    assert again.state is addition.state  # so that nothing is written


@given(batches, batches)
def test_what_is_given_is_left_as_it_was(first: list[Reading], second: list[Reading]) -> None:
    before = of(first)
    copy = {offset: dict(metrics) for offset, metrics in before.items()}
    add_readings(before, second)
    merge(before, of(second))
    assert before == copy


def test_metrics_of_one_instant_that_come_apart_are_put_together() -> None:
    addition = add_readings(
        None, [reading(7, temperature=20.0), reading(7, humidity=40.0), reading(8)]
    )
    assert addition.state == {7: {"temperature": 20.0, "humidity": 40.0}, 8: {"temperature": 20.0}}
    assert (addition.fates, addition.conflicts) == ([Fate.STORED] * 3, 0)


def test_of_values_that_disagree_one_wins_whatever_the_order_and_they_are_counted() -> None:
    forth = add_readings(None, [reading(7, temperature=20.0), reading(7, temperature=21.0)])
    back = add_readings(None, [reading(7, temperature=21.0), reading(7, temperature=20.0)])
    assert forth.state == back.state == {7: {"temperature": 21.0}}
    for addition in (forth, back):
        assert (addition.fates, addition.conflicts) == ([Fate.STORED, Fate.DUPLICATE], 1)


def test_a_conflict_beside_a_new_metric_is_stored_and_counted() -> None:
    addition = add_readings(
        of([reading(7, temperature=20.0)]), [reading(7, temperature=19.0, battery=3.0)]
    )
    assert addition.state == {7: {"temperature": 20.0, "battery": 3.0}}
    assert (addition.fates, addition.conflicts) == ([Fate.STORED], 1)


def test_a_window_takes_6000_readings_and_no_more() -> None:
    full = of([reading(offset) for offset in range(6_000)])
    assert len(full) == MAX_READINGS == 6_000
    late = [reading(6_000), reading(0), reading(1, humidity=50.0), reading(6_001)]
    addition = add_readings(full, late)
    assert addition.fates == [Fate.OVERFLOW, Fate.DUPLICATE, Fate.STORED, Fate.OVERFLOW]
    assert len(addition.state) == 6_000
    assert len(encode(addition.state)) < 400_000  # what a DynamoDB item may have


def test_the_largest_window_fits_into_an_item() -> None:
    every = ("temperature", "humidity", "pressure", "battery")
    full = [reading(offset * 10, **dict.fromkeys(every, 1.1)) for offset in range(6_000)]
    other = [reading(offset * 10, **dict.fromkeys(every, 1.2)) for offset in range(6_000)]
    for window in (of(full), of(full + other)):
        assert len(encode(window)) < 400_000 - 1_000  # its keys and the other attributes


def test_a_reading_belongs_to_the_minute_of_its_event_time() -> None:
    assert window_key(reading(0)) == WindowKey("pump-1", MINUTE_MS)
    assert window_key(reading(59_999)) == WindowKey("pump-1", MINUTE_MS)
    assert window_key(reading(60_000)) == WindowKey("pump-1", MINUTE_MS + 60_000)


# The encoded form.


def test_the_bytes_of_a_small_window_are_these() -> None:
    window = {258: {"b": 1.0}, 7: {"a": -2.0, "b": 0.5}, 59_999: {"b": 0.0}}
    assert encode(window).hex(" ") == " ".join(
        [
            "01",  # format
            "03 00",  # three readings
            "07 00 02 01 5f ea",  # at 7, 258 and 59,999 ms
            "02",  # two columns
            "01 61",  # a
            "01",  # the first reading has it
            "00 00 00 00 00 00 00 c0",
            "01 62",  # b
            "07",  # all three have it
            "00 00 00 00 00 00 e0 3f 00 00 00 00 00 00 f0 3f 00 00 00 00 00 00 00 00",
        ]
    )


def test_the_bytes_of_a_window_with_a_contested_value_are_these() -> None:
    window = {258: {"b": 1.0}, 7: {"a": -2.0, "b": Contested(0.5)}}
    data = encode(window)
    assert data.hex(" ") == " ".join(
        [
            "02",  # format
            "02 00 07 00 02 01",
            "02",  # two columns
            "01 61 01 00 00 00 00 00 00 00 c0",
            "00",  # no contested value
            "01 62 03 00 00 00 00 00 00 e0 3f 00 00 00 00 00 00 f0 3f",
            "01",  # that of the first reading
        ]
    )
    assert encode(decode(data)) == data


def test_a_mark_on_a_value_that_is_not_there_is_rejected() -> None:
    data = encode({258: {"b": 1.0}, 7: {"a": Contested(-2.0)}})
    with pytest.raises(Rejected):
        decode(data[:-1] + b"\x01")


def test_the_bytes_of_an_empty_window_are_these() -> None:
    assert encode(EMPTY) == bytes.fromhex("01000000")
    assert decode(bytes.fromhex("01000000")) == EMPTY


@given(windows)
def test_a_window_comes_back_as_it_was_written(window: Window) -> None:
    assert decode(encode(window)) == window


@given(windows, st.randoms(use_true_random=False))
def test_equal_windows_have_equal_bytes(window: Window, random: Random) -> None:
    offsets = list(window)
    random.shuffle(offsets)
    shuffled = {offset: dict(sorted(window[offset].items(), reverse=True)) for offset in offsets}
    assert encode(shuffled) == encode(window)


def test_columns_of_another_version_survive_a_reading_being_added() -> None:
    stored = encode({7: {"co2": 400.0, "temperature": 20.0}, 9: {"co2": 410.0}})
    grown = decode(encode(add_readings(decode(stored), [reading(9, temperature=21.0)]).state))
    assert grown == {
        7: {"co2": 400.0, "temperature": 20.0},
        9: {"co2": 410.0, "temperature": 21.0},
    }


@settings(max_examples=25)  # each is cut everywhere
@given(windows)
def test_bytes_that_are_cut_off_or_too_many_are_rejected(window: Window) -> None:
    data = encode(window)
    for end in range(len(data)):
        with pytest.raises(Rejected):
            decode(data[:end])
    with pytest.raises(Rejected):
        decode(data + b"\x00")


@given(
    st.builds(bytes.__add__, st.sampled_from([b"\x01", b"\x02"]), st.binary(max_size=60))
    | st.binary(max_size=8)
)
def test_any_bytes_are_a_window_or_rejected(data: bytes) -> None:
    with contextlib.suppress(Rejected):
        decode(data)


@given(windows.filter(bool), st.data())
def test_a_damaged_window_is_a_window_or_rejected(window: Window, data: st.DataObject) -> None:
    damaged = bytearray(encode(window))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Rejected):
        decode(bytes(damaged))


def test_a_column_that_says_it_has_more_values_than_readings_is_rejected() -> None:
    data = struct.pack("<BHHB", 1, 1, 7, 1) + b"\x01a" + b"\x03" + struct.pack("<2d", 1.0, 2.0)
    with pytest.raises(Rejected):
        decode(data)


@pytest.mark.parametrize("first", [0, 3, 255])
def test_bytes_of_another_format_are_rejected(first: int) -> None:
    with pytest.raises(Rejected, match="format 1"):
        decode(bytes([first]) + encode({1: {"a": 1.0}})[1:])


# Statistics.

measured = st.lists(
    st.tuples(st.integers(0, 59_999), st.floats(-90, 1_100, allow_subnormal=False)),
    min_size=1,
    max_size=60,
    unique_by=lambda pair: pair[0],
)


@given(measured)
def test_statistics_are_those_of_exact_arithmetic(pairs: list[tuple[int, float]]) -> None:
    window = {offset: {"temperature": value} for offset, value in pairs}
    found = summarize(window)["temperature"]
    exact = [Fraction(value) for _, value in pairs]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    assert found.count == len(pairs)
    assert found.mean == pytest.approx(float(mean), rel=1e-14, abs=1e-14)
    assert found.stddev == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-11)
    assert found.min == min(value for _, value in pairs)
    assert found.max == max(value for _, value in pairs)
    assert found.last == max(pairs)[1]


@given(measured, st.randoms(use_true_random=False))
def test_statistics_do_not_depend_on_the_order_that_readings_came_in(
    pairs: list[tuple[int, float]], random: Random
) -> None:
    forth = {offset: {"temperature": value} for offset, value in pairs}
    random.shuffle(pairs)
    back = {offset: {"temperature": value} for offset, value in pairs}
    assert summarize(forth) == summarize(back)


def test_statistics_are_by_metric_of_the_readings_that_have_it() -> None:
    window = {30: {"a": 4.0}, 10: {"a": 2.0, "b": 7.0}, 20: {"a": 9.0}}
    found = summarize(window)
    assert list(found) == ["a", "b"]
    assert (found["a"].count, found["a"].mean, found["a"].last) == (3, 5.0, 4.0)
    assert found["a"].stddev == pytest.approx(statistics.pstdev([4.0, 2.0, 9.0]))
    assert found["b"] == Statistics(1, 7.0, 7.0, 7.0, 0.0, 7.0)


def test_statistics_come_by_metrics_names_whichever_was_measured_first() -> None:
    assert list(summarize({7: {"b": 1.0}, 8: {"a": 1.0, "c": 1.0}})) == ["a", "b", "c"]


def test_an_empty_window_has_no_statistics() -> None:
    assert summarize(EMPTY) == {}
