"""What the devices know that they sent, and what the pipeline must show for it: a run's oracle.

It is written from the project's contract alone and shares no code with the pipeline. A reading
counts once per (device, recorded_at), however often it was sent; a window is a minute of that time.
A reading whose request got no answer may be there or not: either is right.
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
    """What a window says of one metric; the deviation is the population's."""

    count: int
    mean: float
    min: float
    max: float
    stddev: float
    last: float


@dataclass(frozen=True)
class Window:
    """What the API must answer for one device's minute."""

    count: int
    metrics: dict[str, Statistics]


class Alert(NamedTuple):
    """What the API must answer for one device that broke a rule."""

    first_breach_at_ms: int
    last_breach_at_ms: int
    peak: float


@dataclass
class Counts:
    """How many readings met which fate, as the devices saw it."""

    posted: int = 0
    """Sent, each reading as often as it was sent."""
    accepted: int = 0
    rejected: int = 0
    metrics_refused: int = 0
    """Of readings that were accepted without them."""
    resent: int = 0
    """Sent again because there was no answer, or the answer was that they weren't taken."""
    unanswered: int = 0
    """Given up without an answer: each may be there, or not."""
    requests: int = 0


@dataclass
class Ledger:
    """The readings of every device: the accepted ones take 8 bytes for each of their numbers."""

    counts: Counts = field(default_factory=Counts)
    reasons: Counter[str] = field(default_factory=Counter)
    _times: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    _values: dict[str, "array[float]"] = field(
        default_factory=lambda: defaultdict(lambda: array("d"))
    )
    _unanswered: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))

    def accept(self, readings: Iterable[Reading]) -> None:
        """Note readings that the pipeline has taken."""
        for reading in readings:
            self.counts.accepted += 1
            self._times[reading.device_id].append(reading.recorded_at_ms)
            get = reading.metrics.get
            self._values[reading.device_id].extend([get(metric, math.nan) for metric in METRICS])

    def reject(self, reason: str) -> None:
        """Note a reading that the pipeline has refused."""
        self.counts.rejected += 1
        self.reasons[reason] += 1

    def refuse_metric(self, reason: str) -> None:
        """Note a metric that the pipeline has refused of a reading that it has taken."""
        self.counts.metrics_refused += 1
        self.reasons[reason] += 1

    def give_up(self, readings: Iterable[Reading]) -> None:
        """Note readings whose requests got no answer: the pipeline may have taken them, or not."""
        for reading in readings:
            self.counts.unanswered += 1
            self._unanswered[reading.device_id].append(reading)

    @property
    def devices(self) -> list[str]:
        """The devices of which a reading was accepted, or may have been."""
        return sorted(self._times.keys() | self._unanswered.keys())

    def readings(self, device_id: str) -> dict[int, Metrics]:
        """Return the device's distinct accepted readings: metrics by time.

        Of two values of a metric at one instant the larger counts, as the contract says.
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
        """Return what the device's unanswered readings may have made of an instant, by its time.

        Each is another outcome than what the accepted readings alone make of it. An unanswered
        reading that adds nothing to the accepted ones has none.
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
        """Return how many different readings were accepted."""
        return sum(len(set(times)) for times in self._times.values())

    def span_ms(self, device_id: str) -> tuple[int, int]:
        """Return the times of the device's first and last reading, answered or not."""
        times = [*self._times.get(device_id, ())]
        times += [each.recorded_at_ms for each in self._unanswered.get(device_id, ())]
        return min(times), max(times)

    def windows(self, device_id: str) -> dict[int, Window]:
        """Return the windows of a device's accepted readings, by their minute in ms."""
        return {
            minute: window(readings) for minute, readings in by_minute(self.readings(device_id))
        }

    def alerts(self, rules: Iterable[Rule]) -> dict[tuple[str, str], Alert]:
        """Return the alerts that accepted readings must open, by device and rule.

        As if none were cleared.
        """
        found = {
            (device_id, rule.name): alert_of(rule, self.values(device_id, rule.metric))
            for rule in rules
            for device_id in self.devices
        }
        return {key: alert for key, alert in found.items() if alert is not None}

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
        found = {
            time: {each[metric] for each in outcomes if metric in each} - {sure.get(time)}
            for time, outcomes in self.possible(device_id).items()
        }
        return {time: values for time, values in found.items() if values}


def merged(one: Metrics, other: Metrics) -> Metrics:
    """Return the metrics of two readings of one instant; the larger value of each counts."""
    return {
        name: max(each[name] for each in (one, other) if name in each)
        for name in sorted(one.keys() | other.keys())
    }


def by_minute(readings: Mapping[int, T]) -> Iterator[tuple[int, dict[int, T]]]:
    """Return what a device has at instants, minute by minute."""
    minutes: dict[int, dict[int, T]] = defaultdict(dict)
    for time, found in readings.items():
        minutes[time - time % MINUTE_MS][time] = found
    yield from minutes.items()


def alert_of(
    rule: Rule,
    values: Mapping[int, float],
    after_ms: float = -math.inf,
    until_ms: float = math.inf,
) -> Alert | None:
    """Return the alert of the breaches in a span of time; None if there is none."""
    breaches = {
        time: value
        for time, value in values.items()
        if after_ms < time <= until_ms and rule.is_broken_by(value)
    }
    if not breaches:
        return None
    return Alert(min(breaches), max(breaches), rule.worst(breaches.values()))


def window(readings: dict[int, Metrics]) -> Window:
    """Return what a window of these readings, metrics by time, must show."""
    by_metric: dict[str, list[float]] = defaultdict(list)
    for _, metrics in sorted(readings.items()):
        for metric, value in metrics.items():
            by_metric[metric].append(value)
    return Window(
        len(readings), {metric: statistics(values) for metric, values in by_metric.items()}
    )


def statistics(values: list[float]) -> Statistics:
    """Return the statistics of values ordered by time, by the definition and in two passes."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return Statistics(len(values), mean, min(values), max(values), math.sqrt(variance), values[-1])
