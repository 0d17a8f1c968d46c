import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.fleet.ledger import Ledger
from local.fleet.reading import Reading
from local.fleet.rules import Rule
from local.trial.check import Difference, alert_differences, compare_windows, from_iso, iso

MINUTE_MS = 29_000_000 * 60_000


@pytest.fixture
def ledger() -> Ledger:
    filled = Ledger()
    filled.accept(Reading("a", MINUTE_MS + at, {"temperature": 10.0 + at}) for at in (0, 1, 2))
    return filled


def shown() -> dict[str, Any]:
    """Return the API's answer for the ledger's window: 10, 11, 12."""
    metric = {"count": 3, "mean": 11.0, "min": 10.0, "max": 12.0, "last": 12.0}
    stddev = 0.816496580927726  # of 2/3
    metrics = {"temperature": {**metric, "stddev": stddev}}
    return {"minute": iso(MINUTE_MS), "count": 3, "metrics": metrics}


def differences(ledger: Ledger, *windows: dict[str, Any]) -> list[str]:
    return [each.what for each in compare_windows("a", ledger, windows).differences]


def test_equal_windows_show_no_difference(ledger: Ledger) -> None:
    assert differences(ledger, shown()) == []


def test_a_rounding_error_of_a_sum_is_not_a_difference(ledger: Ledger) -> None:
    window = shown()
    window["metrics"]["temperature"]["mean"] += 1e-10
    window["metrics"]["temperature"]["stddev"] -= 1e-10
    assert differences(ledger, window) == []


@pytest.mark.parametrize("name", ["count", "mean", "min", "max", "stddev", "last"])
def test_a_planted_difference_in_any_statistic_is_found(ledger: Ledger, name: str) -> None:
    window = shown()
    window["metrics"]["temperature"][name] += 0.01
    where = f"window {iso(MINUTE_MS)} temperature {name}"
    assert differences(ledger, window) == [where]


def test_a_lost_reading_a_lost_window_and_a_lost_metric_are_found(ledger: Ledger) -> None:
    assert differences(ledger, {**shown(), "count": 2}) == [f"window {iso(MINUTE_MS)} count"]
    assert differences(ledger) == [f"window {iso(MINUTE_MS)}"]
    assert differences(ledger, {**shown(), "metrics": {}}) == [
        f"window {iso(MINUTE_MS)} temperature"
    ]


def test_an_unexpected_window_and_a_double_window_are_found(ledger: Ledger) -> None:
    ghost = {**shown(), "minute": iso(MINUTE_MS + 60_000)}
    assert differences(ledger, shown(), ghost) == [f"window {iso(MINUTE_MS + 60_000)}"]
    assert differences(ledger, shown(), shown()) == [f"window {iso(MINUTE_MS)}"]


OVERHEATING = Rule("overheating", "temperature", above=38.0, clears_below=37.0)


@pytest.fixture
def heated() -> Ledger:
    """Return two incidents: breaches at 0 and 5, recovery at 10; breaches at 20 and 25, then 30."""
    filled = Ledger()
    course = {0: 39.0, 5: 40.5, 10: 36.5, 20: 42.0, 25: 38.5, 28: 37.5, 30: 36.0, 35: 35.0}
    filled.accept(
        Reading("a", MINUTE_MS + at_ms, {"temperature": value}) for at_ms, value in course.items()
    )
    filled.accept([Reading("b", MINUTE_MS, {"temperature": 20.0})])
    return filled


def alert(first: int, last: int, peak: float, **changed: Any) -> dict[str, Any]:
    usual = {"device_id": "a", "rule": "overheating", "peak": peak, "status": "open"}
    times = {
        "first_breach_at": iso(MINUTE_MS + first),
        "last_breach_at": iso(MINUTE_MS + last),
        "cleared_at": None,
        "previous_cleared_at": None,
    }
    return {**usual, **times, **changed}


