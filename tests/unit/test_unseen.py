"""Every breach is seen by filters, or known to be unseen and put in a form that they see."""

import json
import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain import pack as packs
from telemetry.domain.bundle import content
from telemetry.domain.reading import Reading
from telemetry.domain.rule import Rule, filter_pattern
from telemetry.domain.unseen import is_unseen, limits_of

from emulator.event_pattern import compile_pattern, parse_event


def rule(above: float, metric: str = "temperature") -> Rule:
    return Rule(name="hot", metric=metric, above=above, clears_below=above, severity="info")


def is_seen(record: bytes, above: float) -> bool:
    """Return whether a filter for the limit surely lets a record through."""
    (pattern,) = filter_pattern([rule(above)])
    return compile_pattern(json.dumps(pattern)).matches({"data": parse_event(record.decode())})


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


FLOATS = (
    st.floats(-90, 150)
    | st.floats(-90, 150).map(float32)
    | st.floats(-90, 150).map(lambda value: round(value, 2))
    | st.floats(-1e-6, 1e-6)
    | st.floats(-6e9, 6e9)
    | st.floats(allow_nan=False, allow_infinity=False)
)
FORMATS = ("{:.17g}", "{:.15g}", "{:.9g}", "{:.7f}", "{:.6f}", "{:.2f}", "{:.10e}", "{!r}")
TEXTS = st.builds(str.format, st.sampled_from(FORMATS), FLOATS)
LIMITS = st.integers(-90 * 10**6, 150 * 10**6).map(lambda millionths: millionths / 10**6)


def of(text: str) -> tuple[bytes, Reading]:
    """Return a reading whose value is written as `text`, and its record."""
    record = f'{{"device_id":"pump-1","recorded_at":1,"temperature":{text},"via":"mqtt"}}'.encode()
    return record, Reading("pump-1", 1, {"temperature": float(text)}, 2, None, "mqtt")


@given(TEXTS, LIMITS)
def test_each_breach_is_seen_or_is_put_in_a_form_that_is_seen(text: str, above: float) -> None:
    record, reading = of(text)
    is_breach = float(text) > above
    unseen = is_unseen(record, reading, {"temperature": above})
    assert is_breach or not unseen
    if is_breach and not unseen:
        assert is_seen(record, above)
    again = packs.encode([reading])
    assert is_seen(again, above) is is_breach
    assert not is_unseen(again, reading, {"temperature": above})  # never once more


@given(st.lists(FLOATS, min_size=1, max_size=5), LIMITS)
def test_a_pack_of_any_values_is_seen_if_one_of_them_is_a_breach(
    values: list[float], above: float
) -> None:
    readings = [Reading("pump-1", at, {"temperature": each}) for at, each in enumerate(values)]
    assert is_seen(packs.encode(readings), above) is any(each > above for each in values)


@pytest.mark.parametrize(
    ("text", "unseen"),
    [
        ("38.5", False),
        ("38.123456", False),
        ("150", False),
        ("999999999.999999", False),
        ("1234567890.12345", False),
        ("5000000000", False),
        ("5000000000.1", True),
        ("5000000001", True),
        ("1234567890.123456", True),
        ("38.1234560", True),
        ("38.299999237060547", True),
        ("3.85e1", True),
        ("12345678901234567890", True),
        ("38.0", False),  # no breach
        ("-38.299999237060547", False),
    ],
)
def test_a_breach_with_more_digits_than_aws_documents_is_unseen(text: str, unseen: bool) -> None:
    record, reading = of(text)
    assert is_unseen(record, reading, {"temperature": 38.0}) is unseen


def test_only_the_numbers_that_breach_matter() -> None:
    record = b'{"temperature":38.1234567,"humidity":95.5,"trace_id":"1.2345678901234567"}'
    reading = Reading("pump-1", 1, {"temperature": 38.1234567, "humidity": 95.5})
    assert not is_unseen(record, reading, {"humidity": 90.0})
    assert not is_unseen(record, reading, {"humidity": 90.0, "temperature": 39.0})
    assert is_unseen(record, reading, {"humidity": 90.0, "temperature": 38.0})
    assert not is_unseen(record, reading, {"pressure": 1000.0})
    assert not is_unseen(record, reading, {})


def test_a_metric_has_the_lowest_limit_of_its_rules() -> None:
    rules = [rule(40), rule(38.5), rule(39), rule(90, "humidity")]
    assert limits_of(rules) == {"temperature": 38.5, "humidity": 90}


@given(TEXTS)
def test_in_the_archive_a_record_and_its_copy_are_one_reading(text: str) -> None:
    record, reading = of(text)
    archived = content(record).readings  # none if the value isn't valid
    copied = content(packs.encode([reading])).readings
    assert [each._replace(received_at_ms=2) for each in archived] == copied


@given(TEXTS)
def test_what_is_not_unseen_is_within_what_aws_documents(text: str) -> None:
    record, reading = of(text)
    if float(text) > -1e300 and not is_unseen(record, reading, {"temperature": -1e300}):
        number = Decimal(text)
        assert abs(number) <= 5 * 10**9
        assert len(number.as_tuple().digits) <= 15
        assert int(number.as_tuple().exponent) >= -6
