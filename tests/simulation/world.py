"""A course: two regions, their devices, the weather, the drain and the operator."""

import asyncio
import contextlib
import json
import logging
import random
import struct
from collections.abc import Callable, Coroutine, Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from telemetry.aws import observe
from telemetry.aws import stream as stream_module
from telemetry.domain.accounting import Metric

from emulator.mappings import engine as engine_of
from emulator.mappings.memory import VirtualTimeLoop, run_virtually
from emulator.mappings.ports import NotInvoked
from emulator.mqtt import rules as iot_rules
from tests.simulation import judge
from tests.simulation.conditions import Conditions, owner
from tests.simulation.devices import DAY_MS, Device, temperature_of
from tests.simulation.functions import Environment
from tests.simulation.judge import AHEAD_MS, RETENTION_MS
from tests.simulation.options import Options
from tests.simulation.region import Region
from tests.simulation.services import ALERTS, WINDOWS
from tests.simulation.streams import SHARDS_MAX, TableStream
from tests.simulation.tables import Item, Table

REGIONS = ("eu-west-1", "us-east-1")
WEATHER_SECONDS = 10.0
OUTAGE_SECONDS = (5.0, 120.0)
CUT_SECONDS = (10.0, 180.0)
METER = "meter-0"
METER_CLOCKS_MS = (0, 0, 0, 20 * 60_000, -400 * DAY_MS)
# To the millisecond what `ingest` would still take, and would not.
EDGES_MS = (AHEAD_MS, AHEAD_MS + 1, -RETENTION_MS, -RETENTION_MS - 1)
WAVE = 24
"""Devices of a heat wave."""
WAVE_SECONDS = (20.0, 100.0)
SERVICES = ("kinesis", "dynamodb", "sqs", "s3", "sns", "events", "iot", "glue")
AFTERWARDS_SECONDS = 150.0
"""How long faults go on after the last measurement; episodes are cleared meanwhile."""
SEND_SECONDS_MAX = 3600.0
SETTLE_SECONDS = 5.0
SETTLE_SECONDS_MAX = 4 * 3600.0
SWEEPS_SECONDS = 200.0
FOLLOW_SECONDS = 10.0
GARBAGE = (b"", b"garbage", b"\xff\xfe\x00", b'{"temperature": 99}', b'{"device_id": "x", ', b"[]")


