"""What all that takes part in a course shares: its time, its chance, its faults, its history."""

import asyncio
import contextvars
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.simulation.history import History
from tests.simulation.options import Options

owner: contextvars.ContextVar[str] = contextvars.ContextVar("owner", default="world")
"""Whose a task is: what kills the mapping engine leaves running functions alone."""


class Conditions:
    """Which faults strike when, by seed and options; and what has happened."""

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
        self.poison_instants: set[int] = set()
        """The instants of readings that kill functions."""
        self.poison: set[str] = set()
        """The records that have such a reading: their bytes, as events have them."""
        self._outages: dict[tuple[str, str], int] = {}

    def happens(self, fault: str, chance: random.Random | None = None) -> bool:
        """Whether a fault strikes now, by its rate; what strikes is counted."""
        rate = getattr(self.options, fault)
        if not self.is_faulty or not rate or (chance or self.chance).random() >= rate:
            return False
        self.hits[fault] += 1
        return True

    def drawn_skew_ms(self) -> int:
        """How far a clock of AWS is wrong."""
        most = self.options.clock_skew_seconds
        return int(self.chance.uniform(-most, most) * 1000) if most else 0

    def take_away(self, service: str, region: str, seconds: float) -> None:
        """Let a service of a region be away for a while."""
        self._outages[service, region] = self.now_ms() + int(seconds * 1000)

    def is_out(self, service: str, region: str) -> bool:
        """Whether a service of a region is away."""
        return self._outages.get((service, region), 0) > self.now_ms()

    def calm(self) -> None:
        """From now on no fault strikes, and every service is there."""
        self.is_faulty = False
        self._outages.clear()

    def mark_poison(self, data: bytes) -> None:
        """Note a record of the stream if it has a reading that kills functions."""
        if any(b'"recorded_at":%d,' % at_ms in data for at_ms in self.poison_instants):
            self.poison.add(b64encode(data).decode())
