"""Watches a running pipeline from outside: its own metrics, and its open alerts."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.api import Api
from local.deployment import client
from local.errors import LocalError
from local.instance import State
from local.metrics import LogReader, Tally

LOOK_SECONDS = 1.0
LOOK_SECONDS_BEFORE_FIRST_ALERT = 0.3
RATE_SECONDS = 5.0
HISTORY = 40
JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Snapshot:
    """What was seen at one moment."""

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
    alerts: list[dict[str, Any]] = field(default_factory=list)


class Monitor:
    """Looks at the pipeline again and again in a thread of its own, without slowing it much."""

    def __init__(
        self, state: State, since_ms: int, posted: Callable[[], int] | None = None
    ) -> None:
        """Count from `since_ms`; `posted` tells what devices of this process have sent."""
        self._reader = LogReader(client(state, "logs"), state.stack, since_ms)
        self._api = Api(state.api_url, state.tokens["operator"])
        self._tally = Tally()
        self._posted = posted
        self._stop = threading.Event()
        self._snapshots = deque([Snapshot(time.monotonic())], maxlen=HISTORY + 1)
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self.first_alert_at: float | None = None
        self.problem: str | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look a last time, and then no more."""
        self._stop.set()
        self._thread.join(JOIN_SECONDS)
        if not self._thread.is_alive():
            self._see()
        self._api.close()

    @property
    def latest(self) -> Snapshot:
        """What was seen last."""
        return self._snapshots[-1]

    @property
    def history(self) -> list[Snapshot]:
        """What was seen of late, oldest first."""
        return list(self._snapshots)

    def per_second(self, name: str) -> float:
        """Return how fast a count grew over the last seconds."""
        snapshots = self.history
        newest = snapshots[-1]
        oldest = next(seen for seen in snapshots if newest.at - seen.at <= RATE_SECONDS)
        seconds = newest.at - oldest.at
        grown: int = getattr(newest, name) - getattr(oldest, name)
        return grown / seconds if seconds else 0.0

    def _watch(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            self._see()
            took = time.monotonic() - started
            usual = LOOK_SECONDS if self.first_alert_at else LOOK_SECONDS_BEFORE_FIRST_ALERT
            self._stop.wait(max(usual - took, took))

    def _see(self) -> None:
        try:
            self._snapshots.append(self._look())
            self.problem = None
        except (BotoCoreError, ClientError, LocalError) as error:
            self.problem = str(error)

    def _look(self) -> Snapshot:
        self._reader.read(self._tally)
        alerts = list(self._api.alerts("open"))
        if alerts and self.first_alert_at is None:
            self.first_alert_at = time.monotonic()
        tally, now = self._tally, time.monotonic()
        accepted, rejected = tally["ReadingsAccepted"], tally["ReadingsRejected"]
        return Snapshot(
            at=now,
            posted=self._posted() if self._posted else accepted + rejected,
            accepted=accepted,
            rejected=rejected,
            overflowed=tally["ReadingsOverflowed"] - tally["ReadingsDrained"],
            stored=tally["ReadingsStored"],
            duplicate=tally["ReadingsDuplicate"],
            quarantined=tally["ReadingsQuarantined"],
            settled=tally.settled,
            lag_ms=tally.lag_ms(now),
            alerts=alerts,
        )
