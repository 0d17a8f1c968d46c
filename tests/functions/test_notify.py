"""Notify: each notice out by every way, once."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.domain.notice import Notice
from telemetry.errors import Unavailable

from functions.notify.handler import LEASE_SECONDS, run
from tests.fakes import Crash, MemoryClaims, MemoryPublisher
from tests.functions.incoming import TRACE, sqs

NOW_SECONDS = 1_795_224_600
ALL_DONE: dict[str, Any] = {"batchItemFailures": []}
Counted = Callable[[str], float]


def notice(device_id: str = "pump-1", episode: int = 1, change: str = "opened") -> Notice:
    return Notice(
        f"{device_id}/overheating/eu-west-1/{episode}/{change}",
        change,
        device_id,
        "overheating",
        "critical",
        "eu-west-1",
        episode,
        "2026-11-21T01:30:00.000Z",
        "2026-11-21T01:30:09.000Z",
        41.5,
        TRACE,
    )


class Stage:
    """The function with two ways out and its claims in memory."""

    def __init__(self) -> None:
        self.claims = MemoryClaims()
        self.sns = MemoryPublisher("sns")
        self.bus = MemoryPublisher("bus")

    def run(self, *notices: Notice, later_seconds: int = 0) -> dict[str, Any]:
        return self.run_bodies(
            *(json.dumps(each._asdict()) for each in notices), later=later_seconds
        )

    def run_bodies(self, *bodies: str, later: int = 0) -> dict[str, Any]:
        return run(sqs(bodies), NOW_SECONDS + later, self.claims, (self.sns, self.bus))


def come_back(*messages: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": message} for message in messages]}


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_notice_goes_out_by_every_way(stage: Stage, counted: Counted) -> None:
    assert stage.run(notice("a"), notice("b")) == ALL_DONE
    assert stage.sns.sent == stage.bus.sent == [notice("a"), notice("b")]
    assert counted("NoticesPublished") == 4


def test_a_notice_delivered_twice_goes_out_once(stage: Stage, counted: Counted) -> None:
    assert stage.run(notice(), notice()) == ALL_DONE
    assert stage.run(notice(), later_seconds=100_000) == ALL_DONE
    assert stage.sns.sent == stage.bus.sent == [notice()]
    assert counted("NoticesPublished") == 2


def test_every_episode_and_change_has_a_notice_of_its_own(stage: Stage) -> None:
    different = [notice(), notice(episode=2), notice(change="cleared"), notice("b")]
    stage.run(*different)
    assert stage.sns.sent == different


def test_a_notice_that_another_is_sending_comes_back(stage: Stage) -> None:
    name = f"{notice().notice_id}/sns"
    stage.claims.take("pump-1", name, NOW_SECONDS, LEASE_SECONDS)
    assert stage.run(notice(), notice("b"), later_seconds=LEASE_SECONDS) == come_back("m0")
    assert stage.sns.sent == [notice("b")]
    # the other one died: its lease is over when the message is there again
    assert stage.run(notice(), later_seconds=LEASE_SECONDS + 1) == ALL_DONE
    assert stage.sns.sent == [notice("b"), notice()]


def test_a_failing_way_out_brings_the_message_back_and_repeats_no_other(
    stage: Stage, counted: Counted
) -> None:
    stage.bus.failure = Unavailable("the bus is down")
    assert stage.run(notice()) == come_back("m0")
    assert counted("NoticesPublished") == 1
    stage.bus.failure = None
    assert stage.run(notice(), later_seconds=180) == ALL_DONE
    assert stage.sns.sent == stage.bus.sent == [notice()]


def test_a_failing_way_out_does_not_keep_the_others_waiting(stage: Stage) -> None:
    stage.sns.failure = Unavailable("SNS is down")
    assert stage.run(notice()) == come_back("m0")
    assert stage.bus.sent == [notice()]


def test_a_crash_between_two_ways_out_repeats_neither(stage: Stage) -> None:
    stage.bus.failure = Crash()
    with pytest.raises(Crash):
        stage.run(notice())
    stage.bus.failure = None
    assert stage.run(notice(), later_seconds=180) == ALL_DONE
    assert stage.sns.sent == stage.bus.sent == [notice()]


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"notice_id": "x"}', '"text"', "7"])
def test_a_message_that_is_no_notice_comes_back_alone(stage: Stage, body: str) -> None:
    good = json.dumps(notice()._asdict())
    assert stage.run_bodies(body, good) == come_back("m0")
    assert stage.sns.sent == [notice()]
