"""The archive, and the two ways back from it; neither changes existing data."""

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

from rich.console import Console

from local.cli import parser
from local.fleet.reading import MINUTE_MS, Reading
from local.trial.check import iso
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago, now_ms

HOUR_MS = 3_600_000


def archived(pipeline: Pipeline, prefix: str) -> int:
    """Return the number of archived readings of devices whose names start with `prefix`."""
    s3, bucket = pipeline.aws("s3"), pipeline.outputs["ArchiveBucket"]
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="readings/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    bodies = [s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys]
    lines = [line for body in bodies for line in gzip.decompress(body).splitlines()]
    named = [json.loads(line) for line in lines if f'"device_id":"{prefix}'.encode() in line]
    return sum(len(each.get("readings", {}).get("after_ms", [0])) for each in named)


def items(pipeline: Pipeline, prefix: str) -> dict[tuple[str, str], tuple[bytes, str, str]]:
    """Return bytes, expiry and version of windows of devices whose names start with `prefix`."""
    pages = pipeline.aws("dynamodb").get_paginator("scan")
    found = [
        item
        for page in pages.paginate(TableName=pipeline.outputs["WindowsTable"])
        for item in page["Items"]
        if item["device_id"]["S"].startswith(prefix)
    ]
    return {
        (item["device_id"]["S"], item["minute_region"]["S"]): (
            item["readings"]["B"],
            item["expires_at"]["N"],
            item["version"]["N"],
        )
        for item in found
    }


def operate(pipeline: Pipeline, *words: str) -> str:
    """Run an operator's command to its end; return its output."""
    told = StringIO()
    options = parser().parse_args(["replay", "--name", pipeline.instance.name, *words])
    assert options.does(options, Console(file=told, width=200)) == 0
    return told.getvalue()


def post_some(pipeline: Pipeline, prefix: str) -> list[str]:
    """Post readings of several devices: in order, late, twice, and two that disagree."""
    minute, long_ago = minutes_ago(6), minutes_ago(26 * 60)
    names = [f"{prefix}-{index}" for index in range(4)]
    readings = [
        Reading(name, minute + second * 7_000, {"temperature": 20.0 + second, "humidity": 50.0})
        for second in range(16)
        for name in names
    ]
    late = [Reading(name, long_ago + 1_000, {"temperature": 5.0}) for name in names]
    disagreeing = [Reading(names[0], minute, {"temperature": 30.0})]
    for batch in (readings, late, readings[8:20], disagreeing, late):
        pipeline.relay(batch)
    pipeline.passed(minutes_ago(2), *names)
    sent = len(readings) + 2 * len(late) + 12 + len(disagreeing) + len(names)
    becomes(lambda: archived(pipeline, prefix), sent, "the archive of all that was sent")
    return names


def test_replaying_an_hour_over_existing_windows_changes_nothing(pipeline: Pipeline) -> None:
    names = post_some(pipeline, "replayed")
    before = items(pipeline, "replayed")
    alerts = pipeline.alerts(*names)
    assert len(before) >= 4 * 3
    span = iso(now_ms() - HOUR_MS), iso(now_ms() + MINUTE_MS)
    told = operate(pipeline, "--from", span[0], "--to", span[1], "--rate", "5000")
    end = told.splitlines()[-1]
    assert end.endswith(" readings sent")
    assert "; 0 readings" not in end
    pipeline.passed(minutes_ago(1), *names)  # what was replayed came before on the shard
    after = items(pipeline, "replayed")
    assert {key: after[key] for key in before} == before  # versions, too: nothing was written
    assert len(after) == len(before) + len(names)  # the last readings of all
    assert pipeline.alerts(*names) == alerts


