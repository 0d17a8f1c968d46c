"""How long a test waits for what must come: until it comes, on a machine of any speed.

A time on the clock says nothing on a machine that is busy with something else. So the time that is
given is an idle machine's; when it is over, it is measured how much of a processor a process gets,
and the wait goes on for as many times longer. What doesn't come by then, on a machine that is so
slow, is no failure of the pipeline: nobody can tell.
"""

import time

BURN_SECONDS = 0.05
SLOW = 2.0
"""A process that gets less than half a processor: nothing is told by the time that things take."""
SLOWNESS_MAX = 20.0
TOO_SLOW = 75
"""pytest's exit code where all that failed was given up on a slow machine (EX_TEMPFAIL)."""


class TooSlow(Exception):
    """What was waited for didn't come, on a machine that is too slow to say that it won't."""


def slowness() -> float:
    """How many times longer the processor takes than on an idle machine: 1 where it is idle."""
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < BURN_SECONDS:
        pass
    return max(1.0, (time.monotonic() - began) / BURN_SECONDS)


class Patience:
    """A wait of so many seconds on an idle machine, and of as many times more on a slow one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._slowest = 1.0

    def is_over(self) -> bool:
        """Whether it has taken too long; raise TooSlow where the machine is so slow."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._slowest = max(self._slowest, min(slowness(), SLOWNESS_MAX))
        self._until = self._began + self._seconds * self._slowest
        if now < self._until:
            return False
        if self._slowest > SLOW:
            waited = now - self._began
            raise TooSlow(
                f"it didn't come in {waited:.0f} s, on a machine {self._slowest:.1f} times slower "
                "than an idle one"
            )
        return True

    def progressed(self) -> None:
        """Begin anew: something has moved."""
        self._began = time.monotonic()
        self._until = self._began + self._seconds
