"""The engine's ports in memory, and virtual time: for tests, benchmarks and the simulation.

Nothing here waits or reads anything from outside, so two runs with the same input are equal, byte
for byte.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, TypeVar

from emulator.mappings.model import AFTER, AT_TIMESTAMP, Answer, Mapping, Page, Record, Shard, Start
from emulator.mappings.ports import CursorExpired, NotInvoked, NowMs, OutsideProblem, Trimmed

T = TypeVar("T")
EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
FIRST_SEQUENCE = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898
PAGE_BYTES_MAX = 10 * 1024 * 1024
REGION = "eu-central-1"
ACCOUNT = "123456789012"
STREAM_ARN = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/readings"
TABLE_STREAM_ARN = (
    f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/alerts/stream/2026-01-01T00:00:00.000"
)
FUNCTION_ARN = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:alert"


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop in which waiting takes no time: the clock jumps to the next event."""

    def __init__(self) -> None:
        """Begin at 0 s."""
        super().__init__()
        self._now = 0.0
        self._selector = self
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def now_ms(self) -> int:
        """Return the virtual time in ms since 1970."""
        return EPOCH_MS + round(self._now * 1000)

    def select(self, timeout: float | None) -> list[Any]:
        """Move the clock to the next event. asyncio waits for input here, and there is none."""
        if timeout is None:
            raise RuntimeError("every task waits, and no event is to come")
        if timeout > 0 and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0].when())  # type: ignore[attr-defined]
        return []

    def _process_events(self, events: list[Any]) -> None:
        """Do nothing: there is no input."""

    def _write_to_self(self) -> None:
        """Do nothing: no other thread wakes this loop."""


