"""Account stage: compare accepted readings with their outcomes, for operators and an alarm.

A reading in quarantine is accounted for. Readings that a mapping gave up on, and put into the
failures bucket, are unaccounted until they are redriven.
"""

import functools
import os
import time
from typing import Any

from telemetry.aws import events, http
from telemetry.aws.clients import client
from telemetry.aws.counters import Counters
from telemetry.aws.observe import count, log, observed
from telemetry.domain.accounting import BALANCE, METRICS, by_stage, unaccounted
from telemetry.domain.times import MINUTE_MS, minute_of, to_iso, to_iso_minute
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import DAY_MS, AccountSettings

HOUR_MS = 3_600_000
SPAN_MS = DAY_MS  # CloudWatch may show counts of older minutes only two days later
KEPT_MS = 15 * DAY_MS  # how long CloudWatch keeps values by the minute
SETTLED_AFTER_MS = 15 * MINUTE_MS  # time for a few retries of a batch


def run(event: dict[str, Any], now_ms: int, counters: Counters) -> dict[str, Any]:
    """Answer an operator's request; on the schedule, publish the alarm's metric."""
    return ask(event, now_ms, counters) if "httpMethod" in event else measure(now_ms, counters)


def ask(event: dict[str, Any], now_ms: int, counters: Counters) -> dict[str, Any]:
    """Return the stages' counts in whole minutes, and how many readings have no outcome yet."""
    try:
        from_ms, to_ms = _span(event, now_ms)
        counts = counters.by_minute(METRICS, from_ms, to_ms)
    except (Rejected, Unavailable) as error:
        return http.refuse(error)
    body = {
        "from": to_iso_minute(from_ms),
        "to": to_iso_minute(to_ms),
        "stages": by_stage(counts),
        "unaccounted": unaccounted(counts),
    }
    return http.respond(200, body)


def _span(event: dict[str, Any], now_ms: int) -> tuple[int, int]:
    """Return a request's span in whole minutes: from the start of `from`'s to the end of `to`'s."""
    to_ms = http.instant(event, "to", now_ms)
    from_ms = http.instant(event, "from", to_ms - HOUR_MS)
    first_ms, end_ms = minute_of(from_ms), minute_of(to_ms + MINUTE_MS - 1)
    if from_ms > to_ms or first_ms == end_ms:
        raise Rejected(f"is not before to, {to_iso(to_ms)}", field="from", value=to_iso(from_ms))
    if to_ms - from_ms > SPAN_MS:
        reason = f"is more than a day before to, {to_iso(to_ms)}"
        raise Rejected(reason, field="from", value=to_iso(from_ms))
    if from_ms < now_ms - KEPT_MS:  # all counts would be 0, as if nothing had been lost then
        reason = f"is before {to_iso(now_ms - KEPT_MS)}: minutes are counted for 15 days"
        raise Rejected(reason, field="from", value=to_iso(from_ms))
    return first_ms, end_ms


def measure(now_ms: int, counters: Counters) -> dict[str, Any]:
    """Publish how many readings of the last day still have no outcome after SETTLED_AFTER_MS."""
    to_ms = minute_of(now_ms - SETTLED_AFTER_MS)
    missing = unaccounted(counters.by_minute(BALANCE, minute_of(now_ms - SPAN_MS), to_ms))
    count(ReadingsUnaccounted=missing)
    if missing:
        log.error("accepted readings have no outcome", extra={"unaccounted": missing})
    return {"unaccounted": missing}


@functools.cache
def wired() -> tuple[Counters]:
    settings = AccountSettings.read(os.environ)
    return (Counters(client("cloudwatch"), settings.powertools_metrics_namespace),)


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """API Gateway's proxy event in, its response out; or the schedule's event in, the count out."""
    events.expect("account", event, events.routes("/accounting"), events.SCHEDULE, events.NOTHING)
    return run(event, int(time.time() * 1000), *wired())
