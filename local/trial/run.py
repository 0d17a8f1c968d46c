"""Runs devices against an instance, and checks their readings at the end."""

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
from local.errors import NoAnswer
from local.faults import full_disk
from local.fleet import firmware
from local.fleet.ledger import Ledger
from local.fleet.over_https import Posting, PostingOptions
from local.fleet.over_mqtt import MqttDevices, speakers
from local.fleet.reading import Source
from local.fleet.rules import Rule
from local.fleet.rules import load as load_rules
from local.instance import Instance
from local.trial.check import Comparison, check, iso
from local.trial.monitor import Monitor
from local.trial.pending import Pending, Stillness
from local.trial.report import Report, problems
from local.trial.watch import PLAIN_LINE_SECONDS, LiveView, PlainLines
from local.values import duration_text
from local.view import Steps

REFRESH_SECONDS = 0.5
LIVE_LINES_MAX = 22
STALL_SECONDS = 20.0
STILL_SECONDS = 120.0
"""How long pending work may stand still: a function that times out takes 30 s."""
SETTLE_SECONDS_MAX = 1800.0
QUIET_SECONDS = 4.0
GRACE_SECONDS = 65.0
"""The timeouts of two requests: after these, no answer is expected any more."""
FINISH_LOOK_SECONDS = 0.5
RECHECK_SECONDS = 1.0
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Plan:
    """How long devices post, and how the run is checked."""

    seconds: float | None = None
    """Time to post. None: until the source ends, or Ctrl-C."""
    is_checked: bool = True
    is_alone: bool = True
    """Whether no other devices have posted to the instance."""
    beside: AbstractContextManager[object] | None = None
    """Context that is entered while devices post, such as chaos."""
    grace_seconds: float = GRACE_SECONDS
    """How long devices then wait for the answers to their open requests."""
    patience_seconds: float = STALL_SECONDS
    """How long differences may stay the same, without pending work, until they count as losses."""


