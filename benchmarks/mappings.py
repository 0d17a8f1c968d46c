"""Measures the event source mappings: alone in virtual time, and on the embedded AWS.

    .venv/bin/python -m benchmarks.mappings      (--profile: where the engine's time goes)

1. The engine alone: records in memory, an empty function, checkpoints in a file. Figures are
   microseconds per record.
2. 100,000 records that wait on four shards, through two mappings of empty functions: one unfiltered
   like that of `aggregate`, one with the filter of `alert`. Figures are records per second and
   mapping, and the CPU of each process.
3. A steady stream after that. Figures are the lag of records, from arrival to function's answer.
"""

import asyncio
import base64
import cProfile
import json
import pstats
import random
import resource
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from emulator import embedded
from emulator.instance import REGION
from emulator.mappings import aws
from emulator.mappings.checkpoints import SqliteCheckpoints
from emulator.mappings.engine import Engine
from emulator.mappings.memory import (
    FUNCTION_ARN,
    STREAM_ARN,
    FunctionSink,
    MemoryDestination,
    MemoryStream,
    VirtualTimeLoop,
    run_virtually,
)
from emulator.mappings.model import Answer, Mapping
from emulator.mappings.ports import Ports
from emulator.sigv4 import Key
from local import deployment
from local.instance import Instance, State, state_of, unused
from local.tools import tool
from local.trial.consumer import create_consumer, stream_arn_of
from ops.arguments import Parser

T = TypeVar("T")
RECORDS = 100_000
SHARDS = 4
PUT_MAX = 500
PUTTERS = 2
STEADY_SECONDS = 20
STEADY_PER_SECOND = 1000
HOT_SHARE = 0.05
PATTERN = '{"data":{"temperature":[{"numeric":[">",38]}]}}'
FUNCTION = "def handler(event, context):\n    pass\n"
STREAM = "bench"
PROFILE_LINES = 12


def must(is_valid: bool, problem: str) -> None:
    """End the benchmark with a problem if its figures would be invalid."""
    if not is_valid:
        sys.exit(problem)


def reading(chance: random.Random, number: int) -> dict[str, Any]:
    hot = chance.random() < HOT_SHARE
    return {
        "device_id": f"device-{number % 500:04}",
        "recorded_at": 1_767_225_600_000 + number,
        "temperature": round(chance.uniform(38.1, 45) if hot else chance.uniform(10, 37), 2),
        "humidity": round(chance.uniform(0, 100), 1),
        "pressure": round(chance.uniform(980, 1040), 1),
        "battery": round(chance.uniform(11, 13), 3),
        "received_at": 1_767_225_600_000 + number,
    }


# 1. The engine alone


def microseconds(**settings: Any) -> float:
    """Return the engine's microseconds per record, in virtual time."""

    async def main(loop: VirtualTimeLoop) -> float:
        chance, stream = random.Random(1), MemoryStream(loop.now_ms)
        for number in range(RECORDS):
            stream.put(reading(chance, number), key=f"device-{number % 500:04}")
        sink = FunctionSink(loop.now_ms)
        own = Mapping("bench", STREAM_ARN, FUNCTION_ARN, **settings)
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = SqliteCheckpoints(Path(folder) / "mappings.sqlite3")
            ports = Ports(lambda _: stream, sink, MemoryDestination(), checkpoints, loop.now_ms)
            engine = Engine(ports, lambda: asyncio.sleep(0, [own]))
            started = time.perf_counter()
            running = asyncio.create_task(engine.run())
            await asyncio.sleep(30)  # of virtual time
            took = time.perf_counter() - started
            engine.stop()
            await running
            checkpoints.close()
        delivered = sum(len(each.event["Records"]) for each in sink.invocations)
        expected = (
            RECORDS
            if not own.patterns
            else sum(1 for each in stream.by_id["shardId-000000000000"].records if is_hot(each))
        )
        must(delivered == expected, f"{delivered} of {expected} records were delivered")
        return took / RECORDS * 1e6

    return run_virtually(main)


def is_hot(record: Any) -> bool:
    data: dict[str, Any] = json.loads(base64.b64decode(record.event["kinesis"]["data"]))
    return bool(data["temperature"] > 38)


