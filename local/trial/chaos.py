"""Processes killed at random while devices post: `run --chaos`.

Every few seconds SIGKILL ends either a function's worker, as when Lambda loses an execution
environment, or the engine of the event source mappings. Neither can clean up or log anything. The
seed decides the time and which of the two. Of the workers, the first one at work is killed.
"""

import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import psutil

from emulator.processes import ENGINE, Running, processes_of
from local.deployment import client
from local.instance import Instance

PAUSE_SECONDS = (1.0, 4.0)
AT_WORK_SECONDS_MAX = 1.0
LOOK_SECONDS = 0.005
ENDED_AT_WORK = '"Worker process died"'
"""The emulator's log line for an invocation whose worker is gone."""
GRACE_SECONDS = 90.0
"""Time for devices to send again the readings that were under way at a kill."""
PATIENCE_SECONDS = 200.0
"""A message whose consumer died comes back after its queue's visibility timeout, 180 s."""


@dataclass(frozen=True)
class Casualties:
    """The number of killed processes, and of the invocations that ended with them."""

    kills: dict[str, int]
    """Kills by role: the engine, or a function's name for its workers."""
    ended_at_work: int
    """Invocations that ended with their worker."""

    def problems(self) -> list[str]:
        """Return the problems of the run: it shows nothing if nothing was killed."""
        return [] if self.kills else ["chaos: nothing was killed, so the run shows nothing"]

    def summary(self) -> str:
        """Return the kills as a line of text."""
        each = ", ".join(f"{role} {count}" for role, count in sorted(self.kills.items()))
        return (
            f"killed {sum(self.kills.values())} times ({each}); {self.ended_at_work} invocations "
            "ended with their worker"
        )


class Chaos:
    """Context manager that kills processes of an instance during its block."""

    def __init__(self, instance: Instance, seed: int) -> None:
        """Take a deployed instance."""
        self._instance = instance
        self._chance = random.Random(f"{seed}/chaos")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kill_until_stopped, daemon=True)
        self._since_ms = 0
        self._kills: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Begin to kill."""
        self._since_ms = time.time_ns() // 1_000_000
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop killing."""
        self._stop.set()
        self._thread.join()

    def _kill_until_stopped(self) -> None:
        while not self._stop.wait(self._chance.uniform(*PAUSE_SECONDS)):
            candidates = choose(processes_of(self._instance), self._chance)
            if candidates:
                self._strike(self._at_work(candidates) or self._chance.choice(candidates))

    def _at_work(self, candidates: list[Running]) -> Running | None:
        """Return the first candidate that uses the processor; None if none does within a second."""
        shuffled = self._chance.sample(candidates, len(candidates))
        before = {each: cpu_seconds(each.process) for each in shuffled}
        deadline = time.monotonic() + AT_WORK_SECONDS_MAX
        while time.monotonic() < deadline and not self._stop.wait(LOOK_SECONDS):
            for each, used in before.items():
                if cpu_seconds(each.process) > used:
                    return each
        return None

    def _strike(self, victim: Running) -> None:
        """Kill a process if it still runs."""
        if not self._stop.is_set():
            with suppress(psutil.NoSuchProcess):
                victim.process.kill()
                self._kills[victim.role] += 1

    def casualties(self) -> Casualties:
        """Return the kills, and from the functions' logs the invocations that ended by them."""
        state = self._instance.load()
        pages = client(state, "logs").get_paginator("filter_log_events")
        ended = sum(
            len(page["events"])
            for role in self._kills.keys() - {ENGINE}
            for page in pages.paginate(
                logGroupName=f"/aws/lambda/{role}",
                startTime=self._since_ms,
                filterPattern=ENDED_AT_WORK,
            )
        )
        kills = {role.removeprefix(f"{state.stack}-"): n for role, n in self._kills.items()}
        return Casualties(kills, ended)


def choose(running: list[Running], chance: random.Random) -> list[Running]:
    """Choose between the engine and the workers; return all processes of the chosen kind."""
    engines = [each for each in running if each.role == ENGINE]
    workers = [each for each in running if each.is_worker]
    kinds = [kind for kind in (engines, workers) if kind]
    return chance.choice(kinds) if kinds else []


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has used, in s; 0 if it is gone."""
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
