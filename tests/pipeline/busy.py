"""Shows that a run's verdict is true on a busy machine.

    make busy

Busy loops run while the pipeline is brought up and devices post to it. Nothing is lost, so the
verdict must be right, or that it can't tell. A planted loss and a planted double count must be
reported as wrong.
"""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from local.cli import console_on
from local.cli import main as local
from local.session import raise_on_terminate
from local.trial.report import Verdict, print_verdict
from local.view import Steps
from ops.arguments import Parser
from tests.pipeline.deployed import Pipeline
from tests.pipeline.instances import own_instance
from tests.pipeline.planting import Plant, checked, count_twice, lose, sent

LOOPS = 8
PLANTED: dict[str, Plant] = {"a planted loss": lose, "a planted double count": count_twice}


def spin() -> None:
    """Keep a processor busy while the parent process lives."""
    starter = os.getppid()
    while os.getppid() == starter:
        for _ in range(1_000_000):
            pass


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep `count` processes busy."""
    loops = [multiprocessing.Process(target=spin, daemon=True) for _ in range(count)]
    for each in loops:
        each.start()
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.join()


def main() -> int:
    parser = Parser(prog="make busy", description=__doc__)
    parser.add_argument("--loops", type=int, default=LOOPS, help=f"busy loops ({LOOPS})")
    parser.add_argument("--for", dest="seconds", default="30s", help="devices post so long (30s)")
    options = parser.parse_args()
    raise_on_terminate()
    console, told = console_on(stderr=False), {}
    with busy_loops(options.loops), own_instance(Steps(console)) as instance:
        run = ["devices", "--name", instance.name, "--check", "--for", options.seconds]
        told["a run of which nothing is lost"] = local(run) in {
            Verdict.RIGHT.value,
            Verdict.UNKNOWN.value,
        }
        with Pipeline(instance) as pipeline:
            for number, (what, plant) in enumerate(PLANTED.items()):
                ledger, minute_ms = sent(pipeline, f"planted-{number}")
                plant(pipeline, ledger.devices[0], minute_ms)
                report = checked(pipeline, ledger)
                print_verdict(report, console)
                told[what] = report.verdict is Verdict.WRONG
    for what, is_told in told.items():
        print(f"✓ {what}: a true verdict" if is_told else f"✗ {what}: a false verdict")
    return 0 if all(told.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