def show_overhead() -> None:
    print(f"engine alone, {RECORDS:,} records, an empty function; µs a record")
    measured: dict[str, dict[str, Any]] = {
        "batches of 100": {},
        "batches of 1,000": {"batch_size": 1000},
        "batches of 100, 10 lanes": {"parallelization_factor": 10},
        "batches of 100, filtered (decodes each record)": {"patterns": (PATTERN,)},
    }
    for name, settings in measured.items():
        best = min(microseconds(**settings) for _ in range(3))
        print(f"  {name:<48}{best:6.2f}")


# 2. and 3. On the embedded AWS


class MeasuredSink(aws.LambdaSink):
    """Records the lag of each record, by its mapping's function."""

    def __init__(self, endpoint: aws.Endpoint) -> None:
        super().__init__(endpoint)
        self.lags_ms: dict[str, list[int]] = defaultdict(list)
        self.invocations = 0

    async def invoke(self, function_arn: str, event: dict[str, Any]) -> Answer:
        answer = await super().invoke(function_arn, event)
        must(answer.function_error is None, str(answer))
        now = time.time()
        self.invocations += 1
        self.lags_ms[function_arn] += [
            round((now - each["kinesis"]["approximateArrivalTimestamp"]) * 1000)
            for each in event["Records"]
        ]
        return answer


class MeasuredEndpoint(aws.Endpoint):
    """Counts the CPU of calls in threads, and profiles them if `is_profiled`."""

    is_profiled = False

    def __init__(self, state: State, threads: ThreadPoolExecutor) -> None:
        root = Key(state.access_key, state.secret_key)
        url = f"http://127.0.0.1:{state.port}"
        super().__init__(url, REGION, root, threads, threads)
        self.thread_seconds = 0.0
        self.profiles: dict[int, cProfile.Profile] = {}

    async def run(self, work: Callable[[], T]) -> T:
        return await super().run(lambda: self._measured(work))

    async def run_long(self, work: Callable[[], T]) -> T:
        return await super().run_long(lambda: self._measured(work))

    def _measured(self, work: Callable[[], T]) -> T:
        started = time.thread_time()
        try:
            return self._profiled(work) if self.is_profiled else work()
        finally:
            self.thread_seconds += time.thread_time() - started

    def _profiled(self, work: Callable[[], T]) -> T:
        profile = self.profiles.setdefault(threading.get_ident(), cProfile.Profile())
        return profile.runcall(work)


@contextmanager
def emulator() -> Iterator[tuple[Instance, State]]:
    instance = unused("bench")
    instance.create()
    try:
        running = embedded.start(instance, tool("aws", "python"), with_mappings=False)
        try:
            state = state_of(running)
            yield instance, state
        finally:
            running.stop()
    finally:
        instance.remove()


def create(state: State) -> None:
    deployment.client(state, "kinesis").create_stream(StreamName=STREAM, ShardCount=SHARDS)
    criteria = {"Filters": [{"Pattern": PATTERN}]}
    mappings: dict[str, dict[str, Any]] = {
        "aggregate": {"BatchSize": 1000, "MaximumBatchingWindowInSeconds": 1},
        "alert": {"BatchSize": 100, "FilterCriteria": criteria},
    }
    for name, mapping in mappings.items():
        files = {"handler.py": FUNCTION}
        create_consumer(state, name, stream_arn_of(state, STREAM), files, mapping)


def put(state: State, numbers: range) -> None:
    chance, kinesis = random.Random(numbers.start), deployment.client(state, "kinesis")
    for start in range(numbers.start, numbers.stop, PUT_MAX):
        batch = [reading(chance, n) for n in range(start, min(start + PUT_MAX, numbers.stop))]
        answer = kinesis.put_records(
            StreamName=STREAM,
            Records=[
                {"Data": json.dumps(each).encode(), "PartitionKey": each["device_id"]}
                for each in batch
            ],
        )
        must(answer["FailedRecordCount"] == 0, "records were refused")


def cpu_seconds(pid: int) -> dict[str, float]:
    """Return the CPU of the emulator's main process, and of all others in its session: workers."""
    ticks = 100.0
    seconds = {"emulator": 0.0, "functions": 0.0}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid:  # the session
            name = "emulator" if int(stat.parent.name) == pid else "functions"
            seconds[name] += (int(fields[11]) + int(fields[12])) / ticks
    return seconds


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def until(sink: MeasuredSink, count: int) -> None:
    while max(map(len, sink.lags_ms.values()), default=0) < count:
        await asyncio.sleep(0.02)


