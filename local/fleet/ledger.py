"""A run's oracle: records the readings that devices sent, and derives the windows and alerts.

It is written from the project's contract alone and shares no code with the pipeline. A reading
counts once per (device, recorded_at), however often it was sent. A window is a minute of that time.
A reading whose request got no answer may be stored or not: both are right.
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from local.fleet.reading import METRICS, MINUTE_MS, Reading
from local.fleet.rules import Rule

T = TypeVar("T")
Metrics = dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """A window's statistics of one metric; `stddev` is the population's standard deviation."""

    count: int
    mean: float
    min: float
    max: float
    stddev: float
    last: float


@dataclass(frozen=True)
class Window:
    """The window that the API must answer for one device's minute."""

    count: int
    metrics: dict[str, Statistics]


class Alert(NamedTuple):
    """The alert that the API must answer for one device that broke a rule."""

    first_breach_at_ms: int
    last_breach_at_ms: int
    peak: float


@dataclass
class Counts:
    """Numbers of readings by their result, as the devices saw it."""

    posted: int = 0
    """Sent readings; one that was sent twice counts twice."""
    accepted: int = 0
    rejected: int = 0
    metrics_refused: int = 0
    """Refused metrics of accepted readings."""
    resent: int = 0
    """Sent again: there was no answer, or the answer said that they weren't taken."""
    unanswered: int = 0
    """Given up without an answer: each may be stored or not."""
    requests: int = 0


@dataclass
class Ledger:
    """The readings of every device. Accepted ones are in arrays: 8 bytes for each number."""

    counts: Counts = field(default_factory=Counts)
    reasons: Counter[str] = field(default_factory=Counter)
    _times: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    _values: dict[str, "array[float]"] = field(
        default_factory=lambda: defaultdict(lambda: array("d"))
    )
    _unanswered: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))

    def accept(self, readings: Iterable[Reading]) -> None:
        """Record readings that the pipeline accepted."""
        for reading in readings:
            self.counts.accepted += 1
            self._times[reading.device_id].append(reading.recorded_at_ms)
            get = reading.metrics.get
            self._values[reading.device_id].extend([get(metric, math.nan) for metric in METRICS])

    def reject(self, reason: str) -> None:
        """Record a reading that the pipeline rejected."""
        self.counts.rejected += 1
        self.reasons[reason] += 1

    def refuse_metric(self, reason: str) -> None:
        """Record a refused metric of an accepted reading."""
        self.counts.metrics_refused += 1
        self.reasons[reason] += 1

    def give_up(self, readings: Iterable[Reading]) -> None:
        """Record readings whose requests got no answer: the pipeline may have accepted them."""
        for reading in readings:
            self.counts.unanswered += 1
            self._unanswered[reading.device_id].append(reading)

    @property
    def devices(self) -> list[str]:
        """The devices with a reading that was, or may have been, accepted."""
        return sorted(self._times.keys() | self._unanswered.keys())

    def readings(self, device_id: str) -> dict[int, Metrics]:
        """Return the device's distinct accepted readings: metrics by time.

        If a metric has two values at one instant, the larger one counts, as in the contract.
        """
        times, values = self._times.get(device_id, ()), self._values.get(device_id, array("d"))
        distinct: dict[int, Metrics] = {}
        for index, time in enumerate(times):
            row = values[index * len(METRICS) : (index + 1) * len(METRICS)]
            measured = {
                name: value
                for name, value in zip(METRICS, row, strict=True)
                if not math.isnan(value)
            }
            distinct[time] = merged(distinct.get(time, {}), measured)
        return distinct

    def possible(self, device_id: str) -> dict[int, list[Metrics]]:
        """Return the other outcomes of instants that have unanswered readings, by time.

        An outcome is the metrics of an instant if some of its unanswered readings are stored. It
        differs from the outcome of the accepted readings alone, which isn't listed.
        """
        sure = self.readings(device_id)
        outcomes: dict[int, list[Metrics]] = {}
        for reading in self._unanswered.get(device_id, ()):
            time = reading.recorded_at_ms
            without = [sure.get(time, {}), *outcomes.get(time, [])]
            for each in [merged(before, reading.metrics) for before in without]:
                if each not in without:
                    outcomes.setdefault(time, []).append(each)
        return outcomes

    def distinct(self) -> int:
        """Return the number of distinct accepted readings."""
        return sum(len(set(times)) for times in self._times.values())

    def span_ms(self, device_id: str) -> tuple[int, int]:
        """Return the times of the device's first and last reading, answered or not."""
        times = [*self._times.get(device_id, ())]
        times += [each.recorded_at_ms for each in self._unanswered.get(device_id, ())]
        return min(times), max(times)

    def windows(self, device_id: str) -> dict[int, Window]:
        """Return the windows of a device's accepted readings, by minute in ms."""
        return {
            minute: window(readings) for minute, readings in by_minute(self.readings(device_id))
        }

    def alerts(self, rules: Iterable[Rule]) -> dict[tuple[str, str], Alert]:
        """Return the alerts that accepted readings must open if none is cleared.

        They are by (device, rule).
        """
        alerts = {
            (device_id, rule.name): alert_of(rule, self.values(device_id, rule.metric))
            for rule in rules
            for device_id in self.devices
        }
        return {key: alert for key, alert in alerts.items() if alert is not None}

    def values(self, device_id: str, metric: str) -> dict[int, float]:
        """Return the accepted values of a device's metric, by time."""
        return {
            time: metrics[metric]
            for time, metrics in self.readings(device_id).items()
            if metric in metrics
        }

    def possible_values(self, device_id: str, metric: str) -> dict[int, set[float]]:
        """Return the other values that a device's metric may have, by time."""
        sure = self.values(device_id, metric)
        others = {
            time: {each[metric] for each in outcomes if metric in each} - {sure.get(time)}
            for time, outcomes in self.possible(device_id).items()
        }
        return {time: values for time, values in others.items() if values}


def merged(one: Metrics, other: Metrics) -> Metrics:
    """Return the metrics of two readings of one instant: of each metric the larger value."""
    return {
        name: max(each[name] for each in (one, other) if name in each)
        for name in sorted(one.keys() | other.keys())
    }


def by_minute(readings: Mapping[int, T]) -> Iterator[tuple[int, dict[int, T]]]:
    """Yield each minute in ms with its part of `readings`, which are by time in ms."""
    minutes: dict[int, dict[int, T]] = defaultdict(dict)
    for time, reading in readings.items():
        minutes[time - time % MINUTE_MS][time] = reading
    yield from minutes.items()


def alert_of(
    rule: Rule,
    values: Mapping[int, float],
    after_ms: float = -math.inf,
    until_ms: float = math.inf,
) -> Alert | None:
    """Return the alert of the breaches in a span of time; None without a breach."""
    breaches = {
        time: value
        for time, value in values.items()
        if after_ms < time <= until_ms and rule.is_broken_by(value)
    }
    if not breaches:
        return None
    return Alert(min(breaches), max(breaches), rule.worst(breaches.values()))


def window(readings: dict[int, Metrics]) -> Window:
    """Return the window of these readings (metrics by time)."""
    by_metric: dict[str, list[float]] = defaultdict(list)
    for _, metrics in sorted(readings.items()):
        for metric, value in metrics.items():
            by_metric[metric].append(value)
    return Window(
        len(readings), {metric: statistics(values) for metric, values in by_metric.items()}
    )


def statistics(values: list[float]) -> Statistics:
    """Return the statistics of values ordered by time, from the definitions, in two passes."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return Statistics(len(values), mean, min(values), max(values), math.sqrt(variance), values[-1])
