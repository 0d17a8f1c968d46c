"""Packs through the deployed pipeline: a request is one record, worth exactly its readings."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago

TEN = [20.0, 21.0, 22.5, 23.0, 41.0000004, 24.0, 25.0, 26.0, 27.0, 28.0]


def on_stream(pipeline: Pipeline, device_id: str) -> Iterator[dict[str, Any]]:
    """Yield a device's records on the stream."""
    kinesis, name = pipeline.aws("kinesis"), pipeline.outputs["StreamName"]
    for shard in kinesis.list_shards(StreamName=name)["Shards"]:
        cursor = kinesis.get_shard_iterator(
            StreamName=name, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while page := kinesis.get_records(ShardIterator=cursor):
            for record in page["Records"]:
                if record["PartitionKey"] == device_id:
                    yield json.loads(record["Data"])
            if not page["Records"]:
                break
            cursor = page["NextShardIterator"]


def test_a_breach_in_the_middle_of_ten_readings_opens_an_alert_from_one_record(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(2)
    documents = [at(minute, place, temperature=each) for place, each in enumerate(TEN)]
    pipeline.send("packed", *documents)
    becomes(lambda: pipeline.counts("packed"), {minute: 10}, "its window")
    (alert,) = becomes(
        lambda: pipeline.alerts("packed"), lambda found: len(found) == 1, "its alert"
    )
    assert alert["peak"] == 41.0000004
    (record,) = on_stream(pipeline, "packed")
    assert (record["temperature"], record["low"]) == (41.000001, {"temperature": 20.0})
    assert record["readings"]["temperature"] == TEN


def test_a_bad_reading_in_another_producers_pack_is_quarantined_alone(pipeline: Pipeline) -> None:
    minute = minutes_ago(2)
    document = {
        "device_id": "foreign-pack",
        "recorded_at": minute,
        "temperature": 412,
        "low": {"temperature": 20},
        "readings": {"after_ms": [0, 1_000, 2_000], "temperature": [20, 412, 39.5]},
    }
    pipeline.aws("kinesis").put_record(
        StreamName=pipeline.outputs["StreamName"],
        PartitionKey="foreign-pack",
        Data=json.dumps(document).encode(),
    )
    becomes(lambda: pipeline.counts("foreign-pack"), {minute: 2}, "its good readings")
    (held,) = becomes(
        lambda: pipeline.quarantined("foreign-pack"), lambda found: len(found) == 1, "quarantine"
    )
    assert held["name"].endswith("#1")
    alone = {"device_id": "foreign-pack", "recorded_at": minute + 1_000, "temperature": 412}
    assert json.loads(base64.b64decode(held["data"])) == alone
    peaks = lambda: [alert["peak"] for alert in pipeline.alerts("foreign-pack")]  # noqa: E731
    becomes(peaks, [39.5], "the alert of the breach behind it")


def test_a_value_with_many_digits_alone_goes_as_a_pack_that_the_filter_passes(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(2)
    pipeline.send("many-digits", at(minute, 0, temperature=38.333333333333336))
    peaks = lambda: [alert["peak"] for alert in pipeline.alerts("many-digits")]  # noqa: E731
    becomes(peaks, [38.333333333333336], "its alert")
    (record,) = on_stream(pipeline, "many-digits")
    assert record["temperature"] == 38.333334
