"""Every accepted reading is accounted for; a reading that is on its way, or lost, is missing."""

import json
from functools import partial
from typing import Any

import pytest

from local.trial.check import iso
from tests import writers
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
        becomes(lambda: account(pipeline, start_ms)["unaccounted"], 2, "the readings that wait")
    becomes(lambda: account(pipeline, start_ms)["unaccounted"], 0, "readings on their way")
    stages = account(pipeline, start_ms)["stages"]
    assert stages["ingest"]["accepted"] - before["ingest"]["accepted"] == 2
    assert stages["aggregate"]["stored"] - before["aggregate"]["stored"] == 2
    assert stages["aggregate"]["duplicate"] == before["aggregate"]["duplicate"]


def test_a_record_of_another_producer_counts_as_foreign_and_does_not_change_the_balance(
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


def test_each_reading_of_a_record_with_several_is_stored_alerted_and_counted_once(
    pipeline: Pipeline,
) -> None:
    start_ms, minute = now_ms(), minutes_ago(2)
    becomes(lambda: account(pipeline, start_ms)["unaccounted"], 0, "what other tests have sent")
    before = account(pipeline, start_ms)["stages"]["aggregate"]
    lines = [
        json.dumps({"device_id": "bundled", **at(minute, second, temperature=37.0 + second)})
        for second in range(6)
    ]
    first, rest = [each.encode() for each in lines[:3]], "\ufeff" + lines[5]
    records = [writers.kpl(first), f"[{lines[3]}, {lines[4]}]".encode(), rest.encode()]
    pipeline.aws("kinesis").put_records(
        StreamName=pipeline.outputs["StreamName"],
        Records=[{"Data": each, "PartitionKey": "bundled"} for each in records],
    )
    becomes(lambda: pipeline.counts("bundled"), {minute: 6}, "the readings of three records")
    peaks = lambda: [alert["peak"] for alert in pipeline.alerts("bundled")]  # noqa: E731
    becomes(peaks, [42.0], "the alert of the breaches in them")

    def counted() -> dict[str, int]:
        after = account(pipeline, start_ms)["stages"]["aggregate"]
        return {name: after[name] - before[name] for name in ("foreign", "stored", "quarantined")}

    becomes(counted, {"foreign": 6, "stored": 6, "quarantined": 0}, "the readings' counts")
    assert account(pipeline, start_ms)["unaccounted"] == 0
