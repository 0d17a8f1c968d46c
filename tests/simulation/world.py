"""A course of events: two regions, their devices, the weather, the drain and the operator."""

import asyncio
import contextlib
import json
import logging
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from telemetry.aws import observe
from telemetry.domain import window as windows_of
from telemetry.domain.accounting import Metric

from emulator.mappings import engine as engine_of
from emulator.mappings.memory import VirtualTimeLoop, run_virtually
from emulator.mappings.ports import NotInvoked
from emulator.mqtt import rules as iot_rules
from tests.simulation.devices import DAY_MS, Device
from tests.simulation.functions import Environment, owner
from tests.simulation.history import History
from tests.simulation.options import Options
from tests.simulation.region import ALERTS, WINDOWS, Region
from tests.simulation.streams import SHARDS_MAX
from tests.simulation.tables import Item, Table

REGIONS = ("eu-west-1", "us-east-1")
WEATHER_SECONDS = 10.0
OUTAGE_SECONDS = (5.0, 120.0)
CUT_SECONDS = (10.0, 180.0)
METER = "meter-0"
METER_CLOCKS_MS = (0, 0, 0, 20 * 60_000, -400 * DAY_MS)
SERVICES = ("kinesis", "dynamodb", "sqs", "s3", "sns", "events", "iot", "glue")
AFTERWARDS_SECONDS = 150.0
"""How long the storm goes on when devices have measured all: episodes are cleared in it."""
SEND_SECONDS_MAX = 3600.0
SETTLE_SECONDS = 5.0
SETTLE_SECONDS_MAX = 4 * 3600.0
SWEEPS_SECONDS = 200.0
FOLLOW_SECONDS = 10.0
GARBAGE = (b"", b"garbage", b"\xff\xfe\x00", b'{"temperature": 99}', b'{"device_id": "x", ', b"[]")


