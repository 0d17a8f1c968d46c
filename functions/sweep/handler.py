"""Sweep stage: every minute, clear the episodes whose devices have recovered.

`alert` can't do this, because its mapping's filter passes only breaches. The reading that ends an
episode is in the windows.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from telemetry.aws import events
from telemetry.aws.alerts import BUCKETS, KEY, AlertReader, Alerts, StoredEpisode, UnreadableEpisode
from telemetry.aws.clients import client
from telemetry.aws.items import STATEMENTS_A_CALL, DynamoItems
from telemetry.aws.observe import count, link, log, observed
from telemetry.aws.windows import WindowReader
from telemetry.domain.episode import RULE_REMOVED, EpisodeKey, is_rule_gone, recovery
from telemetry.domain.rule import Rule, shipped_rules
from telemetry.domain.times import MINUTE_MS, minute_of
from telemetry.errors import Unavailable
from telemetry.settings import SweepSettings

# Time that is left to finish; the next minute's sweep goes on. A device's query may take 11 s if
# the table hangs: two attempts of 5 s (`telemetry.aws.clients`).
SPARE_MS = 15_000
ATTEMPTS = 2
SKIPPED_LOGGED = 20  # log lines about skipped episodes in a sweep; the rest is counted

OpenEpisodes = Callable[[int], Iterable[StoredEpisode | UnreadableEpisode]]


def run(
    now_ms: int,
    rules: tuple[Rule, ...],
    open_episodes: OpenEpisodes,
    windows: WindowReader,
    alerts: Alerts,
    remaining_ms: Callable[[], int],
) -> dict[str, int]:
    """Clear every open episode of this region whose device has recovered; return the counts.

    `open_episodes` lists them from a given bucket on. Each minute begins with another bucket, so
    that each gets its turn if there are more episodes than an invocation can do. An episode that
    can't be checked is logged and skipped. Raise Unavailable if none could be checked, or if a
    recovery couldn't be written.
    """
    sweep = Sweep(now_ms, {rule.name: rule for rule in rules}, windows, alerts, remaining_ms)
    for found in open_episodes(now_ms // MINUTE_MS % BUCKETS):
        if remaining_ms() < SPARE_MS:
            log.warning("more open episodes than a minute is enough for", extra=sweep.counts())
            break
        sweep.look(found)
    sweep.clear()
    if sweep.unreadable > SKIPPED_LOGGED:
        more = sweep.unreadable - SKIPPED_LOGGED
        log.error("more open episodes can't be looked at", extra={"left_out": more})
    count(
        EpisodesCleared=sweep.cleared, EpisodesSwept=sweep.seen, EpisodesUnreadable=sweep.unreadable
    )
    if sweep.unwritten:
        raise Unavailable(f"{sweep.unwritten} episodes couldn't be cleared")
    if sweep.unreadable and sweep.unreadable == sweep.seen:
        raise Unavailable(f"none of {sweep.seen} open episodes can be looked at: see the log")
    return sweep.counts()


class Sweep:
    """One minute's check of the open episodes."""

    def __init__(
        self,
        now_ms: int,
        rules: Mapping[str, Rule],
        windows: WindowReader,
        alerts: Alerts,
        remaining_ms: Callable[[], int],
    ) -> None:
        self._now_ms = now_ms
        self._rules = rules
        self._windows = windows
        self._alerts = alerts
        self._remaining_ms = remaining_ms
        self._to_clear: dict[str | None, dict[StoredEpisode, int]] = {None: {}, RULE_REMOVED: {}}
        self.seen = self.cleared = self.unreadable = self.unwritten = 0

    def counts(self) -> dict[str, int]:
        """Return how many episodes were seen and cleared, and how many couldn't be checked."""
        counts = {"seen": self.seen, "cleared": self.cleared}
        return counts | ({"unreadable": self.unreadable} if self.unreadable else {})

    def look(self, found: StoredEpisode | UnreadableEpisode) -> None:
        """Note an episode to clear if it has ended; clear the noted ones once a call is full."""
        self.seen += 1
        if isinstance(found, UnreadableEpisode):
            self._skip(found.key, found.why)
            return
        rule = self._rules.get(found.key.rule)
        try:
            if rule is not None:
                self._note(found, None, self._recovered(found, rule))
            elif is_rule_gone(found.episode, self._now_ms):
                self._note(found, RULE_REMOVED, self._now_ms)
        # one device's windows must not keep other devices' episodes from ending
        except Exception as error:  # noqa: BLE001
            self._skip(found.key, str(error) or repr(error))

    def clear(self) -> None:
        """Clear the noted episodes; those that can't be written stay open for the next sweep."""
        for ended_by, instants in self._to_clear.items():
            if not instants:
                continue
            changed = self._alerts.clear(instants, ended_by)
            self.unwritten += len(instants) - len(changed)
            instants.clear()
            for key, result in changed.items():
                if result.change == "cleared" and result.state:
                    self.cleared += 1
                    fields = {"device_id": key.device_id, "rule": key.rule}
                    log.info("episode cleared", extra={**fields, "ended_by": result.state.reason})
                    link("clear", [result.state.trace_id], **fields)

    def _note(self, found: StoredEpisode, ended_by: str | None, at_ms: int | None) -> None:
        instants = self._to_clear[ended_by]
        if at_ms is not None:
            instants[found] = at_ms
        if len(instants) == STATEMENTS_A_CALL:
            self.clear()

    def _skip(self, key: EpisodeKey | None, why: str) -> None:
        """Log an episode that can't be checked, and clear the noted ones while there is time."""
        self.unreadable += 1
        if self.unreadable <= SKIPPED_LOGGED:
            named = key._asdict() if key else {}
            log.error("an open episode can't be looked at", extra={**named, "why": why})
        self.clear()

    def _recovered(self, found: StoredEpisode, rule: Rule) -> int | None:
        """Return when the device recovered (epoch ms), None if no window shows it."""
        last_ms = found.episode.last_breach_ms
        device_id, from_ms = found.key.device_id, minute_of(last_ms)
        for minute_ms, window in self._windows.between(device_id, from_ms, self._now_ms + 1):
            values = (
                (minute_ms + offset, metrics[rule.metric])
                for offset, metrics in window.items()
                if rule.metric in metrics
            )
            at_ms = recovery(values, rule.clears_below, last_ms, self._now_ms)
            if at_ms is not None:
                return at_ms
            if self._remaining_ms() < SPARE_MS:
                raise Unavailable(
                    "there are more windows since the last breach than there is time for"
                )
        return None


@functools.cache
def wired() -> tuple[
    tuple[Rule, ...],
    OpenEpisodes,
    WindowReader,
    Alerts,
]:
    settings = SweepSettings.read(os.environ)
    rules = shipped_rules()
    dynamodb = client("dynamodb", attempts=ATTEMPTS)
    reader = AlertReader(dynamodb, settings.alerts_table)
    severities = {rule.name: rule.severity for rule in rules}
    return (
        rules,
        functools.partial(reader.open_in, settings.aws_region),
        WindowReader(dynamodb, settings.windows_table),
        Alerts(DynamoItems(dynamodb, settings.alerts_table, KEY), settings.aws_region, severities),
    )


@observed
def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """A schedule's event in, how many episodes were seen and cleared out."""
    events.expect("sweep", event, events.SCHEDULE, events.NOTHING)
    return run(int(time.time() * 1000), *wired(), context.get_remaining_time_in_millis)