def at(ms: int) -> str:
    return iso(MINUTE_MS + ms)


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [
        ([alert(0, 25, 42.0)], []),
        ([alert(0, 5, 40.5, cleared_at=at(10))], []),
        ([alert(20, 25, 42.0, previous_cleared_at=at(10))], []),
        ([alert(20, 25, 42.0, previous_cleared_at=at(10), cleared_at=at(30))], []),
        ([], [""]),
        ([alert(0, 25, 42.0), alert(0, 25, 42.0)], [""]),
        ([alert(0, 25, 42.0), alert(0, 25, 42.0, device_id="b")], [""]),
        ([alert(0, 25, 41.9)], [" peak"]),
        ([alert(1, 25, 42.0)], [" first_breach_at_ms"]),
        ([alert(0, 26, 42.0)], [" last_breach_at_ms"]),
        ([alert(0, 25, 42.0, cleared_at=at(10))], [" last_breach_at_ms", " peak"]),
        ([alert(0, 25, 42.0, cleared_at=at(28))], [" cleared_at"]),
    ],
)
def test_a_device_that_broke_a_rule_has_one_alert_with_the_breaches_of_its_span(
    heated: Ledger, alerts: list[dict[str, Any]], expected: list[str]
) -> None:
    found = [each.what for each in alert_differences(heated, [OVERHEATING], alerts)]
    assert found == [f"alert overheating{what}" for what in expected]


Reads = list[tuple[int, float]]


def window_of(readings: Iterable[tuple[int, float]]) -> dict[str, Any]:
    """Return the API's window of temperatures by ms of the minute, computed independently."""
    values = [value for _, value in sorted(readings)]
    mean = sum(values) / len(values)
    temperature = {
        "count": len(values),
        "mean": mean,
        "min": min(values),
        "max": max(values),
        "last": values[-1],
        "stddev": math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)),
    }
    return {"minute": iso(MINUTE_MS), "count": len(values), "metrics": {"temperature": temperature}}


def answered_and_not(sure: Reads, unanswered: Reads) -> Ledger:
    filled = Ledger()
    filled.accept(Reading("a", MINUTE_MS + at, {"temperature": value}) for at, value in sure)
    filled.give_up(Reading("a", MINUTE_MS + at, {"temperature": value}) for at, value in unanswered)
    return filled


def compared(ledger: Ledger, *windows: dict[str, Any]) -> list[Difference]:
    return compare_windows("a", ledger, windows).differences


temperatures = st.integers(-4000, 8000).map(lambda hundredths: hundredths / 100)
instants = st.integers(0, 59_999)
courses = st.dictionaries(instants, temperatures, min_size=2, max_size=14).map(
    lambda course: list(course.items())
)


@given(courses, st.data())
def test_any_choice_of_the_unanswered_readings_is_right(course: Reads, data: st.DataObject) -> None:
    sure = course[: data.draw(st.integers(0, len(course)))]
    unanswered = course[len(sure) :]
    there = data.draw(st.lists(st.sampled_from(unanswered), unique=True)) if unanswered else []
    ledger = answered_and_not(sure, unanswered)
    shown = [window_of([*sure, *there])] if sure or there else []
    came = compare_windows("a", ledger, shown)
    assert came.differences == []
    assert came.unanswered_there == len(there)


# With values of which no two sums are equal, each choice has statistics of its own.
SURE = [(at, 20.0 + 2.0**-at) for at in range(8)]
UNANSWERED = [(at, 20.0 + 2.0**-at) for at in range(8, 14)]


@pytest.mark.parametrize("there", range(len(UNANSWERED) + 1))
def test_a_lost_reading_is_found_among_unanswered_ones(there: int) -> None:
    ledger = answered_and_not(SURE, UNANSWERED)
    for lost in range(len(SURE)):
        kept = [each for index, each in enumerate(SURE) if index != lost]
        found = compared(ledger, window_of([*kept, *UNANSWERED[:there]]))
        assert found
        assert all(each.may_come for each in found if "a value" not in str(each.expected))


@pytest.mark.parametrize("there", range(len(UNANSWERED) + 1))
def test_a_reading_counted_twice_is_found_among_unanswered_ones(there: int) -> None:
    ledger = answered_and_not(SURE, UNANSWERED)
    for twice in range(len(SURE)):
        found = compared(ledger, window_of([*SURE, (59_000, SURE[twice][1]), *UNANSWERED[:there]]))
        assert found


def test_readings_on_their_way_never_explain_more_readings_than_were_sent() -> None:
    ledger = answered_and_not(SURE, UNANSWERED)
    everything = [*SURE, *UNANSWERED, (59_000, 20.55)]
    found = compared(ledger, window_of(everything))
    assert [(each.what, each.expected, each.found) for each in found if not each.may_come] == [
        (f"window {iso(MINUTE_MS)} count", "8 to 14", 15),
        (f"window {iso(MINUTE_MS)} temperature last", "a value that was sent", 20.55),
    ]


