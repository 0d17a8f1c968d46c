"""The result of a run: its verdict, as text and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from rich.console import Console
from rich.markup import escape

from local.fleet.ledger import Ledger
from local.fleet.over_https import Posting
from local.tables import counted
from local.trial.chaos import Casualties
from local.trial.check import Comparison, Difference
from local.trial.monitor import Monitor
from local.trial.pending import Slowness
from local.trial.poison import Isolation
from local.values import duration_text
from local.view import Steps

DIFFERENCES_SHOWN = 20
REASONS_SHOWN = 3


class Verdict(Enum):
    """The verdict on a run; its value is the exit code."""

    RIGHT = 0
    """Nothing is lost, and nothing counted twice."""
    WRONG = 1
    """The pipeline shows otherwise than the devices sent, and no pending work can explain it."""
    UNKNOWN = 3
    """The machine was too slow to tell."""


@dataclass
class Report:
    """The result of a run."""

    ledger: Ledger
    monitor: Monitor
    posting: Posting
    devices: int
    is_alone: bool = True
    """Whether no other devices have posted to the instance."""
    settled_at: float | None = None
    problems: list[str] = field(default_factory=list)
    """Problems that a slow machine can't explain."""
    unsure: list[str] = field(default_factory=list)
    """Problems that functions' timeouts may explain."""
    comparison: Comparison = field(default_factory=Comparison)
    slowness: Slowness = field(default_factory=Slowness)
    windows_checked: int = 0
    alerts_expected: int = 0
    is_checked: bool = False
    accounting: dict[str, Any] | None = None
    """The pipeline's own accounting of the run's time; None if other devices post too."""
    isolation: Isolation | None = None
    """The result of `--poison`."""
    casualties: Casualties | None = None
    """The result of `--chaos`."""
    left_out: int = 0
    """Number of a file's rows that weren't sent, since another row has their device and time."""

    @property
    def differences(self) -> list[Difference]:
        """The differences between the pipeline's answers and the devices' readings."""
        return self.comparison.differences

    @property
    def unaccounted(self) -> int:
        """The number of readings that are missing in the pipeline's own accounting."""
        return int(self.accounting["unaccounted"]) if self.accounting else 0

    @property
    def verdict(self) -> Verdict:
        """The verdict on the run.

        A missing reading is lost once no pending work is left that could store it. A surplus is
        wrong at once. A missing count may be that of a function that timed out. Beside other
        devices, pending work may be theirs: without a difference it doesn't matter.
        """
        slow = self.slowness
        is_awaited = slow.waiting and (self.is_alone or self.differences)
        is_unfinished = bool(is_awaited or slow.no_answer or slow.fault)
        if self.problems or any(not each.may_come for each in self.differences):
            return Verdict.WRONG
        if self.differences and not is_unfinished:
            return Verdict.WRONG
        if self.miscounts() and not is_unfinished and not slow.out_of_time:
            return Verdict.WRONG
        if self.differences or self.miscounts() or is_unfinished or self.comparison.unsearched:
            return Verdict.UNKNOWN
        if self.is_checked and not self.ledger.counts.accepted:
            return Verdict.UNKNOWN  # no request was answered; `problems` covers that none was sent
        return Verdict.RIGHT

    @property
    def is_ok(self) -> bool:
        """Whether the verdict is RIGHT."""
        return self.verdict is Verdict.RIGHT

    def miscounts(self) -> list[str]:
        """Return the problems that functions' timeouts may explain, above all missing counts.

        A function that timed out may have done its work without counting it.
        """
        problems = list(self.unsure)
        if self.unaccounted:
            problems.append(f"GET /accounting misses {counted(self.unaccounted, 'reading')}")
        accepted = self.ledger.counts.accepted
        if self.accounting and accepted_in(self.accounting) < accepted:
            problems.append(
                f"GET /accounting has {counted(accepted_in(self.accounting), 'accepted reading')}, "
                f"the devices know of {accepted:,}"
            )
        return problems

    @property
    def loaded_seconds(self) -> float:
        """Seconds from the first request to the last answer."""
        first, last = self.posting.first_post_at, self.posting.last_answer_at
        return last - first if first and last else 0.0

    @property
    def accepted_per_second(self) -> float:
        """Readings that the API accepted per second, while devices posted."""
        return self.ledger.counts.accepted / self.loaded_seconds if self.loaded_seconds else 0.0

    @property
    def stored_per_second(self) -> float:
        """Stored readings per second, from the first request until the last one was stored."""
        first = self.posting.first_post_at
        seconds = self.settled_at - first if first and self.settled_at else 0.0
        return self.ledger.counts.accepted / seconds if seconds else 0.0


