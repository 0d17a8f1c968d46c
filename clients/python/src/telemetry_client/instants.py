"""The instants that a device's readings have used: no two readings may have the same one.

While the clock runs forward, only the newest instant matters. After it has jumped back, the earlier
instants matter, too. Those of recent readings are known one by one. Of older ones only the spans
that contain them are known, and a clock that shows a time in such a span isn't believed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

GAP_MS = 86_400_000
STEP_MS = 1000  # a clock that jumps back by more than this was set back, not adjusted


class Span(NamedTuple):
    """The time from a first to a last instant, both included."""

    first_ms: int
    last_ms: int


def runs(instants: Iterable[int]) -> Iterator[list[int]]:
    """Yield the sorted instants in runs; gaps of a day or more separate the runs."""
    run: list[int] = []
    for instant in sorted(instants):
        if run and instant - run[-1] >= GAP_MS:
            yield run
            run = []
        run.append(instant)
    if run:
        yield run


def joined(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order; those less than a day apart are joined."""
    result: list[Span] = []
    for span in sorted(spans):
        if result and span.first_ms - result[-1].last_ms < GAP_MS:
            result[-1] = Span(result[-1].first_ms, max(result[-1].last_ms, span.last_ms))
        else:
            result.append(span)
    return result


class Instants:
    """Gives each reading an instant of its own: the clock's, or the next free one."""

    def __init__(
        self, last_ms: int, newest_ms: int, spans: list[Span], load: Callable[[int], set[int]]
    ) -> None:
        """Take the last given instant, the newest one, and the spans of old ones.

        `load` returns the used instants from a given one on, except those in `spans`.
        """
        self._clock_ms = self._last_ms = last_ms
        self._newest_ms = newest_ms
        self._spans = spans
        self._load = load
        self._used: set[int] = set()
        self._used_from_ms = newest_ms + 1

    @property
    def newest_ms(self) -> int:
        """The latest used instant."""
        return self._newest_ms

    def is_believed(self, now_ms: int) -> bool:
        """Return whether all used instants around the clock's time are known one by one."""
        return not any(span.first_ms <= now_ms <= span.last_ms for span in self._spans)

    def give(self, now_ms: int) -> int:
        """Return an instant for a reading that is recorded now."""
        is_set_back = now_ms < self._clock_ms - STEP_MS
        self._clock_ms = now_ms
        self._last_ms = self.give_at(now_ms if is_set_back else max(now_ms, self._last_ms + 1))
        return self._last_ms

    def give_at(self, at_ms: int) -> int:
        """Return an instant for a reading that was recorded at `at_ms`."""
        if at_ms <= self._newest_ms:
            if at_ms < self._used_from_ms:
                self._used = self._load(at_ms)
                self._used_from_ms = at_ms
            while at_ms in self._used:
                at_ms += 1
        self.note(at_ms)
        return at_ms

    def note(self, at_ms: int) -> None:
        """Record that an instant is used."""
        if at_ms > self._newest_ms:
            self._newest_ms, self._used, self._used_from_ms = at_ms, set(), at_ms + 1
        elif at_ms >= self._used_from_ms:
            self._used.add(at_ms)