class World:
    """The state of one course, by seed and options."""

    def __init__(self, loop: VirtualTimeLoop, seed: int, options: Options) -> None:
        self.loop = loop
        self.conditions = Conditions(loop.now_ms, seed, options)
        self._weather_chance = random.Random(f"{seed}/weather")
        self._cut_until_ms = 0
        self.replicating = 0
        self.foreign: list[dict[str, Any]] = []
        """Readings that another producer put on the streams."""
        self.meters = 0
        """How many devices the other producer has, but for the first."""
        self.tables = {
            WINDOWS: self._table(WINDOWS, "minute_region"),
            ALERTS: self._table(ALERTS, "rule_region"),
        }
        self.regions = {name: Region(self.conditions, name, self.tables) for name in REGIONS}
        self._skews_ms = {name: self.conditions.drawn_skew_ms() for name in REGIONS}
        self.devices = [
            Device(self.conditions, self.regions, index) for index in range(options.devices)
        ]
        self.unsettled = ""
        self.failure = ""
        """What broke the course itself, if anything did."""

    def _table(self, name: str, sort_key: str) -> Table:
        """Return a global table, written by the clocks of the regions."""
        conditions = self.conditions
        streams = {
            region: TableStream(
                conditions.now_ms, region, partial(conditions.is_out, "dynamodb", region)
            )
            for region in REGIONS
        }
        return Table(
            name,
            ("device_id", sort_key),
            streams,
            lambda region: conditions.now_ms() + self._skews_ms[region],
            self.replicate,
            self._pick,
        )

    def _pick(self, states: list[Item | None]) -> Item | None:
        conditions = self.conditions
        return conditions.chance.choice(states) if conditions.happens("stale_read") else states[-1]

    # Replication

    def replicate(self, region: str, apply: Callable[[str], None]) -> None:
        """Bring a write to the other regions, later."""
        for other in REGIONS:
            if other != region:
                self.replicating += 1
                self.conditions.begin(self._replicate(region, other, apply))

    async def _replicate(self, region: str, other: str, apply: Callable[[str], None]) -> None:
        conditions = self.conditions
        delay = conditions.chance.uniform(0.2, 2.0) * conditions.options.replication_seconds
        await asyncio.sleep(delay)
        while self._cut_until_ms > conditions.now_ms():
            await asyncio.sleep((self._cut_until_ms - conditions.now_ms()) / 1000)
        if not self.regions[region].is_lost and not self.regions[other].is_lost:
            apply(other)
        self.replicating -= 1

    # The course

    async def run(self) -> None:
        """Devices at work under faults; then all that was begun is brought to its end."""
        conditions, options = self.conditions, self.conditions.options
        for region in self.regions.values():
            region.start()
        weather = conditions.begin(self._weather())
        await asyncio.gather(*[device.run() for device in self.devices])
        await asyncio.sleep(AFTERWARDS_SECONDS)
        self._weather_ends()
        weather.cancel()
        await self._all_is_sent()
        conditions.history.note("world", "devices are done; the pipeline drains")
        if options.retries_max >= 1000 and options.age_seconds_max > 60:
            conditions.is_mended = True
        await self._settle()
        await self._operate()
        await asyncio.sleep(SWEEPS_SECONDS)
        await self._operate()

    async def _weather(self) -> None:
        """Strike whole services, streams, engines and regions."""
        conditions, chance = self.conditions, self._weather_chance
        loss_at = chance.uniform(0.5, 0.9) * conditions.options.minutes * 60
        is_to_lose = conditions.happens("region_loss", chance)
        started = self.loop.time()
        while True:
            await asyncio.sleep(WEATHER_SECONDS)
            for region in [each for each in self.regions.values() if not each.is_lost]:
                self._trouble(region, chance)
            if conditions.happens("replication_cut", chance):
                self._cut_until_ms = conditions.now_ms() + int(chance.uniform(*CUT_SECONDS) * 1000)
                conditions.history.note("world", "the regions are cut from each other")
            if is_to_lose and self.loop.time() - started > loss_at:
                is_to_lose = False
                self._lose(self.regions[chance.choice(REGIONS)])

    def _trouble(self, region: Region, chance: random.Random) -> None:
        conditions, note = self.conditions, self.conditions.history.note
        if region.stream.open_shards < SHARDS_MAX and conditions.happens("reshard", chance):
            if region.stream.open_shards > 1 and chance.random() < 0.5:
                note(region.name, region.stream.merge())
            else:
                note(region.name, region.stream.split(chance.randrange(9)))
        if conditions.happens("kill_engine", chance):
            note(region.name, "the mappings' engine is killed")
            region.kill_engine()
            region.start_engine()
        if conditions.happens("outage", chance):
            service = chance.choice(SERVICES)
            seconds = chance.uniform(*OUTAGE_SECONDS)
            conditions.take_away(service, region.name, seconds)
            note(region.name, service, f"is away for {seconds:.0f} s")
        if conditions.happens("redrive", chance):
            conditions.begin(self._redrive_amid(region))
        if conditions.happens("cursors_expire", chance):
            note(region.name, "the cursors of its streams expire")
            region.stream.expire_cursors()
            region.alerts_stream.expire_cursors()
        self._others_put(region, chance)
        if conditions.happens("heat_wave", chance):
            conditions.begin(self._heat_wave(region))
        if conditions.happens("not_readings", chance):
            data = chance.choice(GARBAGE) + b"%d" % chance.randrange(10**9)
            note(region.name, "not a reading", region.stream.take(data, "other"))

    def _others_put(self, region: Region, chance: random.Random) -> None:
        """Let other producers put records on the stream."""
        if self.conditions.happens("foreign", chance):
            self._foreign(region, chance)
        if self.conditions.happens("foreign_packs", chance):
            self._foreign_pack(region, chance)

    def _foreign(self, region: Region, chance: random.Random) -> None:
        """Let another producer put a reading of a device of its own on the stream, maybe twice.

        Its clock may be wrong, by what `ingest` would refuse, or by what it would just take.
        """
        now_ms = self.conditions.now_ms()
        if chance.random() < 0.2:
            self._measured(region, self._new_meter(), now_ms + chance.choice(EDGES_MS), 50.1)
            return
        at_ms = now_ms - chance.randrange(20_000) + chance.choice(METER_CLOCKS_MS)
        value = round(chance.uniform(20, 50), 2)
        for _ in range(chance.choice([1, 1, 2])):
            self._measured(region, METER, at_ms, value)

    def _foreign_pack(self, region: Region, chance: random.Random) -> None:
        """Let another producer put a pack of a new device; some of its readings are bad."""
        meter, now_ms, options = (
            self._new_meter(),
            self.conditions.now_ms(),
            self.conditions.options,
        )
        usual = [round(chance.uniform(20, 45), 2) for _ in range(chance.randint(1, 5))]
        temperatures: list[Any] = [temperature_of(each, options) for each in usual]
        humidities: list[Any] = [chance.choice([None, 40, 55.25]) for _ in usual]
        for column in (temperatures, humidities):
            for place in range(len(usual)):
                if chance.random() < 0.15:
                    column[place] = chance.choice([412.0, "44", True, 1 / 3])
        documents = [
            {
                "device_id": meter,
                "recorded_at": now_ms + at,
                "temperature": temperature,
                **({} if humidity is None else {"humidity": humidity}),
            }
            for at, (temperature, humidity) in enumerate(zip(temperatures, humidities, strict=True))
        ]
        self.foreign += [
            {"device_id": meter, "recorded_at": document["recorded_at"], **found.metrics}
            for document in documents
            if (found := judge.judged_alone(document, meter, now_ms)).metrics
        ]
        data = json.dumps(packed(documents)).encode()
        if chance.random() < 0.1:
            data = data.replace(b'"after_ms": [0', b'"after_ms": [-1')
        self.conditions.history.note(region.name, meter, region.stream.take(data, meter))

    def _new_meter(self) -> str:
        """Return a device of the other producer that hasn't measured yet."""
        self.meters += 1
        return f"meter-{self.meters}"

    def _measured(self, region: Region, meter: str, at_ms: int, celsius: float) -> None:
        """Put a reading of another producer's device on the stream.

        Each second one measures in 32-bit floats, whose many digits filters don't compare.
        """
        temperature = temperature_of(celsius, self.conditions.options)
        if meter[-1] in "13579":
            temperature = in_32_bits(temperature)
        document = {"device_id": meter, "recorded_at": at_ms, "temperature": temperature}
        self.foreign.append(document)
        place = region.stream.take(json.dumps(document).encode(), meter)
        self.conditions.history.note(region.name, meter, place)

    async def _heat_wave(self, region: Region) -> None:
        """Make many devices hot at once, and most of them calm at once."""
        meters = [self._new_meter() for _ in range(WAVE)]
        chance = random.Random(f"{self.conditions.seed}/{meters[0]}")
        for meter in meters:
            self._measured(region, meter, self.conditions.now_ms(), chance.choice([39.3, 45.7]))
        await asyncio.sleep(chance.uniform(*WAVE_SECONDS))
        for meter in meters:
            if not region.is_lost and chance.random() < 0.8:
                self._measured(region, meter, self.conditions.now_ms(), 30)

    async def _redrive_amid(self, region: Region) -> None:
        seconds = self._weather_chance.choice([1, 2, 10])
        with contextlib.suppress(NotInvoked):
            await region.lambda_.invoke("redrive", {"seconds": seconds})

    def _lose(self, region: Region) -> None:
        self.conditions.history.note(region.name, "is lost for good")
        region.lose()
        (other,) = [name for name in REGIONS if name != region.name]
        for device in self.devices:
            device.leave(region.name, other)

    def _weather_ends(self) -> None:
        self.conditions.calm()
        self._cut_until_ms = 0

    async def _all_is_sent(self) -> None:
        """Wait, with a limit, until every device was answered."""
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                for device in self.devices:
                    await device.finished()
        except TimeoutError:
            self.unsettled = "devices still send, and get no good answer"

    async def _settle(self) -> None:
        """Wait, with a limit, until all work is done."""
        give_up_at = self.loop.time() + SETTLE_SECONDS_MAX
        while self.loop.time() < give_up_at:
            await asyncio.sleep(SETTLE_SECONDS)
            if not self._on_its_way():
                self.conditions.history.note("world", "settled")
                return
        self.unsettled = self.unsettled or self._on_its_way()

    def _on_its_way(self) -> str:
        """Return the pending work as text; empty when all has settled."""
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
        """Do the operators' work after the faults: fix, redrive, release.

        Repeat it later, when messages of a redrive that was cut off are visible again.
        """
        for region in self.regions.values():
            if not region.is_lost:
                await region.operate()
        await self._settle()