async def measure(state: State, is_profiled: bool) -> None:
    with ThreadPoolExecutor(64) as threads, tempfile.TemporaryDirectory() as folder:
        endpoint = MeasuredEndpoint(state, threads)
        endpoint.is_profiled = is_profiled
        sink = MeasuredSink(endpoint)
        checkpoints = SqliteCheckpoints(Path(folder) / "mappings.sqlite3")
        source_of, destination = partial(aws.source_of, endpoint), aws.AwsDestination(endpoint)
        ports = Ports(source_of, sink, destination, checkpoints, now_ms)
        engine = Engine(ports, endpoint.mappings)
        profile = cProfile.Profile()
        before, loop_before = cpu_seconds(state.pid), time.thread_time()
        started = time.perf_counter()
        if is_profiled:
            profile.enable()
        running = asyncio.create_task(engine.run())
        await until(sink, RECORDS)
        took = time.perf_counter() - started
        profile.disable()
        after = cpu_seconds(state.pid)
        await asyncio.sleep(2)
        delivered = {arn.rpartition(":")[2]: len(lags) for arn, lags in sink.lags_ms.items()}
        print(f"\n{RECORDS:,} waiting records through two mappings: {took:.1f} s")
        print(f"  {RECORDS / took:,.0f} records a second, each read by both mappings")
        print(f"  delivered: {delivered}, in {sink.invocations:,} invocations")
        loop = time.thread_time() - loop_before
        calls = endpoint.thread_seconds
        print(f"  CPU: engine {loop + calls:.1f} s (event loop {loop:.1f}, calls {calls:.1f})")
        for name, seconds in after.items():
            print(f"       {name} {seconds - before[name]:.1f} s")
        if is_profiled:
            show_profile(profile, endpoint)
        else:
            await steady(state, sink)
        engine.stop()
        await running
        checkpoints.close()


def show_profile(loop: cProfile.Profile, endpoint: MeasuredEndpoint) -> None:
    """Print the functions of the engine's process with the most time of their own."""
    stats = pstats.Stats(loop)
    for profile in endpoint.profiles.values():
        stats.add(profile)
    rows = sorted(
        ((own, calls, where) for where, (_, calls, own, _, _) in stats.stats.items()),  # type: ignore[attr-defined]
        reverse=True,
    )
    idle = ("poll", "acquire", "recv_into", "select")
    busy = [row for row in rows if not any(name in row[2][2] for name in idle)]
    total = sum(own for own, _, _ in busy)
    print(f"\nwhere the engine's time goes ({total:.1f} s under the profiler, waiting left out)")
    for own, calls, (file, line, name) in busy[:PROFILE_LINES]:
        place = name if file == "~" else f"{'/'.join(Path(file).parts[-2:])}:{line} {name}"
        print(f"  {own / total:6.1%} {calls:>9,} calls  {place}")


async def steady(state: State, sink: MeasuredSink) -> None:
    """Put records at a steady pace and print their lags."""
    sink.lags_ms.clear()
    total = STEADY_SECONDS * STEADY_PER_SECOND
    started = time.perf_counter()
    for start in range(0, total, PUT_MAX):
        due = started + start / STEADY_PER_SECOND
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await asyncio.to_thread(put, state, range(RECORDS + start, RECORDS + start + PUT_MAX))
    await until(sink, total)
    print(f"\n{STEADY_PER_SECOND:,} records a second for {STEADY_SECONDS} s; lag in ms")
    for arn, lags in sorted(sink.lags_ms.items()):
        name = arn.rpartition(":")[2]
        print(f"  {name:<10} p50 {percentile(lags, 0.5):5,}  p99 {percentile(lags, 0.99):5,}")


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="say where the engine's time goes")
    options = parser.parse_args()
    show_overhead()
    with emulator() as (_, state):
        create(state)
        half = RECORDS // PUTTERS
        with ThreadPoolExecutor(PUTTERS) as pool:
            list(pool.map(lambda n: put(state, range(n * half, (n + 1) * half)), range(PUTTERS)))
        asyncio.run(measure(state, options.profile))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory of this process, of the engine and the benchmark: {peak:.0f} MB")


if __name__ == "__main__":
    main()
