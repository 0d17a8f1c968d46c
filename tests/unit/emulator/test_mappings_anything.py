"""After any sequence of events, each record has been delivered or given up.

A seed draws a mapping, a function and a course of events: kills, stops, updates, disabling, splits
and merges, throttles, errors, partial responses, slow answers, refused cursors, a stream or a
destination that fails. At every save no checkpoint may be past a record that is neither delivered
nor given up; and per key records are delivered in order, in one batch at a time. More seeds:

    .venv/bin/python -m pytest tests/unit/emulator/test_mappings_anything.py --seeds 500
"""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from emulator.mappings import policy
from emulator.mappings.memory import MemoryDestination, MemoryStream, Throttled, run_virtually
from emulator.mappings.model import Mapping, Page
from emulator.mappings.ports import CursorExpired, OutsideProblem
from tests.mapping_rig import QUEUE_ARN, UUID, Rig, mapping, sequence

EVENTS = 40
QUIET_SECONDS = 100
QUIET_LOOKS = 100  # a slow function with batches of one needs long for its backlog
Json = dict[str, Any]


class FaultyStream(MemoryStream):
    """A stream that sometimes fails or expires a cursor."""

    chance: random.Random
    is_faulty = True

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:
        if self.is_faulty and self.chance.random() < 0.05:
            raise self.chance.choice([CursorExpired(), OutsideProblem("Rate exceeded")])
        await asyncio.sleep(self.chance.choice([0.0, 0.0, 0.1]))
        return await super().fetch(shard_id, cursor, self.chance.choice([1, 5, limit]))


class FaultyDestination(MemoryDestination):
    """A destination that sometimes fails, and reports the documents that it got."""

    chance: random.Random
    got: Callable[[Json], None]

    async def send(self, of: Mapping, key: str, document: Json) -> None:
        self.failures = int(self.chance.random() < 0.2)
        await super().send(of, key, document)
        self.got(document["KinesisBatchInfo"])


