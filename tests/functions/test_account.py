"""Account: operators see what became of the readings; an alarm sees what nothing became of."""

from collections.abc import Callable
from typing import Any

import pytest
from telemetry.domain.accounting import ACCEPTED, DUPLICATE, QUARANTINED, STORED
from telemetry.errors import Unavailable

from functions.account.handler import run
from tests.fakes import MemoryCounters
from tests.functions.incoming import NOW_MS, body_of, request

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
SCHEDULED = {"source": "aws.events", "detail-type": "Scheduled Event"}
Counted = Callable[[str], float]


def asked(counters: MemoryCounters, **query: str) -> dict[str, Any]:
    return run(request("GET", "/accounting", query=query or None), NOW_MS, counters)


def before(minutes: int) -> int:
    """The start of a minute so long ago."""
    return NOW_MS - minutes * MINUTE_MS


NO_METRICS = {"metrics_refused": 0, "metrics_left_out": 0}


def test_an_operator_sees_each_stages_sums_and_the_unaccounted_readings() -> None:
    counters = MemoryCounters(
        {
            ACCEPTED: {before(2): 100, before(1): 50},
            STORED: {before(2): 90, before(1): 20},
            DUPLICATE: {before(2): 9},
            QUARANTINED: {before(2): 1},
        }
    )
    answer = asked(counters)
    assert answer["statusCode"] == 200
    assert body_of(answer) == {
        "from": "2026-11-21T00:30:00Z",
        "to": "2026-11-21T01:30:00Z",
        "stages": {
            "ingest": {"accepted": 150, "rejected": 0, "overflowed": 0, **NO_METRICS},
            "drain": {"drained": 0, **NO_METRICS},
            "aggregate": {
                "foreign": 0,
                "stored": 110,
                "duplicate": 9,
                "quarantined": 1,
                "conflicting": 0,
                **NO_METRICS,
            },
            "alert": {"opened": 0},
            "dispatch": {"queued": 0},
            "notify": {"published": 0},
            "redrive": {"quarantined": 0},
        },
        "unaccounted": 30,
    }


def test_the_span_is_of_whole_minutes() -> None:
    counters = MemoryCounters({ACCEPTED: {before(3): 1, before(2): 10, before(1): 100}})
    body = body_of(
        asked(counters, **{"from": "2026-11-21T01:28:30Z", "to": "2026-11-21T01:29:00Z"})
    )
    assert (body["from"], body["to"]) == ("2026-11-21T01:28:00Z", "2026-11-21T01:29:00Z")
    assert body["unaccounted"] == 10
    body = body_of(asked(counters, **{"from": str(before(2)), "to": str(before(1) + 1)}))
    assert (body["to"], body["unaccounted"]) == ("2026-11-21T01:30:00Z", 110)
    instant = str(before(2) + 1)
    body = body_of(asked(counters, **{"from": instant, "to": instant}))
    assert (body["to"], body["unaccounted"]) == ("2026-11-21T01:29:00Z", 10)


@pytest.mark.parametrize(
    ("query", "field", "value", "words"),
    [
        ({"from": "yesterday"}, "from", "yesterday", "ISO 8601"),
        ({"to": "2026-11-21"}, "to", "2026-11-21", "with an offset"),
        # what API Gateway makes of to=2026-11-21T02:00:00+01:00
        ({"to": "2026-11-21T02:00:00 01:00"}, "to", "2026-11-21T02:00:00 01:00", "written %2B"),
        (
            {"from": "2026-11-21T02:00:00Z", "to": "2026-11-21T01:00:00Z"},
            "from",
            "2026-11-21T02:00:00.000Z",
            "is not before to, 2026-11-21T01:00:00.000Z",
        ),
        (  # no minute at all, for which CloudWatch has an error
            {"from": "2026-11-21T01:00:00Z", "to": "2026-11-21T01:00:00Z"},
            "from",
            "2026-11-21T01:00:00.000Z",
            "is not before to, 2026-11-21T01:00:00.000Z",
        ),
        (  # CloudWatch has forgotten it: zeros would say that nothing is unaccounted
            {"from": "2026-11-06T01:29:59.999Z", "to": "2026-11-06T02:00:00Z"},
            "from",
            "2026-11-06T01:29:59.999Z",
            "is before 2026-11-06T01:30:00.000Z: minutes are counted for 15 days",
        ),
        (
            {"from": "2026-11-19T01:00:00Z", "to": "2026-11-21T01:00:00Z"},
            "from",
            "2026-11-19T01:00:00.000Z",
            "more than a day before to",
        ),
    ],
)
def test_a_wrong_span_is_refused_by_field_value_and_what_would_be_right(
    query: dict[str, str], field: str, value: str, words: str
) -> None:
    answer = asked(MemoryCounters(), **query)
    body = body_of(answer)
    assert answer["statusCode"] == 400
    assert (body["field"], body["value"]) == (field, value)
    assert words in body["reason"]


def test_a_span_is_a_day_long_and_15_days_old_at_most() -> None:
    oldest = {"from": "2026-11-06T01:30:00Z", "to": "2026-11-07T01:30:00Z"}
    assert asked(MemoryCounters(), **oldest)["statusCode"] == 200


def test_while_cloudwatch_is_away_operators_are_told_to_come_back() -> None:
    counters = MemoryCounters()
    counters.down = True
    answer = asked(counters)
    assert answer["statusCode"] == 503
    assert "Retry-After" in answer["headers"]


def test_the_gauge_counts_readings_that_should_have_an_outcome_and_have_none(
    counted: Counted,
) -> None:
    counters = MemoryCounters(
        {
            ACCEPTED: {
                before(25 * 60): 7,  # too long ago
                before(23 * 60): 100,
                before(60): 10,
                before(16): 5,
                before(14): 1000,  # still under way
            },
            STORED: {before(23 * 60): 98, before(60): 30, before(16): 5},
        }
    )
    assert run(SCHEDULED, NOW_MS, counters) == {"unaccounted": 2}
    assert counted("ReadingsUnaccounted") == 2


def test_the_gauge_is_zero_not_missing_where_all_is_accounted_for(counted: Counted) -> None:
    run(SCHEDULED, NOW_MS, MemoryCounters({ACCEPTED: {before(60): 3}, STORED: {before(60): 3}}))
    assert counted("ReadingsUnaccounted") == 0


def test_while_cloudwatch_is_away_the_measurement_fails_instead_of_being_zero(
    counted: Counted,
) -> None:
    counters = MemoryCounters()
    counters.down = True
    with pytest.raises(Unavailable):
        run(SCHEDULED, NOW_MS, counters)
    with pytest.raises(KeyError):
        counted("ReadingsUnaccounted")