class Exercise:
    """Runs devices until time is up or Ctrl-C, with the live table, the drain and the check."""

    def __init__(self, instance: Instance, steps: Steps, posting_options: PostingOptions) -> None:
        """Take a deployed instance."""
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
        self._is_first_alert_printed = False
        self._settled_at: float | None = None
        self._pending = Pending(instance)
        self._connections: list[Api] = []

    async def run(self, source: Source, plan: Plan, on_abort: Callable[[], None]) -> Report:
        """Run and check; a second Ctrl-C calls `on_abort` and raises CancelledError."""
        self._listen(on_abort)
        if self._mqtt_share:
            devices = speakers(source.devices, self._mqtt_share)
            self._posting.mqtt = MqttDevices(self._instance.folder, self._state.mqtt_port, devices)
        report = Report(
            self.ledger,
            self.monitor,
            self._posting,
            len(source.devices),
            is_alone=plan.is_alone,
            left_out=source.left_out,
        )
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
        self._print_first_alert()
        if not show.cancelled():
            show.result()  # raises the live table's error, if it had one
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
        """Let the devices post; raise ApiFailed if the API refuses their requests."""
        posting = asyncio.create_task(self._posting.run(source, self._stop, now_ms))
        if plan.seconds is not None:
            asyncio.get_running_loop().call_later(plan.seconds, self._stop.set)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            with plan.beside or contextlib.nullcontext():
                await asyncio.wait([posting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not posting.done():
                self._status = lambda: "devices finish their requests"
                await self._finish(posting, plan.grace_seconds)
                self._posting.give_up()
            await posting
        finally:
            stopped.cancel()
            posting.cancel()
        self._stop.set()
        if self._posting.failure is not None:
            raise self._posting.failure

    async def _finish(self, posting: "asyncio.Task[None]", grace_seconds: float) -> None:
        """Wait for open requests, until all are done or none was answered for `grace_seconds`."""
        counts, stillness = self.ledger.counts, Stillness()
        while stillness.seconds((counts.accepted, counts.rejected)) < grace_seconds:
            await asyncio.wait([posting], timeout=FINISH_LOOK_SECONDS)
            if posting.done():
                return

    async def _settle(self, report: Report, plan: Plan) -> None:
        """Wait until every accepted reading is processed, and compare until nothing differs.

        Pending work is waited for as long as it moves. Without pending work, differences are final
        once they have stayed the same for a while.
        """
        rules, right = load_rules(), dict[str, Comparison]()
        slow, stillness = report.slowness, Stillness()
        started = time.monotonic()
        while True:
            await self._drain(self.ledger.counts.accepted)
            slow.waiting = await asyncio.to_thread(self._pending.waiting)
            seen = self.monitor.latest.settled, slow.waiting, len(report.differences)
            slow.still_seconds = stillness.seconds((*seen, report.unaccounted))
            patience = max(plan.patience_seconds, STILL_SECONDS * bool(slow.waiting))
            is_over = slow.still_seconds >= patience
            is_over |= time.monotonic() - started >= SETTLE_SECONDS_MAX
            if is_over or not slow.waiting:
                await self._compare(report, rules, plan, right)
                if not report.differences and not report.unaccounted:
                    report.settled_at = self._settled_at or time.monotonic()
                    break
                if is_over or slow.no_answer:
                    break
            else:
                first, count = next(iter(slow.waiting.items()))
                self._status = f"waiting: {count:,} {first}".format
            await asyncio.sleep(RECHECK_SECONDS)
        slow.out_of_time = await asyncio.to_thread(self._pending.out_of_time)
        if not report.is_ok:
            slow.fault = full_disk(self._instance.folder)
        report.windows_checked = report.comparison.windows
        report.alerts_expected = len(self.ledger.alerts(rules))
        report.is_checked = True
        report.problems += problems(report)

    async def _compare(
        self, report: Report, rules: list[Rule], plan: Plan, right: dict[str, Comparison]
    ) -> None:
        """Compare the pipeline's answers with the ledger, and get its own accounting."""
        devices = len(self.ledger.devices)
        self._status = lambda: (
            f"checking every window and alert: {len(right):,} of {devices:,} devices are right"
        )
        slow = report.slowness
        try:
            report.comparison = await asyncio.to_thread(
                check, self._connect, self.ledger, rules, plan.is_alone, right
            )
            if plan.is_alone and now_ms() - self._since_ms < DAY_MS:
                report.accounting = await asyncio.to_thread(self._account)
            slow.no_answer = None
        except NoAnswer as error:
            slow.no_answer = str(error)
        slow.repeats = sum(api.repeats for api in self._connections)

    async def _drain(self, target: int) -> None:
        """Wait until metrics cover all accepted readings, or no more come for some seconds."""
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
        """Return the pipeline's own accounting since the run began; it covers a day at most."""
        with self._connect() as api:
            return api.accounting(iso(self._since_ms), iso(now_ms()))

    def _connect(self) -> Api:
        token = self._state.tokens["operator"]
        api = Api(self._state.api_url, token, is_there=self._instance.is_running)
        self._connections.append(api)
        return api

    async def _show(self) -> None:
        """Keep the live table up to date; without a terminal, print a line at each change."""
        lines = PlainLines(self._console)
        while not self._console.is_terminal:
            await asyncio.sleep(PLAIN_LINE_SECONDS)
            self._print_first_alert()
            lines.print(self.monitor, self._status(), is_clock=not self._stop.is_set())
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                self._print_first_alert()
                view = LiveView(self.monitor, self._state.stack, self._status(), LIVE_LINES_MAX)
                live.update(view, refresh=True)
                await asyncio.sleep(REFRESH_SECONDS)

    def _print_first_alert(self) -> None:
        seen = self.monitor.first_alert_at
        if seen is not None and not self._is_first_alert_printed:
            self._is_first_alert_printed = True
            self._steps.done(
                "first alert", "seen by GET /alerts, from the start", self._steps.until(seen)
            )


def elapsed_text(elapsed: float, seconds: float | None) -> str:
    """Return the elapsed time of a run as text."""
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
    """Run devices against a deployed instance; return the report."""

    async def start() -> Report:
        return await Exercise(instance, steps, posting_options).run(source, plan, on_abort)

    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(start())
    raise KeyboardInterrupt
