"""The shared state of a course: its time, its chance, its faults, its history."""

import asyncio
import contextvars
import json
import random
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation import judge
from tests.simulation.history import History
from tests.simulation.options import Options

owner: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="world")
"""The owner of a task: a kill of the mapping engine doesn't stop running functions."""


class Conditions:
    """Decides by seed and options which faults strike when, and records events."""

    def __init__(self, now_ms: Callable[[], int], seed: int, options: Options) -> None:
        self.now_ms = now_ms
        self.seed = seed
        self.options = options
        self.is_faulty = True
        self.is_mended = False
        self.hits: Counter[str] = Counter()
        """How often each fault has struck."""
        self.chance = random.Random(f"{seed}/faults")
        self.engine_chance = random.Random(f"{seed}/engine")
        self.history = History(now_ms)
        self.tasks: dict[str, dict[asyncio.Task[Any], None]] = {}
        """What goes on, by owner."""
        self.broken = ""
        """The first error of the course's own work in the background, if there was any."""
        self.poison_instants: set[int] = set()
        """The instants of readings that kill functions."""
        self._killing: dict[str, bool] = {}
        self._outages: dict[tuple[str, str], int] = {}

    def happens(self, fault: str, chance: random.Random | None = None) -> bool:
        """Return whether a fault strikes now, by its rate; count the strikes."""
        rate = getattr(self.options, fault)
        if not self.is_faulty or not rate or (chance or self.chance).random() >= rate:
            return False
        self.hits[fault] += 1
        return True

    def begin(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Begin the world's own work that nothing waits for; its error breaks the course.

        Otherwise a fault whose code crashes would strike no more, and every invariant would hold.
        """
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_error)
        return task

    def _note_error(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken = self.broken or f"{task.get_coro()!r}: {error!r}"

    def drawn_skew_ms(self) -> int:
        """Return the error of a clock of AWS, in ms."""
        most = self.options.clock_skew_seconds
        return int(self.chance.uniform(-most, most) * 1000) if most else 0

    def take_away(self, service: str, region: str, seconds: float) -> None:
        """Make a service of a region unavailable for a while."""
        self._outages[service, region] = self.now_ms() + int(seconds * 1000)

    def is_out(self, service: str, region: str) -> bool:
        """Return whether a service of a region is unavailable."""
        return self._outages.get((service, region), 0) > self.now_ms()

    def calm(self) -> None:
        """End all faults and outages."""
        self.is_faulty = False
        self._outages.clear()

    def is_killing(self, data: str) -> bool:
        """Return whether a record of the stream, as events have it, kills functions.

        It does if one of its readings does, alone or in a pack.
        """
        if data not in self._killing:
            self._killing[data] = any(
                instant_of(single) in self.poison_instants
                for single in judge.apart(b64decode(data))
            )
        return self._killing[data]


def instant_of(single: bytes) -> Any:
    """Return the time in a single record; None if it has none."""
    try:
        document = json.loads(single)
    except ValueError:
        return None
    return document.get("recorded_at") if isinstance(document, dict) else None
