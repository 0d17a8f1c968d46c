"""Query stage: windows, devices and alerts for operators, merged over regions."""

import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from telemetry.aws import events, http
from telemetry.aws.alerts import OPEN, STATUSES, AlertReader
from telemetry.aws.clients import client
from telemetry.aws.observe import observed
from telemetry.aws.windows import WindowReader
from telemetry.domain.reading import METRICS
from telemetry.domain.times import LATEST_MS, MINUTE_MS, minute_of, to_iso, to_iso_minute
from telemetry.domain.window import Window, count_contested, last_values, summarize
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import QuerySettings

HOUR_MS = 3_600_000
DEFAULT_LIMIT, MAX_LIMIT = 100, 1_000
LATEST_PAGE = 4  # items: the newest minute of up to three regions, and one more
# How far back a metric's last value is searched: until this many windows in a row bring no other
# metric, and not further once windows had this many readings. Most devices lack a metric for good,
# and each of their requests would pay for a longer search.
LOOK_BACK_IDLE, LOOK_BACK_READINGS, LOOK_BACK_PAGE = 60, 100_000, 60

Route = Callable[[dict[str, Any], int, WindowReader, AlertReader], dict[str, Any]]


def run(
    event: dict[str, Any], now_ms: int, windows: WindowReader, alerts: AlertReader
) -> dict[str, Any]:
    """Return the route's answer; 400 with the field, the value and a correction, or 503."""
    try:
        return ROUTES[event["resource"]](event, now_ms, windows, alerts)
    except (Rejected, Unavailable) as error:
        return http.refuse(error)


def get_windows(
    event: dict[str, Any], now_ms: int, windows: WindowReader, _alerts: AlertReader
) -> dict[str, Any]:
    """Return one device's statistics by minute; `next` is the `from` of the next page."""
    device_id = http.path_name(event, "device_id")
    to_ms = http.instant(event, "to", now_ms)
    from_ms = http.instant(event, "from", to_ms - HOUR_MS)
    if from_ms > to_ms:
        raise Rejected(f"is after to, {to_iso(to_ms)}", field="from", value=to_iso(from_ms))
    limit = _limit(event)
    # whole minutes: from the minute of `from` to that of `to`, unless `to` is its very start
    until_ms = minute_of(to_ms + MINUTE_MS - 1)
    between = windows.between(device_id, minute_of(from_ms), until_ms, page_size=limit + 1)
    found = list(islice(between, limit + 1))
    body = {
        "device_id": device_id,
        "from": to_iso(from_ms),
        "to": to_iso(to_ms),
        "windows": [_document(minute_ms, window) for minute_ms, window in found[:limit]],
        "next": to_iso_minute(found[limit][0]) if len(found) > limit else None,
    }
    return http.respond(200, body)


def _document(minute_ms: int, window: Window) -> dict[str, Any]:
    return {
        "minute": to_iso_minute(minute_ms),
        "count": len(window),
        "conflicting": count_contested(window),
        "metrics": {name: asdict(values) for name, values in summarize(window).items()},
    }


def get_device(
    event: dict[str, Any], _now_ms: int, windows: WindowReader, _alerts: AlertReader
) -> dict[str, Any]:
    """Return one device's latest reading by event time, and the last known value of each metric.

    `searched` says how far back the search went, and whether it was complete. `conflicting` is the
    number of contested values in the searched windows.
    """
    device_id = http.path_name(event, "device_id")
    found = _look_back(windows, device_id)
    if found is None:
        return http.respond(404, {"message": f"There are no readings of device {device_id}."})
    return http.respond(200, {"device_id": device_id, **found})


def _look_back(windows: WindowReader, device_id: str) -> dict[str, Any] | None:
    """Return the last values in the newest windows; None if the device has no window.

    Raise Unavailable if even the newest window can't be read.
    """
    latest: dict[str, Any] = {}
    metrics: dict[str, dict[str, Any]] = {}
    back_to_ms = looked = idle = readings = conflicting = 0
    searched: dict[str, Any] = {"complete": True}
    try:
        for minute_ms, window in _newest_first(windows, device_id):
            if not latest:
                offset = max(window)
                latest = {"recorded_at": to_iso(minute_ms + offset), **window[offset]}
            found = last_values(window)
            idle = 0 if found.keys() - metrics.keys() else idle + 1
            for name, (offset, value) in found.items():
                known = {"value": value, "recorded_at": to_iso(minute_ms + offset)}
                metrics.setdefault(name, known)
            back_to_ms, looked, readings = minute_ms, looked + 1, readings + len(window)
            conflicting += count_contested(window)
            if metrics.keys() >= set(METRICS):
                break
            if idle >= LOOK_BACK_IDLE or readings >= LOOK_BACK_READINGS:
                searched["complete"] = False
                break
    except Unavailable as error:
        if not latest:
            raise
        searched |= {"complete": False, "stopped_by": str(error)}
    if not latest:
        return None
    searched |= {"back_to": to_iso_minute(back_to_ms), "windows": looked}
    answer = {"latest": latest, "metrics": metrics, "conflicting": conflicting}
    return answer | {"searched": searched}


def _newest_first(windows: WindowReader, device_id: str) -> Iterator[tuple[int, Window]]:
    """Yield a device's windows, newest first; the first is read alone, as it is often enough."""
    newest = next(windows.between(device_id, 0, LATEST_MS, LATEST_PAGE, newest_first=True), None)
    if newest is not None:
        yield newest
        yield from windows.between(device_id, 0, newest[0], LOOK_BACK_PAGE, newest_first=True)


def get_alerts(
    event: dict[str, Any], _now_ms: int, _windows: WindowReader, alerts: AlertReader
) -> dict[str, Any]:
    """Return a page of episodes of one status: the latest episode of each device and rule."""
    status = http.query_parameter(event, "status")
    status = OPEN if status is None else status
    if status not in STATUSES:
        reason = f"is not a status: {' and '.join(STATUSES)} are"
        raise Rejected(reason, field="status", value=status)
    page = alerts.list_page(status, _limit(event), http.query_parameter(event, "cursor"))
    return http.respond(200, page._asdict())


def get_health(
    _event: dict[str, Any], _now_ms: int, windows: WindowReader, _alerts: AlertReader
) -> dict[str, Any]:
    """Return 200 if this region can read its windows; on an error, API Gateway returns 502.

    Callers need no token, so this costs one small read.
    """
    windows.ping()
    # InfluxDB's words, since its clients may ask before they write
    return http.respond(200, {"name": "telemetry", "status": "pass"})


ROUTES: dict[str, Route] = {
    "/devices/{device_id}/windows": get_windows,
    "/devices/{device_id}": get_device,
    "/alerts": get_alerts,
    "/health": get_health,
}


def _limit(event: dict[str, Any]) -> int:
    return http.number(event, "limit", DEFAULT_LIMIT, MAX_LIMIT)


@functools.cache
def wired() -> tuple[WindowReader, AlertReader]:
    settings = QuerySettings.read(os.environ)
    dynamodb = client("dynamodb")
    return (
        WindowReader(dynamodb, settings.windows_table),
        AlertReader(dynamodb, settings.alerts_table),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """API Gateway's proxy event in, its response out."""
    events.expect("query", event, events.routes(*ROUTES))
    return run(event, int(time.time() * 1000), *wired())
