"""The balance: what arrived, minute by minute, less what met its end."""

from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.accounting import (
    ACCEPTED,
    ARRIVED,
    BALANCE,
    DUPLICATE,
    ENDED,
    FOREIGN,
    GIVEN_UP,
    METRICS,
    QUARANTINED,
    STORED,
    Metric,
    by_stage,
    unaccounted,
)

from tests.template import everywhere

amounts = st.dictionaries(st.integers(0, 3), st.integers(0, 100))


def test_a_minute_balances_when_every_reading_met_one_of_its_ends() -> None:
    counts = {
        ACCEPTED: {0: 10},
        FOREIGN: {0: 2},
        STORED: {0: 7},
        DUPLICATE: {0: 3},
        QUARANTINED: {0: 2},
    }
    assert unaccounted(counts) == 0


def test_what_aggregate_never_could_take_has_its_end_in_quarantine() -> None:
    assert unaccounted({ACCEPTED: {0: 3}, STORED: {0: 1}, GIVEN_UP: {0: 2}}) == 0


def test_what_has_met_no_end_is_unaccounted() -> None:
    assert unaccounted({ACCEPTED: {0: 10}, STORED: {0: 7}, DUPLICATE: {0: 1}}) == 2
    assert unaccounted({ACCEPTED: {0: 10}}) == 10
    assert unaccounted({FOREIGN: {0: 2}, STORED: {0: 1}}) == 1
    assert unaccounted({}) == 0


def test_what_one_minute_counted_twice_hides_no_loss_of_another() -> None:
    assert unaccounted({ACCEPTED: {0: 10, 1: 10}, STORED: {0: 9, 1: 15}}) == 1


@given(st.fixed_dictionaries(dict.fromkeys(BALANCE, amounts)))
def test_the_balance_is_never_negative_and_falls_as_readings_settle(
    counts: dict[object, dict[int, int]],
) -> None:
    before = unaccounted(counts)  # type: ignore[arg-type]
    minutes = {minute for metric in ARRIVED for minute in counts[metric]}
    counts[STORED] = {minute: counts[STORED].get(minute, 0) + 1 for minute in minutes}
    after = unaccounted(counts)  # type: ignore[arg-type]
    assert 0 <= after <= before
    assert before - after <= len(minutes)


def test_operators_see_every_metric_of_the_balance_by_its_stage() -> None:
    assert set(METRICS) >= {*ARRIVED, *ENDED}
    stages = by_stage({ACCEPTED: {0: 10, 1: 5}, STORED: {0: 9}})
    assert stages["ingest"] == {"accepted": 15, "rejected": 0, "overflowed": 0}
    assert stages["aggregate"] == {"foreign": 0, "stored": 9, "duplicate": 0, "quarantined": 0}


def test_no_alarm_watches_what_is_counted_in_a_minute_that_may_be_long_past() -> None:
    alarms = everywhere("AWS::CloudWatch::Alarm").values()
    watched = {
        Metric(dimension["Value"], alarm["MetricName"])
        for alarm in alarms
        for dimension in alarm.get("Dimensions", [])
        if dimension["Name"] == "service"
    }
    assert {Metric("account", "ReadingsUnaccounted")} <= watched
    assert watched & set(BALANCE) == set()
