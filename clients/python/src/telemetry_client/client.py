"""The client: records at once, sends in the background, and reports problems."""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from telemetry_client.answers import Remedy, Verdict
from telemetry_client.errors import Invalid, StoreFailed
from telemetry_client.pace import Pace, PaceOptions
from telemetry_client.store import Status, Store, StoreOptions
from telemetry_client.transport import Transport

BATCH_MAX = 500
LOG = logging.getLogger("telemetry_client")
FLUSH_POLL_S = 0.02


@dataclass(frozen=True)
class ClientOptions:
    """Options of sending and of the store."""

    batch_max: int = BATCH_MAX
    """Maximum of readings in a request."""
    batch_age_s: float = 10.0
    """Maximum time that a reading waits for others to fill its batch."""
    close_s: float = 5.0
    """How long the end of a `with` block tries to send waiting readings."""
    pace: PaceOptions = field(default_factory=PaceOptions)
    store: StoreOptions = field(default_factory=StoreOptions)
    on_problem: Callable[[Verdict], None] | None = None
    """Called by the sending thread with each verdict that has a problem, a rejection, or a refused
    metric of a taken reading (`partly`)."""

    def __post_init__(self) -> None:
        """Raise Invalid for an option out of its range."""
        if not 1 <= self.batch_max <= BATCH_MAX:
            raise Invalid("batch_max", self.batch_max, f"is not from 1 to {BATCH_MAX}")
        if not self.batch_age_s >= 0:
            raise Invalid("batch_age_s", self.batch_age_s, "is below 0")


