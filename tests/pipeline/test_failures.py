"""No failure loses a reading or counts it twice."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from local.fleet.ledger import Ledger
from local.fleet.reading import Reading
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago, now_ms, shown
from tests.pipeline.faults import dying, without
from tests.pipeline.notices import Notices

pytestmark = pytest.mark.alone

DEVICES = 24  # on four shards: each has a batch to be halved
DEATHS = ["raising", "killed"]


def deaths(marks: Path) -> list[str]:
    return sorted(mark.name for mark in marks.iterdir())


def test_a_death_of_aggregate_in_mid_batch_changes_no_window(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    names = [f"windows-{index}" for index in range(DEVICES)]
    times = [minutes_ago(minutes) + second * 1000 for minutes in (4, 3) for second in (5, 6, 7)]
    readings = [
        Reading(name, time, {"temperature": 20.0 + index})
        for index, time in enumerate(times)
        for name in names
    ]
    ledger, last = Ledger(), minutes_ago(1)
    with dying(pipeline, "aggregate", tmp_path, DEATHS):
        pipeline.relay(readings, ledger)
        becomes(lambda: deaths(tmp_path), ["0-raising", "1-killed"], "deaths in mid-batch")
        becomes(lambda: len(pipeline.stored("windows-")), 2 * DEVICES, "windows")
        becomes(lambda: pipeline.differences(ledger), [], "windows as if nothing had died")
    # its own code again, in a process that knows no window: the same readings change nothing
    pipeline.relay(readings)
    pipeline.passed(last, *names[:4])
    for name in names[:4]:
        assert sorted(pipeline.counts(name).values()) == [1, 3, 3]


def test_a_death_of_alert_in_mid_batch_changes_no_episode_and_no_notice(
    pipeline: Pipeline, notices: Notices, tmp_path: Path
) -> None:
    names = [f"episodes-{index}" for index in range(DEVICES)]
    minute = minutes_ago(4)
    with dying(pipeline, "alert", tmp_path, DEATHS):
        pipeline.relay(
            Reading(name, minute + second * 1000, {"temperature": 38.0 + second})
            for second in (2, 1, 3)
            for name in names
        )
        becomes(lambda: deaths(tmp_path), ["0-raising", "1-killed"], "deaths in mid-batch")
        expected = [(name, 1, shown(minute + 1_000), shown(minute + 3_000), 41.0) for name in names]
        becomes(lambda: episodes(pipeline, names), sorted(expected), "as if nothing had died")
    notices.arrived_once(*names)


def episodes(pipeline: Pipeline, names: list[str]) -> list[tuple[Any, ...]]:
    """The open alerts of these devices, each with its number, first and last breach, and peak."""
    wanted = ("device_id", "episode", "first_breach_at", "last_breach_at", "peak")
    return sorted(tuple(alert[name] for name in wanted) for alert in pipeline.alerts(*names))


def test_readings_wait_in_the_overflow_queue_while_the_stream_is_away(pipeline: Pipeline) -> None:
    minute = minutes_ago(3)
    with quick_returns(pipeline, "OverflowUrl"):
        with without(pipeline, "ingest", "kinesis:PutRecords"):
            with without(pipeline, "drain", "kinesis:PutRecords"):
                since_ms = now_ms()
                pipeline.send(
                    "patient", *(at(minute, second, humidity=50.0) for second in range(9))
                )
                pipeline.send("patient", at(minute, 10, temperature=44.0))
                becomes(lambda: pipeline.waiting("OverflowUrl"), 2, "messages with readings")
                told = partial(pipeline.logged, "drain", "stream unavailable", since_ms)
                becomes(told, bool, "drain's log of its failure")
                assert pipeline.counts("patient") == {}
            becomes(lambda: pipeline.counts("patient"), {minute: 10}, "what drain brought")
        becomes(lambda: pipeline.waiting("OverflowUrl"), 0, "an empty overflow queue")
    becomes(lambda: [found["peak"] for found in pipeline.alerts("patient")], [44.0], "the alert")


@contextmanager
def quick_returns(pipeline: Pipeline, output: str) -> Iterator[None]:
    """Make messages that a consumer failed on visible again after seconds, not minutes."""
    sqs, url = pipeline.aws("sqs"), pipeline.outputs[output]
    name = "VisibilityTimeout"
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={name: "2"})
    try:
        yield
    finally:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={name: before[name]})


def test_a_device_is_told_which_readings_were_not_taken(pipeline: Pipeline) -> None:
    minute, last = minutes_ago(3), minutes_ago(1)
    good = [at(minute, second, humidity=50.0) for second in range(3)]
    sent = [good[0], {"humidity": -1.0}, good[1], good[2]]
    with without(pipeline, "ingest", "kinesis:PutRecords", "sqs:SendMessage"):
        answer = pipeline.post("/devices/turned-away/readings", "turned-away", sent)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert (answer.json()["accepted"], answer.json()["not_taken"]) == (0, [0, 2, 3])
    assert [refusal["index"] for refusal in answer.json()["rejected"]] == [1]
    pipeline.send("turned-away", *(sent[index] for index in answer.json()["not_taken"]))
    pipeline.passed(last, "turned-away")
    assert pipeline.counts("turned-away") == {minute: 3, last: 1}


def test_a_function_whose_role_lacks_a_permission_fails_and_catches_up_when_it_has_it(
    pipeline: Pipeline,
) -> None:
    minute, since_ms = minutes_ago(3), now_ms()
    with without(pipeline, "aggregate", "dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate"):
        pipeline.send("held-up", *(at(minute, second, temperature=40.0) for second in range(5)))
        becomes(lambda: len(pipeline.alerts("held-up")), 1, "the alert, which has its permission")
        failed = partial(pipeline.logged, "aggregate", "AccessDenied", since_ms)
        becomes(failed, bool, "aggregate's log of its failure")
        assert pipeline.counts("held-up") == {}
        with without(pipeline, "query", "dynamodb:GetItem"):
            assert pipeline.http.get("/health").status_code == 502
    assert pipeline.http.get("/health").status_code == 200
    becomes(lambda: pipeline.counts("held-up"), {minute: 5}, "windows, caught up")
