"""Exactly once under every fault: seeds without a failure, and planted bugs that are all found."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.checking import Outcome, course, reduced, seed_that_finds
from tests.simulation.invariants import BROKEN
from tests.simulation.options import Options, drawn
from tests.simulation.region import Region
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]
SEEDS, SEEDS_A_TEST = 160, 20
pytestmark = pytest.mark.timeout(2400)  # its processes share two cores with other tiers, and more
HITS_MIN = 20
CONSEQUENCES = {
    *("conflict", "dead letter", "event given up", "full window", "given up", "lost by IoT"),
    *("not taken", "notice sent again", "partial answer", "quarantined", "second episode"),
    "zombie's call",
}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as made:
        yield made


@pytest.fixture(scope="module")
def finding(pool: ProcessPoolExecutor) -> dict[str, "Future[int | None]"]:
    return {bug: pool.submit(seed_that_finds, bug, SEEDS) for bug in BUGS}


@pytest.fixture(scope="module")
def running(
    pool: ProcessPoolExecutor, finding: dict[str, "Future[int | None]"]
) -> list["Future[Outcome]"]:
    """The seeds, behind the bugs: a test waits for those that it needs, so none waits for all."""
    assert finding
    return [pool.submit(course, seed) for seed in range(SEEDS)]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_breaks_what_it_must(
    bug: str,
    finding: dict[str, "Future[int | None]"],
    running: list["Future[Outcome]"],  # noqa: ARG001 - go on meanwhile
) -> None:
    assert finding[bug].result() is not None, f"{BUGS[bug].plant.__doc__}: {BUGS[bug].breaks} holds"


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_every_invariant_holds_whatever_fails(first: int, running: list["Future[Outcome]"]) -> None:
    outcomes = [each.result() for each in running[first : first + SEEDS_A_TEST]]
    wrong = {f"--seed {each.seed}": each.violations for each in outcomes if each.violations}
    assert wrong == {}, "python -m tests.simulation --seed … replays it"


def test_every_fault_strikes_and_brings_about_what_it_is_meant_to(
    running: list["Future[Outcome]"],
) -> None:
    hits = sum((each.result().hits for each in running), Counter[str]())
    faults = {each.name for each in fields(Options) if each.metadata.get("strikes")}
    wanted = faults | CONSEQUENCES
    assert {name: hits[name] for name in wanted if hits[name] < HITS_MIN} == {}
    assert hits.keys() == wanted


@pytest.mark.parametrize(
    ("seed", "bug", "mark"), [("34", [], "✓"), ("2", ["--bug", "running_sums"], "✗")]
)
def test_a_seed_is_the_same_to_the_byte_in_every_process(
    seed: str, bug: list[str], mark: str
) -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seed", seed, *bug]
    outputs = []
    for hashing in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": "layers/telemetry"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    lines = outputs[0].decode().splitlines()
    assert len(lines) > 100
    assert lines[-1].startswith(mark)


def test_a_failure_is_reduced_to_a_shorter_history_of_the_same_invariant() -> None:
    outcome = course(3, bug="running_sums")
    shorter = reduced(outcome, "running_sums", tell=lambda _text: None)
    assert shorter.invariants & outcome.invariants
    assert len(shorter.lines) < len(outcome.lines) / 4
    again = course(3, shorter.options, "running_sums")
    assert (again.digest, again.violations) == (shorter.digest, shorter.violations)


def test_the_seeds_draw_every_fault_and_none_at_all() -> None:
    drawn_faults = [drawn(seed).faults for seed in range(SEEDS)]
    wanted = {name for name, field in Options.__dataclass_fields__.items() if field.metadata}
    assert set().union(*drawn_faults) == wanted
    assert {} in drawn_faults


@pytest.mark.parametrize(
    ("of", "name"), [(World, "_trouble"), (World, "_heat_wave"), (Region, "_sweep_once")]
)
def test_an_error_of_the_simulated_world_itself_breaks_its_course(
    of: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_arguments: object) -> Any:
        raise ZeroDivisionError

    async def crash_later(*_arguments: object) -> None:
        crash()

    monkeypatch.setattr(of, name, crash if name == "_trouble" else crash_later)
    ((invariant, told),) = course(1, Options(devices=1, minutes=0.5, heat_wave=1.0)).violations
    assert invariant == BROKEN
    assert "ZeroDivisionError" in told
