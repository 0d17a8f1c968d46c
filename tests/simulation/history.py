"""The events of a course, in order: printed for a replay, compared to show that it is the same."""

import hashlib
from collections.abc import Callable
from typing import Any


class History:
    """Notes with their virtual time."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._start_ms = now_ms()
        self._notes: list[tuple[int, str, tuple[Any, ...]]] = []

    def note(self, where: str, *what: Any) -> None:
        """Record an event and its place."""
        self._notes.append((self._now_ms(), where, what))

    def lines(self) -> list[str]:
        """Return all notes as text: seconds, place, event."""
        return [
            f"{(at_ms - self._start_ms) / 1000:9.3f}  {where:<22} {' '.join(map(str, what))}"
            for at_ms, where, what in self._notes
        ]

    def digest(self) -> str:
        """Return a digest; equal courses have equal digests."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._notes)
