"""Loss accounting: what is counted at each stage, and what must balance.

Accepted readings, and those that reach the stream past `ingest` (foreign), are stored, found to be
duplicates, or quarantined. All five are counted in the minute in which the reading was received, so
a minute balances once all of it has been processed, however late. What it lacks then is on its way
or lost. A delivery that is repeated after its answer was lost is counted again: that makes the
right side larger, so it raises no false alarm, but within its minute it can hide as many losses.

Metrics are no part of that balance: a reading of which one is refused is stored with the others. A
reading of which every value stands for no measurement brings nothing new: it is a duplicate.
"""

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple


class Metric(NamedTuple):
    """A metric, and the function that counts it."""

    stage: str
    name: str


ACCEPTED = Metric("ingest", "ReadingsAccepted")
FOREIGN = Metric("aggregate", "ReadingsForeign")
STORED = Metric("aggregate", "ReadingsStored")
DUPLICATE = Metric("aggregate", "ReadingsDuplicate")
QUARANTINED = Metric("aggregate", "ReadingsQuarantined")

GIVEN_UP = Metric("redrive", "ReadingsQuarantined")  # by aggregate's mapping, and no retry mends

REFUSED = Metric("aggregate", "MetricsRefused")  # of readings whose other metrics are taken
LEFT_OUT = Metric("aggregate", "MetricsLeftOut")  # values that stand for no measurement
CONFLICTING = Metric("aggregate", "ReadingsConflicting")  # values that differ from the stored one

ARRIVED = (ACCEPTED, FOREIGN)
SETTLED = (STORED, DUPLICATE, QUARANTINED)
ENDED = (*SETTLED, GIVEN_UP)
BALANCE = (*ARRIVED, *ENDED)

# What operators see, by stage. The rest is counted in the minute in which it is done.
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
    """How many readings arrived and have not met their end: the sum of what each minute lacks.

    Minute by minute, so that what one minute has too much of hides nothing in another.
    """
    minutes = {minute for metric in ARRIVED for minute in counts.get(metric, {})}

    def total(metrics: tuple[Metric, ...], minute: int) -> int:
        return sum(counts.get(metric, {}).get(minute, 0) for metric in metrics)

    return sum(max(0, total(ARRIVED, minute) - total(ENDED, minute)) for minute in minutes)


def by_stage(counts: Counts) -> dict[str, dict[str, int]]:
    """The sums over all minutes, as operators see them."""
    return {
        stage: {name: sum(counts.get(metric, {}).values()) for name, metric in names.items()}
        for stage, names in SHOWN.items()
    }
