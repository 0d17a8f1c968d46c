"""Finds which of a window's unanswered readings are in it, from the window's statistics.

A reading whose request got no answer may be stored or not. A window is right if one choice among
its unanswered readings gives all its statistics: count, mean, min, max, deviation and last value of
each metric. The search splits the readings into halves. For each choice among the first half, a
sorted list of the second half's choices finds those that add the missing count and sum of a metric.
So 20 unanswered readings take two thousand steps instead of a million.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from local.fleet.ledger import Metrics

HALF_MAX = 4096
"""Maximum of choices in a half: 12 readings that may each be stored or not."""
TRIES_MAX = 2_000
"""Maximum of a window's choices that are compared statistic by statistic."""
SUM_TOLERANCE = 1e-4
"""Tolerance of a window's sum: that of a mean is 1e-6, and a window has up to 100 values."""

Readings = dict[int, Metrics]
Shown = dict[str, Any]
Options = list[tuple[int, list[Metrics]]]
"""The other outcomes of each instant: the ones with unanswered readings."""


class TooMany(Exception):
    """A window has more unanswered readings than can be searched."""


class Part(NamedTuple):
    """A choice among some readings, with its addition to the count and to each metric's sum."""

    added: int
    totals: tuple[float, ...]
    chosen: Readings


def fitting(
    sure: Readings,
    possible: dict[int, list[Metrics]],
    shown: Shown,
    is_equal: Callable[[Readings], bool],
) -> list[Readings]:
    """Return choices that give the window as shown: none, the only one, or two of several.

    `sure` has the window's accepted readings, `possible` the other outcomes of its instants.
    `is_equal` returns whether readings give the window as shown. A choice has the readings that are
    added to `sure` or replace some of it. Raise TooMany if the search would take too long.
    """
    options = [
        (time, [each for each in outcomes if is_within(each, shown)])
        for time, outcomes in sorted(possible.items())
    ]
    options = [(time, outcomes) for time, outcomes in options if outcomes]
    new = [time for time, _ in options if time not in sure]
    if shown["count"] == len(sure):  # no instant is new, but values may be replaced
        options = [(time, outcomes) for time, outcomes in options if time in sure]
    elif shown["count"] == len(sure) + len(new):
        everything = {time: outcomes[-1] for time, outcomes in options}
        if is_equal({**sure, **everything}):
            return [everything]
    fits: list[Readings] = []
    for tried, choice in enumerate(choices(options, sure, shown)):
        if tried >= TRIES_MAX:
            raise TooMany
        if is_equal({**sure, **choice}):
            fits.append(choice)
            if len(fits) > 1:
                break
    return fits


def is_within(outcome: Metrics, shown: Shown) -> bool:
    """Return whether an outcome's values are between the window's least and largest ones."""
    metrics = shown["metrics"]
    return all(
        name in metrics and metrics[name]["min"] <= value <= metrics[name]["max"]
        for name, value in outcome.items()
    )


def choices(options: Options, sure: Readings, shown: Shown) -> Iterator[Readings]:
    """Return the choices that give the window's count and, up to rounding, each metric's sum.

    Raise TooMany if a half of the options has more than HALF_MAX choices.
    """
    middle = len(options) // 2
    halves = options[:middle], options[middle:]
    if any(math.prod(len(each) + 1 for _, each in half) > HALF_MAX for half in halves):
        raise TooMany
    metrics = sorted({name for _, outcomes in options for each in outcomes for name in each})
    wanted = tuple(
        total_shown(shown, name) - math.fsum(each.get(name, 0.0) for each in sure.values())
        for name in metrics
    )
    first, second = (parts(half, sure, metrics) for half in halves)
    yield from pairs(first, second, shown["count"] - len(sure), wanted)


def parts(half: Options, sure: Readings, metrics: Sequence[str]) -> list[Part]:
    """Return every choice among these options, ordered by its additions to the count and sums."""
    every = []
    for outcomes in product(*([None, *outcomes] for _, outcomes in half)):
        chosen = {
            time: outcome
            for (time, _), outcome in zip(half, outcomes, strict=True)
            if outcome is not None
        }
        count = sum(time not in sure for time in chosen)
        totals = tuple(
            math.fsum(
                outcome.get(name, 0.0) - sure.get(time, {}).get(name, 0.0)
                for time, outcome in chosen.items()
            )
            for name in metrics
        )
        every.append(Part(count, totals, chosen))
    return sorted(every, key=lambda part: part[:2])


def pairs(
    first: list[Part], second: list[Part], count: int, totals: tuple[float, ...]
) -> Iterator[Readings]:
    """Return the pairs of choices from both halves that add `count` and `totals` together."""
    keys = [(part.added, part.totals[:1]) for part in second]
    for part in first:
        lacking = tuple(total - added for total, added in zip(totals, part.totals, strict=True))
        lowest, highest = (
            tuple(total + tolerance for total in lacking[:1])
            for tolerance in (-SUM_TOLERANCE, SUM_TOLERANCE)
        )
        start = bisect_left(keys, (count - part.added, lowest))
        end = bisect_right(keys, (count - part.added, highest))
        for other in second[start:end]:
            if all(
                abs(added - total) <= SUM_TOLERANCE
                for added, total in zip(other.totals, lacking, strict=True)
            ):
                yield part.chosen | other.chosen


def total_shown(shown: Shown, metric: str) -> float:
    """Return the sum of a metric's values, from its mean and count."""
    statistics = shown["metrics"].get(metric)
    return float(statistics["mean"] * statistics["count"]) if statistics else 0.0
