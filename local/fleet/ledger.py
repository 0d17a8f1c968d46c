"""What the devices know that they sent, and what the pipeline must show for it: a run's oracle.

It is written from the project's contract alone and shares no code with the pipeline. A reading
counts once per (device, recorded_at), however often it was sent; a window is a minute of that time.
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from local.fleet.reading import METRICS, MINUTE_MS, Reading
from local.fleet.rules import Rule


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
    resent: int = 0
    """Sent again because there was no answer, or the answer was that they weren't taken."""
    unanswered: int = 0
    """Given up: nobody knows whether they were taken."""
    requests: int = 0


@dataclass
class Ledger:
    """The accepted readings of every device, 8 bytes for each number of each reading."""

    counts: Counts = field(default_factory=Counts)
    reasons: Counter[str] = field(default_factory=Counter)
    _times: dict[str, "array[int]"] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    _values: dict[str, "array[float]"] = field(
        default_factory=lambda: defaultdict(lambda: array("d"))
    )

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

    @property
    def devices(self) -> list[str]:
        """The devices of which a reading was accepted."""
        return sorted(self._times)

    def readings(self, device_id: str) -> dict[int, dict[str, float]]:
        """Return the device's distinct readings: metrics by time."""
        times, values = self._times[device_id], self._values[device_id]
        distinct: dict[int, dict[str, float]] = defaultdict(dict)
        for index, time in enumerate(times):
            row = values[index * len(METRICS) : (index + 1) * len(METRICS)]
            distinct[time].update(
                {
                    name: value
                    for name, value in zip(METRICS, row, strict=True)
                    if not math.isnan(value)
                }
            )
        return dict(distinct)

    def distinct(self) -> int:
        """Return how many different readings were accepted."""
        return sum(len(set(times)) for times in self._times.values())

    def span_ms(self, device_id: str) -> tuple[int, int]:
        """Return the times of the device's first and last reading."""
        return min(self._times[device_id]), max(self._times[device_id])

    def windows(self, device_id: str) -> dict[int, Window]:
        """Return the windows that the pipeline must have for a device, by their minute in ms."""
        minutes: dict[int, list[tuple[int, dict[str, float]]]] = defaultdict(list)
        for time, metrics in sorted(self.readings(device_id).items()):
            minutes[time - time % MINUTE_MS].append((time, metrics))
        return {minute: window(readings) for minute, readings in minutes.items()}

    def alerts(self, rules: Iterable[Rule]) -> dict[tuple[str, str], Alert]:
        """Return the alerts that there must be, by device and rule, as if none were cleared."""
        found = {
            (device_id, rule.name): self.alert(device_id, rule)
            for rule in rules
            for device_id in self.devices
        }
        return {key: alert for key, alert in found.items() if alert is not None}

    def alert(
        self, device_id: str, rule: Rule, after_ms: float = -math.inf, until_ms: float = math.inf
    ) -> Alert | None:
        """Return the alert of a device's breaches in a span of time; None if it has none there."""
        breaches = [
            (time, value)
            for time, value in self._values_of(device_id, rule.metric)
            if after_ms < time <= until_ms and rule.is_broken_by(value)
        ]
        if not breaches:
            return None
        times = [time for time, _ in breaches]
        return Alert(min(times), max(times), rule.worst(value for _, value in breaches))

    def first_recovery_ms(self, device_id: str, rule: Rule, after_ms: int) -> int | None:
        """Return when a device was first below what clears a rule, after a breach."""
        times = (
            time
            for time, value in self._values_of(device_id, rule.metric)
            if time > after_ms and rule.is_cleared_by(value)
        )
        return min(times, default=None)

    def _values_of(self, device_id: str, metric: str) -> Iterator[tuple[int, float]]:
        values = self._values[device_id][METRICS.index(metric) :: len(METRICS)]
        return zip(self._times[device_id], values, strict=True)


def window(readings: list[tuple[int, dict[str, float]]]) -> Window:
    """Return what a window of these readings, ordered by time, must show."""
    by_metric: dict[str, list[float]] = defaultdict(list)
    for _, metrics in readings:
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
