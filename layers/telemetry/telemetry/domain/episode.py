"""Alert episodes: a join of the breaches between two clears.

The join takes the earliest breach, the latest and the peak, so an episode is the same however
often and in whatever order its breaches arrive, and it opens once. It is cleared at the first
reading after its last breach that is below the rule's clear threshold; what arrives later of the
time before that still joins it, and never opens another.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

SETTLE_MS = 60_000  # what came out of order has this long to arrive before a recovery counts
# An episode whose rule isn't shipped ends so long after its last breach: while a deployment
# replaces one function after another, an older `sweep` doesn't know the rules of a newer `alert`.
RULE_GONE_MS = 10 * 60_000
Change = Literal["", "opened", "extended", "cleared"]
RECOVERY, RULE_REMOVED = "recovery", "rule removed"  # why an episode ended


class Breach(NamedTuple):
    """One reading that violates a rule: when (epoch ms), by which value, on which trace."""

    at_ms: int
    value: float
    trace_id: str | None = None


class EpisodeKey(NamedTuple):
    """Whose episode, and of which rule; the writing region is the store's part of the key."""

    device_id: str
    rule: str


class Episode(NamedTuple):
    """The present, or latest, episode of a device and rule in one region.

    `number` counts from 1. `since_ms` is when the one before was cleared: breaches up to then are
    its history. `cleared_ms` is None as long as this one is open.
    """

    number: int
    first_breach_ms: int
    last_breach_ms: int
    peak: float
    trace_id: str | None  # of the first breach
    since_ms: int | None = None
    cleared_ms: int | None = None
    ended_by: str | None = None  # RULE_REMOVED, or None: it is open, or ended by a recovery

    @property
    def is_open(self) -> bool:
        return self.cleared_ms is None

    @property
    def reason(self) -> str | None:
        """Why it ended; None while it is open."""
        return None if self.is_open else self.ended_by or RECOVERY


class Changed(NamedTuple):
    """What a change made of an episode; `state is` the one before where `change` is empty."""

    state: Episode | None
    change: Change


def join(episode: Episode | None, breaches: Iterable[Breach]) -> Changed:
    """The episode with these breaches in it; those of the time before it are left out."""
    before = episode
    for breach in breaches:
        if episode is None:
            episode = _start(1, breach, None)
        elif episode.since_ms is not None and breach.at_ms <= episode.since_ms:
            continue
        elif episode.cleared_ms is not None and breach.at_ms > episode.cleared_ms:
            episode = _start(episode.number + 1, breach, episode.cleared_ms)
        else:
            episode = _extend(episode, breach)
    if episode is None or episode == before:
        return Changed(before, "")
    is_new = before is None or episode.number > before.number
    return Changed(episode, "opened" if is_new else "extended")


def recovery(
    values: Iterable[tuple[int, float]], clears_below: float, last_breach_ms: int, now_ms: int
) -> int | None:
    """When a metric was first below `clears_below` after a breach; None: not long enough ago.

    `values` are (event time in ms, value) in any order. A breach among them that is later than
    the recovery, and hasn't joined yet, is going to open the next episode.
    """
    until_ms = now_ms - SETTLE_MS
    below = (at_ms for at_ms, value in values if value < clears_below)
    return min((at_ms for at_ms in below if last_breach_ms < at_ms <= until_ms), default=None)


def clear(episode: Episode | None, at_ms: int, ended_by: str | None = None) -> Changed:
    """The episode cleared at `at_ms`, unless it is cleared already, or has a later breach."""
    if episode is None or not episode.is_open or at_ms <= episode.last_breach_ms:
        return Changed(episode, "")
    return Changed(episode._replace(cleared_ms=at_ms, ended_by=ended_by), "cleared")


def is_rule_gone(episode: Episode, now_ms: int) -> bool:
    """Whether an open episode of a rule that isn't shipped ends: its last breach is long ago."""
    return now_ms - episode.last_breach_ms > RULE_GONE_MS


def _start(number: int, breach: Breach, since_ms: int | None) -> Episode:
    return Episode(number, breach.at_ms, breach.at_ms, breach.value, breach.trace_id, since_ms)


def _extend(episode: Episode, breach: Breach) -> Episode:
    # equal instants: the smaller trace id, so that the order can't matter here either
    first_ms, trace_id = min(
        (episode.first_breach_ms, episode.trace_id or ""), (breach.at_ms, breach.trace_id or "")
    )
    return episode._replace(
        first_breach_ms=first_ms,
        last_breach_ms=max(episode.last_breach_ms, breach.at_ms),
        peak=max(episode.peak, breach.value),
        trace_id=trace_id or None,
    )
