"""`python -m tests.simulation`: runs many seeds, or one with its history.

python -m tests.simulation --seeds 1000          run seeds 0 to 999, on every processor
python -m tests.simulation --seed 17             replay one, and print what happened
python -m tests.simulation --seeds 200 --bug blind_write
"""

import argparse
import json
import os
import signal
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict
from functools import partial
from multiprocessing import TimeoutError as NotYet
from multiprocessing import get_context

from ops.arguments import Parser
from tests.simulation.bugs import BUGS
from tests.simulation.checking import Outcome, course, reduced
from tests.simulation.options import Options, drawn

TELL_SECONDS = 5.0
TELL_AGAIN_SECONDS = 30.0  # where no seed has ended since
# A greenlet that never ends keeps its world for good, half a megabyte a seed.
SEEDS_A_PROCESS = 200
FAILURES_SHOWN = 3
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    whole = Parser(
        prog="python -m tests.simulation",
        description="The pipeline under simulated faults, decided by a seed.",
    )
    which = whole.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", type=int, metavar="N", help="run this many seeds")
    which.add_argument("--seed", type=int, metavar="N", help="replay one, and print its history")
    whole.add_argument("--first", type=int, default=0, metavar="N", help="the first seed (0)")
    whole.add_argument("--bug", choices=BUGS, help="plant a bug, which must be found")
    whole.add_argument("--options", type=json.loads, metavar="JSON", help="instead of the seed's")
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    whole.add_argument("--jobs", type=int, default=processors, help="processes (all processors)")
    return whole


def replay(seed: int, options: Options, bug: str | None) -> int:
    """Run one seed and print its history, and the invariants that don't hold."""
    outcome = course(seed, options, bug)
    print("\n".join(outcome.lines))
    print(f"seed {seed}: {len(outcome.lines)} events, {outcome.readings} records, {outcome.digest}")
    print(f"faults: {json.dumps(options.faults)}")
    tell_violations(outcome)
    return 1 if outcome.violations else 0


def tell_violations(outcome: Outcome) -> None:
    for name, wrong in outcome.violations:
        print(f"✗ {name}: {wrong}")
    if not outcome.violations:
        print("✓ every invariant holds")


def outcomes(
    seeds: Sequence[int], bug: str | None, jobs: int
) -> Generator[Outcome | None, None, None]:
    """Run seeds on several processes, which are replaced regularly; yield None while none ends.

    Not a ProcessPoolExecutor: with max_tasks_per_child it comes to a stop (CPython, gh-115634), and
    when it is interrupted by anything but a terminal it waits for its processes for ever.
    """
    leave_interrupts = (signal.signal, (signal.SIGINT, signal.SIG_IGN))
    pool = get_context("spawn").Pool(jobs, *leave_interrupts, maxtasksperchild=SEEDS_A_PROCESS)
    with pool:  # at its end all processes are ended
        running = pool.imap_unordered(partial(course, bug=bug), seeds)
        while True:
            try:
                yield running.next(TELL_SECONDS)
            except NotYet:
                yield None
            except StopIteration:
                return


class Progress:
    """Shows a sweep's progress: one changing line in a terminal, otherwise a line now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = self._told_at = time.monotonic()
        self._told = 0

    def tell(self, done: int) -> None:
        """Print the progress every few seconds; less often while no seed ends."""
        now = time.monotonic()
        if now - self._told_at < (TELL_SECONDS if done > self._told else TELL_AGAIN_SECONDS):
            return
        self._told, self._told_at = done, now
        seconds = now - self._started
        text = (
            f"{done:,} of {self._total:,} seeds in {seconds:.0f} s, {done / seconds:.1f} a second"
        )
        if sys.stdout.isatty():
            print(f"\r\033[K{text}", end="", flush=True)
        else:
            print(text, flush=True)

    def clear(self) -> None:
        """Clear the line for other output."""
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)


def sweep(seeds: Sequence[int], bug: str | None, jobs: int) -> int:
    """Run seeds on several processes; report each failure, and reduce the first ones."""
    started = time.monotonic()
    failed: list[Outcome] = []
    hits = Counter[str]()
    records = done = 0
    running, progress = outcomes(seeds, bug, jobs), Progress(len(seeds))
    try:
        for outcome in running:
            if outcome is not None:
                done += 1
                records += outcome.readings
                hits += outcome.hits
                if outcome.violations:
                    failed.append(outcome)
                    name, wrong = outcome.violations[0]
                    progress.clear()
                    print(f"✗ seed {outcome.seed}: {name}: {wrong}", flush=True)
            progress.tell(done)
    except KeyboardInterrupt:
        progress.clear()
        print(f"interrupted after {done:,} seeds, {len(failed)} failed")
        return INTERRUPTED
    finally:
        running.close()
    progress.clear()
    failed.sort(key=lambda each: each.seed)
    for outcome in failed[:FAILURES_SHOWN]:
        show(reduced(outcome, bug), bug)
    struck = ", ".join(f"{name} {times:,}" for name, times in sorted(hits.items()))
    print(textwrap.fill(f"struck: {struck}", 100, subsequent_indent="  "))
    seconds = time.monotonic() - started
    mark = "✗" if failed else "✓"
    print(f"{mark} {done:,} seeds, {records:,} records, {len(failed)} failed, in {seconds:.0f} s")
    return 1 if failed else 0


def show(outcome: Outcome, bug: str | None) -> None:
    """Print the shortest history of a failure, and the command that replays it."""
    print("\n".join(outcome.lines))
    settings = json.dumps(asdict(outcome.options))
    planted = f" --bug {bug}" if bug else ""
    print(
        f"replay: python -m tests.simulation --seed {outcome.seed}{planted} --options '{settings}'"
    )
    tell_violations(outcome)


def main() -> int:
    asked = parser().parse_args()
    if asked.seed is not None:
        options = Options(**asked.options) if asked.options else drawn(asked.seed)
        return replay(asked.seed, options, asked.bug)
    return sweep(range(asked.first, asked.first + asked.seeds), asked.bug, max(1, asked.jobs))


if __name__ == "__main__":
    sys.exit(main())
