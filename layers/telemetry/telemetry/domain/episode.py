"""Alert episodes: a join of the breaches since the last clear.

The join takes the earliest breach, the latest and the peak, so an episode is the same however
often and in whatever order its breaches arrive, and it opens once.
"""

from collections.abc import Iterable
from typing import NamedTuple


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

    `number` counts from 1. It is open unless it was cleared at or after its first breach;
    `cleared_ms` of an earlier episode stays, and breaches up to it are history.
    """

    number: int
    first_breach_ms: int
    last_breach_ms: int
    peak: float
    trace_id: str | None  # of the first breach
    cleared_ms: int | None = None

    @property
    def is_open(self) -> bool:
        return self.cleared_ms is None or self.cleared_ms < self.first_breach_ms


class Joined(NamedTuple):
    """`state is` the episode joined to where nothing changed; `opened`: a new one started."""

    state: Episode | None
    opened: bool


def join(episode: Episode | None, breaches: Iterable[Breach]) -> Joined:
    """The episode with these breaches in it; those not newer than the last clear are left out."""
    before = episode
    for breach in breaches:
        if episode is None:
            episode = _start(1, breach, None)
        elif episode.cleared_ms is not None and breach.at_ms <= episode.cleared_ms:
            continue
        elif not episode.is_open:
            episode = _start(episode.number + 1, breach, episode.cleared_ms)
        else:
            episode = _extend(episode, breach)
    if episode == before:
        return Joined(before, opened=False)
    opened = episode is not None and (before is None or episode.number > before.number)
    return Joined(episode, opened)


def _start(number: int, breach: Breach, cleared_ms: int | None) -> Episode:
    return Episode(number, breach.at_ms, breach.at_ms, breach.value, breach.trace_id, cleared_ms)


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
