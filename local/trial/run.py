"""Runs devices against an instance, and checks at the end what became of their readings."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live

from local.api import Api
from local.fleet import firmware
from local.fleet.ledger import Ledger
from local.fleet.over_https import Posting, PostingOptions
from local.fleet.over_mqtt import MqttDevices, speakers
from local.fleet.reading import Source
from local.fleet.rules import load as load_rules
from local.instance import Instance
from local.trial.check import check, iso
from local.trial.monitor import Monitor
from local.trial.report import Report, problems
from local.trial.watch import PLAIN_LINE_SECONDS, live_table, plain_line
from local.values import duration_text
from local.view import Steps

REFRESH_SECONDS = 0.5
STALL_SECONDS = 20.0
QUIET_SECONDS = 4.0
GRACE_SECONDS = 15.0
RECHECK_SECONDS = 1.0
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Plan:
    """How long devices are at work, and what is looked at then."""

    seconds: float | None = None
    """None: until the source has no more, or Ctrl-C."""
    is_checked: bool = True
    is_alone: bool = True
    """Whether no other devices have posted to the instance."""
    beside: AbstractContextManager[object] | None = None
    """What goes on as long as devices post."""
    grace_seconds: float = GRACE_SECONDS
    """How long they may then finish what they have begun."""
    patience_seconds: float = STALL_SECONDS
    """How long the pipeline may stand still before what differs is a loss."""


class Exercise:
    """Devices at work until time is up or Ctrl-C, the live table, the drain and the check."""

    def __init__(self, instance: Instance, steps: Steps, posting_options: PostingOptions) -> None:
        """Work on a deployed instance."""
        state = self._state = instance.load()
        self._instance = instance
        self._mqtt_share = posting_options.mqtt
        self._steps = steps
        self._console: Console = steps.console
        self.ledger = Ledger()
        self._posting = Posting(
            state.api_url,
            state.tokens,
            self.ledger,
            posting_options,
            schema_ids=firmware.schema_ids(state.outputs["ReadingSchemaIds"]),
        )
        self._since_ms = now_ms() - 1000
        self.monitor = Monitor(instance, self._since_ms, lambda: self.ledger.counts.posted)
        self._stop = asyncio.Event()
        self._status: Callable[[], str] = lambda: "starting"
        self._is_first_alert_told = False
        self._settled_at: float | None = None

    async def run(self, source: Source, plan: Plan, on_abort: Callable[[], None]) -> Report:
        """Do it all; a second Ctrl-C calls `on_abort` and ends it by CancelledError."""
        self._listen(on_abort)
        if self._mqtt_share:
            devices = speakers(source.devices, self._mqtt_share)
            self._posting.mqtt = MqttDevices(self._instance.folder, self._state.mqtt_port, devices)
        report = Report(self.ledger, self.monitor, self._posting, len(source.devices))
        started = time.monotonic()
        self.monitor.start()
        show = asyncio.create_task(self._show())
        try:
            self._status = lambda: elapsed_text(time.monotonic() - started, plan.seconds)
            await self._post(source, plan)
            if plan.is_checked:
                await self._settle(report, plan)
        except asyncio.CancelledError:
            self.monitor.abandon()
            raise
        finally:
            show.cancel()
            await asyncio.wait([show])
            self.monitor.stop()
        self._tell_first_alert()
        if not show.cancelled():
            show.result()  # the table's own error is no secret
        return report

    def _listen(self, on_abort: Callable[[], None]) -> None:
        task = asyncio.current_task()

        def interrupt() -> None:
            if self._stop.is_set() and task is not None:
                on_abort()
                task.cancel()
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, interrupt)

    async def _post(self, source: Source, plan: Plan) -> None:
        """Let the devices post; raise what the API answered if it won't take their readings."""
        posting = asyncio.create_task(self._posting.run(source, self._stop, now_ms))
        if plan.seconds is not None:
            asyncio.get_running_loop().call_later(plan.seconds, self._stop.set)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            with plan.beside or contextlib.nullcontext():
                await asyncio.wait([posting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not posting.done():
                self._status = lambda: "devices finish what they have begun"
                await asyncio.wait([posting], timeout=plan.grace_seconds)
                self._posting.give_up()
            await posting
        finally:
            stopped.cancel()
            posting.cancel()
        self._stop.set()
        if self._posting.failure is not None:
            raise self._posting.failure

    async def _settle(self, report: Report, plan: Plan) -> None:
        """Wait until every accepted reading has met its end, and compare until nothing differs.

        The pipeline's metrics tell when; but the emulator loses the last log line of a function
        now and then, so where they tell nothing new, what the API shows decides.
        """
        rules = load_rules()
        target = self.ledger.counts.accepted
        last, since = (-1, -1, -1), time.monotonic()
        while time.monotonic() - since < plan.patience_seconds:
            await self._drain(target)
            self._status = lambda: "checking every window and alert"
            report.differences = await asyncio.to_thread(
                check, self._connect, self.ledger, rules, plan.is_alone
            )
            if plan.is_alone and now_ms() - self._since_ms < DAY_MS:
                report.accounting = await asyncio.to_thread(self._account)
            if not report.differences and not report.unaccounted:
                report.settled_at = self._settled_at or time.monotonic()
                break
            seen = self.monitor.latest.settled, len(report.differences), report.unaccounted
            if seen != last:
                last, since = seen, time.monotonic()
            await asyncio.sleep(RECHECK_SECONDS)
        report.windows_checked = sum(
            len(self.ledger.windows(device)) for device in self.ledger.devices
        )
        report.alerts_expected = len(self.ledger.alerts(rules))
        report.is_checked = True
        report.problems += problems(report)

    async def _drain(self, target: int) -> None:
        """Wait for the metrics of all accepted readings, as long as more of them come."""
        self._status = lambda: (
            f"draining: {max(0, target - self.monitor.latest.settled):,} readings to go"
        )
        settled, since = -1, time.monotonic()
        while settled < target and time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(0.1)
            if self.monitor.latest.settled > settled:
                settled, since = self.monitor.latest.settled, time.monotonic()
        if settled >= target and self._settled_at is None:
            self._settled_at = self.monitor.latest.at

    def _account(self) -> dict[str, Any]:
        """Return the pipeline's own accounting since the run began; it tells a day at most."""
        with self._connect() as api:
            return api.accounting(iso(self._since_ms), iso(now_ms()))

    def _connect(self) -> Api:
        return Api(self._state.api_url, self._state.tokens["operator"])

    async def _show(self) -> None:
        """Keep the live table up to date; print a line now and then where there is no terminal."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(PLAIN_LINE_SECONDS)
                self._tell_first_alert()
                self._console.print(
                    plain_line(self.monitor, self._status()), highlight=False, soft_wrap=True
                )
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                self._tell_first_alert()
                live.update(
                    live_table(self.monitor, self._state.stack, self._status()), refresh=True
                )
                await asyncio.sleep(REFRESH_SECONDS)

    def _tell_first_alert(self) -> None:
        seen = self.monitor.first_alert_at
        if seen is not None and not self._is_first_alert_told:
            self._is_first_alert_told = True
            self._steps.done(
                "first alert", "seen by GET /alerts, from the start", self._steps.until(seen)
            )


def elapsed_text(elapsed: float, seconds: float | None) -> str:
    """Return how far a run is."""
    return duration_text(elapsed) + (
        f" of {duration_text(seconds)}" if seconds else ", Ctrl-C ends it"
    )


def now_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


def exercise(
    instance: Instance,
    steps: Steps,
    source: Source,
    posting_options: PostingOptions,
    plan: Plan,
    on_abort: Callable[[], None],
) -> Report:
    """Run devices against a deployed instance and return what came of it."""

    async def start() -> Report:
        return await Exercise(instance, steps, posting_options).run(source, plan, on_abort)

    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(start())
    raise KeyboardInterrupt
