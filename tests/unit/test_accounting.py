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
    ends = ("foreign", "stored", "duplicate", "quarantined")
    assert (stages["ingest"]["accepted"], stages["ingest"]["rejected"]) == (15, 0)
    assert [stages["aggregate"][end] for end in ends] == [0, 9, 0, 0]


def test_refused_metrics_and_conflicts_are_shown_and_are_no_part_of_the_balance() -> None:
    beside = {
        Metric(stage, name): {0: 3}
        for stage in ("ingest", "drain", "aggregate")
        for name in ("MetricsRefused", "MetricsLeftOut")
    }
    beside[Metric("aggregate", "ReadingsConflicting")] = {0: 3}
    assert set(METRICS) >= beside.keys()
    assert not beside.keys() & {*ARRIVED, *ENDED}
    assert unaccounted({ACCEPTED: {0: 1}, STORED: {0: 1}, **beside}) == 0
    stages = by_stage(beside)
    for stage in ("ingest", "drain", "aggregate"):
        assert (stages[stage]["metrics_refused"], stages[stage]["metrics_left_out"]) == (3, 3)
    assert (stages["aggregate"]["conflicting"], stages["aggregate"]["duplicate"]) == (3, 0)


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
