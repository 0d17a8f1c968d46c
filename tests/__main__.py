"""`make test`: runs every tier, in parts that run at the same time.

python -m tests                     all tiers
python -m tests tests/unit -x       arguments of pytest

The deployed pipeline's tests mostly wait, so several run at once: independent ones on one instance,
those marked `alone` on another, one after the other. The tiers that keep a processor busy run
beside them, niced.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from threading import Lock
from typing import NamedTuple, Self

from local.cli import console_on
from local.instance import Instance
from local.session import raise_on_terminate
from local.values import duration_text
from local.view import Steps
from tests.pipeline.instances import cause_of, own_instance
from tests.waiting import SLOW, TOO_SLOW, slowness

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")  # parts would share the cache
PIPELINE = "tests/pipeline"
LIFECYCLE = "tests/pipeline/test_lifecycle.py"
WAYS_BACK = tuple(f"tests/pipeline/test_{each}.py" for each in ("archive", "replay", "run"))
BROWSER = "tests/browser"  # needs a Chromium: `make browser`
SIMULATION, SERVICES = "tests/simulation", ("tests/contract", "tests/client")
INTERRUPTED = 130
UNKNOWN = 3
END_SECONDS = 10.0
NICENESS_WHEN_BUSY = 2
NAME_WIDTH = 30


class Part(NamedTuple):
    """Tests that one pytest process runs."""

    name: str
    arguments: tuple[str, ...]
    niceness: int = 0


def but(*paths: str) -> tuple[str, ...]:
    """Return pytest's options that leave these tests out."""
    return tuple(f"--ignore={path}" for path in paths)


BESIDE = (
    Part("simulation", (SIMULATION,), 10),
    Part("contract, client", SERVICES, 5),
    Part("unit and the rest", ("tests", *but(PIPELINE, BROWSER, SIMULATION, *SERVICES)), 10),
)
WITH_OTHERS = (
    Part("pipeline: archive, replay, run", (*WAYS_BACK, "-m", "not alone")),
    Part("pipeline: lifecycle", (LIFECYCLE, "-m", "not alone")),
    Part("pipeline", (PIPELINE, *but(*WAYS_BACK, LIFECYCLE), "-m", "not alone")),
)
ALONE = Part("pipeline: alone", (PIPELINE, "-m", "alone"))


class Runs:
    """The running parts. The end of each is printed, with pytest's output if it failed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(8)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._telling = Lock()
        self._is_idle = slowness() < SLOW  # others' processes leave a niced one next to nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()
        self._pool.shutdown()

    def end(self) -> None:
        """Interrupt the running parts, as Ctrl-C does; kill those that don't end."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + END_SECONDS
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
            process.terminate()

    def begin(self, part: Part, instance: Instance | None = None) -> Future[int]:
        """Run a part, with an instance if it needs one; return its exit code."""
        niceness = part.niceness if self._is_idle else min(part.niceness, NICENESS_WHEN_BUSY)
        command = ["nice", "-n", str(niceness), *PYTEST, *part.arguments]
        command += ["--instance", instance.name] if instance else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return self._pool.submit(self._end, part, process)

    def _end(self, part: Part, process: "subprocess.Popen[bytes]") -> int:
        started = time.monotonic()
        written, _ = process.communicate()
        took = duration_text(time.monotonic() - started)
        lines = written.decode(errors="replace").splitlines() or [""]
        told = f"{part.name:{NAME_WIDTH}} {took:>10}  {lines[-1].strip('= ')}"
        with self._telling:
            if process.returncode:
                mark = "?" if process.returncode == TOO_SLOW else "✗"
                print("", *lines, f"{mark} {told}", sep="\n", flush=True)
            else:
                print(f"✓ {told}", flush=True)
        return process.returncode


def main(arguments: Sequence[str]) -> int:
    """Run all parts; return 0 if all passed, 3 if the machine was too slow to tell, else 1."""
    if arguments:
        code = subprocess.call([sys.executable, "-m", "pytest", *arguments])
        return verdict([code]) if code == TOO_SLOW else code
    raise_on_terminate()
    started = time.monotonic()
    try:
        code = run_all()
    except KeyboardInterrupt:
        code = INTERRUPTED
    took = duration_text(time.monotonic() - started)
    if code == UNKNOWN:
        print(f"? couldn't tell, in {took}: what failed was given up on a machine that is too slow")
    else:
        print(f"{'✗' if code else '✓'} in {took}")
    return code


def verdict(codes: Sequence[int]) -> int:
    """Return the parts' common exit code: 0 passed, 1 failed, 3 the machine was too slow."""
    if all(code in {0, TOO_SLOW} for code in codes):
        return UNKNOWN if any(codes) else 0
    return 1


def run_all() -> int:
    """Run every part; return their verdict."""
    with Runs() as runs:
        beside = [runs.begin(part) for part in BESIDE]
        codes = on_instances(runs) + [each.result() for each in beside]
    return verdict(codes)


def on_instances(runs: Runs) -> list[int]:
    """Run the pipeline's parts; return their exit codes. If an instance fails, say why once.

    An instance ends when its parts have: while it waits it takes 7% of a processor.
    """
    steps = Steps(console_on(stderr=False))
    with_others: list[Future[int]] = []
    alone: list[Future[int]] = []
    with ExitStack() as first, ExitStack() as second:
        try:
            one = first.enter_context(own_instance(steps))
            with_others = [runs.begin(part, one) for part in WITH_OTHERS]
            two = second.enter_context(own_instance(steps, built_by=one))
            alone = [runs.begin(ALONE, two)]
        except Exception as error:  # noqa: BLE001 - whatever it is, the other tiers go on
            print(f"✗ {cause_of(error)}", flush=True)
        try:
            wait(with_others)
            first.close()
            codes = [each.result() for each in (*with_others, *alone)]
        except KeyboardInterrupt:
            runs.end()  # before the instances end under them
            raise
    return codes if alone else [*codes, 1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
