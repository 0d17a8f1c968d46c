"""Loss accounting: the counts of each stage, and how they must balance.

A reading is accepted by `ingest`, or reaches the stream without it (foreign). Then it is stored,
found to be a duplicate, or quarantined. All five are counted in the minute in which the reading was
received, so a minute balances once all of its readings are processed, however late. Readings that a
minute still lacks are on their way, or lost. A repeated delivery whose first answer was lost is
counted twice. This enlarges the right side, so it raises no false alarm, but it can hide as many
losses of its minute.

Metrics aren't part of the balance: a reading with one refused metric is stored with its others. A
reading whose every value stands for no measurement brings nothing new and counts as a duplicate.
"""

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple


class Metric(NamedTuple):
    """A CloudWatch metric, and the function that counts it."""

    stage: str
    name: str


ACCEPTED = Metric("ingest", "ReadingsAccepted")
FOREIGN = Metric("aggregate", "ReadingsForeign")
STORED = Metric("aggregate", "ReadingsStored")
DUPLICATE = Metric("aggregate", "ReadingsDuplicate")
QUARANTINED = Metric("aggregate", "ReadingsQuarantined")

# given up by aggregate's mapping, and quarantined by the redrive because no retry can succeed
GIVEN_UP = Metric("redrive", "ReadingsQuarantined")

REFUSED = Metric("aggregate", "MetricsRefused")  # of readings whose other metrics are stored
LEFT_OUT = Metric("aggregate", "MetricsLeftOut")  # values that stand for no measurement
CONFLICTING = Metric("aggregate", "ReadingsConflicting")  # values that differ from the stored one

ARRIVED = (ACCEPTED, FOREIGN)
SETTLED = (STORED, DUPLICATE, QUARANTINED)
ENDED = (*SETTLED, GIVEN_UP)
BALANCE = (*ARRIVED, *ENDED)

# The counts that operators see, by stage. Those outside the balance are of the minute of the work.
SHOWN: dict[str, dict[str, Metric]] = {
    "ingest": {
        "accepted": ACCEPTED,
        "rejected": Metric("ingest", "ReadingsRejected"),
        "overflowed": Metric("ingest", "ReadingsOverflowed"),
        "metrics_refused": Metric("ingest", REFUSED.name),
        "metrics_left_out": Metric("ingest", LEFT_OUT.name),
    },
    "drain": {
        "drained": Metric("drain", "ReadingsDrained"),
        "metrics_refused": Metric("drain", REFUSED.name),
        "metrics_left_out": Metric("drain", LEFT_OUT.name),
    },
    "aggregate": {
        "foreign": FOREIGN,
        "stored": STORED,
        "duplicate": DUPLICATE,
        "quarantined": QUARANTINED,
        "conflicting": CONFLICTING,
        "metrics_refused": REFUSED,
        "metrics_left_out": LEFT_OUT,
    },
    "alert": {"opened": Metric("alert", "EpisodesOpened")},
    "dispatch": {"queued": Metric("dispatch", "NoticesQueued")},
    "notify": {"published": Metric("notify", "NoticesPublished")},
    "redrive": {"quarantined": GIVEN_UP},
}
METRICS = tuple(chain.from_iterable(names.values() for names in SHOWN.values()))

Counts = Mapping[Metric, Mapping[int, int]]  # by metric and minute (its start, epoch ms)


def unaccounted(counts: Counts) -> int:
    """Return how many readings arrived and have no outcome yet, summed over minutes.

    Each minute is compared alone, so a surplus in one minute hides no loss in another.
    """
    minutes = {minute for metric in ARRIVED for minute in counts.get(metric, {})}

    def total(metrics: tuple[Metric, ...], minute: int) -> int:
        return sum(counts.get(metric, {}).get(minute, 0) for metric in metrics)

    return sum(max(0, total(ARRIVED, minute) - total(ENDED, minute)) for minute in minutes)


def by_stage(counts: Counts) -> dict[str, dict[str, int]]:
    """Return each count's sum over all minutes, by stage, as operators see them."""
    return {
        stage: {name: sum(counts.get(metric, {}).values()) for name, metric in names.items()}
        for stage, names in SHOWN.items()
    }
