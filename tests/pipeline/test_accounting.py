"""Every accepted reading is accounted for, and one that is on its way, or lost, is missed."""

from functools import partial
from typing import Any

import pytest

from local.trial.check import iso
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago, now_ms
from tests.pipeline.faults import without

pytestmark = pytest.mark.alone


def account(pipeline: Pipeline, since_ms: int) -> dict[str, Any]:
    return pipeline.operator.accounting(iso(since_ms), iso(now_ms()))


def test_readings_that_cannot_be_stored_are_unaccounted_until_they_are(
    pipeline: Pipeline,
) -> None:
    start_ms, minute = now_ms(), minutes_ago(2)
    becomes(lambda: account(pipeline, start_ms)["unaccounted"], 0, "what other tests have sent")
    before = account(pipeline, start_ms)["stages"]
    with without(pipeline, "aggregate", "dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate"):
        pipeline.send("late", at(minute, 1, battery=1.0), at(minute, 2, battery=1.0))
        failed = partial(pipeline.logged, "aggregate", "AccessDenied", start_ms)
        becomes(failed, bool, "the writes that are denied")
        assert account(pipeline, start_ms)["unaccounted"] == 2
    becomes(lambda: account(pipeline, start_ms)["unaccounted"], 0, "readings on their way")
    stages = account(pipeline, start_ms)["stages"]
    assert stages["ingest"]["accepted"] - before["ingest"]["accepted"] == 2
    assert stages["aggregate"]["stored"] - before["aggregate"]["stored"] == 2
    assert stages["aggregate"]["duplicate"] == before["aggregate"]["duplicate"]


def test_a_record_of_another_producer_is_foreign_and_leaves_the_balance_alone(
    pipeline: Pipeline,
) -> None:
    start_ms = now_ms()
    becomes(lambda: account(pipeline, start_ms)["unaccounted"], 0, "what other tests have sent")
    before = account(pipeline, start_ms)["stages"]["aggregate"]
    pipeline.aws("kinesis").put_records(
        StreamName=pipeline.outputs["StreamName"],
        Records=[{"Data": b"not a reading, accounted for", "PartitionKey": "foreign"}],
    )

    def counted() -> dict[str, int]:
        after = account(pipeline, start_ms)["stages"]["aggregate"]
        return {name: after[name] - before[name] for name in ("foreign", "quarantined")}

    becomes(counted, {"foreign": 1, "quarantined": 1}, "the foreign record")
    assert account(pipeline, start_ms)["unaccounted"] == 0
