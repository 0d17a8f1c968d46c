"""A bounded soak test: checks that memory and cost stay flat under a steady load.

    make soak                                (ten minutes; ARGS="--for 3m" for less)

Simulated devices post at a rate that the machine sustains with ease. Every process of the run is
measured every other second: the embedded AWS, the mappings' engine, the functions' workers (all of
one function together) and this one, which posts. It exits with 1 if one of these checks fails:

- `make run`'s check: nothing is lost, nothing counted twice.
- Memory is flat. For each process, the median of the last minute is at most 5 % or 4 MB above the
  median of the third minute, or of the second one in a run of less than five. A process that starts
  later, such as a scheduled function, is compared with its own first minute. Data that the embedded
  AWS stored in between is no growth. It is the bytes of all windows' items and stream records at
  the end (measured by `benchmarks.kept`), times the share of readings settled in between.
- Cost is flat. CPU seconds of all processes per settled reading in the last minute are at most 10 %
  above those of the first full minute, which begins when everything has started.
"""

import asyncio
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Self

import psutil
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.kept import kept_bytes
from emulator.processes import EMBEDDED_AWS, processes_of
from local.cli import INTERRUPTED, option
from local.fleet.over_https import PostingOptions
from local.fleet.simulated import Fleet, FleetOptions
from local.instance import Instance, unused
from local.session import brought_up, raise_on_terminate
from local.trial.report import print_verdict
from local.trial.run import Exercise, Plan, now_ms
from local.values import duration_seconds, positive, rate
from local.view import Steps
from ops.arguments import Parser

MINUTE_SECONDS = 60.0
SAMPLE_SECONDS = 2.0
START_SECONDS = 20.0
"""Time until every function has been called and has its workers."""
SHORT_SECONDS = 5 * MINUTE_SECONDS
GROWTH_SHARE, GROWTH_BYTES = 0.05, 4_000_000
COST_SHARE = 0.10
POSTING = "posting (this)"
MB = 1_000_000


class Usage(NamedTuple):
    """The memory and CPU of the processes of one kind."""

    resident_bytes: int
    cpu_seconds: float
    """CPU since the soak began, with that of ended processes."""


@dataclass(frozen=True)
class Sample:
    """The usage at one moment."""

    at: float
    """Seconds since the soak began."""
    settled: int
    usage: dict[str, Usage]

    @property
    def cpu_seconds(self) -> float:
        """Of all processes."""
        return sum(each.cpu_seconds for each in self.usage.values())