def in_32_bits(value: float) -> float:
    """Return the nearest 32-bit float."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def packed(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return documents of a device as a pack, without the pipeline's code."""
    first = documents[0]
    names = sorted({name for each in documents for name in each} - {"device_id", "recorded_at"})
    columns = {name: [each.get(name) for each in documents] for name in names}
    numbers = {
        name: [
            Decimal(each) for each in column if isinstance(each, int | float) and each is not True
        ]
        for name, column in columns.items()
    }
    step = Decimal("0.000001")
    extremes = [
        {
            name: float(most(found).quantize(step, rounding))
            for name, found in numbers.items()
            if found
        }
        for most, rounding in ((max, ROUND_CEILING), (min, ROUND_FLOOR))
    ]
    after_ms = [each["recorded_at"] - first["recorded_at"] for each in documents]
    low, readings = extremes[1], {"after_ms": after_ms, **columns}
    return {**first, **extremes[0], "low": low, "readings": readings} if extremes[0] else first


@contextlib.contextmanager
def simulated(options: Options) -> Iterator[None]:
    """Replace parts of the real code while a world runs."""
    with (
        silent(observe.log),
        silent(logging.getLogger("emulator.mappings")),
        silent(logging.getLogger("emulator.mqtt.rules")),
        patch("telemetry.domain.window.MAX_READINGS", options.window_limit),
        patch.object(stream_module, "RECORDS_A_KEY", options.records_a_key),
        patch.object(engine_of, "FOLLOW_SECONDS", FOLLOW_SECONDS),
        patch.object(iot_rules, "uuid", SimpleNamespace(uuid4=lambda: "simulated")),
        patch.object(observe, "_metrics", Counting()),
        patch.object(observe, "_metrics_of_minute", Minutes()),
        patch.object(observe, "_flush", write_counts),
    ):
        yield


