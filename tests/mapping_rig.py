"""Runs the mapping engine in virtual time, between a stream and functions in memory."""

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from emulator.mappings.engine import Engine
from emulator.mappings.memory import (
    EPOCH_MS,
    FUNCTION_ARN,
    STREAM_ARN,
    Function,
    FunctionSink,
    Invocation,
    MemoryCheckpoints,
    MemoryDestination,
    MemoryStream,
    VirtualTimeLoop,
    run_virtually,
)
from emulator.mappings.model import Mapping, Record
from emulator.mappings.ports import Ports

UUID = "7f0e2d6c-0000-4000-8000-000000000001"
BUCKET_ARN = "arn:aws:s3:::failures"
QUEUE_ARN = "arn:aws:sqs:eu-central-1:123456789012:failures"
JsonRecord = dict[str, Any]


def mapping(**settings: Any) -> Mapping:
    """Return a mapping of the stream in memory, with AWS's defaults except these settings."""
    whose = {"uuid": UUID, "source_arn": STREAM_ARN, "function_arn": FUNCTION_ARN}
    return Mapping(**(whose | settings))


def numbered(sequence: int, key: str = "key", arrived_ms: int = EPOCH_MS, size: int = 0) -> Record:
    """Return a record with only the given fields."""
    return Record(str(sequence), key, arrived_ms, size, {})


def value(record: JsonRecord) -> Any:
    """Return the content of a record's data."""
    return json.loads(base64.b64decode(record["kinesis"]["data"]))


def values(invocation: Invocation) -> list[Any]:
    """Return the content of the data of an invocation's records."""
    return [value(record) for record in invocation.event["Records"]]


def sequence(record: JsonRecord) -> str:
    number: str = record["kinesis"]["sequenceNumber"]
    return number


def failing_on(*bad: Any) -> Function:
    """Return a function that raises if one of these values is in the batch."""

    def function(event: dict[str, Any]) -> None:
        for record in event["Records"]:
            if value(record) in bad:
                raise ValueError(f"{value(record)} is poison")

    return function


def reporting(*bad: Any) -> Function:
    """Return a function that reports the records with these values as failed."""

    def function(event: dict[str, Any]) -> dict[str, Any]:
        failed = [sequence(record) for record in event["Records"] if value(record) in bad]
        return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}

    return function


class Rig:
    """One engine with its surroundings; times are in seconds since the start."""

    def __init__(
        self, loop: VirtualTimeLoop, first: Mapping, function: Function | None, shards: int
    ) -> None:
        self.loop = loop
        self.mappings = [first]
        self.stream = MemoryStream(loop.now_ms, shards)
        self.sink = FunctionSink(loop.now_ms, function)
        self.destination = MemoryDestination()
        self.checkpoints = MemoryCheckpoints()
        self.ports = Ports(
            lambda _mapping: self.stream,
            self.sink,
            self.destination,
            self.checkpoints,
            loop.now_ms,
            random.Random(1),
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start an engine on the state of an earlier one."""
        self.engine = Engine(self.ports, self.list_mappings)
        self._task = asyncio.create_task(self.engine.run())

    async def list_mappings(self) -> list[Mapping]:
        return list(self.mappings)

    async def kill(self) -> None:
        """End the engine as SIGKILL does: it finishes nothing and saves nothing more.

        A reader that had failed fails unread. Were it logged when it is collected, Python before
        3.11.8 could break what is being parsed then (python/cpython#106905).
        """
        for runner in self.engine._runners.values():
            failed = [task for task in runner._tasks.values() if task.done()]
            await asyncio.gather(*failed, return_exceptions=True)
        for task in asyncio.all_tasks(self.loop):
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)
        self.checkpoints = self.checkpoints.copy()
        self.ports.checkpoints = self.checkpoints
        if self._task:
            with suppress(asyncio.CancelledError):
                await self._task

    async def stop(self) -> None:
        """End the engine as SIGTERM does."""
        self.engine.stop()
        if self._task:
            await self._task

    def put(self, *data: Any, key: str = "key", shard_id: str | None = None) -> list[str]:
        """Put records on the stream; return their sequence numbers."""
        return [self.stream.put(each, key, shard_id) for each in data]

    def change(self, index: int = 0, **settings: Any) -> None:
        """Update a mapping."""
        self.mappings[index] = replace(self.mappings[index], **settings)

    @property
    def batches(self) -> list[list[Any]]:
        """Return the data of the records of each invocation."""
        return [values(each) for each in self.sink.invocations]

    @property
    def at(self) -> list[float]:
        """Return the start of each invocation."""
        return [(each.at_ms - EPOCH_MS) / 1000 for each in self.sink.invocations]

    @property
    def delivered(self) -> list[Any]:
        """Return the data of all deliveries, repeated ones included."""
        return [each for batch in self.batches for each in batch]

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Return the destination's documents."""
        return [document for _, _, document in self.destination.sent]

    def view(self, shard_id: str = "shardId-000000000000", uuid: str = UUID) -> dict[str, Any]:
        """Return the saved view of a shard."""
        saved: dict[str, Any] = json.loads(self.checkpoints.load(uuid)[shard_id])
        return saved


Story = Callable[[Rig], Awaitable[None]]


def run(story: Story, function: Function | None = None, shards: int = 1, **settings: Any) -> Rig:
    """Run a story in virtual time with one mapping of these settings."""

    async def main(loop: VirtualTimeLoop) -> Rig:
        rig = Rig(loop, mapping(**settings), function, shards)
        rig.start()
        await story(rig)
        await rig.kill()
        return rig

    return run_virtually(main)


def deliver(
    data: Iterable[Any], function: Function | None = None, seconds: float = 600, **settings: Any
) -> Rig:
    """Put records before the mapping exists, and give the engine time to deliver them."""

    async def story(rig: Rig) -> None:
        rig.put(*data)
        await asyncio.sleep(seconds)

    return run(story, function, **settings)