class Sampler:
    """Context manager that samples all processes in a thread of its own."""

    def __init__(self, instance: Instance, settled: Callable[[], int]) -> None:
        self._instance = instance
        self._settled = settled
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_until_stopped, daemon=True)
        self._started = time.monotonic()
        self._seen: dict[psutil.Process, float] = {}
        self._cpu: dict[str, float] = defaultdict(float)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look_until_stopped(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.samples.append(self._look())

    def _look(self) -> Sample:
        resident: dict[str, int] = defaultdict(int)
        for role, process in [*processes_of(self._instance), (POSTING, psutil.Process())]:
            with suppress(psutil.NoSuchProcess):
                resident[role] += process.memory_info().rss
                times = process.cpu_times()
                used = times.user + times.system
                # a process that started since the last look used all of its CPU since then
                before = 0.0 if self.samples else used
                self._cpu[role] += used - self._seen.get(process, before)
                self._seen[process] = used
        usage = {role: Usage(resident[role], cpu) for role, cpu in self._cpu.items()}
        return Sample(time.monotonic() - self._started, self._settled(), usage)


@dataclass(frozen=True)
class Growth:
    """The memory of the processes of one kind, early and late."""

    role: str
    early_bytes: float
    late_bytes: float
    slope_bytes: float
    """Growth per minute over the time in between (least squares)."""
    kept_bytes: float = 0.0
    """Data that it stored in between."""

    @property
    def is_flat(self) -> bool:
        grown = self.late_bytes - self.early_bytes - self.kept_bytes
        return grown <= max(GROWTH_SHARE * self.early_bytes, GROWTH_BYTES)


@dataclass(frozen=True)
class Cost:
    """CPU seconds per settled reading, in the first full minute and in the last one."""

    first: float
    last: float

    @property
    def is_flat(self) -> bool:
        return self.last <= self.first * (1 + COST_SHARE)


def growths(samples: Sequence[Sample], kept_bytes: float = 0.0) -> list[Growth]:
    """Return the growth of each kind of process, between the compared minutes.

    `kept_bytes`: the data that the embedded AWS had stored by the last sample.
    """
    end = samples[-1].at
    early = MINUTE_SECONDS if end < SHORT_SECONDS else 2 * MINUTE_SECONDS
    found = []
    for role in sorted(samples[-1].usage):
        there = [each for each in samples if each.at >= early and memory_of(each, role)]
        if len(there) > 1:  # some processes start later
            first = [each for each in there if each.at < there[0].at + MINUTE_SECONDS]
            last = [each for each in there if each.at >= end - MINUTE_SECONDS] or first
            points = [(each.at, memory_of(each, role)) for each in there]
            slope = statistics.linear_regression(*zip(*points, strict=True)).slope
            before, after = (
                median(memory_of(each, role) for each in part) for part in (first, last)
            )
            kept = kept_bytes * settled_share(first, last) if role == EMBEDDED_AWS else 0.0
            found.append(Growth(role, before, after, slope * MINUTE_SECONDS, kept))
    return found


def settled_share(first: Sequence[Sample], last: Sequence[Sample]) -> float:
    """Return the share of readings that were settled between the middles of two times."""
    begin, end = (median(each.settled for each in part) for part in (first, last))
    return (end - begin) / max(1, last[-1].settled)


def memory_of(sample: Sample, role: str) -> int:
    return sample.usage[role].resident_bytes if role in sample.usage else 0


def cost(samples: Sequence[Sample]) -> Cost:
    """Return the cost in the minute after the start and in the last one."""
    end = samples[-1].at
    return Cost(
        cpu_a_reading(samples, START_SECONDS, START_SECONDS + MINUTE_SECONDS),
        cpu_a_reading(samples, end - MINUTE_SECONDS, end),
    )


def cpu_a_reading(samples: Sequence[Sample], begin: float, end: float) -> float:
    """Return the CPU seconds of all processes per reading that was settled in that time."""
    within = [each for each in samples if begin <= each.at <= end]
    settled = within[-1].settled - within[0].settled
    return (within[-1].cpu_seconds - within[0].cpu_seconds) / settled if settled else float("inf")


def show(found: Sequence[Growth], costs: Cost, console: Console) -> bool:
    """Print growths and costs; return whether all are flat."""
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("resident, MB", "early", "last minute", "a minute", "stored data", "flat"):
        table.add_column(name, justify="left" if name == "resident, MB" else "right")
    for each in found:
        sizes = each.early_bytes, each.late_bytes
        row = [f"{size / MB:,.1f}" for size in sizes] + [f"{each.slope_bytes / MB:+,.2f}"]
        row.append(f"{each.kept_bytes / MB:,.1f}" if each.kept_bytes else "")
        table.add_row(each.role, *row, "✓" if each.is_flat else "✗ grows")
    console.print(table)
    console.print(
        f"CPU a settled reading: {costs.first * 1e6:,.0f} µs in the first full minute, "
        f"{costs.last * 1e6:,.0f} µs in the last ({costs.last / costs.first - 1:+.1%}) "
        f"{'✓' if costs.is_flat else '✗ grows'}",
        highlight=False,
    )
    return costs.is_flat and all(each.is_flat for each in found)


def soak(instance: Instance, fleet: FleetOptions, seconds: float, console: Console) -> bool:
    """Soak a new instance; return whether all checks passed."""
    steps = Steps(console)
    try:
        with brought_up(instance, steps, {}) as aws:
            exercise = Exercise(instance, steps, PostingOptions())
            sampler = Sampler(instance, lambda: exercise.monitor.latest.settled)
            plan = Plan(seconds, beside=sampler)
            report = asyncio.run(exercise.run(Fleet(fleet, now_ms()), plan, aws.stop))
            kept = kept_bytes(instance.load())
            aws.stop()
    finally:
        instance.remove()
    print_verdict(report, console)
    if not sampler.samples or sampler.samples[-1].at < seconds - 2 * SAMPLE_SECONDS:
        raise KeyboardInterrupt
    found = growths(sampler.samples, kept)
    is_flat = show(found, cost(sampler.samples), console)
    readings = sampler.samples[-1].settled
    console.print(
        f"stored data: {kept / MB:,.1f} MB in windows' items and on the stream, of {readings:,} "
        f"readings, {kept / max(1, readings):,.0f} bytes each",
        highlight=False,
    )
    return is_flat and report.is_ok


def main() -> int:
    """Read the options and soak."""
    parser = Parser(prog="make soak", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=option(duration_seconds), default=600.0)
    parser.add_argument("--devices", type=option(positive), default=100)
    parser.add_argument("--rate", type=option(rate), default=1.0)
    options = parser.parse_args()
    if options.seconds < START_SECONDS + 2 * MINUTE_SECONDS:
        parser.error(
            f"--for: {options.seconds:.0f} s is too short to compare minutes: 2m20s or more"
        )
    fleet = FleetOptions(devices=options.devices, rate=options.rate)
    raise_on_terminate()
    try:
        is_flat = soak(unused("soak"), fleet, options.seconds, Console(width=160))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: too short to compare\n")
        return INTERRUPTED
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
