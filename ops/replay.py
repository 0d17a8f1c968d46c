"""`replay`: send a span of the archive back into the stream, or make all windows again from it."""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from ops.command_types import Subparsers
from ops.errors import OpsError
from ops.target import Target

POLL_SECONDS = 1.0
LOOK_AGAIN_SECONDS = (2, 5, 10, 20, 40)  # waits after AWS didn't answer, or throttled
LINE_SECONDS = 5.0  # between lines without a terminal
RATE = 1_000
HISTORY_EVENTS = 10  # of an item, enough to have those of its last invocation
ARCHIVED_HOURS = 48  # how far back the newest archived records are searched
REFUSE, KEEP, DROP = "refuse", "keep", "drop"
DESCRIPTION = """\
Send the records that the pipeline received in a span back into the stream, and so into windows,
alerts and quarantine. Readings that are stored already change nothing, so a replay may be cut off
and run again, and a span that is too wide does no harm. Replayed readings are archived again with
the stamp replayed_at, and no replay sends stamped readings. Records that aren't readings get no
stamp, so a second replay within the same hours sends them twice.

The span is of the time of receipt, --from inclusive, --to exclusive; with --event-time, it is of
the time of recording, whenever readings came. A reading that waited for more than an hour in the
overflow queue is found by --event-time only.

With --rebuild, make all windows again from the archive, compare them with the present ones, and
switch to the new ones. A rebuild that was cut off goes on when it is run again. Until then, or
until it is given up, every reading is written twice. Before --missing drop, check that the archive
isn't behind (ArchiveBehindAlarm): readings that Firehose hasn't written yet are missing, and
dropped.
"""
SAID = {
    "Hours": ("hours", "readings sent"),
    "Fill": ("hours", "readings in the new generation"),
    "Check": ("parts of the table checked", "differences"),
    "Clean": ("parts of the table cleaned", "old windows deleted"),
}
"""The name of each map's items, and of the things that their outputs count."""


