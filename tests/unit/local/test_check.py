from typing import Any

import pytest

from local.fleet.ledger import Ledger
from local.fleet.reading import Reading
from local.fleet.rules import Rule
from local.trial.check import alert_differences, from_iso, iso, window_differences

MINUTE_MS = 29_000_000 * 60_000


@pytest.fixture
def ledger() -> Ledger:
    filled = Ledger()
    filled.accept(Reading("a", MINUTE_MS + at, {"temperature": 10.0 + at}) for at in (0, 1, 2))
    return filled


def shown() -> dict[str, Any]:
    """What the API shows of the ledger's window: 10, 11, 12."""
    metric = {"count": 3, "mean": 11.0, "min": 10.0, "max": 12.0, "last": 12.0}
    stddev = 0.816496580927726  # of 2/3
    metrics = {"temperature": {**metric, "stddev": stddev}}
    return {"minute": iso(MINUTE_MS), "count": 3, "metrics": metrics}


def differences(ledger: Ledger, *windows: dict[str, Any]) -> list[str]:
    return [each.what for each in window_differences("a", ledger.windows("a"), windows)]


def test_equal_windows_show_no_difference(ledger: Ledger) -> None:
    assert differences(ledger, shown()) == []


def test_rounding_of_sums_is_no_difference(ledger: Ledger) -> None:
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


def test_a_window_that_nobody_sent_or_that_is_shown_twice_is_found(ledger: Ledger) -> None:
    ghost = {**shown(), "minute": iso(MINUTE_MS + 60_000)}
    assert differences(ledger, shown(), ghost) == [f"window {iso(MINUTE_MS + 60_000)}"]
    assert differences(ledger, shown(), shown()) == [f"window {iso(MINUTE_MS)}"]


OVERHEATING = Rule("overheating", "temperature", above=38.0, clears_below=37.0)


@pytest.fixture
def heated() -> Ledger:
    """Two incidents: breaches at 0, 5; recovered at 10; breaches at 20, 25; recovered at 30."""
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


def test_times_come_back_to_the_millisecond() -> None:
    assert iso(1_783_166_400_123) == "2026-07-04T12:00:00.123Z"
    assert from_iso(iso(1_783_166_400_123)) == 1_783_166_400_123
