"""Compares the pipeline's windows and alerts with the readings that devices sent."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from local.api import Api
from local.fleet.ledger import Ledger, Metrics, Statistics, Window, alert_of, by_minute, window
from local.fleet.reading import MINUTE_MS
from local.fleet.rules import Rule
from local.trial.choices import Readings, TooMany, fitting

RELATIVE_TOLERANCE = 1e-9
ABSOLUTE_TOLERANCE = 1e-6
EXACT = ("count", "min", "max", "last")
ROUNDED = ("mean", "stddev")
MARGIN_MS = 5 * MINUTE_MS
READERS = 4


class Difference(NamedTuple):
    """A difference between the pipeline's answer and the expected one."""

    device_id: str
    what: str
    expected: Any
    found: Any
    may_come: bool = False
    """Whether readings that are still on their way would explain it."""

    def __str__(self) -> str:
        """Return the difference as a line of text."""
        return f"{self.device_id} {self.what}: expected {self.expected}, found {self.found}"


@dataclass
class Comparison:
    """The result of a comparison with the pipeline's windows and alerts."""

    differences: list[Difference] = field(default_factory=list)
    unanswered_there: int = 0
    """Number of instants in windows that have unanswered readings only."""
    unsearched: int = 0
    """Number of windows with too many unanswered readings to search: only bounds are compared."""
    known: dict[str, Readings] = field(default_factory=dict)
    """Unanswered readings that must be stored, by device: only they give its windows."""
    undecided: dict[str, set[int]] = field(default_factory=dict)
    """Times of unanswered readings that may be stored or not, by device: windows don't tell."""
    windows: int = 0
    """Number of windows that exist or are expected."""

    def add(self, other: "Comparison") -> None:
        """Add the result of a device."""
        self.differences += other.differences
        self.unanswered_there += other.unanswered_there
        self.unsearched += other.unsearched
        self.windows += other.windows
        self.known |= other.known
        self.undecided |= other.undecided


def check(
    connect: Callable[[], Api],
    ledger: Ledger,
    rules: Iterable[Rule],
    is_alone: bool = True,
    right: dict[str, Comparison] | None = None,
) -> Comparison:
    """Compare the pipeline's windows and alerts with the ledger's readings.

    An unanswered reading may be stored or not, so each window must fit one choice among them.
    `is_alone`: no other devices have posted, so no other device may have an alert. An alert that is
    cleared or opened between two requests may show twice or not at all: then check again.
    `right` has the results of devices whose windows were right in an earlier check. They aren't
    read again, and more are added. Raise NoAnswer if the API doesn't answer.
    """
    whole, right = Comparison(), {} if right is None else right
    unchecked = [device_id for device_id in ledger.devices if device_id not in right]
    with ThreadPoolExecutor(READERS) as pool:
        compared = pool.map(lambda device_id: check_device(connect, ledger, device_id), unchecked)
        for device_id, comparison in zip(unchecked, compared, strict=True):
            if comparison.differences:
                whole.add(comparison)
            else:
                right[device_id] = comparison
    for comparison in right.values():
        whole.add(comparison)
    with connect() as api:
        alerts = [alert for status in ("cleared", "open") for alert in api.alerts(status)]
    if not is_alone:
        own = set(ledger.devices)
        alerts = [alert for alert in alerts if alert["device_id"] in own]
    whole.differences += alert_differences(ledger, rules, alerts, whole)
    return whole


def check_device(connect: Callable[[], Api], ledger: Ledger, device_id: str) -> Comparison:
    """Compare a device's windows, from some minutes before its first reading to after its last."""
    first_ms, last_ms = ledger.span_ms(device_id)
    with connect() as api:
        shown = list(api.windows(device_id, iso(first_ms - MARGIN_MS), iso(last_ms + MARGIN_MS)))
    return compare_windows(device_id, ledger, shown)


def compare_windows(device_id: str, ledger: Ledger, shown: Iterable[dict[str, Any]]) -> Comparison:
    """Compare a device's windows, as the API shows them, with its readings."""
    came = Comparison(known={device_id: {}}, undecided={device_id: set()})
    found: dict[int, dict[str, Any]] = {}
    for window_shown in shown:
        minute_ms = from_iso(window_shown["minute"])
        if minute_ms in found:
            what = f"window {window_shown['minute']}"
            came.differences.append(Difference(device_id, what, "once", "twice"))
        found[minute_ms] = window_shown
    sure = dict(by_minute(ledger.readings(device_id)))
    possible = dict(by_minute(ledger.possible(device_id)))
    came.windows = len(sure.keys() | found.keys())
    for minute_ms in sorted(sure.keys() | possible.keys() | found.keys()):
        readings, unanswered = sure.get(minute_ms, {}), possible.get(minute_ms, {})
        where = f"window {iso(minute_ms)}"
        if minute_ms not in found:
            if readings:
                wanted = f"{len(readings)} readings"
                came.differences.append(Difference(device_id, where, wanted, "none", may_come=True))
        elif not readings and not unanswered:
            count = f"{found[minute_ms]['count']} readings"
            came.differences.append(Difference(device_id, where, "none", count))
        elif unanswered:
            compare_uncertain(came, (device_id, where), readings, unanswered, found[minute_ms])
        else:
            came.differences += one_window(device_id, where, window(readings), found[minute_ms])
    return came