class Client:
    """Records one device's readings and sends them."""

    def __init__(
        self,
        store: str | Path | Store,
        device_id: str,
        transport: Transport,
        options: ClientOptions | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """Open the store; nothing is sent before `start`, `run` or `flush`."""
        self._options = options or ClientOptions()
        is_open = isinstance(store, Store)
        if isinstance(store, Store):
            self.store = store
        else:
            self.store = Store(store, device_id, self._options.store)
        if self.store.device_id != device_id:
            reason = f"differs from the store's device, {self.store.device_id}"
            raise Invalid("device_id", device_id, reason)
        self._owns_store = not is_open
        self._transport = transport
        self._pace = Pace(
            self._options.batch_max, self._options.pace, chance or random.SystemRandom()
        )
        self._sending = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = threading.Event()
        self._is_flushing = False
        self._not_before = 0.0
        self._waits_since = 0.0
        self._thread: threading.Thread | None = None
        self.problem: str | None = None
        """The problem of the last request; None if it had none."""

    def __enter__(self) -> Self:
        """Start to send in the background."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Send waiting readings for `close_s`; the others are sent next time."""
        self.close(self._options.close_s)

    def record(
        self, metrics: Mapping[str, float | None] | None = None, /, **more: Any
    ) -> int | None:
        """Record a reading: `record(temperature=21.5)`. After the return it is in the file.

        Return its instant in epoch ms, or None if the clock isn't set yet. `recorded_at`, a
        datetime or epoch ms, is for a reading that wasn't measured just now. Raise Invalid,
        StoreFull or StoreFailed; then nothing was recorded. Raise Conflicting, an Invalid, if a
        metric has another value at that instant, in a waiting reading or a very recent one.
        """
        recorded_at = more.pop("recorded_at", None)
        at_ms = self.store.record({**(metrics or {}), **more}, recorded_at)
        waiting = self.store.waiting
        if waiting == 1 or waiting % self._options.batch_max == 0:
            self._wake.set()
        return at_ms

    def start(self) -> None:
        """Start a thread that sends until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self.run, name="telemetry-client", daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Send due readings until another thread calls `close`.

        No error ends it: the device goes on recording, so sending must go on, too.
        """
        while not self._is_closing.is_set():
            self._wake.clear()
            try:
                pause_s = self._send_due()
            except StoreFailed as error:
                self._report(Verdict(remedy=Remedy.PERSON, problem=str(error)))
            except Exception as error:
                LOG.exception("sending goes on after")
                self.problem = repr(error)
            else:
                if pause_s > 0:
                    self._wake.wait(pause_s)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Send all waiting readings, without waiting for full batches; return True if all are sent.

        Return False when the time is up. A request that is under way then still ends, at the latest
        by the transport's timeout. Pauses that the pipeline or a failure demands are kept. Readings
        that wait for the clock to be set can't be sent, and aren't waited for. Raise StoreFailed.
        """
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        self._is_flushing = True
        self._wake.set()
        try:
            while not self._is_sent():
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._is_closing.is_set():
                    return False
                if self._thread and self._thread.is_alive():
                    pause_s = FLUSH_POLL_S
                else:
                    pause_s = self._send_due() or 0.0
                if pause_s > 0:
                    self._is_closing.wait(min(pause_s, left_s))
        finally:
            self._is_flushing = False
        return True

    def close(self, timeout_s: float = 0.0) -> None:
        """Stop; first try to send for `timeout_s`. Unsent readings stay in the store."""
        if self._is_closing.is_set():
            return
        try:
            if timeout_s > 0:
                self.flush(timeout_s)
        finally:
            self._is_closing.set()
            self._wake.set()
            if self._thread and self._thread is not threading.current_thread():
                self._thread.join()
            self._transport.close()
            if self._owns_store:
                self.store.close()

    def status(self) -> Status:
        """Return the counts of the store: waiting readings and past results."""
        return self.store.status()

    def _is_sent(self) -> bool:
        # `take` also finds readings that waited for the clock, or that other processes recorded
        return self.store.waiting == 0 and not self.store.take(1, 1)

    def _send_due(self) -> float:
        """Send a batch if one is due; return the seconds until the next one may be."""
        with self._sending:
            now = time.monotonic()
            if now < self._not_before:
                return self._not_before - now
            try:
                return self._send_batch(now)
            except Exception:
                # On a full disk the store can't record results: don't send again without a pause.
                self._pause(Verdict(remedy=Remedy.LATER), 0)
                raise

    def _send_batch(self, now: float) -> float:
        batch = self.store.take(self._pace.limit, self._transport.max_bytes)
        if not batch:
            self._waits_since = 0.0
            return self._options.batch_age_s or self._options.pace.first_s
        self._waits_since = self._waits_since or now
        left_s = self._waits_since + self._options.batch_age_s - now
        is_full = self.store.waiting >= self._pace.limit
        if not is_full and not self._is_flushing and left_s > 0:
            return left_s
        self._waits_since = 0.0
        verdict = self._transport.deliver(self.store.device_id, batch)
        self.store.settle(
            [batch[index] for index in verdict.taken],
            [(batch[each.index], each) for each in verdict.rejected],
            [(batch[each.index], each) for each in verdict.partly],
        )
        pause_s = self._pause(verdict, len(batch))
        self._report(verdict)
        return pause_s

    def _pause(self, verdict: Verdict, sent: int) -> float:
        pause_s = self._pace.after(verdict, sent)
        self._not_before = time.monotonic() + pause_s
        return pause_s

    def _report(self, verdict: Verdict) -> None:
        for each in verdict.rejected:
            LOG.warning("a reading was refused: %s: %s", each.field, each.reason)
        for each in verdict.partly:
            LOG.warning("a reading was taken without %s: %s", each.field, each.reason)
        if verdict.problem is not None and verdict.problem != self.problem:
            level = logging.ERROR if verdict.remedy is Remedy.PERSON else logging.WARNING
            pause_s = max(0.0, self._not_before - time.monotonic())
            LOG.log(level, "%s; again in %.1f s", verdict.problem, pause_s)
        self.problem = verdict.problem
        if self._options.on_problem and (verdict.problem or verdict.rejected or verdict.partly):
            try:
                self._options.on_problem(verdict)
            except Exception:
                LOG.exception("on_problem raised")
