"""Decides how long to wait and how much to send after a verdict."""

import random
from dataclasses import dataclass

from telemetry_client.answers import Remedy, Verdict

EXPONENT_MAX = 30


@dataclass(frozen=True)
class PaceOptions:
    """The pauses between attempts, in seconds."""

    first_s: float = 1.0
    most_s: float = 300.0
    refused_first_s: float = 60.0
    """First pause after an answer that only a person can change, such as 401."""
    refused_most_s: float = 900.0


class Pace:
    """Pauses with full jitter: each is drawn from 0 to a doubling bound, so a fleet spreads out."""

    def __init__(self, batch_max: int, options: PaceOptions, chance: random.Random) -> None:
        """Begin with full batches and no pause."""
        self._batch_max = batch_max
        self._options = options
        self._chance = chance
        self._failures = 0
        self._refusals = 0
        self.limit = batch_max
        """Maximum of readings in the next request."""

    def after(self, verdict: Verdict, sent: int) -> float:
        """Return the seconds to wait before the next request, by the verdict on `sent` readings."""
        if verdict.remedy is Remedy.SMALLER:
            self.limit = max(1, sent // 2)
            return 0.0
        if verdict.taken or verdict.rejected:
            self._failures = self._refusals = 0
            self.limit = min(self._batch_max, self.limit * 2)
        if verdict.remedy is Remedy.PERSON:
            # at least half the bound: a person doesn't correct a token within a second
            options = self._options
            bound = doubled(options.refused_first_s, options.refused_most_s, self._refusals)
            self._refusals += 1
            return max(verdict.retry_after_s, bound * self._chance.uniform(0.5, 1.0))
        if verdict.remedy is Remedy.LESS:
            # a slow link may not carry a full batch before the timeout
            self.limit = max(1, sent // 2)
        if verdict.remedy in {Remedy.LATER, Remedy.LESS}:
            bound = doubled(self._options.first_s, self._options.most_s, self._failures)
            self._failures += 1
            # Retry-After is a minimum, so the jitter is added to it
            return verdict.retry_after_s + self._chance.uniform(0.0, bound)
        return 0.0


def doubled(first_s: float, most_s: float, times: int) -> float:
    """Return `first_s`, doubled `times` times, at most `most_s`."""
    return min(most_s, first_s * 2.0 ** min(times, EXPONENT_MAX))
