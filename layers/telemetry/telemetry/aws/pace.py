"""How fast, and how long, long work goes on in one invocation."""

import time
from collections.abc import Callable

BUDGET_SECONDS = 30.0  # far below any function's timeout, with all retries of the last page


class Pace:
    """Spreads work over time, and tells when an invocation has done its share."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._clock = clock
        self.sleep = sleep
        self._budget_seconds = budget_seconds
        self._started = clock()
        self._due = self._started

    def begin(self) -> None:
        """From now on an invocation's time counts."""
        self._started = self._due = self._clock()

    def spend(self, amount: int, per_second: float) -> None:
        """Wait until so much more may have been done since the beginning."""
        self._due += amount / per_second
        wait_seconds = self._due - self._clock()
        if wait_seconds > 0:
            self.sleep(wait_seconds)

    @property
    def is_over(self) -> bool:
        """Whether the rest is for another invocation."""
        return self._clock() - self._started >= self._budget_seconds
