"""Times: integers inside, ISO 8601 in UTC outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.times import from_iso, minute_of, to_iso, to_iso_minute

AT_MS = 1_795_224_600_000
instants = st.integers(0, 253_402_300_799_999)  # 1970 to 9999


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
