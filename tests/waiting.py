"""How long a test waits for a result, on a machine of any speed.

A timeout in seconds means nothing on a machine that is busy with other work. So the given time is
an idle machine's. When it is over, the test measures how much of a processor a process gets, and
the wait is extended by that factor. A result that is missing even then, on a machine that is so
slow, is no failure of the pipeline: the test can't tell.
"""

import time
from collections.abc import Callable

LOOK_SECONDS = 0.005
BURN_SECONDS = 0.05
SLOW = 2.0
"""The slowness from which a missing result means nothing: a process gets under half a processor."""
SLOWNESS_MAX = 20.0
TOO_SLOW = 75
"""pytest's exit code if all failures are waits given up on a slow machine (EX_TEMPFAIL)."""


class TooSlow(Exception):
    """A result didn't come, on a machine that is too slow to say that it won't."""


def slowness() -> float:
    """Return how many times slower the processor is than on an idle machine; 1 if it is idle."""
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < BURN_SECONDS:
        pass
    return max(1.0, (time.monotonic() - began) / BURN_SECONDS)


def eventually(is_so: Callable[[], object], seconds: float = 10.0) -> bool:
    """Wait until something is so, with patience of `seconds`; return whether it is.

    Raise TooSlow if the machine is too slow to tell.
    """
    patience = Patience(seconds)
    while not is_so():
        if patience.is_over():
            return bool(is_so())
        time.sleep(LOOK_SECONDS)
    return True


class Patience:
    """A wait of some seconds on an idle machine, and proportionally more on a slow one."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = time.monotonic()
        self._until = self._began + seconds
        self._slowest = 1.0

    def is_over(self) -> bool:
        """Return whether the wait is over; raise TooSlow if the machine is too slow to tell."""
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
        """Start the wait anew, because there was progress."""
        self._began = time.monotonic()
        self._until = self._began + self._seconds
