"""Sweep stage: every minute, clear the episodes whose devices have recovered.

`alert` can't: its mapping's filter lets only breaches through. The reading that ends an episode is
in the windows.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from telemetry.aws.alerts import BUCKETS, KEY, AlertReader, Alerts, Listed
from telemetry.aws.clients import client
from telemetry.aws.items import STATEMENTS_A_CALL, DynamoItems
from telemetry.aws.observe import count, link, log, observed
from telemetry.aws.windows import WindowReader
from telemetry.domain import rule as rules_of
from telemetry.domain.episode import recovery
from telemetry.domain.rule import Rule
from telemetry.domain.times import MINUTE_MS
from telemetry.errors import Unavailable
from telemetry.settings import SweepSettings

SPARE_MS = 10_000  # of the function's time, to finish in; the next minute goes on


def run(
    now_ms: int,
    rules: tuple[Rule, ...],
    open_episodes: Callable[[int], Iterable[Listed]],
    windows: WindowReader,
    alerts: Alerts,
    remaining_ms: Callable[[], int],
) -> dict[str, int]:
    """Clear every open episode of this region whose device has recovered; say how many.

    `open_episodes` lists them from a bucket on: from another each minute, so that none is always
    the last where there are more than one invocation gets through.
    """
    by_name = {rule.name: rule for rule in rules}
    recoveries: dict[Listed, int] = {}
    seen = cleared = 0
    for listed in open_episodes(now_ms // MINUTE_MS % BUCKETS):
        if remaining_ms() < SPARE_MS:
            log.warning("more open episodes than a minute is enough for", extra={"seen": seen})
            break
        seen += 1
        rule = by_name.get(listed.key.rule)  # newer code may have more of them
        at_ms = _recovered(listed, rule, windows, now_ms) if rule else None
        if at_ms is not None:
            recoveries[listed] = at_ms
        if len(recoveries) == STATEMENTS_A_CALL:
            cleared += _clear(recoveries, alerts)
            recoveries = {}
    cleared += _clear(recoveries, alerts)
    count(EpisodesCleared=cleared, EpisodesSwept=seen)
    return {"seen": seen, "cleared": cleared}


def _recovered(listed: Listed, rule: Rule, windows: WindowReader, now_ms: int) -> int | None:
    """When the device recovered, if it did: as of the first window that tells."""
    last_ms = listed.episode.last_breach_ms
    from_ms = last_ms - last_ms % MINUTE_MS
    for minute_ms, window in windows.between(listed.key.device_id, from_ms, now_ms + 1):
        values = (
            (minute_ms + offset, metrics[rule.metric])
            for offset, metrics in window.items()
            if rule.metric in metrics
        )
        at_ms = recovery(values, rule.clears_below, last_ms, now_ms)
        if at_ms is not None:
            return at_ms
    return None


def _clear(recoveries: dict[Listed, int], alerts: Alerts) -> int:
    """How many this cleared; those that couldn't be written are still open in a minute."""
    if not recoveries:
        return 0
    changed = alerts.clear(recoveries)
    cleared = {key: result for key, result in changed.items() if result.change == "cleared"}
    for key, result in cleared.items():
        log.info("episode cleared", extra={"device_id": key.device_id, "rule": key.rule})
        if result.state:
            link("clear", [result.state.trace_id], device_id=key.device_id, rule=key.rule)
    if len(changed) < len(recoveries):
        raise Unavailable(f"{len(recoveries) - len(changed)} episodes couldn't be cleared")
    return len(cleared)


@functools.cache
def wired() -> tuple[
    tuple[Rule, ...],
    Callable[[int], Iterable[Listed]],
    WindowReader,
    Alerts,
]:
    settings = SweepSettings.read(os.environ)
    rules = rules_of.shipped_rules()
    dynamodb = client("dynamodb")
    reader = AlertReader(dynamodb, settings.alerts_table)
    severities = {rule.name: rule.severity for rule in rules}
    return (
        rules,
        functools.partial(reader.open_in, settings.aws_region),
        WindowReader(dynamodb, settings.windows_table),
        Alerts(DynamoItems(dynamodb, settings.alerts_table, KEY), settings.aws_region, severities),
    )


@observed
def handler(_event: dict[str, Any], context: Any) -> dict[str, int]:
    """A schedule's event in, how many episodes were seen and cleared out."""
    return run(int(time.time() * 1000), *wired(), context.get_remaining_time_in_millis)
