"""Plants faults in the pipeline's stored data, and gets the verdict of a run's check."""

import asyncio
from collections.abc import Callable
from io import StringIO
from typing import Any

from rich.console import Console

from local.fleet.ledger import Ledger
from local.fleet.over_https import PostingOptions
from local.fleet.reading import MINUTE_MS, Reading
from local.trial.check import from_iso, iso
from local.trial.report import Report
from local.trial.run import Exercise, Plan
from local.view import Steps
from tests.pipeline.deployed import Pipeline, becomes, minutes_ago

DEVICES, READINGS = 20, 5
PLAN = Plan(is_alone=False, patience_seconds=5.0)
Plant = Callable[[Pipeline, str, int], None]


class Nothing:
    """A source whose devices have sent all their readings."""

    left_out = 0

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices

    def take_due(self, _now_ms: int, _limit: int) -> list[Reading]:
        return []

    def take_remaining(self) -> list[Reading]:
        return []

    def next_due_ms(self) -> int | None:
        return None


def sent(pipeline: Pipeline, prefix: str) -> tuple[Ledger, int]:
    """Let devices post, and wait until all readings show; return their ledger and the minute.

    Each device's last reading is recorded as unanswered, and isn't stored.
    """
    ledger, minute_ms = Ledger(), minutes_ago(4)
    for device_id in (f"{prefix}-{number}" for number in range(DEVICES)):
        readings = [
            Reading(device_id, minute_ms + 1000 * second, {"temperature": 20.0 + second / 8})
            for second in range(READINGS + 1)
        ]
        pipeline.relay(readings[:READINGS], ledger)
        ledger.give_up(readings[READINGS:])
    becomes(lambda: pipeline.differences(ledger), [], "all that was sent")
    return ledger, minute_ms


def checked(pipeline: Pipeline, ledger: Ledger) -> Report:
    """Return the verdict of a run's check on these devices' readings."""

    async def run() -> Report:
        steps = Steps(Console(file=StringIO()))
        exercise = Exercise(pipeline.instance, steps, PostingOptions())
        exercise.ledger = ledger
        return await exercise.run(Nothing(ledger.devices), PLAN, lambda: None)

    return asyncio.run(run())


def item(pipeline: Pipeline, device_id: str, minute_ms: int) -> dict[str, Any]:
    """Return a window's item, of the current generation."""
    (found,) = pipeline.aws("dynamodb").query(
        TableName=pipeline.outputs["WindowsTable"],
        KeyConditionExpression="device_id = :device AND begins_with(minute_region, :minute)",
        ExpressionAttributeValues={":device": {"S": device_id}, ":minute": {"S": iso(minute_ms)}},
    )["Items"]
    return dict(found)


def lose(pipeline: Pipeline, device_id: str, minute_ms: int) -> None:
    """Delete a window."""
    found = item(pipeline, device_id, minute_ms)
    key = {name: found[name] for name in ("device_id", "minute_region")}
    pipeline.aws("dynamodb").delete_item(TableName=pipeline.outputs["WindowsTable"], Key=key)


def count_twice(pipeline: Pipeline, device_id: str, minute_ms: int) -> None:
    """Copy a window's readings into the next minute's."""
    found = item(pipeline, device_id, minute_ms)
    minute, rest = found["minute_region"]["S"].split("#", 1)
    assert from_iso(minute) == minute_ms
    found["minute_region"] = {"S": f"{iso(minute_ms + MINUTE_MS)}#{rest}"}
    pipeline.aws("dynamodb").put_item(TableName=pipeline.outputs["WindowsTable"], Item=found)
