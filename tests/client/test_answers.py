"""The meaning of answers, by the API's contract."""

import json
import random
from typing import Any

import pytest
from telemetry_client.answers import Answer, Rejection, Remedy, Verdict, judge, retry_after_seconds
from telemetry_client.pace import Pace, PaceOptions


def answer(status: int, retry_after: str | None = None, **document: Any) -> Answer:
    return Answer(status, json.dumps(document).encode(), retry_after)


def refusal(index: int) -> dict[str, Any]:
    return {"index": index, "field": "temperature", "value": 412.0, "reason": "is above 150"}


REJECTION = Rejection(1, "temperature", 412.0, "is above 150")


def test_a_202_takes_all_but_what_it_rejects() -> None:
    verdict = judge(answer(202, accepted=2, rejected=[refusal(1)]), 3)
    assert (verdict.taken, verdict.rejected, verdict.again) == ([0, 2], [REJECTION], [])
    assert verdict.remedy is Remedy.NOTHING


def test_a_reading_with_a_refused_metric_is_taken() -> None:
    told = [refusal(0), refusal(0) | {"field": "colour"}, refusal(2)]
    verdict = judge(answer(202, accepted=2, rejected=[refusal(1)], partly=told), 3)
    assert (verdict.taken, verdict.again) == ([0, 2], [])
    assert [(each.index, each.field) for each in verdict.partly] == [
        (0, "temperature"),
        (0, "colour"),
        (2, "temperature"),
    ]


def test_refused_metrics_of_readings_to_be_sent_again_are_not_reported() -> None:
    found = answer(503, accepted=1, rejected=[], not_taken=[0], partly=[refusal(0), refusal(1)])
    assert [each.index for each in judge(found, 2).partly] == [1]


@pytest.mark.parametrize("partly", [None, "x", [7], [{"index": 9}], [{"index": True}], [{}], {}])
def test_a_malformed_partly_does_not_change_which_readings_are_taken(partly: Any) -> None:
    verdict = judge(answer(202, accepted=2, rejected=[], partly=partly), 2)
    assert (verdict.taken, verdict.partly) == ([0, 1], [])


def test_a_503_takes_readings_that_it_does_not_list_as_not_taken() -> None:
    found = answer(503, "5", accepted=1, rejected=[refusal(1)], not_taken=[3, 0])
    verdict = judge(found, 4)
    assert (verdict.taken, verdict.rejected, verdict.again) == ([2], [REJECTION], [0, 3])
    assert (verdict.remedy, verdict.retry_after_s) == (Remedy.LATER, 5.0)


def test_a_400_that_rejects_each_reading_settles_them_all() -> None:
    verdict = judge(answer(400, accepted=0, rejected=[refusal(0), refusal(1)]), 2)
    assert [each.index for each in verdict.rejected] == [0, 1]
    assert verdict.again == []


@pytest.mark.parametrize(
    "document",
    [
        b"<html>Welcome to the hotel</html>",
        b"[1, 2]",
        b"[" * 100_000,
        b"{}",
        b'{"accepted": 3}',
        b'{"accepted": 2, "rejected": []}',
        b'{"accepted": 2, "rejected": [{"index": 3}]}',
        b'{"accepted": 3, "rejected": [{"index": -1}]}',
        b'{"accepted": 2, "rejected": [{"index": true}]}',
        b'{"accepted": 1, "rejected": [{"index": 1}, {"index": 1}]}',
        b'{"accepted": 2, "rejected": [{"index": 1}], "not_taken": [1]}',
        b'{"accepted": 2, "rejected": "none"}',
    ],
)
@pytest.mark.parametrize("status", [202, 200, 400, 503])
def test_an_answer_that_does_not_account_for_every_reading_takes_none(
    status: int, document: bytes
) -> None:
    verdict = judge(Answer(status, document), 3)
    assert (verdict.taken, verdict.rejected, verdict.again) == ([], [], [0, 1, 2])
    assert verdict.remedy is Remedy.LATER


@pytest.mark.parametrize("status", [200, 201, 204, 302, 500])
def test_only_the_pipelines_own_statuses_decide_about_readings(status: int) -> None:
    verdict = judge(answer(status, accepted=2, rejected=[]), 2)
    assert (verdict.taken, verdict.again) == ([], [0, 1])


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (408, Remedy.LATER),
        (429, Remedy.LATER),
        (500, Remedy.LATER),
        (502, Remedy.LATER),
        (504, Remedy.LATER),
        (301, Remedy.PERSON),
        (401, Remedy.PERSON),
        (403, Remedy.PERSON),
        (404, Remedy.PERSON),
        (413, Remedy.SMALLER),
        (400, Remedy.SMALLER),
        (415, Remedy.PERSON),
    ],
)
def test_a_refused_request_loses_nothing(status: int, remedy: Remedy) -> None:
    verdict = judge(answer(status, message="no"), 2)
    assert (verdict.again, verdict.remedy) == ([0, 1], remedy)
    assert verdict.problem == f"{status}: no"


def test_no_answer_takes_nothing() -> None:
    verdict = judge(None, 2)
    assert (verdict.again, verdict.remedy) == ([0, 1], Remedy.LESS)


