"""The archive: which parts a span is looked for in, and which of their lines it selects."""

from typing import Any

import pytest
from telemetry.domain.archive_layout import (
    Selection,
    parse_selection,
    prefix_at,
    prefix_of,
    search_span,
    selects,
    span_of,
    to_parts,
)
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso
from telemetry.errors import Rejected

TEN, ELEVEN = from_iso("2026-11-21T10:00:00Z"), from_iso("2026-11-21T11:00:00Z")
MINUTE_MS = 60_000
REQUEST = {"from": "2026-11-21T10:00:00Z", "to": "2026-11-21T11:00:00Z"}
PART = "2026-11-21T10"


def reading(recorded_ms: int, received_ms: int | None, device_id: str = "pump-1") -> Reading:
    return Reading(device_id, recorded_ms, {"temperature": 20.0}, received_ms)


def test_a_request_is_read_with_its_defaults() -> None:
    assert parse_selection(REQUEST) == Selection(TEN, ELEVEN, None, "received")
    request = {**REQUEST, "device": "pump-1", "by": "recorded"}
    assert parse_selection(request) == Selection(TEN, ELEVEN, "pump-1", "recorded")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"from": "10:00"}, "from"),
        ({"from": "2026-11-21T10:00:00"}, "from"),
        ({"to": 7}, "to"),
        ({"to": None}, "to"),
        ({"to": "2026-11-21T10:00:00Z"}, "from"),
        ({"device": "a/b"}, "device"),
        ({"device": 7}, "device"),
        ({"by": "arrival"}, "by"),
    ],
)
def test_a_wrong_field_of_a_request_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_selection({**REQUEST, **change})
    assert caught.value.field == field


def test_a_search_by_receipt_covers_the_hours_before_and_after() -> None:
    selection = Selection(TEN + MINUTE_MS, TEN + 2 * MINUTE_MS)
    nine, noon = from_iso("2026-11-21T09:00:00Z"), from_iso("2026-11-21T12:00:00Z")
    assert search_span(selection, noon) == (nine, noon)
    on_the_hour = Selection(TEN, ELEVEN)
    assert search_span(on_the_hour, noon) == (nine, noon)


def test_a_search_by_event_time_goes_up_to_now() -> None:
    now_ms = from_iso("2026-11-23T08:30:00Z")
    selection = Selection(TEN, ELEVEN, by="recorded")
    # an hour before, and five minutes, which is in the hour before that
    expected = from_iso("2026-11-21T08:00:00Z"), from_iso("2026-11-23T09:00:00Z")
    assert search_span(selection, now_ms) == expected


def test_a_search_from_the_first_year_to_the_last_is_cut_to_1970_and_now() -> None:
    now_ms = from_iso("2026-11-21T10:30:00Z")
    ever = {"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}
    for by in ("received", "recorded"):
        found = search_span(parse_selection({**ever, "by": by}), now_ms)
        assert found == (0, ELEVEN)


@pytest.mark.parametrize(
    ("received_ms", "is_selected"),
    [(TEN - 1, False), (TEN, True), (ELEVEN - 1, True), (ELEVEN, False)],
)
def test_a_span_is_of_the_times_of_receipt_from_inclusive_to_exclusive(
    received_ms: int, is_selected: bool
) -> None:
    found = selects(Selection(TEN, ELEVEN), PART, reading(1, received_ms))
    assert found == is_selected


def test_by_event_time_a_late_reading_is_selected_from_a_later_part() -> None:
    late, early = reading(TEN, ELEVEN + 1), reading(TEN - 1, TEN)
    selection = Selection(TEN, ELEVEN, by="recorded")
    assert selects(selection, "2026-11-22T03", late)
    assert not selects(selection, PART, early)


def test_a_line_without_a_time_of_its_own_goes_by_its_part() -> None:
    selection = Selection(TEN + MINUTE_MS, ELEVEN)
    for line in (None, reading(1, None)):
        assert selects(selection, PART, line)
        assert not selects(selection, "2026-11-21T09", line)
        assert not selects(selection, "2026-11-21T11", line)
        assert selects(selection, "2026-11-21", line)


def test_a_devices_replay_takes_only_that_devices_readings() -> None:
    selection = Selection(TEN, ELEVEN, "pump-1")
    assert selects(selection, PART, reading(TEN, TEN))
    assert not selects(selection, PART, reading(TEN, TEN, "pump-2"))
    assert not selects(selection, PART, None)


def test_a_part_is_an_hours_partition_and_a_day_where_hours_are_too_many() -> None:
    hour = "readings/day=2026-11-21/hour=10/"
    assert to_parts([hour, "readings/else/"]) == [PART]
    assert prefix_of(PART) == prefix_at(TEN + 1) == hour
    assert prefix_of("2026-11-21") == "readings/day=2026-11-21/"
    many = [prefix_at(TEN + 3_600_000 * index) for index in range(5_001)]
    days = to_parts(many)
    assert (days[0], len(days)) == ("2026-11-21", 209)  # the 5,001st hour is 14 of day 209
    assert span_of(PART) == (TEN, ELEVEN)
    assert span_of("2026-11-21") == (TEN - 36_000_000, TEN + 50_400_000)


@pytest.mark.parametrize("text", ["", "2026", "2026-11-21T", "2026-11-21T10:00", "../2026-11-21"])
def test_an_invalid_part_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="part: is neither an hour"):
        prefix_of(text)
