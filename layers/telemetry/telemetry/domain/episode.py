"""Alert episodes: each joins the breaches of a device and rule between two clears.

An episode has the earliest breach, the latest breach and the peak. So it opens once, and is the
same in whatever order and however often its breaches arrive. It is cleared at the first reading
after its last breach that is below the rule's clear threshold. A breach from before the clear that
arrives later still joins it, and never opens another episode.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

SETTLE_MS = 60_000  # a recovery counts only after this time, in which late readings may arrive
# An episode whose rule isn't shipped ends this long after its last breach. It isn't ended at once,
# because a deployment replaces functions one by one: an older `sweep` may not know a new rule yet.
RULE_GONE_MS = 10 * 60_000
Change = Literal["", "opened", "extended", "cleared"]
RECOVERY, RULE_REMOVED = "recovery", "rule removed"  # why an episode ended


class Breach(NamedTuple):
    """One reading that violates a rule: its event time (epoch ms), value and X-Ray trace."""

    at_ms: int
    value: float
    trace_id: str | None = None


class EpisodeKey(NamedTuple):
    """The device and rule of an episode; the store adds the writing region to the key."""

    device_id: str
    rule: str


class Episode(NamedTuple):
    """The latest episode of a device and rule in one region, open or cleared.

    `number` counts from 1. `since_ms` is when the previous episode was cleared: earlier breaches
    belong to history. `cleared_ms` is None while this one is open.
    """

    number: int
    first_breach_ms: int
    last_breach_ms: int
    peak: float
    trace_id: str | None  # of the first breach
    since_ms: int | None = None
    cleared_ms: int | None = None
    ended_by: str | None = None  # RULE_REMOVED, or None: it is open, or a recovery ended it

    @property
    def is_open(self) -> bool:
        return self.cleared_ms is None

    @property
    def reason(self) -> str | None:
        """The reason why it ended; None while it is open."""
        return None if self.is_open else self.ended_by or RECOVERY


class Changed(NamedTuple):
    """The result of a change; `state` is the very episode given where `change` is empty."""

    state: Episode | None
    change: Change


def join(episode: Episode | None, breaches: Iterable[Breach]) -> Changed:
    """Join breaches into the episode or open the next one; leave out breaches up to `since_ms`."""
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
    """Return when a metric recovered, epoch ms; None if it didn't, or less than SETTLE_MS ago.

    That is the first value below `clears_below` after the last breach. `values` are (event time in
    ms, value) in any order. A breach among them after the recovery, which `alert` hasn't joined
    yet, will open the next episode.
    """
    until_ms = now_ms - SETTLE_MS
    below = (at_ms for at_ms, value in values if value < clears_below)
    return min((at_ms for at_ms in below if last_breach_ms < at_ms <= until_ms), default=None)


def clear(episode: Episode | None, at_ms: int, ended_by: str | None = None) -> Changed:
    """Clear the episode at `at_ms`, unless it is cleared already or has a later breach."""
    if episode is None or not episode.is_open or at_ms <= episode.last_breach_ms:
        return Changed(episode, "")
    return Changed(episode._replace(cleared_ms=at_ms, ended_by=ended_by), "cleared")


def is_rule_gone(episode: Episode, now_ms: int) -> bool:
    """Return whether the last breach of an episode without a shipped rule is RULE_GONE_MS ago."""
    return now_ms - episode.last_breach_ms > RULE_GONE_MS


def _start(number: int, breach: Breach, since_ms: int | None) -> Episode:
    return Episode(number, breach.at_ms, breach.at_ms, breach.value, breach.trace_id, since_ms)


def _extend(episode: Episode, breach: Breach) -> Episode:
    # of equal instants, the smaller trace id stays, so the order doesn't matter here either
    first_ms, trace_id = min(
        (episode.first_breach_ms, episode.trace_id or ""), (breach.at_ms, breach.trace_id or "")
    )
    return episode._replace(
        first_breach_ms=first_ms,
        last_breach_ms=max(episode.last_breach_ms, breach.at_ms),
        peak=max(episode.peak, breach.value),
        trace_id=trace_id or None,
    )
