"""The way back for what failed: redriven, quarantined, released, and in the end stored once."""

import json

from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago
from tests.pipeline.faults import impatient, killed_by, without

DEADLY = "13.125"


def test_a_batch_that_aggregate_gives_up_on_comes_back_by_redrive(pipeline: Pipeline) -> None:
    minute = minutes_ago(3)
    with impatient(pipeline, "aggregate"):
        with without(pipeline, "aggregate", "dynamodb:BatchExecuteStatement"):
            pipeline.send("given-up", *(at(minute, second, humidity=50.0) for second in range(3)))
            becomes(pipeline.given_up, lambda keys: keys != [], "batches in the bucket")
            becomes(lambda: pipeline.waiting("FailuresQueueUrl") > 0, True, "the announcement")
            early = pipeline.command("redrive")
            assert early.returncode == 1, early.stderr
            assert "Unavailable" in early.stdout
            assert "the rest doesn't move" in early.stdout
            assert pipeline.counts("given-up") == {}
            assert pipeline.given_up() != []
        redriven = pipeline.command("redrive")
    assert redriven.returncode == 0, redriven.stdout + redriven.stderr
    assert "nothing is left" in redriven.stdout
    assert pipeline.counts("given-up") == {minute: 3}
    assert pipeline.given_up() == []
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
            becomes(pipeline.given_up, lambda keys: keys != [], "the batch in the bucket")
            assert pipeline.counts("killer") == {}
        redriven = pipeline.command("redrive")
        assert redriven.returncode == 0, redriven.stdout + redriven.stderr
        assert "5 records succeeded, 1 went to quarantine, 0 are left" in redriven.stdout
        assert pipeline.counts("killer") == {minute: 5}

    listed = json.loads(pipeline.command("quarantine", "list", "--json").stdout)
    (found,) = [each for each in listed if "Runtime.ExitError" in each["reason"]]
    assert (found["function"], found["source"]) == ("aggregate", "kinesis")
    shown = pipeline.command("quarantine", "show", found["name"])
    record = json.loads(shown.stdout)
    assert record["partition_key"] == "killer"
    assert json.loads(record["data"])["temperature"] == float(DEADLY)

    released = pipeline.command("quarantine", "release", found["name"][-12:])
    assert (released.returncode, released.stdout) == (0, "1 released\n"), released.stderr
    becomes(lambda: pipeline.counts("killer"), {minute: 6}, "what was released")
    again = pipeline.command("quarantine", "release", found["name"])
    assert again.returncode == 1
    assert "no name in quarantine ends so" in again.stderr
    last = minutes_ago(1)
    pipeline.send("killer", *readings)  # the device sends all of them again
    pipeline.passed("killer", last)
    assert pipeline.counts("killer") == {minute: 6, last: 1}