@pytest.mark.parametrize("status", [400, 413])
def test_a_single_reading_that_is_refused_as_a_request_is_rejected(status: int) -> None:
    verdict = judge(answer(status, message="is nested", field="body"), 1)
    assert verdict.rejected == [Rejection(0, "body", None, f"{status}: is nested")]
    assert verdict.again == []


@pytest.mark.parametrize("document", [b"<html>Too large</html>", b'{"message": "no such thing"}'])
def test_a_refusal_without_a_field_rejects_no_reading(document: bytes) -> None:
    """A proxy's 413 or another API's 400 would otherwise reject one reading after another."""
    verdict = judge(Answer(413, document), 1)
    assert (verdict.again, verdict.rejected, verdict.remedy) == ([0], [], Remedy.PERSON)


@pytest.mark.parametrize(
    ("entry", "rejection"),
    [
        ({"field": ["a"], "reason": None}, Rejection(0, None, None, "no reason was given")),
        ({"field": "a\ud800", "reason": "\ud800"}, Rejection(0, "a?", None, "?")),
        ({"field": "a", "reason": "x" * 999}, Rejection(0, "a", None, "x" * 200)),
        ({"field": "a", "reason": "b", "value": "x" * 999}, Rejection(0, "a", None, "b")),
    ],
)
def test_a_refusals_text_is_cut_and_can_be_stored(
    entry: dict[str, Any], rejection: Rejection
) -> None:
    refused = {"accepted": 0, "rejected": [{"index": 0, **entry}]}
    assert judge(Answer(400, json.dumps(refused).encode()), 1).rejected == [rejection]


@pytest.mark.parametrize("status", [400, 415])
def test_a_batch_whose_format_is_refused_is_first_sent_as_json(
    status: int,
) -> None:
    verdict = judge(answer(status, message="is not JSON"), 1, is_plain=False)
    assert (verdict.rejected, verdict.again) == ([], [0])
    assert verdict.remedy is Remedy.PLAINER


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("Sat, 21 Nov 2026 01:30:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 01:29:00 GMT", 0.0),
        ("999999", 3600.0),
        ("-1", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_reason(text: str | None, seconds: float) -> None:
    assert retry_after_seconds(text, 1_795_224_600) == seconds  # 2026-11-21T01:30:00Z


# Pace

LATER = judge(answer(429, message="Too Many Requests"), 10)
TAKEN = judge(answer(202, accepted=10, rejected=[]), 10)


def pace(seed: int = 1) -> Pace:
    return Pace(500, PaceOptions(first_s=1.0, most_s=8.0), random.Random(seed))


@pytest.mark.parametrize("verdict", [LATER, judge(None, 10)])
def test_pauses_are_drawn_from_0_to_a_bound_that_doubles_up_to_a_limit(
    verdict: Verdict,
) -> None:
    bounds = [1, 2, 4, 8, 8]
    courses = [[each.after(verdict, 10) for _ in bounds] for each in map(pace, range(400))]
    for bound, drawn in zip(bounds, zip(*courses, strict=True), strict=True):
        assert 0.0 <= min(drawn) < 0.1 * bound
        assert 0.9 * bound < max(drawn) <= bound


def test_success_ends_the_pauses() -> None:
    own = pace()
    for _ in range(5):
        own.after(LATER, 10)
    assert own.after(TAKEN, 10) == 0.0
    assert own.after(LATER, 10) <= 1.0


def test_a_pause_is_at_least_retry_after() -> None:
    asked = judge(answer(503, "5", message="later"), 10)
    pauses = [pace(seed).after(asked, 10) for seed in range(100)]
    assert 5.0 <= min(pauses) < max(pauses) <= 6.0


def test_a_refused_token_is_tried_again_after_minutes() -> None:
    refused = judge(answer(403, message="no"), 10)
    own = pace()
    pauses = [own.after(refused, 10) for _ in range(8)]
    assert 30 <= pauses[0] <= 60
    assert 450 <= pauses[-1] <= 900


REFUSED = Verdict(rejected=[REJECTION])


@pytest.mark.parametrize("grows_by", [TAKEN, REFUSED])
def test_a_batch_is_halved_until_it_is_read_and_then_grows_again(grows_by: Verdict) -> None:
    own, smaller = pace(), judge(answer(413, message="too large"), 10)
    assert own.after(smaller, 500) == 0.0
    assert own.limit == 250
    own.after(smaller, 3)
    assert own.limit == 1
    limits = []
    for _ in range(10):
        own.after(grows_by, 1)
        limits.append(own.limit)
    assert limits == [2, 4, 8, 16, 32, 64, 128, 256, 500, 500]


def test_a_batch_shrinks_without_an_answer_and_stays_after_a_requested_pause() -> None:
    own = pace()
    own.after(judge(answer(503, message="later"), 500), 500)
    assert own.limit == 500
    own.after(judge(None, 500), 500)
    assert own.limit == 250


def test_a_problem_for_a_person_is_not_retried_before_retry_after() -> None:
    refused = judge(answer(403, "3000", message="no"), 10)
    assert pace().after(refused, 10) == 3000.0
