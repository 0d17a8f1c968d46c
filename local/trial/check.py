"""Compares what the pipeline shows with what the devices know that they sent."""

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
    """Something that the pipeline shows otherwise than the devices expect."""

    device_id: str
    what: str
    expected: Any
    found: Any
    may_come: bool = False
    """Whether readings that are still on their way would explain it."""

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.device_id} {self.what}: expected {self.expected}, found {self.found}"


@dataclass
class Comparison:
    """What came of a comparison with the pipeline's windows and alerts."""

    differences: list[Difference] = field(default_factory=list)
    unanswered_there: int = 0
    """Instants of unanswered readings alone that the windows have."""
    unsearched: int = 0
    """Windows with more unanswered readings than can be searched: compared by bounds alone."""
    known: dict[str, Readings] = field(default_factory=dict)
    """Unanswered readings that must be there, by device: no other choice gives its windows."""
    undecided: dict[str, set[int]] = field(default_factory=dict)
    """The times of those that may be there or not, as far as windows tell."""
    windows: int = 0
    """How many windows there are, or must be."""

    def add(self, other: "Comparison") -> None:
        """Take over what was found of a device."""
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

    A reading that got no answer may be there or not; each window must be that of one choice among
    them. `is_alone` says that no other devices have posted, so that no other may have an alert. One
    that is cleared or opened again between two looks may show twice or not at all: look again.
    `right` has the devices whose windows were right before, which aren't asked for again, and is
    added to. Raise NoAnswer where the API gives none.
    """
    whole, right = Comparison(), {} if right is None else right
    left = [device_id for device_id in ledger.devices if device_id not in right]
    with ThreadPoolExecutor(READERS) as pool:
        compared = pool.map(lambda device_id: check_device(connect, ledger, device_id), left)
        for device_id, found in zip(left, compared, strict=True):
            if found.differences:
                whole.add(found)
            else:
                right[device_id] = found
    for found in right.values():
        whole.add(found)
    with connect() as api:
        alerts = [alert for status in ("cleared", "open") for alert in api.alerts(status)]
    if not is_alone:
        own = set(ledger.devices)
        alerts = [alert for alert in alerts if alert["device_id"] in own]
    whole.differences += alert_differences(ledger, rules, alerts, whole)
    return whole


def check_device(connect: Callable[[], Api], ledger: Ledger, device_id: str) -> Comparison:
    """Compare a device's windows, over its readings' time and a little around."""
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
    """Compare a window of which some readings got no answer: one choice of them must give it."""

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
    """Return what no choice of the unanswered readings can give: counts, and extreme values."""
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
    """Compare one window: its count, and every statistic of every metric."""
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
    """Compare one metric's statistics: sums within rounding, the others exactly."""
    for name in EXACT:
        if found[name] != getattr(expected, name):
            yield Difference(device_id, f"{where} {name}", getattr(expected, name), found[name])
    for name in ROUNDED:
        if not is_close(getattr(expected, name), found[name]):
            yield Difference(device_id, f"{where} {name}", getattr(expected, name), found[name])


def is_close(expected: float, found: float) -> bool:
    """Tell whether two sums of the same numbers are equal but for rounding."""
    return math.isclose(expected, found, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def alert_differences(
    ledger: Ledger,
    rules: Iterable[Rule],
    shown: Iterable[dict[str, Any]],
    windows: Comparison | None = None,
) -> Iterator[Difference]:
    """Compare the alerts, open and cleared, with the readings: one for each device that broke one.

    Where a device broke a rule several times, the last one is shown: with the breaches since the
    one before was cleared. A breach that got no answer may have opened or prolonged one; `windows`
    says of which readings without an answer it is known whether they are there.
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
    """The values of a device's metric that a rule looks at, by time."""

    device_id: str
    rule: Rule
    sure: dict[int, float]
    """Those that are there."""
    possible: dict[int, set[float]]
    """Those of readings without an answer that may be there."""

    @classmethod
    def of(cls, ledger: Ledger, device_id: str, rule: Rule, windows: Comparison) -> "Breaches":
        """Take the values from the ledger; what the windows tell of unanswered ones is certain."""
        sure = ledger.values(device_id, rule.metric)
        possible = ledger.possible_values(device_id, rule.metric)
        for time, metrics in windows.known.get(device_id, {}).items():
            if rule.metric in metrics:
                sure[time] = metrics[rule.metric]
        if device_id in windows.undecided:
            left = windows.undecided[device_id]
            possible = {time: values for time, values in possible.items() if time in left}
        return cls(device_id, rule, sure, possible)

    def may_be(self) -> bool:
        """Tell whether there may be an alert at all."""
        values = [*self.sure.values(), *(each for some in self.possible.values() for each in some)]
        return any(self.rule.is_broken_by(value) for value in values)

    def at(self, time_ms: int) -> set[float]:
        """Return the values that the metric may have at a time."""
        certain = {self.sure[time_ms]} if time_ms in self.sure else set()
        return certain | self.possible.get(time_ms, set())


def one_alert(breaches: Breaches, alert: dict[str, Any]) -> Iterator[Difference]:
    """Compare an alert's breaches with the device's in its span, and its end with its recovery.

    It must span all breaches that are there. Its first, last and worst one may each be one that
    got no answer.
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
    possible = {  # those that fit the peak that is shown
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
    """Return the ms of a time that may be missing."""
    return None if text is None else from_iso(text)


def iso(time_ms: int) -> str:
    """Return a time as the API takes it."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace(
        "+00:00", "Z"
    )


def from_iso(text: str) -> int:
    """Return the ms since 1970 of a time that the API shows."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