def test_a_window_of_unanswered_readings_alone_may_be_missing() -> None:
    ledger = answered_and_not([], UNANSWERED)
    assert compared(ledger) == []
    assert compared(ledger, window_of(UNANSWERED)) == []
    assert compared(ledger, window_of([(8, 20.75)])) != []


def test_an_unanswered_reading_of_an_accepted_instant_may_bring_the_larger_value() -> None:
    ledger = answered_and_not([(0, 20.0), (1, 21.0)], [(1, 25.0), (0, 19.0)])
    assert compared(ledger, window_of([(0, 20.0), (1, 21.0)])) == []
    assert compared(ledger, window_of([(0, 20.0), (1, 25.0)])) == []
    assert compared(ledger, window_of([(0, 19.0), (1, 21.0)])) != []


def test_too_many_unanswered_readings_to_search_are_compared_by_bounds_and_reported() -> None:
    unanswered = [(at, 20.0 + at / 100) for at in range(10, 60)]
    ledger = answered_and_not(SURE, unanswered)
    came = compare_windows("a", ledger, [window_of([*SURE, *unanswered[::2]])])
    assert (came.differences, came.unsearched, came.unanswered_there) == ([], 1, 25)
    assert compared(ledger, window_of(unanswered[:7]))
    whole = compare_windows("a", ledger, [window_of([*SURE, *unanswered])])
    assert (whole.differences, whole.unsearched, whole.unanswered_there) == ([], 0, 50)


def alerted(sure: Reads, unanswered: Reads, *alerts: dict[str, Any]) -> list[str]:
    ledger = answered_and_not(sure, unanswered)
    return [each.what for each in alert_differences(ledger, [OVERHEATING], alerts)]


def test_only_an_unanswered_breach_may_open_or_prolong_an_unexpected_alert() -> None:
    calm, breach = [(0, 20.0)], [(5, 39.0), (7, 41.0)]
    assert alerted(calm, breach) == []
    assert alerted(calm, breach, alert(5, 7, 41.0)) == []
    assert alerted(calm, breach, alert(5, 5, 39.0)) == []
    assert alerted(calm, breach, alert(5, 5, 40.0)) == ["alert overheating peak"]
    assert alerted(calm, breach, alert(5, 7, 40.0)) != []
    assert alerted(calm, breach, alert(6, 7, 41.0)) == ["alert overheating first_breach_at_ms"]
    assert alerted(calm, [(5, 30.0)], alert(5, 5, 39.0)) == ["alert overheating"]
    hot = [(6, 40.0)]
    assert alerted(hot, breach) == ["alert overheating"]
    for first, last, peak in ((6, 6, 40.0), (5, 6, 40.0), (6, 7, 41.0), (5, 7, 41.0)):
        assert alerted(hot, breach, alert(first, last, peak)) == []
    assert alerted(hot, breach, alert(5, 5, 39.0)) != []
    assert alerted(hot, breach, alert(6, 6, 41.0)) == ["alert overheating peak"]
    assert alerted(hot, breach, alert(5, 7, 40.0)) != []


def test_an_unanswered_breach_that_its_window_has_must_open_its_alert() -> None:
    ledger = answered_and_not([(0, 20.0)], [(5, 39.0)])
    there = compare_windows("a", ledger, [window_of([(0, 20.0), (5, 39.0)])])
    assert [each.what for each in alert_differences(ledger, [OVERHEATING], [], there)] == [
        "alert overheating"
    ]
    absent = compare_windows("a", ledger, [window_of([(0, 20.0)])])
    assert list(alert_differences(ledger, [OVERHEATING], [], absent)) == []
    shown = [alert(5, 5, 39.0)]
    assert len(list(alert_differences(ledger, [OVERHEATING], shown, absent))) == 1


def test_an_alert_may_be_cleared_by_an_unanswered_recovery() -> None:
    cleared = alert(0, 0, 39.0, cleared_at=at(9))
    assert alerted([(0, 39.0)], [(9, 36.0)], cleared) == []
    assert alerted([(0, 39.0)], [(9, 37.5)], cleared) == ["alert overheating cleared_at"]


def test_times_survive_a_round_trip_to_the_millisecond() -> None:
    assert iso(1_783_166_400_123) == "2026-07-04T12:00:00.123Z"
    assert from_iso(iso(1_783_166_400_123)) == 1_783_166_400_123