def test_readings_only_in_the_archive_come_into_windows_and_alerts(pipeline: Pipeline) -> None:
    minute, received_ms = minutes_ago(3), now_ms() - 10_000
    readings = [
        {"device_id": name, "recorded_at": minute + second, "temperature": 40.0}
        for name in ("forgotten", "unasked")
        for second in range(5)
    ]
    lines = [json.dumps({**each, "received_at": received_ms}) for each in readings]
    hour = time.strftime("readings/day=%Y-%m-%d/hour=%H", time.gmtime())
    pipeline.aws("s3").put_object(
        Bucket=pipeline.outputs["ArchiveBucket"],
        Key=f"{hour}/by-hand.gz",
        Body=gzip.compress("".join(f"{line}\n" for line in lines).encode()),
    )
    time.sleep(1)  # S3 tells when an object was written in whole seconds
    span = iso(received_ms), iso(received_ms + 1)
    told = operate(pipeline, "--from", span[0], "--to", span[1], "--device", "forgotten")
    assert " 5 readings sent" in told
    becomes(lambda: pipeline.counts("forgotten"), {minute: 5}, "the windows")
    becomes(lambda: len(pipeline.alerts("forgotten")), 1, "the alert")
    assert pipeline.counts("unasked") == {}


def test_a_rebuild_equals_the_original_is_shown_to_operators_and_has_readings_from_meanwhile(
    pipeline: Pipeline,
) -> None:
    names = post_some(pipeline, "rebuilt")
    before = items(pipeline, "rebuilt")
    shown = {name: pipeline.windows(name) for name in names}
    generation = pointer(pipeline)["newest"] + 1
    with ThreadPoolExecutor(1) as pool:
        rebuild = pool.submit(operate, pipeline, "--rebuild")
        minute, sent = minutes_ago(5), 0
        while not rebuild.done():
            pipeline.send("meanwhile", at(minute, sent * 0.1, temperature=20.0))
            sent += 1
            time.sleep(0.3)
    assert "0 differences" in rebuild.result()
    assert sent > 10
    becomes(lambda: pipeline.counts("meanwhile"), {minute: sent}, "what came during the rebuild")
    after = items(pipeline, "rebuilt")
    assert {
        (device_id, "#".join(minute_region.split("#")[:2])): (readings, expires_at)
        for (device_id, minute_region), (readings, expires_at, _) in after.items()
    } == {
        (device_id, "#".join(minute_region.split("#")[:2])): (readings, expires_at)
        for (device_id, minute_region), (readings, expires_at, _) in before.items()
    }
    assert {key[1].rpartition("#")[2] for key in after} == {
        str(generation)
    }  # the old ones are gone
    assert pointer(pipeline) == {"current": generation, "newest": generation}
    becomes(lambda: {name: pipeline.windows(name) for name in names}, shown, "what is shown")
    pipeline.passed(minutes_ago(1), *names)  # and what comes now comes into it


def test_a_rebuild_that_was_cut_off_can_be_given_up(pipeline: Pipeline) -> None:
    function = f"{pipeline.state.stack}-rebuild"
    begin = json.dumps({"task": "begin"}).encode()
    pipeline.aws("lambda").invoke(FunctionName=function, Payload=begin)
    begun = pointer(pipeline)
    assert begun["building"] == begun["newest"]
    told = operate(pipeline, "--rebuild", "--give-up")
    assert "old windows deleted" in told
    assert pointer(pipeline) == {"current": begun["current"], "newest": begun["newest"]}


def pointer(pipeline: Pipeline) -> dict[str, int]:
    """Return the region's pointer to generations."""
    key = {"device_id": {"S": "#generations"}, "minute_region": {"S": pipeline.state.region}}
    table = pipeline.outputs["WindowsTable"]
    found = pipeline.aws("dynamodb").get_item(TableName=table, Key=key, ConsistentRead=True)
    item: dict[str, Any] = found.get("Item", {"current": {"N": "0"}, "newest": {"N": "0"}})
    names = ("current", "building", "retiring", "newest")
    return {name: int(item[name]["N"]) for name in names if "N" in item.get(name, {})}
