"""Limits the rate of long work, and its time within one invocation."""

import time
from collections.abc import Callable

BUDGET_SECONDS = 30.0  # far below any function's timeout, with all retries of the last page


class Pace:
    """Spreads work over time, and says when an invocation has done its share."""

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
        """Start counting an invocation's time."""
        self._started = self._due = self._clock()

    def spend(self, amount: int, per_second: float) -> None:
        """Count work as done, and wait as long as the rate asks for."""
        self._due += amount / per_second
        wait_seconds = self._due - self._clock()
        if wait_seconds > 0:
            self.sleep(wait_seconds)

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up, so that another invocation must do the rest."""
        return self._clock() - self._started >= self._budget_seconds
