"""The archive as Athena reads it: the deployed views over the deployed Firehose's objects."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from telemetry.domain import window

from local.trial.check import from_iso, iso
from tests.athena import Athena, definition
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago, now_ms
from tests.pipeline.mqtt import connected
from tests.pipeline.test_replay import HOUR_MS, items, operate

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - Athena's timestamps have no zone
Readings = dict[tuple[str, datetime], dict[str, float]]
NO_READINGS = [
    b"no reading, archived",
    b'"archived"',
    b"\xff\xfe\x00archived",
    b'{"device_id":"archived-odd","recorded_at":"soon","temperature":20}',
    b'{"device_id":"archived-odd","recorded_at":1795224600000,"temperature":"warm"}',
    b'{"device_id":"archived-odd","recorded_at":1795224600000,"temperature":{"celsius":20}}',
    b'[{"device_id":"archived-odd","recorded_at":"soon","temperature":20}]',
    b'{"device_id":"archived-odd","recorded_at":1795224600000,"temp',
    b"[" * 50_000,
]


@pytest.fixture
def athena(pipeline: Pipeline) -> Iterator[Athena]:
    """The deployed views of Glue, in the order in which they depend on each other."""
    glue, database = pipeline.aws("glue"), pipeline.outputs["ArchiveDatabase"]
    tables = glue.get_tables(DatabaseName=database)["TableList"]
    found = {each["Name"]: each for each in tables if each["TableType"] == "VIRTUAL_VIEW"}
    told = {name: definition(each["ViewOriginalText"]) for name, each in sorted(found.items())}
    assert {each["schema"] for each in told.values()} == {database}
    made = Athena({name: each["originalSql"] for name, each in told.items()})
    yield made
    made.close()


def download(pipeline: Pipeline, folder: Path) -> Path:
    """Download the bucket's objects into a folder."""
    s3, bucket = pipeline.aws("s3"), pipeline.outputs["ArchiveBucket"]
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="readings/")
    for key in [found["Key"] for page in pages for found in page.get("Contents", [])]:
        file = folder / key
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    return folder


def in_windows(pipeline: Pipeline, prefix: str) -> Readings:
    """Return the readings in windows, of devices whose names start with `prefix`."""
    found: Readings = {}
    for (device_id, minute_region), (encoded, *_) in items(pipeline, prefix).items():
        minute_ms = from_iso(minute_region.partition("#")[0])
        for offset_ms, metrics in window.decode(encoded).items():
            found[device_id, EPOCH + timedelta(milliseconds=minute_ms + offset_ms)] = dict(metrics)
    return found


def in_archive(athena: Athena, prefix: str) -> Readings:
    """Return the readings of `readings_once`; fail if one is there twice."""
    rows = athena.ask(f"SELECT * FROM readings_once WHERE device_id LIKE '{prefix}%'")  # noqa: S608
    found = {(row.pop("device_id"), row.pop("recorded_at")): row for row in rows}
    assert len(found) == len(rows)
    return {
        identity: {name: value for name, value in row.items() if value is not None}
        for identity, row in found.items()
    }


def test_athena_has_exactly_the_readings_of_windows_each_once(
    pipeline: Pipeline, athena: Athena, tmp_path: Path
) -> None:
    minute, second_ms = minutes_ago(4), 1000
    over_https = [at(minute, second, temperature=20.0 + second) for second in range(8)]
    pipeline.send("archived-https", *over_https, at(minute, 9, humidity=40.0))
    pipeline.send("archived-https", *over_https[:3])
    pipeline.send("archived-https", at(minute, 1, temperature=35.5, battery=3.0))
    over_mqtt: list[dict[str, Any]] = [
        at(minute, 0, temperature=39.5),
        {"recorded_at": iso(minute + second_ms), "temperature": 21},
        {"recorded_at": iso(minute + 2 * second_ms).replace("Z", "+00:00"), "humidity": 5.25},
        {"recorded_at": iso(minute + 2 * second_ms), "humidity": 5.25, "pressure": None},
    ]
    with connected(pipeline, "archived-mqtt") as device:
        for document in over_mqtt:
            device.publish("telemetry/archived-mqtt/readings", document)
        device.publish("telemetry/archived-mqtt/readings", at(minute, 4) | {"temperature": "warm"})
        device.publish("telemetry/archived-mqtt/batch/json", [at(minute, 5, battery=3.0)] * 2)
    records = [{"Data": each, "PartitionKey": "archived"} for each in NO_READINGS]
    pipeline.aws("kinesis").put_records(StreamName=pipeline.outputs["StreamName"], Records=records)
    becomes(lambda: pipeline.counts("archived-https"), {minute: 9}, "the window over HTTPS")
    becomes(lambda: pipeline.counts("archived-mqtt"), {minute: 4}, "the window over MQTT")

    def rows(sql: str) -> list[dict[str, Any]]:
        athena.keep_objects(download(pipeline, tmp_path))
        return athena.ask(sql)

    mine = "FROM readings WHERE device_id LIKE 'archived-%'"
    copies = "SELECT count(*) AS lines, count(replayed_at) AS copies"
    sent = 13 + 6  # over HTTPS, over MQTT
    becomes(lambda: rows(f"{copies} {mine}"), [{"lines": sent, "copies": 0}], "the archive")
    span = "--from", iso(now_ms() - HOUR_MS), "--to", iso(now_ms())
    operate(pipeline, *span, "--device", "archived-https")
    becomes(lambda: rows(f"{copies} {mine}"), [{"lines": sent + 13, "copies": 13}], "the copies")
    held = in_windows(pipeline, "archived-")
    assert in_archive(athena, "archived-") == held
    assert held["archived-https", EPOCH + timedelta(milliseconds=minute + second_ms)] == {
        "temperature": 35.5,
        "battery": 3.0,
    }
    ways = athena.ask(f"SELECT DISTINCT device_id, via {mine} AND replayed_at IS NULL ORDER BY 1")
    assert {row["via"] for row in ways if row["device_id"] == "archived-mqtt"} == {"mqtt", None}
    odd = athena.ask("SELECT line FROM records WHERE line LIKE '%archived-odd%'")
    assert [row["line"].encode() for row in odd] == NO_READINGS[3:8]
