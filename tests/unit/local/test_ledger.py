import math

import pytest

from local.fleet.ledger import Alert, Ledger, Statistics
from local.fleet.reading import Reading
from local.fleet.rules import Rule

MINUTE_MS = 29_000_000 * 60_000
OVERHEATING = Rule("overheating", "temperature", above=38)


def reading(at_ms: int, temperature: float, device: str = "a", **metrics: float) -> Reading:
    return Reading(device, MINUTE_MS + at_ms, {"temperature": temperature, **metrics})


def ledger(*readings: Reading) -> Ledger:
    filled = Ledger()
    filled.accept(readings)
    return filled


def test_a_window_has_the_statistics_computed_by_hand() -> None:
    # 2, 4, 4, 4, 5, 5, 7, 9: mean 5, variance (9+1+1+1+0+0+4+16)/8 = 4
    values = [2, 4, 4, 4, 5, 5, 7, 9]
    filled = ledger(*(reading(index * 1000, value) for index, value in enumerate(values)))
    window = filled.windows("a")[MINUTE_MS]
    assert window.count == 8
    assert window.metrics == {"temperature": Statistics(8, 5.0, 2.0, 9.0, 2.0, 9.0)}


def test_the_last_value_is_that_of_the_latest_time_not_of_the_last_to_arrive() -> None:
    filled = ledger(reading(5000, 1), reading(9000, 2), reading(7000, 3))
    assert filled.windows("a")[MINUTE_MS].metrics["temperature"].last == 2


def test_a_reading_accepted_twice_counts_once() -> None:
    filled = ledger(reading(0, 1), reading(1, 3), reading(0, 1))
    assert filled.counts.accepted == 3
    assert filled.distinct() == 2
    assert filled.windows("a")[MINUTE_MS].metrics["temperature"].mean == 2


def test_a_window_is_a_minute_of_the_time_at_which_the_reading_was_taken() -> None:
    filled = ledger(reading(-1, 1), reading(0, 2), reading(59_999, 3), reading(60_000, 4))
    counts = {minute - MINUTE_MS: window.count for minute, window in filled.windows("a").items()}
    assert counts == {-60_000: 1, 0: 2, 60_000: 1}


def test_a_metric_that_was_not_measured_counts_only_where_it_was() -> None:
    filled = ledger(reading(0, 1, battery=3.5), reading(1, 2))
    window = filled.windows("a")[MINUTE_MS]
    assert window.count == 2
    assert window.metrics["battery"] == Statistics(1, 3.5, 3.5, 3.5, 0.0, 3.5)


def test_metrics_sent_apart_make_one_reading() -> None:
    filled = ledger(reading(0, 1), Reading("a", MINUTE_MS, {"humidity": 40.0}))
    window = filled.windows("a")[MINUTE_MS]
    assert window.count == 1
    assert window.metrics.keys() == {"temperature", "humidity"}


def test_statistics_hold_for_values_that_cancel_each_other() -> None:
    # the naive sum of squares loses this: variance of 1e9 + {4, 7, 13, 16} is 22.5
    filled = ledger(*(reading(at, 1e9 + value) for at, value in enumerate([4, 7, 13, 16])))
    window = filled.windows("a")[MINUTE_MS]
    assert window.metrics["temperature"].stddev == pytest.approx(math.sqrt(22.5), rel=1e-12)


def test_an_alert_spans_a_devices_breaches_in_whatever_order_they_came() -> None:
    filled = ledger(reading(3000, 39), reading(1000, 38.5), reading(2000, 20), reading(9000, 37))
    expected = Alert(MINUTE_MS + 1000, MINUTE_MS + 3000, 39.0)
    assert filled.alerts([OVERHEATING]) == {("a", "overheating"): expected}


def test_a_value_at_the_limit_and_a_missing_one_are_not_breaches() -> None:
    filled = ledger(reading(0, 38.0), Reading("b", MINUTE_MS, {"humidity": 99.0}))
    assert filled.alerts([OVERHEATING]) == {}


def test_the_peak_of_a_rule_that_looks_below_is_the_lowest_value() -> None:
    cold = Rule("freezing", "temperature", below=0)
    filled = ledger(reading(0, -1), reading(1, -7), reading(2, 5))
    assert filled.alerts([cold])["a", "freezing"].peak == -7


def test_a_rejected_reading_is_not_expected_anywhere() -> None:
    filled = Ledger()
    filled.reject("temperature: above 150")
    assert filled.devices == []
    assert filled.counts.rejected == 1


def test_of_two_values_at_one_instant_the_larger_counts_in_any_order() -> None:
    filled = ledger(reading(0, 3), reading(0, 1))
    assert filled.windows("a")[MINUTE_MS].metrics["temperature"].max == 3
    assert filled.windows("a")[MINUTE_MS].metrics["temperature"].min == 3


def test_an_unanswered_reading_makes_other_outcomes_possible_unless_it_adds_nothing() -> None:
    filled = ledger(reading(0, 1), reading(1, 5))
    filled.give_up([reading(0, 1), reading(1, 7), reading(2, 9), reading(2, 8, battery=3.0)])
    temperature, battery = "temperature", "battery"
    assert filled.counts.unanswered == 4
    assert filled.possible("a") == {
        MINUTE_MS + 1: [{temperature: 7}],
        MINUTE_MS + 2: [
            {temperature: 9},
            {battery: 3.0, temperature: 8},
            {battery: 3.0, temperature: 9},
        ],
    }
    assert filled.readings("a") == {MINUTE_MS: {temperature: 1}, MINUTE_MS + 1: {temperature: 5}}