def compare_uncertain(
    came: Comparison,
    place: tuple[str, str],
    sure: Readings,
    possible: dict[int, list[Metrics]],
    shown: dict[str, Any],
) -> None:
    """Compare a window that has unanswered readings: one choice among them must give it."""

    def is_equal(readings: Readings) -> bool:
        return not any(one_window(*place, window(readings), shown))

    device_id, where = place
    new = possible.keys() - sure.keys()
    undecided = set(possible)
    try:
        choices = fitting(sure, possible, shown, is_equal)
    except TooMany:
        outside = list(out_of_bounds(place, sure, possible, shown))
        came.differences += outside
        came.unsearched += not outside
    else:
        if len(choices) == 1:
            came.known[device_id] |= choices[0]
            undecided = set()
        if not choices:
            came.differences += out_of_bounds(place, sure, possible, shown) or [
                Difference(
                    device_id,
                    where,
                    f"a choice of {len(new)} readings without an answer beside {len(sure)} others",
                    f"{shown['count']} that are none",
                    may_come=shown["count"] < len(sure) + len(new),
                )
            ]
    came.undecided[device_id] |= undecided
    came.unanswered_there += max(0, min(len(new), shown["count"] - len(sure)))


def out_of_bounds(
    place: tuple[str, str],
    sure: Readings,
    possible: dict[int, list[Metrics]],
    shown: dict[str, Any],
) -> list[Difference]:
    """Return the counts and extreme values that no choice of unanswered readings can give."""
    device_id, where = place
    least, most = len(sure), len(sure.keys() | possible.keys())
    may_come = shown["count"] < most
    found = []
    if not least <= shown["count"] <= most:
        expected = f"{least} to {most}" if least < most else least
        found.append(Difference(device_id, f"{where} count", expected, shown["count"], may_come))
    outcomes = [each for options in possible.values() for each in options]
    for metric, statistics in shown["metrics"].items():
        certain = [each[metric] for each in sure.values() if metric in each]
        values = {*certain, *(each[metric] for each in outcomes if metric in each)}
        for name in ("min", "max", "last"):
            if statistics[name] not in values:
                what = f"{where} {metric} {name}"
                wanted = "a value that was sent"
                found.append(Difference(device_id, what, wanted, statistics[name]))
        if certain and (statistics["min"] > min(certain) or statistics["max"] < max(certain)):
            span, shows = (min(certain), max(certain)), (statistics["min"], statistics["max"])
            found.append(Difference(device_id, f"{where} {metric} span", span, shows, may_come))
    return found


def one_window(
    device_id: str, where: str, expected: Window, found: dict[str, Any]
) -> Iterator[Difference]:
    """Compare a window: its count, and every statistic of every metric."""
    may_come = found["count"] < expected.count
    if found["count"] != expected.count:
        what = f"{where} count"
        yield Difference(device_id, what, expected.count, found["count"], may_come)
    for metric in sorted(expected.metrics.keys() | found["metrics"].keys()):
        wanted, shown = expected.metrics.get(metric), found["metrics"].get(metric)
        if wanted is None or shown is None:
            is_late = may_come and shown is None
            yield Difference(device_id, f"{where} {metric}", wanted, shown, is_late)
        else:
            for each in one_metric(device_id, f"{where} {metric}", wanted, shown):
                yield each._replace(may_come=may_come)


def one_metric(
    device_id: str, where: str, expected: Statistics, found: dict[str, Any]
) -> Iterator[Difference]:
    """Compare one metric's statistics: mean and deviation up to rounding, the others exactly."""
    for name in EXACT:
        if found[name] != getattr(expected, name):
            yield Difference(device_id, f"{where} {name}", getattr(expected, name), found[name])
    for name in ROUNDED:
        if not is_close(getattr(expected, name), found[name]):
            yield Difference(device_id, f"{where} {name}", getattr(expected, name), found[name])