@contextlib.contextmanager
def silent(logger: Any) -> Iterator[None]:
    """Silence a logger while a world runs, because faults fill its log."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class Counting:
    """Stands in for Powertools' metrics: counts go to the running function."""

    def __init__(self, minute_ms: int | None = None) -> None:
        self.metric_set: dict[str, Any] = {}
        self._minute_ms = minute_ms

    def add_metric(self, name: str, unit: Any, value: float) -> None:  # noqa: ARG002
        current = Environment.current()
        if current is not None:
            current.counts[Metric(current.function, name), self._minute_ms] += int(value)


def write_counts() -> None:
    """Write the counts of the running function."""
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
            of_owner = world.conditions.tasks.setdefault(owner.get(), {})
            of_owner[task] = None
            task.add_done_callback(lambda done: of_owner.pop(done, None))
            return task

        random.seed(f"{seed}/jitter")
        world = World(loop, seed, options)
        loop.set_task_factory(owned)  # type: ignore[arg-type]
        with simulated(options):
            try:
                await world.run()
                world.failure = world.conditions.broken
            except Exception as error:  # noqa: BLE001 - the history tells how it came to that
                world.failure = repr(error)
        for task in asyncio.all_tasks(loop):
            if task is not asyncio.current_task():
                task.cancel()
        return world

    return run_virtually(main)