def run_virtually(main: Callable[[VirtualTimeLoop], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in virtual time and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)  # noqa: S101 - tells mypy
        return runner.run(main(loop))


# Records


def kinesis_record(sequence: str, key: str, data: bytes, arrived_ms: int, shard_id: str) -> Record:
    """Return a record as a Kinesis source gives it."""
    encoded = base64.b64encode(data).decode()
    return Record(sequence, key, arrived_ms, len(encoded) + 500, {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": key,
            "sequenceNumber": sequence,
            "data": encoded,
            "approximateArrivalTimestamp": arrived_ms / 1000,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"{shard_id}:{sequence}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::{ACCOUNT}:role/alert",
        "awsRegion": REGION,
        "eventSourceARN": STREAM_ARN,
    })  # fmt: skip


@dataclass
class MemoryShard:
    """A shard with its records, oldest first; `trimmed`: how many older ones expired."""

    shard_id: str
    parents: tuple[str, ...] = ()
    records: list[Record] = field(default_factory=list)
    is_closed: bool = False
    trimmed: int = 0


class MemoryStream:
    """A stream: the engine reads it as a source, and tests put records into it."""

    def __init__(self, now_ms: NowMs, shards: int = 1) -> None:
        """Begin with empty shards."""
        self._now_ms = now_ms
        self._next_sequence = FIRST_SEQUENCE
        self._cursors_valid_from = 0
        self.by_id: dict[str, MemoryShard] = {}
        self.problem: str | None = None
        """While it is set, every call fails with this message."""
        self.fetches = 0
        for _ in range(shards):
            self.add_shard()

    # For tests

    def add_shard(self, *parents: str) -> str:
        """Add a shard and close its parents; return its id."""
        shard_id = f"shardId-{len(self.by_id):012d}"
        for parent in parents:
            self.by_id[parent].is_closed = True
        self.by_id[shard_id] = MemoryShard(shard_id, parents)
        return shard_id

    def put(self, data: Any, key: str = "key", shard_id: str | None = None) -> str:
        """Put a record, its data as JSON unless they are bytes; return its sequence number."""
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        target = self.by_id[shard_id or next(iter(self.by_id))]
        sequence = str(self._next_sequence)
        self._next_sequence += 1
        target.records.append(kinesis_record(sequence, key, raw, self._now_ms(), target.shard_id))
        return sequence

    def trim(self, shard_id: str, count: int) -> None:
        """Let the oldest records expire."""
        shard = self.by_id[shard_id]
        del shard.records[:count]
        shard.trimmed += count

    def expire_cursors(self) -> None:
        """Refuse all cursors that were returned so far."""
        self._cursors_valid_from += 1

    # As a source

    async def shards(self) -> list[Shard]:
        """Return all shards."""
        self._fail_on_problem()
        return [Shard(each.shard_id, each.parents, each.is_closed) for each in self.by_id.values()]

    async def latest(self, shard_id: str) -> Start:
        """Return the place after the last record."""
        records = self.by_id[shard_id].records
        if records:
            return Start(AFTER, records[-1].sequence)
        return Start(AT_TIMESTAMP, self._now_ms())

    async def open(self, shard_id: str, start: Start) -> str:
        """Return a cursor: the number of the first record to fetch."""
        self._fail_on_problem()
        shard = self.by_id[shard_id]
        index = 0
        if start.kind == AFTER:
            behind = int(str(start.value))
            index = sum(1 for record in shard.records if int(record.sequence) <= behind)
        elif start.kind == AT_TIMESTAMP:
            index = sum(1 for record in shard.records if record.arrived_ms < int(start.value or 0))
        return f"{self._cursors_valid_from}/{shard.trimmed + index}"

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:
        """Return the next records."""
        self.fetches += 1
        self._fail_on_problem()
        given_out, _, place = cursor.partition("/")
        if int(given_out) < self._cursors_valid_from:
            raise CursorExpired
        shard = self.by_id[shard_id]
        index = int(place) - shard.trimmed
        if index < 0:
            raise Trimmed
        records = shard.records[index : index + limit]
        sizes = accumulate(record.size_bytes for record in records)
        fitting = sum(1 for size in sizes if size <= PAGE_BYTES_MAX)
        records = records[: max(1, fitting)]
        end = index + len(records)
        left = len(shard.records) - end
        behind_ms = max(1, self._now_ms() - shard.records[end].arrived_ms) if left else 0
        is_over = shard.is_closed and not left
        next_cursor = None if is_over else f"{given_out}/{shard.trimmed + end}"
        return Page(records, next_cursor, behind_ms, left)

    def _fail_on_problem(self) -> None:
        if self.problem:
            raise OutsideProblem(self.problem)


# Functions and destinations

Function = Callable[[dict[str, Any]], Any]


class Throttled(Exception):
    """Raised by a test's function in place of Lambda, which lacks the concurrency to run it."""


@dataclass
class Invocation:
    """An event that reached a function, and the time."""

    at_ms: int
    event: dict[str, Any]


class FunctionSink:
    """Runs functions in this process; an exception is the function's failure."""

    def __init__(self, now_ms: NowMs, function: Function | None = None) -> None:
        """Run `function` for each invocation; it may return an awaitable."""
        self._now_ms = now_ms
        self.function = function or (lambda _event: None)
        self.invocations: list[Invocation] = []

    async def invoke(self, function_arn: str, event: dict[str, Any]) -> Answer:  # noqa: ARG002
        """Run the function."""
        invocation = Invocation(self._now_ms(), event)
        self.invocations.append(invocation)
        try:
            payload = self.function(event)
            if isinstance(payload, Awaitable):
                payload = await payload
        except Throttled as refusal:
            self.invocations = [each for each in self.invocations if each is not invocation]
            raise NotInvoked(str(refusal) or "Rate exceeded") from None
        except Exception as error:  # noqa: BLE001 - any exception is the function's failure
            payload = {"errorMessage": str(error), "errorType": type(error).__name__}
            return Answer(payload, "Unhandled", "request")
        return Answer(payload, None, "request")


@dataclass
class MemoryDestination:
    """Keeps the documents that it gets, in order; the first `failures` calls fail."""

    sent: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    failures: int = 0

    async def send(self, mapping: Mapping, key: str, document: dict[str, Any]) -> None:
        """Keep the document."""
        if self.failures:
            self.failures -= 1
            raise OutsideProblem(f"{mapping.destination_arn}: AccessDenied")
        self.sent.append((mapping.destination_arn or "", key, document))


@dataclass
class MemoryCheckpoints:
    """The engine's checkpoints; a killed engine leaves a copy that its later writes don't reach."""

    shards: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def copy(self) -> "MemoryCheckpoints":
        """Return a copy as of now."""
        shards = {uuid: dict(texts) for uuid, texts in self.shards.items()}
        return MemoryCheckpoints(shards, dict(self.notes))

    def load(self, uuid: str) -> dict[str, str]:
        """Return the saved text of each of a mapping's shards, by shard id."""
        return dict(self.shards.get(uuid, {}))

    def save(self, uuid: str, shards: Sequence[tuple[str, str]]) -> None:
        """Save (shard id, text) of a mapping's shards."""
        self.shards.setdefault(uuid, {}).update(shards)

    def forget_shard(self, uuid: str, shard_id: str) -> None:
        """Delete the saved text of one shard."""
        self.shards.get(uuid, {}).pop(shard_id, None)

    def note(self, uuid: str, state: str, last_result: str) -> None:
        """Save a mapping's state and last result."""
        self.notes[uuid] = (state, last_result)

    def known(self) -> dict[str, tuple[str, str]]:
        """Return each mapping's state and last result, by UUID."""
        return dict(self.notes)

    def forget(self, uuid: str) -> None:
        """Delete everything saved for a mapping."""
        self.shards.pop(uuid, None)
        self.notes.pop(uuid, None)
