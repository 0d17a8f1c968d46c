"""`run --chaos`: how it names processes, and which it kills."""

import random
import subprocess
import sys
from collections import Counter

import psutil
import pytest

from emulator.processes import EMBEDDED_AWS, ENGINE, Running, role_of
from local.trial.chaos import Casualties, choose, cpu_seconds

SELF = psutil.Process()
WORKER = "/w/.local/run-1/tmp/ministack-lambda-telemetry-ingest-a_b1c2d3/_worker.py"


def running(*roles: str) -> list[Running]:
    return [Running(role, SELF) for role in roles]


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (["python3.11", WORKER], "telemetry-ingest"),
        (["python3.11", WORKER.replace("ingest", "re-drive")], "telemetry-re-drive"),
        (["python3", "-m", "emulator.mappings", "--endpoint", "http://127.0.0.1:1"], ENGINE),
        (["python3", "-m", "pytest"], None),
        ([], None),
    ],
)
def test_a_process_is_named_by_its_command_line(command: list[str], role: str | None) -> None:
    assert role_of(command) == role


def test_a_seed_decides_between_the_engine_and_the_workers() -> None:
    candidates = running(EMBEDDED_AWS, ENGINE, "ingest", "aggregate", "alert")

    def course(seed: int) -> list[str]:
        chance = random.Random(seed)
        return [choose(candidates, chance)[0].role for _ in range(20)]

    assert course(1) == course(1) != course(2)


def test_the_engine_or_the_workers_are_killed_and_the_embedded_aws_never() -> None:
    candidates = running(EMBEDDED_AWS, ENGINE, "ingest", "aggregate", "aggregate")
    chance = random.Random(1)
    chosen = Counter(tuple(each.role for each in choose(candidates, chance)) for _ in range(1000))
    assert chosen.keys() == {(ENGINE,), ("ingest", "aggregate", "aggregate")}
    assert 400 < chosen[ENGINE,] < 600


def test_nothing_is_chosen_if_only_the_embedded_aws_runs() -> None:
    assert choose(running(EMBEDDED_AWS), random.Random(1)) == []


def test_an_ended_process_uses_no_cpu() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    process = psutil.Process(gone.pid)
    gone.wait()
    assert cpu_seconds(process) == 0
    assert cpu_seconds(SELF) > 0


def test_a_run_without_kills_reports_that_it_shows_nothing() -> None:
    assert Casualties({}, 0).problems() == ["chaos: nothing was killed, so the run shows nothing"]
    assert Casualties({"ingest": 1}, 0).problems() == []


def test_casualties_are_counted_by_role() -> None:
    told = Casualties({"ingest": 2, ENGINE: 3}, 1).summary()
    assert told == (
        "killed 5 times (ingest 2, mapping engine 3); 1 invocations ended with their worker"
    )