def problems(report: Report) -> list[str]:
    """Return further problems that a slow machine can't explain.

    Beside other devices, a reading in quarantine may be theirs. If it isn't, it is missing in its
    window, which is a difference.
    """
    counts, seen = report.ledger.counts, report.monitor.latest
    texts = []
    if seen.quarantined and report.is_alone:
        texts.append(f"{counted(seen.quarantined, 'reading')} in quarantine")
    if not counts.accepted and not counts.unanswered:
        texts.append("no reading was accepted")
    return texts


def accepted_in(accounting: dict[str, Any]) -> int:
    """Return the number of readings that came through `ingest` or bypassed it (MQTT).

    The devices may not have got an answer for all of them.
    """
    stages = accounting["stages"]
    accepted: int = stages["ingest"]["accepted"] + stages["aggregate"]["foreign"]
    return accepted


def as_json(report: Report, steps: Steps, name: str) -> dict[str, Any]:
    """Return a report as one JSON object."""
    counts, seen = report.ledger.counts, report.monitor.latest
    first_alert = report.monitor.first_alert_at
    return {
        "ok": report.is_ok,
        "verdict": report.verdict.name.lower(),
        "instance": name,
        "step_seconds": steps.seconds,
        "first_alert_seconds": first_alert and round(steps.until(first_alert), 3),
        "devices": report.devices,
        "readings": {
            "posted": counts.posted,
            "accepted": counts.accepted,
            "rejected": counts.rejected,
            "metrics_refused": counts.metrics_refused,
            "resent": counts.resent,
            "unanswered": counts.unanswered,
            "rows_left_out": report.left_out,
            "unanswered_there": report.comparison.unanswered_there,
            "distinct": report.ledger.distinct(),
            "stored": seen.stored,
            "duplicate": seen.duplicate,
            "quarantined": seen.quarantined,
        },
        "requests": counts.requests,
        "rejected_for": dict(report.ledger.reasons),
        "loaded_seconds": round(report.loaded_seconds, 3),
        "accepted_per_second": round(report.accepted_per_second, 1),
        "stored_per_second": round(report.stored_per_second, 1),
        "windows_checked": report.windows_checked,
        "alerts_expected": report.alerts_expected,
        "alerts_open": len(report.monitor.alerts),
        "accounting": report.accounting,
        "poison": report.isolation and asdict(report.isolation),
        "chaos": report.casualties and asdict(report.casualties),
        "problems": [*report.problems, *report.miscounts()],
        "slowness": asdict(report.slowness),
        "differences": [each._asdict() for each in report.differences],
    }


HEADLINES = {
    Verdict.RIGHT: "[bold green]✓ nothing lost, nothing counted twice[/]",
    Verdict.WRONG: "[bold red]✗ the pipeline shows otherwise than the devices sent[/]",
    Verdict.UNKNOWN: "[bold yellow]? couldn't tell: this machine was too slow[/]",
}
FULL_DISK = "[bold yellow]? couldn't tell: the disk is full[/]"
NO_ANSWER = "[bold yellow]? couldn't tell: the API didn't answer the check[/]"


