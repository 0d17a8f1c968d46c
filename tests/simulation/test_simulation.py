"""Exactly once under every fault: seeds without a failure, and planted bugs that are all found."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.checking import course, first_that_finds, reduced
from tests.simulation.options import Options, drawn

ROOT = Path(__file__).parents[2]
SEEDS = 200


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as made:
        yield made


@pytest.fixture(scope="module")
def finding(pool: ProcessPoolExecutor) -> dict[str, "Future[int | None]"]:
    return {bug: pool.submit(first_that_finds, bug, SEEDS) for bug in BUGS}


def test_every_invariant_holds_whatever_fails(pool: ProcessPoolExecutor) -> None:
    failed = [each for each in pool.map(course, range(SEEDS), chunksize=5) if each.violations]
    wrong = {f"--seed {outcome.seed}": outcome.violations for outcome in failed}
    assert wrong == {}, "python -m tests.simulation --seed … replays it"


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, finding: dict[str, "Future[int | None]"]) -> None:
    assert finding[bug].result() is not None, BUGS[bug].__doc__


def test_a_seed_is_the_same_to_the_byte_in_every_process() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seed", "34"]
    outputs = []
    for hashing in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": "layers/telemetry"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) > 100


def test_a_failure_is_reduced_to_a_shorter_history_of_the_same_invariant() -> None:
    outcome = course(0, bug="running_sums")
    shorter = reduced(outcome, "running_sums", tell=lambda _text: None)
    assert shorter.invariants & outcome.invariants
    assert len(shorter.lines) < len(outcome.lines) / 4
    again = course(0, shorter.options, "running_sums")
    assert (again.digest, again.violations) == (shorter.digest, shorter.violations)


def test_the_seeds_draw_every_fault_and_none_at_all() -> None:
    drawn_faults = [drawn(seed).faults for seed in range(SEEDS)]
    wanted = {name for name, field in Options.__dataclass_fields__.items() if field.metadata}
    assert set().union(*drawn_faults) == wanted
    assert {} in drawn_faults