class World:
    """All there is in one course, by seed and options."""

    def __init__(self, loop: VirtualTimeLoop, seed: int, options: Options) -> None:
        self.loop = loop
        self.now_ms = loop.now_ms
        self.seed = seed
        self.options = options
        self.is_faulty = True
        self.is_mended = False
        self.hits: Counter[str] = Counter()
        """How often each fault has struck."""
        self.chance = random.Random(f"{seed}/faults")
        self.engine_chance = random.Random(f"{seed}/engine")
        self._weather_chance = random.Random(f"{seed}/weather")
        self.history = History(self.now_ms)
        self.tasks: dict[str, dict[asyncio.Task[Any], None]] = {}
        self._outages: dict[tuple[str, str], int] = {}
        self._cut_until_ms = 0
        self.replicating = 0
        self.poison_instants: set[int] = set()
        self.poison: set[str] = set()
        self.foreign: list[dict[str, Any]] = []
        """Readings that another producer put on the streams."""
        self.regions = {name: Region(self, name) for name in REGIONS}
        self._skews_ms = {name: self.drawn_skew_ms() for name in REGIONS}
        self.tables = {
            name: Table(
                name,
                key,
                {region: getattr(self.regions[region], f"{name}_stream") for region in REGIONS},
                lambda region: self.now_ms() + self._skews_ms[region],
                self.replicate,
                self._pick,
            )
            for name, key in (
                (WINDOWS, ("device_id", "minute_region")),
                (ALERTS, ("device_id", "rule_region")),
            )
        }
        for region in self.regions.values():
            region.stream.seen = self._mark_poison
        self.devices = [Device(self, index) for index in range(options.devices)]
        self.unsettled = ""
        self.failure = ""
        """What broke the course itself, if anything did."""

    # Chance

    def happens(self, fault: str, chance: random.Random | None = None) -> bool:
        """Whether a fault strikes now, by its rate; what strikes is counted."""
        rate = getattr(self.options, fault)
        if not self.is_faulty or not rate or (chance or self.chance).random() >= rate:
            return False
        self.hits[fault] += 1
        return True

    def is_out(self, service: str, region: str) -> bool:
        """Whether a service of a region is away."""
        return self._outages.get((service, region), 0) > self.now_ms()

    def drawn_skew_ms(self) -> int:
        """How far a clock of AWS is wrong."""
        most = self.options.clock_skew_seconds
        return int(self.chance.uniform(-most, most) * 1000) if most else 0

    def _pick(self, states: list[Item | None]) -> Item | None:
        return self.chance.choice(states) if self.happens("stale_read") else states[-1]

    def _mark_poison(self, data: bytes) -> None:
        if any(b'"recorded_at":%d,' % at_ms in data for at_ms in self.poison_instants):
            self.poison.add(b64encode(data).decode())

    # Replication

    def replicate(self, region: str, apply: Callable[[str], None]) -> None:
        """Bring a write to the other regions, later."""
        for other in REGIONS:
            if other != region:
                self.replicating += 1
                asyncio.create_task(self._replicate(region, other, apply))  # noqa: RUF006

    async def _replicate(self, region: str, other: str, apply: Callable[[str], None]) -> None:
        delay = self.chance.uniform(0.2, 2.0) * self.options.replication_seconds
        await asyncio.sleep(delay)
        while self._cut_until_ms > self.now_ms():
            await asyncio.sleep((self._cut_until_ms - self.now_ms()) / 1000)
        if not self.regions[region].is_lost and not self.regions[other].is_lost:
            apply(other)
        self.replicating -= 1

    # The course

    async def run(self) -> None:
        """Devices at work under faults; then all that was begun is brought to its end."""
        for region in self.regions.values():
            region.start()
        weather = asyncio.create_task(self._weather())
        await asyncio.gather(*[device.run() for device in self.devices])
        await asyncio.sleep(AFTERWARDS_SECONDS)
        self._weather_ends()
        weather.cancel()
        await self._all_is_sent()
        self.history.note("world", "devices are done; the pipeline drains")
        if self.options.retries_max >= 1000 and self.options.age_seconds_max > 60:
            self.is_mended = True
        await self._settle()
        await self._operate()
        await asyncio.sleep(SWEEPS_SECONDS)
        await self._operate()

    async def _weather(self) -> None:
        """What happens to whole services, streams, engines and regions."""
        chance, options = self._weather_chance, self.options
        loss_at = chance.uniform(0.5, 0.9) * options.minutes * 60
        is_to_lose = self.happens("region_loss", chance)
        started = self.loop.time()
        while True:
            await asyncio.sleep(WEATHER_SECONDS)
            for region in [each for each in self.regions.values() if not each.is_lost]:
                self._trouble(region, chance)
            if self.happens("replication_cut", chance):
                self._cut_until_ms = self.now_ms() + int(chance.uniform(*CUT_SECONDS) * 1000)
                self.history.note("world", "the regions are cut from each other")
            if is_to_lose and self.loop.time() - started > loss_at:
                is_to_lose = False
                self._lose(self.regions[chance.choice(REGIONS)])

    def _trouble(self, region: Region, chance: random.Random) -> None:
        if region.stream.open_shards < SHARDS_MAX and self.happens("reshard", chance):
            if region.stream.open_shards > 1 and chance.random() < 0.5:
                self.history.note(region.name, region.stream.merge())
            else:
                self.history.note(region.name, region.stream.split(chance.randrange(9)))
        if self.happens("kill_engine", chance):
            self.history.note(region.name, "the mappings' engine is killed")
            region.kill_engine()
            region.start_engine()
        if self.happens("outage", chance):
            service = chance.choice(SERVICES)
            seconds = chance.uniform(*OUTAGE_SECONDS)
            self._outages[service, region.name] = self.now_ms() + int(seconds * 1000)
            self.history.note(region.name, service, f"is away for {seconds:.0f} s")
        if self.happens("redrive", chance):
            asyncio.create_task(self._redrive_amid(region))  # noqa: RUF006
        if self.happens("cursors_expire", chance):
            self.history.note(region.name, "the cursors of its streams expire")
            region.stream.expire_cursors()
            region.alerts_stream.expire_cursors()
        if self.happens("foreign", chance):
            self._foreign(region, chance)
        if self.happens("not_readings", chance):
            data = chance.choice(GARBAGE) + b"%d" % chance.randrange(10**9)
            self.history.note(region.name, "not a reading", region.stream.take(data, "other"))

    def _foreign(self, region: Region, chance: random.Random) -> None:
        """Another producer puts a reading on the stream, of a device of its own; maybe twice.

        Its clock may be wrong, by what `ingest` would refuse.
        """
        at_ms = self.now_ms() - chance.randrange(20_000) + chance.choice(METER_CLOCKS_MS)
        document = {"recorded_at": at_ms, "temperature": round(chance.uniform(20, 50), 2)}
        self.foreign.append({"device_id": METER} | document)
        for _ in range(chance.choice([1, 1, 2])):
            data = json.dumps(self.foreign[-1]).encode()
            self.history.note(region.name, METER, region.stream.take(data, METER))

    async def _redrive_amid(self, region: Region) -> None:
        with contextlib.suppress(NotInvoked):
            await region.lambda_.invoke("redrive", {"seconds": 10})

    def _lose(self, region: Region) -> None:
        self.history.note(region.name, "is lost for good")
        region.lose()
        (other,) = [name for name in REGIONS if name != region.name]
        for device in self.devices:
            device.leave(region.name, other)

    def _weather_ends(self) -> None:
        self.is_faulty = False
        self._outages.clear()
        self._cut_until_ms = 0

    async def _all_is_sent(self) -> None:
        """Wait until every device was answered; not for ever."""
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                for device in self.devices:
                    await device.finished()
        except TimeoutError:
            self.unsettled = "devices still send, and get no good answer"

    async def _settle(self) -> None:
        """Wait until nothing is on its way any more; not for ever."""
        give_up_at = self.loop.time() + SETTLE_SECONDS_MAX
        while self.loop.time() < give_up_at:
            await asyncio.sleep(SETTLE_SECONDS)
            if not self._on_its_way():
                self.history.note("world", "settled")
                return
        self.unsettled = self.unsettled or self._on_its_way()

    def _on_its_way(self) -> str:
        """What is still to come, in words; nothing when all has settled."""
        if self.replicating:
            return f"{self.replicating} writes are to be replicated"
        for region in self.regions.values():
            if region.is_lost:
                continue
            if region.lambda_.at_work:
                return f"{region.name}: {len(region.lambda_.at_work)} functions run"
            if region.iot.at_work:
                return f"{region.name}: {region.iot.at_work} messages are with IoT"
            if region.events.waiting:
                return f"{region.name}: {region.events.waiting} events wait for their function"
            for name in ("overflow", "notices"):
                if region.queues[name].messages:
                    return f"{region.name}: {name} has {len(region.queues[name].messages)}"
            behind = region.behind()
            if behind:
                return behind
        return ""

    async def _operate(self) -> None:
        """What operators do once the storm is over: mend, redrive, release.

        Again later, when what a redrive that was cut off had received is visible again.
        """
        for region in self.regions.values():
            if not region.is_lost:
                await region.operate()
        await self._settle()


