"""What happened, in order: printed where a seed is replayed, compared to show it is the same."""

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
        """Note what happened, and where."""
        self._notes.append((self._now_ms(), where, what))

    def lines(self) -> list[str]:
        """All of it as text: seconds, where, what."""
        return [
            f"{(at_ms - self._start_ms) / 1000:9.3f}  {where:<22} {' '.join(map(str, what))}"
            for at_ms, where, what in self._notes
        ]

    def digest(self) -> str:
        """The same for the same course."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._notes)