class Course:
    """One sequence of events, and the invariants that must hold in it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.is_faulty = True
        self.reports = self.chance.random() < 0.5
        self.put: dict[int, tuple[str, str]] = {}
        """Return shard and key of each record."""
        self.settled: set[int] = set()
        self.in_order: dict[str, int] = {}
        self.running: set[str] = set()
        self.problems: list[str] = []

    def settings(self) -> Json:
        pick = self.chance.choice
        return {
            "batch_size": pick([1, 3, 10]),
            "parallelization_factor": pick([1, 2, 5]),
            "retries_max": pick([-1, 0, 2]),
            "age_seconds_max": pick([-1, -1, 60]),
            "bisects": pick([True, False]),
            "reports_item_failures": self.reports,
            "batching_window_seconds": pick([0, 2]),
            "destination_arn": QUEUE_ARN,
        }

    async def function(self, event: Json) -> Json:
        """The mapping's function: slow, throttled, failing, or failing in part."""
        chance = self.chance
        if self.is_faulty and chance.random() < 0.1:
            raise Throttled
        numbers = [int(sequence(record)) for record in event["Records"]]
        keys = {record["kinesis"]["partitionKey"] for record in event["Records"]}
        if keys & self.running:
            self.problems.append(f"{keys & self.running} in two batches at once")
        self.running |= keys
        try:
            await asyncio.sleep(chance.choice([0, 0, 0.5, 5]))
            good = len(numbers)
            if self.is_faulty and chance.random() < 0.3:
                good = chance.randrange(len(numbers))
                if not self.reports or chance.random() < 0.5:
                    raise ValueError
            for number in numbers[:good]:
                self.deliver(number)
            left = [{"itemIdentifier": str(number)} for number in numbers[good:]]
            return {"batchItemFailures": left}
        finally:
            self.running -= keys

    def deliver(self, number: int) -> None:
        _, key = self.put[number]
        if number not in self.settled and number < self.in_order.get(key, 0):
            self.problems.append(f"{number} of {key} after {self.in_order[key]}")
        self.in_order[key] = max(number, self.in_order.get(key, 0))
        self.settled.add(number)

    def give_up(self, batch: Json) -> None:
        first, last = int(batch["startSequenceNumber"]), int(batch["endSequenceNumber"])
        self.settled |= {
            number
            for number, (shard_id, _) in self.put.items()
            if shard_id == batch["shardId"] and first <= number <= last
        }

    def check_saved(self, shard_id: str, text: str) -> None:
        """Check that no lane's position is past a record of its keys that is still to deliver."""
        saved = json.loads(text)
        for number, (of_shard, key) in self.put.items():
            if of_shard != shard_id or number in self.settled:
                continue
            lanes = saved["lanes"] or [None]
            lane = lanes[policy.lane_of(key, len(lanes))]
            if saved["is_finished"] or (lane is not None and number <= int(lane)):
                self.problems.append(f"{shard_id} is saved past {number}")

    def put_some(self, stream: MemoryStream, owners: dict[str, str]) -> None:
        for _ in range(self.chance.choice([0, 1, 5, 20])):
            key = self.chance.choice(sorted(owners))
            number = int(stream.put({}, key, owners[key]))
            self.put[number] = owners[key], key

    def reshard(self, stream: MemoryStream, owners: dict[str, str]) -> None:
        """Split a shard, or merge two."""
        open_shards = [each.shard_id for each in stream.by_id.values() if not each.is_closed]
        if len(open_shards) > 1 and self.chance.random() < 0.5:
            parents = self.chance.sample(open_shards, 2)
            children = [stream.add_shard(*parents)]
        else:
            parents = [self.chance.choice(open_shards)]
            children = [stream.add_shard(*parents), stream.add_shard(*parents)]
        for key, shard_id in owners.items():
            if shard_id in parents:
                owners[key] = self.chance.choice(children)

    async def happen(self, rig: Rig, owners: dict[str, str]) -> None:
        """Apply one random event to the engine, its mapping or its stream."""
        match self.chance.choice(
            ["kill", "stop", "update", "switch", "reshard", "expire", *"...."]
        ):
            case "kill":
                await rig.kill()
                self.watch(rig)
                rig.start()
            case "stop":
                await rig.stop()
                rig.start()
            case "update":
                rig.change(**self.settings())
            case "switch":
                rig.change(is_enabled=not rig.mappings[0].is_enabled)
            case "reshard" if len(rig.stream.by_id) < 8:
                self.reshard(rig.stream, owners)
            case "expire":
                rig.stream.expire_cursors()

    def watch(self, rig: Rig) -> None:
        """Check each position before it is saved."""
        save = rig.checkpoints.save

        def checked(uuid: str, shards: Any) -> None:
            for each in shards:
                self.check_saved(*each)
            save(uuid, shards)

        rig.checkpoints.save = checked  # type: ignore[method-assign]

    async def run(self, loop: Any) -> Rig:
        rig = Rig(loop, mapping(**self.settings()), self.function, 1)
        rig.stream = stream = FaultyStream(loop.now_ms, self.chance.choice([1, 2]))
        stream.chance = self.chance
        destination = FaultyDestination()
        destination.chance, destination.got = self.chance, self.give_up
        rig.ports.destination = destination
        rig.ports.source_of = lambda _mapping: stream
        owners = {f"key-{n}": self.chance.choice(list(stream.by_id)) for n in range(6)}
        self.watch(rig)
        rig.start()
        for _ in range(EVENTS):
            await asyncio.sleep(self.chance.choice([0, 0.3, 2, 8]))
            self.put_some(stream, owners)
            await self.happen(rig, owners)
        self.is_faulty = stream.is_faulty = False
        rig.change(is_enabled=True)
        for _ in range(QUIET_LOOKS):
            await asyncio.sleep(QUIET_SECONDS)
            if self.put.keys() == self.settled:
                break
        await rig.stop()
        return rig


def test_each_record_is_delivered_in_order_or_given_up(seed: int) -> None:
    course = Course(seed)
    rig = run_virtually(course.run)
    assert course.problems == []
    assert course.put.keys() == course.settled
    assert rig.checkpoints.known()[UUID][0] == "Disabled"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("seed", range(metafunc.config.getoption("--seeds")))