def is_close(expected: float, found: float) -> bool:
    """Return whether two sums of the same numbers are equal up to rounding."""
    return math.isclose(expected, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def alert_differences(
    ledger: Ledger,
    rules: Iterable[Rule],
    shown: Iterable[dict[str, Any]],
    windows: Comparison | None = None,
) -> Iterator[Difference]:
    """Compare the alerts, open and cleared, with the readings: one alert for each rule of a device.

    If a device broke a rule several times, its last alert is shown: with the breaches since the
    previous alert was cleared. An unanswered breach may have opened or prolonged an alert.
    `windows` tells which unanswered readings are known to be stored, or not to be.
    """
    by_name = {rule.name: rule for rule in rules}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for each in shown:
        key = each["device_id"], each["rule"]
        if key in found:
            yield Difference(each["device_id"], f"alert {each['rule']}", "once", "twice")
        found[key] = each
    asked = {(device_id, name) for device_id in ledger.devices for name in by_name}
    for device_id, name in sorted(asked | found.keys()):
        alert, rule = found.get((device_id, name)), by_name.get(name)
        if rule is None:
            yield Difference(device_id, f"alert {name}", "no such rule", "an alert")
            continue
        breaches = Breaches.of(ledger, device_id, rule, windows or Comparison())
        if alert is None:
            if alert_of(rule, breaches.sure):
                yield Difference(device_id, f"alert {name}", "one", "none", may_come=True)
        elif not breaches.may_be():
            yield Difference(device_id, f"alert {name}", "none", alert.get("status", "none"))
        else:
            yield from one_alert(breaches, alert)


class Breaches(NamedTuple):
    """The values of the metric of a device that a rule is about, by time."""

    device_id: str
    rule: Rule
    sure: dict[int, float]
    """Values that are stored."""
    possible: dict[int, set[float]]
    """Values of unanswered readings, which may be stored."""

    @classmethod
    def of(cls, ledger: Ledger, device_id: str, rule: Rule, windows: Comparison) -> "Breaches":
        """Take the values from the ledger, and what is known of unanswered ones from `windows`."""
        sure = ledger.values(device_id, rule.metric)
        possible = ledger.possible_values(device_id, rule.metric)
        for time, metrics in windows.known.get(device_id, {}).items():
            if rule.metric in metrics:
                sure[time] = metrics[rule.metric]
        if device_id in windows.undecided:
            undecided = windows.undecided[device_id]
            possible = {time: values for time, values in possible.items() if time in undecided}
        return cls(device_id, rule, sure, possible)

    def may_be(self) -> bool:
        """Return whether any value may have opened an alert."""
        values = [*self.sure.values(), *(each for some in self.possible.values() for each in some)]
        return any(self.rule.is_broken_by(value) for value in values)

    def at(self, time_ms: int) -> set[float]:
        """Return the values that the metric may have at a time."""
        certain = {self.sure[time_ms]} if time_ms in self.sure else set()
        return certain | self.possible.get(time_ms, set())


def one_alert(breaches: Breaches, alert: dict[str, Any]) -> Iterator[Difference]:
    """Compare an alert with the device's breaches in its span, and its end with a recovery.

    It must span all stored breaches. Its first, last and worst breach may each be an unanswered
    one.
    """
    device_id, rule, sure, _ = breaches
    where = f"alert {rule.name}"
    since_ms, cleared_ms = (instant(alert[f"{name}cleared_at"]) for name in ("previous_", ""))
    span = (
        -math.inf if since_ms is None else since_ms,
        math.inf if cleared_ms is None else cleared_ms,
    )
    first_ms, last_ms = (from_iso(alert[f"{at}_breach_at"]) for at in ("first", "last"))
    peak = alert["peak"]
    possible = {  # breaches that aren't worse than the alert's peak
        time: {each for each in values if rule.is_broken_by(each) and not rule.is_worse(each, peak)}
        for time, values in breaches.possible.items()
        if span[0] < time <= span[1]
    }
    times = {time for time, values in possible.items() if values}
    peaks = {each for time in times if first_ms <= time <= last_ms for each in possible[time]}
    wanted = alert_of(rule, sure, *span)
    for name, have, allowed, falls_short in (
        ("first_breach_at_ms", first_ms, times, operator.gt),
        ("last_breach_at_ms", last_ms, times, operator.lt),
        ("peak", peak, peaks, lambda have, want: rule.is_worse(want, have)),
    ):
        want = None if wanted is None else getattr(wanted, name)
        is_short = want is not None and falls_short(have, want)
        if have != want and (is_short or have not in allowed):
            yield Difference(device_id, f"{where} {name}", want, have, may_come=is_short)
    if cleared_ms is not None and not any(map(rule.is_cleared_by, breaches.at(cleared_ms))):
        yield Difference(device_id, f"{where} cleared_at", "a recovery", iso(cleared_ms))


def instant(text: str | None) -> int | None:
    """Return the ms since 1970 of a time; None if it is missing."""
    return None if text is None else from_iso(text)


def iso(time_ms: int) -> str:
    """Return a time in the API's format: ISO 8601, UTC."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace(
        "+00:00", "Z"
    )


def from_iso(text: str) -> int:
    """Return the ms since 1970 of a time in the API's format."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
