"""How long to wait and how much to send next, after an answer: for whoever sends."""

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
    """After an answer that only a person can change, such as 401."""
    refused_most_s: float = 900.0


class Pace:
    """Full jitter: each pause is drawn from 0 to a bound that doubles, so a fleet spreads out."""

    def __init__(self, batch_max: int, options: PaceOptions, chance: random.Random) -> None:
        """Begin with whole batches and no pause."""
        self._batch_max = batch_max
        self._options = options
        self._chance = chance
        self._failures = 0
        self._refusals = 0
        self.limit = batch_max
        """How many readings the next request may have."""

    def after(self, verdict: Verdict, sent: int) -> float:
        """The seconds to wait before the next request, after `sent` readings had this verdict."""
        if verdict.remedy is Remedy.SMALLER:
            self.limit = max(1, sent // 2)
            return 0.0
        if verdict.taken or verdict.rejected:
            self._failures = self._refusals = 0
            self.limit = min(self._batch_max, self.limit * 2)
        if verdict.remedy is Remedy.PERSON:
            # half of it at least: nobody corrects a token within a second
            options = self._options
            bound = doubled(options.refused_first_s, options.refused_most_s, self._refusals)
            self._refusals += 1
            return max(verdict.retry_after_s, bound * self._chance.uniform(0.5, 1.0))
        if verdict.remedy is Remedy.LESS:
            # whole batches may be more than a slow link brings over before the time is up
            self.limit = max(1, sent // 2)
        if verdict.remedy in {Remedy.LATER, Remedy.LESS}:
            bound = doubled(self._options.first_s, self._options.most_s, self._failures)
            self._failures += 1
            # what an answer asks for is the least: the jitter comes on top of it
            return verdict.retry_after_s + self._chance.uniform(0.0, bound)
        return 0.0


def doubled(first_s: float, most_s: float, times: int) -> float:
    """`first_s` doubled so many times, at most `most_s`."""
    return min(most_s, first_s * 2.0 ** min(times, EXPONENT_MAX))