def print_verdict(report: Report, console: Console) -> None:
    """Print the verdict, a summary, the first differences, and advice for a slow machine."""
    console.print()
    if report.is_checked or not report.is_ok:
        console.print(headline(report))
    for text in summary(report):
        console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
    style = "red" if report.verdict is Verdict.WRONG else "yellow"
    for text in wrong_lines(report):
        console.print(f"  [{style}]{escape(text)}[/]", highlight=False, soft_wrap=True)
    if not report.is_ok:
        for text in report.slowness.signs():
            console.print(f"  [yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)
    if report.verdict is Verdict.UNKNOWN and not report.slowness.fault:
        console.print(f"  {advice(report.devices)}", highlight=False, soft_wrap=True)


def headline(report: Report) -> str:
    """Return the verdict as a line; it names a slow machine only if that may be the cause."""
    slow = report.slowness
    if report.verdict is Verdict.UNKNOWN and slow.fault:
        return FULL_DISK
    if report.verdict is Verdict.UNKNOWN and slow.no_answer and not slow.out_of_time:
        return NO_ANSWER
    return HEADLINES[report.verdict]


def advice(devices: int) -> str:
    """Return advice for a machine that was too slow for `devices` devices."""
    fewer = f"fewer devices (--devices {max(1, devices // 4)}) or " if devices > 1 else ""
    return f"run it with {fewer}a lower --rate, or when the machine has less to do"


def summary(report: Report) -> Iterator[str]:
    """Yield the counts of a run, a line each."""
    counts, seen = report.ledger.counts, report.monitor.latest
    yield (
        f"{counted(counts.accepted, 'reading')} accepted from "
        f"{counted(report.devices, 'device')} in "
        f"{duration_text(report.loaded_seconds)}: {report.accepted_per_second:,.0f} a second"
    )
    if report.settled_at:
        repeats = f", {counted(seen.duplicate, 'duplicate')}" if report.is_alone else ""
        yield (
            f"{counted(report.ledger.distinct(), 'different one')}{repeats}: "
            f"{report.stored_per_second:,.0f} a second all the way to their windows"
        )
    if report.is_checked:
        yield (
            f"{counted(report.windows_checked, 'window')} and "
            f"{counted(report.alerts_expected, 'alert')} compared with what the devices sent"
        )
    if seen.quarantined and not report.is_alone:
        yield (
            f"{counted(seen.quarantined, 'reading')} in quarantine since the start, "
            "maybe of other devices on this instance"
        )
    if counts.unanswered:
        yield (
            f"{counted(counts.unanswered, 'reading')} got no answer, so each may be there or not; "
            f"the windows have {report.comparison.unanswered_there:,}"
        )
    if report.comparison.unsearched:
        yield (
            f"{counted(report.comparison.unsearched, 'window')} with too many of them for an exact "
            "check: only counts and extreme values were checked"
        )
    if report.accounting:
        yield balance(report.accounting)
    if report.isolation:
        yield report.isolation.summary()
    if report.casualties:
        yield report.casualties.summary()
    yield from not_taken(report)
    if counts.resent:
        yield f"{counted(counts.resent, 'reading')} sent again"


def not_taken(report: Report) -> Iterator[str]:
    """Yield how many rows of a file were left out, and the most frequent reasons of refusals."""
    if report.left_out:
        yield (
            f"{counted(report.left_out, 'row')} of the file left out, in part or whole: another "
            "row has their device and time, and a larger value"
        )
    for reason, count in report.ledger.reasons.most_common(REASONS_SHOWN):
        yield f"{count:,} refused: {reason}"


def balance(accounting: dict[str, Any]) -> str:
    """Return the pipeline's own counts in a line that adds up."""
    counts, accepted = accounting["stages"]["aggregate"], accepted_in(accounting)
    ends = ("stored", "duplicate", "quarantined")
    ended = sum(counts[name] for name in ends)
    each = ", ".join(f"{counts[name]:,} {name}" for name in ends)
    text = (
        f"{accepted:,} accepted, by the pipeline's accounting: {each}, "
        f"{accounting['unaccounted']:,} unaccounted"
    )
    more = ended - accepted + int(accounting["unaccounted"])
    if more <= 0:
        return text
    return (
        f"{text}; {more:,} more ended than were counted as accepted: their request ended before "
        "its count, or their delivery was repeated"
    )


def wrong_lines(report: Report) -> Iterator[str]:
    """Yield the problems and the first differences, a line each."""
    yield from report.problems
    yield from report.miscounts()
    yield from map(str, report.differences[:DIFFERENCES_SHOWN])
    more = len(report.differences) - DIFFERENCES_SHOWN
    if more > 0:
        yield f"and {counted(more, 'more difference')}"