def add(added: Subparsers) -> list[argparse.ArgumentParser]:
    """Add `replay`."""
    replay = added.add_parser(
        "replay",
        help="send a span of the archive back into the stream, or rebuild all windows from it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    span = replay.add_argument_group("a span")
    for name, text in (("--from", "2026-11-21T10:00:00Z"), ("--to", "2026-11-21T11:00:00Z")):
        span.add_argument(name, dest=f"{name[2:]}_at", type=instant, metavar="TIME", help=text)
    span.add_argument("--device", help="only this device's readings (default: all records)")
    text = "the span is of recorded_at, not of when the readings were received"
    span.add_argument("--event-time", action="store_true", help=text)
    text = f"readings a second, so that live traffic has room (default: {RATE})"
    span.add_argument("--rate", type=int, default=RATE, metavar="N", help=text)
    windows = replay.add_argument_group("or all windows")
    windows.add_argument("--rebuild", action="store_true", help="make them again")
    text = "readings that are in windows, but not in the archive: stop, or keep or drop them"
    choices = (REFUSE, KEEP, DROP)
    windows.add_argument("--missing", choices=choices, default=REFUSE, help=f"{text} (refuse)")
    text = "begin again, instead of going on with a rebuild that was cut off"
    windows.add_argument("--anew", action="store_true", help=text)
    text = "end a rebuild that was cut off, and go on with the windows that there are"
    windows.add_argument("--give-up", action="store_true", help=text)
    replay.set_defaults(does=run)
    return [replay]


def instant(text: str) -> datetime:
    """Return a time; raise ArgumentTypeError if it isn't one, or has no offset."""
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        reason = f"'{text}' isn't a time with its offset: write it like 2026-11-21T10:00:00Z"
        raise argparse.ArgumentTypeError(reason) from None


def run(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Start a replay or a rebuild, and show its progress until it ends."""
    now = datetime.now(UTC)
    if options.rebuild:
        request = rebuild_request(options)
        machine = target.output("RebuildMachineArn")
    else:
        request = replay_request(options, now)
        machine = target.output("ReplayMachineArn")
    states = target.connect("stepfunctions")
    try:
        if not options.rebuild:
            tell_archived(target, options.to_at, now, console)
        started = states.start_execution(stateMachineArn=machine, input=json.dumps(request))
    except (ClientError, BotoCoreError) as error:
        raise OpsError(f"{machine} isn't started: {error}") from None
    progress = Progress(states, started["executionArn"])
    try:
        follow(progress, console)
    except KeyboardInterrupt:
        states.stop_execution(executionArn=progress.execution)
        console.print(f"stopped: {progress.text()}; run it again to do the rest", highlight=False)
        raise
    console.print(f"[green]✓[/] {progress.text()}", highlight=False)
    return 0


def replay_request(options: argparse.Namespace, now: datetime) -> dict[str, Any]:
    """Return the replay that the options ask for; raise OpsError."""
    if options.from_at is None or options.to_at is None:
        raise OpsError("replay: which span? give --from and --to, or --rebuild for all windows")
    if options.from_at >= options.to_at:
        raise OpsError(
            f"--from: {shown(options.from_at)} isn't before --to, {shown(options.to_at)}"
        )
    if options.from_at > now:
        raise OpsError(f"--from: {shown(options.from_at)} is in the future: it is {shown(now)}")
    if options.rate < 1:
        raise OpsError(f"--rate: {options.rate} isn't a number of readings a second above 0")
    for name in ("missing", "anew", "give_up"):
        if getattr(options, name) not in (REFUSE, False):
            raise OpsError(f"--{name.replace('_', '-')} is for --rebuild")
    return {
        "from": shown(options.from_at),
        "to": shown(options.to_at),
        "device": options.device,
        "by": "recorded" if options.event_time else "received",
        "readings_per_second": options.rate,
    }


def rebuild_request(options: argparse.Namespace) -> dict[str, Any]:
    """Return the rebuild that the options ask for; raise OpsError."""
    given = {
        "--from": options.from_at,
        "--to": options.to_at,
        "--device": options.device,
        "--event-time": options.event_time,
        "--rate": options.rate != RATE,
    }
    for name, value in given.items():
        if value:
            raise OpsError(f"{name}: --rebuild makes all windows again: no span, no rate")
    return {"missing": options.missing, "anew": options.anew, "give_up": options.give_up}


def shown(at: datetime) -> str:
    """Return a time as operators write it."""
    timespec = "milliseconds" if at.microsecond else "seconds"
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")


def tell_archived(target: Target, to_at: datetime, now: datetime, console: Console) -> None:
    """Print the time of the newest archived record, if it is before the end of the span."""
    newest = archived_until(target, now)
    if newest is None:
        console.print(f"nothing has been archived in the last {ARCHIVED_HOURS} hours")
    elif newest < min(to_at, now):
        text = f"the archive has readings up to {shown(newest)}; later ones aren't in it yet"
        console.print(text, highlight=False)


def archived_until(target: Target, now: datetime) -> datetime | None:
    """Return when the newest object of the archive was written, None if not in ARCHIVED_HOURS."""
    pages = target.connect("s3").get_paginator("list_objects_v2")
    for hours in range(ARCHIVED_HOURS):
        prefix = f"readings/{now - timedelta(hours=hours):day=%Y-%m-%d/hour=%H}/"
        found = pages.paginate(Bucket=target.output("ArchiveBucket"), Prefix=prefix)
        written = [each["LastModified"] for page in found for each in page.get("Contents", [])]
        if written:
            newest: datetime = max(written)
            return newest
    return None


@dataclass
class Progress:
    """An execution's progress: the items of its present map, and each map's counts."""

    states: Any
    execution: str
    phase: str = ""
    done: int = 0
    total: int = 0
    started: float = field(default_factory=time.monotonic)
    counts: dict[str, int] = field(default_factory=dict)
    seen: dict[str, dict[str, int]] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)

    def look(self) -> str:
        """Look again; return the execution's status."""
        status: str = self.states.describe_execution(executionArn=self.execution)["status"]
        for run in self._runs():
            if run not in self.over:
                self._look_at(run)
        return status

    def _look_at(self, run: str) -> None:
        """Look at a map run, and add the counts of items that ended since the last look."""
        self.phase = run.rsplit("/", maxsplit=1)[-1].partition(":")[0]
        items = self.states.describe_map_run(mapRunArn=run)["itemCounts"]
        self.done, self.total = items["succeeded"], items["total"]
        going_on = {child: self._so_far(child) for child in self._children(run, "RUNNING")}
        ended = self.seen.setdefault(run, {})
        for child in self._children(run, "SUCCEEDED"):
            if len(ended) >= self.done:  # the newest come first: the other pages are known
                break
            if child not in ended:
                output = self.states.describe_execution(executionArn=child)["output"]
                ended[child] = json.loads(output)
        self.counts[self.phase] = sum((going_on | ended).values())
        if len(ended) == self.total:
            self.over.add(run)

    def _so_far(self, child: str) -> int:
        """Return the count of a running item, from its last invocation's answer."""
        history = self.states.get_execution_history(
            executionArn=child, reverseOrder=True, maxResults=HISTORY_EVENTS
        )
        for event in history["events"]:
            for details in event.values():
                if isinstance(details, dict) and "output" in details:
                    output = json.loads(details["output"])
                    return int(output["done"]) if isinstance(output, dict) else int(output)
        return 0

    def _runs(self) -> list[str]:
        """Return the map runs in order of their start."""
        runs = self.states.list_map_runs(executionArn=self.execution)["mapRuns"]
        ordered = sorted(runs, key=lambda run: run["startDate"])
        return [run["mapRunArn"] for run in ordered]

    def _children(self, run: str, status: str) -> Iterator[str]:
        """Yield a map run's executions of a status."""
        pages = self.states.get_paginator("list_executions")
        for page in pages.paginate(mapRunArn=run, statusFilter=status):
            yield from (child["executionArn"] for child in page["executions"])

    def text(self) -> str:
        """Return the progress in one line."""
        seconds = time.monotonic() - self.started
        if not self.phase:
            return f"{seconds:.0f} s: begun"
        items, _ = SAID[self.phase]
        counts = (f"{count:,} {SAID[phase][1]}" for phase, count in self.counts.items())
        return f"{seconds:.0f} s: {self.done:,} of {self.total:,} {items}; {', '.join(counts)}"

    def reason(self) -> str:
        """Return why it failed: the error of the last failed map's child, or its own."""
        for run in reversed(self._runs()):
            for child in self._children(run, "FAILED"):
                return reason_of(self.states.describe_execution(executionArn=child))
        return reason_of(self.states.describe_execution(executionArn=self.execution))


def reason_of(execution: dict[str, Any]) -> str:
    """Return an execution's error and cause; a function's error has its cause in JSON."""
    cause = execution.get("cause") or ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        cause = json.loads(cause)["errorMessage"]
    return f"{execution.get('error', execution['status'])}: {cause}"


def status_of(progress: Progress) -> str:
    """Return an execution's status, with retries; raise OpsError if all of them fail."""
    why: Exception | None = None
    for wait_seconds in LOOK_AGAIN_SECONDS:
        try:
            return progress.look()
        except (ClientError, BotoCoreError) as error:
            why = error
        time.sleep(wait_seconds)
    raise OpsError(
        f"{progress.text()}; it can't be looked at, and may go on: {progress.execution}: {why}"
    )


def follow(progress: Progress, console: Console) -> None:
    """Show an execution's progress until it ends; raise OpsError if it fails."""
    told = time.monotonic()
    with console.status("starting") as line:
        while (status := status_of(progress)) == "RUNNING":
            line.update(progress.text())
            if not console.is_terminal and time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                console.print(progress.text(), highlight=False, soft_wrap=True)
            time.sleep(POLL_SECONDS)
    if status != "SUCCEEDED":
        raise OpsError(f"{progress.text()}; then it ended, {status.lower()}: {progress.reason()}")
