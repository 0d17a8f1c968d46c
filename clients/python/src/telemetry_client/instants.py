"""Which instants a device has used: no two of its readings may have the same one.

While the clock runs forward, the newest instant is all there is to know. Once it has jumped back,
the instants behind the newest one matter too. Those of recent readings are known one by one; of
older ones only the spans that they lie in are kept, and a clock that reads a time inside such a
span is not believed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

GAP_MS = 86_400_000
STEP_MS = 1000  # a clock this much behind itself has been set back, not adjusted


class Span(NamedTuple):
    """From the first to the last instant, both included."""

    first_ms: int
    last_ms: int


def runs(instants: Iterable[int]) -> Iterator[list[int]]:
    """The instants in order, apart wherever a day or more lies between two of them."""
    run: list[int] = []
    for instant in sorted(instants):
        if run and instant - run[-1] >= GAP_MS:
            yield run
            run = []
        run.append(instant)
    if run:
        yield run


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those less than a day apart as one."""
    result: list[Span] = []
    for span in sorted(spans):
        if result and span.first_ms - result[-1].last_ms < GAP_MS:
            result[-1] = Span(result[-1].first_ms, max(result[-1].last_ms, span.last_ms))
        else:
            result.append(span)
    return result


class Instants:
    """Gives each reading an instant of its own: the clock's, or the next that is free."""

    def __init__(
        self, last_ms: int, newest_ms: int, spans: list[Span], load: Callable[[int], set[int]]
    ) -> None:
        """`last_ms` was given last; `load` tells which are used from one on, outside of `spans`."""
        self._clock_ms = self._last_ms = last_ms
        self._newest_ms = newest_ms
        self._spans = spans
        self._load = load
        self._used: set[int] = set()
        self._used_from_ms = newest_ms + 1

    @property
    def newest_ms(self) -> int:
        """The latest of all instants that are used."""
        return self._newest_ms

    def is_believed(self, now_ms: int) -> bool:
        """Whether the clock reads a time of which all that was used is known."""
        return not any(span.first_ms <= now_ms <= span.last_ms for span in self._spans)

    def give(self, now_ms: int) -> int:
        """An instant for a reading that is recorded now."""
        is_set_back = now_ms < self._clock_ms - STEP_MS
        self._clock_ms = now_ms
        self._last_ms = self.give_at(now_ms if is_set_back else max(now_ms, self._last_ms + 1))
        return self._last_ms

    def give_at(self, at_ms: int) -> int:
        """An instant for a reading that was recorded then."""
        if at_ms <= self._newest_ms:
            if at_ms < self._used_from_ms:
                self._used = self._load(at_ms)
                self._used_from_ms = at_ms
            while at_ms in self._used:
                at_ms += 1
        self.note(at_ms)
        return at_ms

    def note(self, at_ms: int) -> None:
        """Remember that an instant is used."""
        if at_ms > self._newest_ms:
            self._newest_ms, self._used, self._used_from_ms = at_ms, set(), at_ms + 1
        elif at_ms >= self._used_from_ms:
            self._used.add(at_ms)
