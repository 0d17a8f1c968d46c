"""The way back after failures: redriven, quarantined, released, and finally stored once."""

import json

import pytest

from local.fleet.reading import Reading
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago, shown
from tests.pipeline.faults import impatient, killed_by, without
from tests.pipeline.notices import Notices

pytestmark = pytest.mark.alone

DEADLY = "13.125"


def test_a_batch_that_aggregate_gives_up_on_comes_back_by_redrive(pipeline: Pipeline) -> None:
    minute = minutes_ago(3)
    with impatient(pipeline, "aggregate"):
        with without(pipeline, "aggregate", "dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate"):
            pipeline.send("given-up", *(at(minute, second, humidity=50.0) for second in range(3)))
            becomes(
                lambda: pipeline.given_up("aggregate"),
                lambda keys: keys != [],
                "batches in the bucket",
            )
            becomes(lambda: pipeline.waiting("FailuresQueueUrl") > 0, True, "the announcement")
            early = pipeline.command("redrive")
            assert early.returncode == 1, early.stderr
            assert "Unavailable" in early.stdout
            assert "the rest doesn't move" in early.stdout
            assert pipeline.counts("given-up") == {}
            assert pipeline.given_up("aggregate") != []
        redriven = pipeline.command("redrive")
    assert redriven.returncode == 0, redriven.stdout + redriven.stderr
    assert "nothing is left" in redriven.stdout
    assert pipeline.counts("given-up") == {minute: 3}
    assert pipeline.given_up("aggregate") == []
    becomes(lambda: pipeline.waiting("FailuresQueueUrl"), 0, "no announcement is left")


def test_a_record_that_kills_aggregate_is_quarantined_released_after_the_fix_and_stored_once(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(3)
    readings = [at(minute, second, temperature=20.0 + second) for second in range(6)]
    readings[3]["temperature"] = float(DEADLY)
    with killed_by(pipeline, "aggregate", DEADLY):
        with impatient(pipeline, "aggregate"):
            pipeline.send("killer", *readings)
            becomes(
                lambda: pipeline.given_up("aggregate"),
                lambda keys: keys != [],
                "the batch in the bucket",
            )
            assert pipeline.counts("killer") == {}
        redriven = pipeline.command("redrive")
        assert redriven.returncode == 0, redriven.stdout + redriven.stderr
        assert "records: 5 succeeded, 1 quarantined, 0 left" in redriven.stdout
        assert pipeline.counts("killer") == {minute: 5}

    listed = json.loads(pipeline.command("quarantine", "list", "--json").stdout)
    (found,) = [each for each in listed if "Runtime.ExitError" in each["reason"]]
    assert (found["function"], found["source"]) == ("aggregate", "kinesis")
    shown = pipeline.command("quarantine", "show", found["name"])
    record = json.loads(shown.stdout)
    assert record["partition_key"] == "killer"
    assert json.loads(record["data"])["temperature"] == float(DEADLY)

    released = pipeline.command("quarantine", "release", found["name"][-12:])
    assert released.returncode == 0, released.stdout + released.stderr
    assert released.stdout == "1 released: 1 stored\n"
    becomes(lambda: pipeline.counts("killer"), {minute: 6}, "what was released")
    again = pipeline.command("quarantine", "release", found["name"])
    assert again.returncode == 1
    assert "no name in quarantine ends so" in again.stderr
    last = minutes_ago(1)
    pipeline.send("killer", *readings)  # the device sends all of them again
    pipeline.passed(last, "killer")
    assert pipeline.counts("killer") == {minute: 6, last: 1}


def test_a_notice_that_could_not_be_sent_goes_out_once_by_redrive(
    pipeline: Pipeline, notices: Notices
) -> None:
    region, at_ms = pipeline.state.region, minutes_ago(3)
    notice = {
        "notice_id": f"unsent/overheating/{region}/1/opened",
        "change": "opened",
        "device_id": "unsent",
        "rule": "overheating",
        "severity": "critical",
        "region": region,
        "episode": 1,
        "first_breach_at": shown(at_ms),
        "last_breach_at": shown(at_ms),
        "peak": 41.5,
        "trace_id": None,
    }
    dead_letters = pipeline.outputs["NoticesDeadLettersUrl"]
    for _ in range(2):  # again, as after a redrive that was cut off between sending and deleting
        pipeline.aws("sqs").send_message(QueueUrl=dead_letters, MessageBody=json.dumps(notice))
        redriven = pipeline.command("redrive")
        assert redriven.returncode == 0, redriven.stdout + redriven.stderr
        assert "notices sent again: 1" in redriven.stdout
        assert pipeline.waiting("NoticesDeadLettersUrl") == 0
        notices.arrived_once("unsent")


def test_a_bad_line_of_the_overflow_queue_is_quarantined_and_the_others_are_drained(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(3)
    reading = json.dumps(Reading("drained", minute, {"temperature": 20.0}).body())
    sent = pipeline.aws("sqs").send_message(
        QueueUrl=pipeline.outputs["OverflowUrl"], MessageBody=f"not a reading\n{reading}"
    )
    becomes(lambda: pipeline.counts("drained"), {minute: 1}, "the reading beside it")
    becomes(lambda: pipeline.waiting("OverflowUrl"), 0, "an empty overflow queue")
    (held,) = pipeline.quarantined(sent["MessageId"])
    assert (held["name"], held["function"]) == (f"overflow:{sent['MessageId']}:0", "drain")