@contextlib.contextmanager
def simulated(options: Options) -> Iterator[None]:
    """What of the real code is set otherwise while a world goes on."""
    with (
        silent(observe.log),
        silent(logging.getLogger("emulator.mappings.engine")),
        silent(logging.getLogger("emulator.mqtt.rules")),
        patch.object(windows_of, "MAX_READINGS", options.window_limit),
        patch.object(engine_of, "FOLLOW_SECONDS", FOLLOW_SECONDS),
        patch.object(iot_rules, "uuid", SimpleNamespace(uuid4=lambda: "simulated")),
        patch.object(observe, "_metrics", Counting()),
        patch.object(observe, "_metrics_of_minute", Minutes()),
        patch.object(observe, "_flush", write_counts),
    ):
        yield


@contextlib.contextmanager
def silent(logger: Any) -> Iterator[None]:
    """A logger says nothing while a world goes on: faults are what that is full of."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Counting:
    """Stands in for Powertools' metrics: what functions count goes to the one that is running."""

    def __init__(self, minute_ms: int | None = None) -> None:
        self.metric_set: dict[str, Any] = {}
        self._minute_ms = minute_ms

    def add_metric(self, name: str, unit: Any, value: float) -> None:  # noqa: ARG002
        current = Environment.current()
        if current is not None:
            current.counts[Metric(current.function, name), self._minute_ms] += int(value)


def write_counts() -> None:
    """Write what the function that is running has counted."""
    current = Environment.current()
    if current is not None:
        current.write_counts()


class Minutes(dict[int, Counting]):
    """The metrics of each minute."""

    def get(self, minute_ms: int, _default: Any = None) -> Any:
        return Counting(minute_ms)


def run(seed: int, options: Options) -> World:
    """Run a course to its end."""

    async def main(loop: VirtualTimeLoop) -> World:
        def owned(of: Any, work: Coroutine[Any, Any, Any], **more: Any) -> "asyncio.Task[Any]":
            task = asyncio.Task(work, loop=of, **more)
            of_owner = world.tasks.setdefault(owner.get(), {})
            of_owner[task] = None
            task.add_done_callback(lambda done: of_owner.pop(done, None))
            return task

        random.seed(f"{seed}/jitter")
        world = World(loop, seed, options)
        loop.set_task_factory(owned)  # type: ignore[arg-type]
        with simulated(options):
            try:
                await world.run()
            except Exception as error:  # noqa: BLE001 - the history tells how it came to that
                world.failure = repr(error)
        for task in asyncio.all_tasks(loop):
            if task is not asyncio.current_task():
                task.cancel()
        return world

    return run_virtually(main)
