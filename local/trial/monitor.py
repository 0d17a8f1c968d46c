"""Watches a running pipeline from outside: its metrics, mappings and open alerts."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from emulator.errors import EmulatorError
from local.api import Api
from local.deployment import client
from local.instance import Instance
from local.trial.mapping_state import MappingReader, MappingState
from local.trial.metrics import LogReader, Tally

LOOK_SECONDS = 1.0
LOOK_SECONDS_BEFORE_FIRST_ALERT = 0.3
RATE_SECONDS = 5.0
LOOKS_FOR_A_RATE = 2
HISTORY = 300
JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Snapshot:
    """The pipeline's counts at one moment (`at`, monotonic, in s)."""

    at: float
    posted: int = 0
    accepted: int = 0
    rejected: int = 0
    overflowed: int = 0
    stored: int = 0
    duplicate: int = 0
    quarantined: int = 0
    settled: int = 0
    lag_ms: float | None = None


class Monitor:
    """Looks at the pipeline about once a second, in threads of its own."""

    def __init__(
        self, instance: Instance, since_ms: int, posted: Callable[[], int] | None = None
    ) -> None:
        """Count from `since_ms`; `posted` returns the count of this process's devices."""
        state = instance.load()
        self._reader = LogReader(client(state, "logs"), state.stack, since_ms)
        self._api = Api(state.api_url, state.tokens["operator"], patience_seconds=0)
        self._tally = Tally()
        self._posted = posted
        self._stop = threading.Event()
        self._snapshots: list[Snapshot] = []
        self._alerts: list[dict[str, Any]] = []
        self._mapping_reader = MappingReader(instance)
        self._mappings: list[MappingState] = []
        self.stack = state.stack
        self._threads = [
            threading.Thread(target=self._watch, args=(look,), daemon=True)
            for look in (self._look_at_metrics, self._look_at_alerts, self._look_at_mappings)
        ]
        self.first_alert_at: float | None = None
        self._problems: dict[Callable[[], None], str] = {}

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def abandon(self) -> None:
        """Stop without a last look."""
        self._stop.set()

    def stop(self) -> None:
        """Look a last time, then stop."""
        if self._stop.is_set():
            return
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        if not any(thread.is_alive() for thread in self._threads):
            self._see(self._look_at_alerts)
            self._see(self._look_at_metrics)
        self._api.close()

    @property
    def problem(self) -> str | None:
        """The error of a look that failed, so that its view may be old; None if none failed."""
        return next(iter(list(self._problems.values())), None)

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that were open at the last look."""
        return self._alerts

    @property
    def mappings(self) -> list[MappingState]:
        """The states of the event source mappings at the last look."""
        return self._mappings

    @property
    def latest(self) -> Snapshot:
        """The last snapshot; an empty one before the first look."""
        return self._snapshots[-1] if self._snapshots else Snapshot(time.monotonic())

    def count(self, name: str) -> int:
        """Return the last count of that name; `posted` of this process's devices is up to date."""
        counted: int = getattr(self.latest, name)
        return self._posted() if name == "posted" and self._posted else counted

    @property
    def history(self) -> list[Snapshot]:
        """The recent snapshots, oldest first."""
        return self._snapshots

    def per_second(self, name: str) -> float | None:
        """Return the growth of a count per second, over the last 5 s; None before the second look.

        The counts of the first look are older, and their rate isn't known.
        """
        snapshots = self.history
        if len(snapshots) < LOOKS_FOR_A_RATE:
            return None
        newest = snapshots[-1]
        recent = [seen for seen in snapshots[:-1] if newest.at - seen.at <= RATE_SECONDS]
        oldest = recent[0] if recent else snapshots[-2]
        grown: int = getattr(newest, name) - getattr(oldest, name)
        return grown / (newest.at - oldest.at)

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self._see(look)
            took = time.monotonic() - started
            usual = LOOK_SECONDS if self.first_alert_at else LOOK_SECONDS_BEFORE_FIRST_ALERT
            self._stop.wait(max(usual - took, took))

    def _see(self, look: Callable[[], None]) -> None:
        try:
            look()
            self._problems.pop(look, None)
        except (BotoCoreError, ClientError, EmulatorError) as error:
            self._problems[look] = str(error)

    def _look_at_alerts(self) -> None:
        self._alerts = list(self._api.alerts("open"))
        if self._alerts and self.first_alert_at is None:
            self.first_alert_at = time.monotonic()

    def _look_at_mappings(self) -> None:
        self._mappings = self._mapping_reader.read()

    def _look_at_metrics(self) -> None:
        self._reader.read(self._tally)
        tally, now = self._tally, time.monotonic()
        accepted = tally["ReadingsAccepted"] + tally["ReadingsForeign"]
        rejected = tally["ReadingsRejected"]
        seen = Snapshot(
            at=now,
            posted=self._posted() if self._posted else accepted + rejected,
            accepted=accepted,
            rejected=rejected,
            overflowed=max(0, tally["ReadingsOverflowed"] - tally["ReadingsDrained"]),
            stored=tally["ReadingsStored"],
            duplicate=tally["ReadingsDuplicate"],
            quarantined=tally["ReadingsQuarantined"],
            settled=tally.settled,
            lag_ms=tally.lag_ms(now),
        )
        self._snapshots = [
            *self._snapshots[-HISTORY:],
            seen,
        ]  # a thread may read the old list
