"""Times: integers inside, ISO 8601 in UTC outside."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import telemetry_client.reading as client
from hypothesis import example, given
from hypothesis import strategies as st
from telemetry.domain.times import (
    LEAP_SECOND,
    from_iso,
    minute_of,
    other_unit,
    to_iso,
    to_iso_minute,
)

from local.fleet.recorded import moment_of

AT_MS = 1_795_224_600_000
instants = st.integers(0, 253_402_300_799_999)  # 1970 to 9999
offsets = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)


@pytest.mark.parametrize(
    ("at_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (AT_MS, "2026-11-21T01:30:00.000Z"),
        (AT_MS + 7, "2026-11-21T01:30:00.007Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_an_instant_is_written_in_utc_to_the_millisecond(at_ms: int, text: str) -> None:
    assert to_iso(at_ms) == text
    assert from_iso(text) == at_ms


@given(instants)
def test_an_instant_comes_back_as_it_was_written(at_ms: int) -> None:
    assert from_iso(to_iso(at_ms)) == at_ms


@given(instants, instants)
def test_texts_sort_by_time(first: int, second: int) -> None:
    assert (to_iso(first) < to_iso(second)) == (first < second)


@given(instants)
def test_the_minute_of_an_instant_starts_at_most_a_minute_before_it(at_ms: int) -> None:
    minute_ms = minute_of(at_ms)
    assert 0 <= at_ms - minute_ms < 60_000
    assert to_iso_minute(minute_ms) == to_iso(at_ms)[:16] + ":00Z"
    assert from_iso(to_iso_minute(minute_ms)) == minute_ms


@given(instants, st.integers(-14 * 60, 14 * 60))
def test_an_offset_moves_the_clock_and_not_the_instant(at_ms: int, offset_minutes: int) -> None:
    shifted = at_ms + offset_minutes * 60_000
    if not 0 <= shifted <= 253_402_300_799_999:
        return
    sign, hours, minutes = "-+"[offset_minutes >= 0], *divmod(abs(offset_minutes), 60)
    text = to_iso(shifted).replace("Z", f"{sign}{hours:02}:{minutes:02}")
    assert from_iso(text) == at_ms


@pytest.mark.parametrize(
    "text",
    ["2026-11-21T01:30:00", "2026-11-21", "", "now", "1795224600000", "2026-02-30T00:00:00Z"],
)
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_iso(text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T01:29:60Z",
        "2026-11-21t01:29:60z",
        "2026-11-21 01:29:60.000+00:00",
        "20261121T012960Z",
        "2026-11-21T02:29:60,0+0100",
        "2026-11-21T01:30:00z",
    ],
)
def test_a_second_of_60_is_the_second_after_it_and_z_may_be_lower_case(text: str) -> None:
    assert from_iso(text) == AT_MS


def test_a_leap_second_has_fractions() -> None:
    assert from_iso("2016-12-31T23:59:60.250Z") == from_iso("2017-01-01T00:00:00.250Z")


@st.composite
def written_times(draw: st.DrawFn) -> str:
    """Draw ISO 8601 text as clients write it: finer than ms, with any separator and offset."""
    moment = draw(st.datetimes(datetime(1971, 1, 1), datetime(9998, 1, 1), timezones=offsets))  # noqa: DTZ001
    offset = draw(st.sampled_from(["Z", moment.strftime("%z"), moment.isoformat()[26:]]))
    date, time = draw(st.sampled_from([("%Y-%m-%d", "%H:%M:%S"), ("%Y%m%d", "%H%M%S")]))
    separator = draw(st.sampled_from("Tt _-.:,+/"))
    fraction = draw(st.sampled_from(["", ".%f", ",%f", ".%f60", ".60", ".123460", ".0060"]))
    year = f"{moment.year:04}"
    return moment.strftime((date + separator + time + fraction).replace("%Y", year)) + offset


@given(written_times())
@example("2026-11-25T10:00:00.123460Z")
@example("2026-11-25T10:00:59.999960Z")
@example("2026-11-25 10:00:00,000060+01:00")
@example("2026-11-25T10:00:00.111160")
@example("20261125T100000.000060-0130")
@example("2026-W48-3T10:00:00.595960Z")
@example("2026-11-21T01:29:00+01:00:60.5")
def test_without_a_second_of_60_a_time_is_what_python_reads_also_where_a_fraction_ends_in_60(
    text: str,
) -> None:
    expected = datetime.fromisoformat(text)
    assert client.from_iso(text) == moment_of(text, None, "row 1") == expected
    if expected.tzinfo is None:
        return
    since_1970 = expected - datetime(1970, 1, 1, tzinfo=UTC)
    assert from_iso(text) == since_1970 // timedelta(milliseconds=1)


def test_the_client_and_the_pipeline_have_one_pattern_for_a_leap_second() -> None:
    assert client.LEAP_SECOND.pattern == LEAP_SECOND.pattern


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T01:60:00Z",
        "2026-11-21T01:29:61Z",
        "2026-11-21T60:00:00Z",
        "2026-11-21T01:29:60",
        "2026-11-60T01:29:00Z",
    ],
)
def test_a_sixty_elsewhere_is_no_leap_second(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        from_iso(text)


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (1_795_224_600, "seconds"),
        (1_795_224_600.25, "seconds"),
        (1_795_224_600_000, None),
        (1_795_224_600_000_000, "microseconds"),
        (1_795_224_600_000_000_000, "nanoseconds"),
        (0, None),
        (123_456, None),
        (-1_795_224_600, None),
        (10**4000, None),
    ],
)
def test_a_number_tells_its_unit_where_that_makes_it_a_time_of_this_century(
    number: float, unit: str | None
) -> None:
    assert other_unit(number) == unit
