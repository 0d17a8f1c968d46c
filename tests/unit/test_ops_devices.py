"""`devices`: who there is, when each was last seen, and what it cost to find out."""

import argparse
import json
from collections.abc import Iterator
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from telemetry.aws.alerts import BUCKETS, STATUS_INDEX
from telemetry.aws.generations import PARTITION

from ops.devices import ALERT_BUCKETS, INTERNAL, ago, list_devices
from ops.target import Target

NOW = 1_795_000_000.0


def window(device_id: str, minute: str, region: str = "us-east-1") -> dict[str, Any]:
    return {"device_id": {"S": device_id}, "minute_region": {"S": f"{minute}#{region}"}}


class Dynamo:
    """DynamoDB with tables that come in pages of two items; it notes what was asked."""

    def __init__(self) -> None:
        self.windows = [
            window("pump-1", "2026-11-27T20:18:00Z"),
            window("pump-1", "2026-11-27T20:20:00Z", "eu-west-1"),
            window("pump-2", "2026-11-26T07:00:00Z"),
            window(f"{PARTITION}", "us-east-1"),
            window("pump-1", "2026-11-27T20:19:00Z"),
        ]
        self.tokens = [
            {"device_id": {"S": "pump-2"}, "role": {"S": "device"}},
            {"device_id": {"S": "silent"}, "role": {"S": "device"}},
            {"device_id": {"S": "operator"}, "role": {"S": "operator"}},
        ]
        self.open = {"open#06": [{"device_id": {"S": "pump-2"}}] * 3}
        self.asked: list[dict[str, Any]] = []

    def get_paginator(self, operation: str) -> Any:
        return SimpleNamespace(paginate=lambda **asked: self.pages(operation, asked))

    def pages(self, operation: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.asked.append({"operation": operation, **asked})
        if operation == "query":
            assert asked["IndexName"] == STATUS_INDEX
            items = self.open.get(asked["ExpressionAttributeValues"][":bucket"]["S"], [])
        else:
            items = self.windows if asked["TableName"] == "windows" else self.tokens
        for start in range(0, max(len(items), 1), 2):
            page = items[start : start + 2]
            capacity = {"CapacityUnits": 0.5}
            yield {"Items": page, "ScannedCount": len(page), "ConsumedCapacity": capacity}


def told(dynamo: Dynamo, as_json: bool = False) -> str:
    outputs = {"WindowsTable": "windows", "DevicesTable": "devices", "AlertsTable": "alerts"}
    target = Target("telemetry", outputs, lambda _service: dynamo)
    file = StringIO()
    console = Console(file=file, width=120)
    assert list_devices(argparse.Namespace(json=as_json), target, console) == 0
    return file.getvalue()


def test_devices_are_listed_with_their_newest_minute_and_the_silent_last() -> None:
    lines = [line.split() for line in told(Dynamo()).splitlines() if line.strip()]
    rows = [
        line for line in lines if line[0] in ("pump-1", "pump-2", "silent", PARTITION, "operator")
    ]
    assert [row[:2] for row in rows] == [
        ["pump-1", "2026-11-27T20:20:00Z"],
        ["pump-2", "2026-11-26T07:00:00Z"],
        ["silent", "never"],
    ]
    assert rows[1][-1] == "3", "its open alerts"
    assert lines[0] == ["3", "devices"]


def test_it_says_what_it_read_and_what_that_cost() -> None:
    # 5 windows in 3 pages, 3 tokens in 2, 16 buckets of which one has 3 alerts in 2 pages
    assert "read 11 items, which cost 11.0 read units" in told(Dynamo())


def test_no_more_than_keys_and_roles_is_asked_for() -> None:
    dynamo = Dynamo()
    told(dynamo)
    named = {name for asked in dynamo.asked for name in asked["ExpressionAttributeNames"].values()}
    assert named == {"device_id", "minute_region", "role"}
    assert all(asked["ProjectionExpression"] for asked in dynamo.asked)


def test_a_program_gets_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(Dynamo(), as_json=True) == ""
    found = json.loads(capsys.readouterr().out)
    assert found["devices"][0] == {
        "device_id": "pump-1", "last_seen": "2026-11-27T20:20:00Z", "open_alerts": 0,
    }  # fmt: skip
    assert found["read"]["items"] == 11


def test_it_knows_the_tables_as_the_pipeline_does() -> None:
    assert ALERT_BUCKETS == BUCKETS
    assert PARTITION.startswith(INTERNAL)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "now"), (59, "now"), (60, "1 min"), (3599, "60 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_how_long_ago_is_told_in_the_largest_unit(seconds: int, expected: str) -> None:
    assert ago("2026-11-27T20:20:00Z", 1_795_810_800.0 + seconds) == expected


def test_who_was_never_seen_has_no_age() -> None:
    assert ago(None, NOW) == ""
