"""Which of a window's unanswered readings are in it, worked out from the statistics that it shows.

A reading whose request got no answer may be there or not. A window is right when one choice among
its unanswered readings gives every statistic that it shows: count, mean, min, max, deviation and
last value of each metric. The choices are searched by halves: for each choice among the first half
the second must make up what lacks of the count and of one metric's sum, which a sorted list finds.
So 20 unanswered readings take two thousand steps and not a million.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

from local.fleet.ledger import Metrics

HALF_MAX = 4096
"""How many choices a half may have: 12 readings that may each be there or not."""
TRIES_MAX = 2_000
"""How many choices of a window are compared statistic by statistic."""
SUM_TOLERANCE = 1e-4
"""Of the sum of a window's values: means are compared within 1e-6, windows have 100 and fewer."""

Readings = dict[int, Metrics]
Shown = dict[str, Any]
Options = list[tuple[int, list[Metrics]]]
"""What may be at an instant, beside what is there without unanswered readings."""


class TooMany(Exception):
    """A window has more unanswered readings than can be searched."""


class Part(NamedTuple):
    """A choice among some of the readings: what it adds to the count, and to each metric's sum."""

    added: int
    totals: tuple[float, ...]
    chosen: Readings


def fitting(
    sure: Readings,
    possible: dict[int, list[Metrics]],
    shown: Shown,
    is_equal: Callable[[Readings], bool],
) -> list[Readings]:
    """Return choices by which a window is as it is shown: none, the only one, or two of several.

    `sure` are the window's accepted readings, `possible` the other outcomes of its instants, and
    `is_equal` tells whether the window of some readings is the one that is shown. Each choice is
    the readings that it adds to the sure ones or replaces among them. Raise TooMany where the
    search would take too long.
    """
    options = [
        (time, [each for each in outcomes if is_within(each, shown)])
        for time, outcomes in sorted(possible.items())
    ]
    options = [(time, outcomes) for time, outcomes in options if outcomes]
    new = [time for time, _ in options if time not in sure]
    if shown["count"] == len(sure):  # none is there; at most some values are others
        options = [(time, outcomes) for time, outcomes in options if time in sure]
    elif shown["count"] == len(sure) + len(new):
        everything = {time: outcomes[-1] for time, outcomes in options}
        if is_equal({**sure, **everything}):
            return [everything]
    found: list[Readings] = []
    for tried, choice in enumerate(choices(options, sure, shown)):
        if tried >= TRIES_MAX:
            raise TooMany
        if is_equal({**sure, **choice}):
            found.append(choice)
            if len(found) > 1:
                break
    return found


def is_within(outcome: Metrics, shown: Shown) -> bool:
    """Tell whether the window's least and largest values leave room for these."""
    metrics = shown["metrics"]
    return all(
        name in metrics and metrics[name]["min"] <= value <= metrics[name]["max"]
        for name, value in outcome.items()
    )


def choices(options: Options, sure: Readings, shown: Shown) -> Iterator[Readings]:
    """Return the choices that give the window's count, and each metric's sum but for rounding.

    Raise TooMany where a half of the options has more choices than are searched.
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
    """Return every choice among these options, ordered by what it adds to the count and sums."""
    found = []
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
        found.append(Part(count, totals, chosen))
    return sorted(found, key=lambda part: part[:2])


def pairs(
    first: list[Part], second: list[Part], count: int, totals: tuple[float, ...]
) -> Iterator[Readings]:
    """Return the choices of both halves that together add so much to the count and the sums."""
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
    """Return the sum of a metric's values by its mean and count."""
    statistics = shown["metrics"].get(metric)
    return float(statistics["mean"] * statistics["count"]) if statistics else 0.0
