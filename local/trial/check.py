"""Compares what the pipeline shows with what the devices know that they sent."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from local.api import Api
from local.fleet.ledger import Alert, Ledger, Statistics, Window
from local.fleet.reading import MINUTE_MS
from local.fleet.rules import Rule

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

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.device_id} {self.what}: expected {self.expected}, found {self.found}"


def check(
    connect: Callable[[], Api], ledger: Ledger, rules: Iterable[Rule], is_alone: bool = True
) -> list[Difference]:
    """Return every difference between the pipeline's windows and alerts and the ledger's.

    `is_alone` says that no other devices have posted, so that no other may have an alert. One that
    is cleared or opened again between two looks may show twice or not at all: look again.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(
            pool.map(lambda device_id: check_device(connect, ledger, device_id), ledger.devices)
        )
    differences = [difference for of_device in found for difference in of_device]
    with connect() as api:
        alerts = [alert for status in ("cleared", "open") for alert in api.alerts(status)]
    if not is_alone:
        own = set(ledger.devices)
        alerts = [alert for alert in alerts if alert["device_id"] in own]
    return differences + list(alert_differences(ledger, rules, alerts))


def check_device(connect: Callable[[], Api], ledger: Ledger, device_id: str) -> list[Difference]:
    """Return the differences in a device's windows, over its readings' time and a little around."""
    first_ms, last_ms = ledger.span_ms(device_id)
    with connect() as api:
        shown = list(api.windows(device_id, iso(first_ms - MARGIN_MS), iso(last_ms + MARGIN_MS)))
    return list(window_differences(device_id, ledger.windows(device_id), shown))


def window_differences(
    device_id: str, expected: dict[int, Window], shown: Iterable[dict[str, Any]]
) -> Iterator[Difference]:
    """Compare a device's windows, as the API shows them, with the expected ones."""
    found: dict[int, dict[str, Any]] = {}
    for window in shown:
        minute_ms = from_iso(window["minute"])
        if minute_ms in found:
            yield Difference(device_id, f"window {window['minute']}", "once", "twice")
        found[minute_ms] = window
    for minute_ms in sorted(expected.keys() | found.keys()):
        where = f"window {iso(minute_ms)}"
        if minute_ms not in found:
            yield Difference(device_id, where, f"{expected[minute_ms].count} readings", "none")
        elif minute_ms not in expected:
            yield Difference(device_id, where, "none", f"{found[minute_ms]['count']} readings")
        else:
            yield from one_window(device_id, where, expected[minute_ms], found[minute_ms])


def one_window(
    device_id: str, where: str, expected: Window, found: dict[str, Any]
) -> Iterator[Difference]:
    """Compare one window: its count, and every statistic of every metric."""
    if found["count"] != expected.count:
        yield Difference(device_id, f"{where} count", expected.count, found["count"])
    for metric in sorted(expected.metrics.keys() | found["metrics"].keys()):
        wanted, shown = expected.metrics.get(metric), found["metrics"].get(metric)
        if wanted is None or shown is None:
            yield Difference(device_id, f"{where} {metric}", wanted, shown)
        else:
            yield from one_metric(device_id, f"{where} {metric}", wanted, shown)


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
    ledger: Ledger, rules: Iterable[Rule], shown: Iterable[dict[str, Any]]
) -> Iterator[Difference]:
    """Compare the alerts, open and cleared, with the readings: one for each device that broke one.

    Where a device broke a rule several times, the last one is shown: with the breaches since the
    one before was cleared.
    """
    by_name = {rule.name: rule for rule in rules}
    expected = ledger.alerts(by_name.values())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for alert in shown:
        key = alert["device_id"], alert["rule"]
        if key in found:
            yield Difference(alert["device_id"], f"alert {alert['rule']}", "once", "twice")
        found[key] = alert
    for device_id, name in sorted(expected.keys() | found.keys()):
        alert = found.get((device_id, name), {})
        if not alert or (device_id, name) not in expected:
            wanted = "one" if alert == {} else "none"
            yield Difference(device_id, f"alert {name}", wanted, alert.get("status", "none"))
        else:
            yield from one_alert(ledger, by_name[name], alert)


def one_alert(ledger: Ledger, rule: Rule, alert: dict[str, Any]) -> Iterator[Difference]:
    """Compare an alert's breaches with the device's in its span, and its end with its recovery."""
    device_id, where = alert["device_id"], f"alert {rule.name}"
    since_ms = instant(alert["previous_cleared_at"])
    cleared_ms = instant(alert["cleared_at"])
    span = (
        -math.inf if since_ms is None else since_ms,
        math.inf if cleared_ms is None else cleared_ms,
    )
    wanted = ledger.alert(device_id, rule, *span)
    first_ms, last_ms = (from_iso(alert[f"{at}_breach_at"]) for at in ("first", "last"))
    got = Alert(first_ms, last_ms, alert["peak"])
    for name, want, have in zip(Alert._fields, wanted or (None,) * len(got), got, strict=True):
        if want != have:
            yield Difference(device_id, f"{where} {name}", want, have)
    if cleared_ms is not None:
        recovery_ms = ledger.first_recovery_ms(device_id, rule, cleared_ms - 1)
        if recovery_ms != cleared_ms:
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
