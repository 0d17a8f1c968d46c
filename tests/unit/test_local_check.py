from typing import Any

import pytest

from local.check import alert_differences, from_iso, iso, window_differences
from local.ledger import Alert, Ledger
from local.reading import Reading

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


EXPECTED = {("a", "overheating"): Alert(MINUTE_MS, MINUTE_MS + 5, 40.5)}


def alert(**changed: Any) -> dict[str, Any]:
    usual = {"device_id": "a", "rule": "overheating", "peak": 40.5}
    times = {"first_breach_at": iso(MINUTE_MS), "last_breach_at": iso(MINUTE_MS + 5)}
    return {**usual, **times, **changed}


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [
        ([alert()], []),
        ([], ["alert overheating"]),
        ([alert(), alert()], ["alert overheating"]),
        ([alert(), alert(device_id="b")], ["alert overheating"]),
        ([alert(peak=40.4)], ["alert overheating peak"]),
        ([alert(first_breach_at=iso(MINUTE_MS + 1))], ["alert overheating first_breach_at_ms"]),
        ([alert(last_breach_at=iso(MINUTE_MS + 1))], ["alert overheating last_breach_at_ms"]),
    ],
)
def test_an_alert_is_open_once_with_its_times_and_peak_and_no_other_is(
    alerts: list[dict[str, Any]], expected: list[str]
) -> None:
    assert [each.what for each in alert_differences(EXPECTED, alerts)] == expected


def test_times_come_back_to_the_millisecond() -> None:
    assert iso(1_783_166_400_123) == "2026-07-04T12:00:00.123Z"
    assert from_iso(iso(1_783_166_400_123)) == 1_783_166_400_123
