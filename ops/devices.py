"""`devices`: list the devices, when each was last seen, and the number of its open alerts.

No index lists the devices, so this scans the keys of the whole windows table. DynamoDB bills each
item as a whole even so ("Scanning tables in DynamoDB",
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Scan.html), so the command prints
what it read.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ops.command_types import Subparsers
from ops.errors import OpsError
from ops.target import Target

TEXT = "List the devices, when each was last seen, and its open alerts. It reads whole tables."
ALERT_BUCKETS = 16
"""Partitions of open alerts in the index (`telemetry/aws/alerts.py`)."""
INTERNAL = "#"
"""The beginning of partitions that aren't a device's (`telemetry/aws/generations.py`)."""
MINUTE = "%Y-%m-%dT%H:%M:%SZ"
UNITS = (("d", 86_400), ("h", 3600), ("min", 60))

Item = dict[str, Any]


class Device(NamedTuple):
    """A device in the list."""

    device_id: str
    last_seen: str | None
    """The minute of its newest reading, ISO 8601; None if it has no window."""
    open_alerts: int


class Cost(NamedTuple):
    """The items and read units that a list cost."""

    items: int
    units: float


def add(added: Subparsers) -> list[argparse.ArgumentParser]:
    """Add `devices`."""
    return [add_as("devices", added)]


def add_as(name: str, added: Subparsers) -> argparse.ArgumentParser:
    """Add the command under a name."""
    parser: argparse.ArgumentParser = added.add_parser(name, help=TEXT, description=TEXT)
    parser.add_argument("--json", action="store_true", help="print JSON, nothing else, on stdout")
    parser.set_defaults(does=list_devices)
    return parser


def list_devices(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Print the devices, the last seen first."""
    reader = Reader(target, Console(stderr=True))
    try:
        found, cost = reader.devices(), reader.cost
    except (ClientError, BotoCoreError) as error:
        raise OpsError(f"stack {target.stack}: {error}") from None
    if options.json:
        shown = {"devices": [each._asdict() for each in found], "read": cost._asdict()}
        json.dump(shown, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return 0
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("device", "last seen", "ago", "open alerts"):
        table.add_column(column, no_wrap=True, justify="right" if column == "ago" else "left")
    now = time.time()
    for each in found:
        alerts = str(each.open_alerts) if each.open_alerts else ""
        table.add_row(each.device_id, each.last_seen or "never", ago(each.last_seen, now), alerts)
    plural = "device" if len(found) == 1 else "devices"
    console.print(f"[bold]{len(found):,} {plural}[/]", highlight=False)
    console.print(table)
    console.print(
        f"read {cost.items:,} items, which cost {cost.units:,.1f} read units", highlight=False
    )
    return 0


def ago(minute: str | None, now: float) -> str:
    """Return how long ago a minute was, in its largest unit."""
    if minute is None:
        return ""
    seconds = now - datetime.strptime(minute, MINUTE).replace(tzinfo=UTC).timestamp()
    for unit, size in UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


class Reader:
    """Reads the tables of a stack, and counts the cost."""

    def __init__(self, target: Target, console: Console) -> None:
        """Read the stack's tables, and show progress on `console` if it is a terminal."""
        self._dynamodb = target.connect("dynamodb")
        self._target = target
        self._console = console
        self.cost = Cost(0, 0.0)

    def devices(self) -> list[Device]:
        """Return the devices that have a window, or a token of their own; newest first."""
        with self._console.status("reading the keys of all windows") as status:
            newest: dict[str, str] = {}
            for item in self._all("scan", "WindowsTable", names=("device_id", "minute_region")):
                device_id, minute = item["device_id"]["S"], item["minute_region"]["S"]
                if not device_id.startswith(INTERNAL):
                    newest[device_id] = max(newest.get(device_id, ""), minute.partition("#")[0])
                if self.cost.items % 1000 == 0:
                    status.update(f"{self.cost.items:,} windows of {len(newest):,} devices read")
        known = dict.fromkeys(self._with_tokens()) | newest
        alerts = self._open_alerts()
        found = [Device(each, minute, alerts[each]) for each, minute in known.items()]
        by_name = sorted(found)
        return sorted(by_name, key=lambda each: each.last_seen or "", reverse=True)

    def _with_tokens(self) -> list[str]:
        items = self._all("scan", "DevicesTable", names=("device_id", "role"))
        return [
            item["device_id"]["S"] for item in items if item.get("role", {}).get("S") == "device"
        ]

    def _open_alerts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for bucket in range(ALERT_BUCKETS):
            asked = {
                "IndexName": "status",
                "KeyConditionExpression": "status_bucket = :bucket",
                "ExpressionAttributeValues": {":bucket": {"S": f"open#{bucket:02}"}},
            }
            names = ("device_id",)
            items = self._all("query", "AlertsTable", names=names, **asked)
            counts.update(item["device_id"]["S"] for item in items)
        return counts

    def _all(
        self, operation: str, table: str, names: tuple[str, ...], **asked: Any
    ) -> Iterator[Item]:
        """Yield the attributes `names` of all items, page by page."""
        pages = self._dynamodb.get_paginator(operation).paginate(
            TableName=self._target.output(table),
            ProjectionExpression=", ".join(f"#{name}" for name in names),
            ExpressionAttributeNames={f"#{name}": name for name in names},
            ReturnConsumedCapacity="TOTAL",
            **asked,
        )
        for page in pages:
            units = page.get("ConsumedCapacity", {}).get("CapacityUnits", 0)
            items, so_far = page["Items"], self.cost
            self.cost = Cost(so_far.items + page["ScannedCount"], so_far.units + units)
            yield from items
