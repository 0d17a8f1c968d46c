"""What came of a run, for a person and for a program."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape

from local.fleet.ledger import Ledger
from local.fleet.over_https import Posting
from local.trial.chaos import Casualties
from local.trial.check import Difference
from local.trial.monitor import Monitor
from local.trial.poison import Isolation
from local.values import duration_text
from local.view import Steps

DIFFERENCES_SHOWN = 20
REASONS_SHOWN = 3


@dataclass
class Report:
    """What came of a run."""

    ledger: Ledger
    monitor: Monitor
    posting: Posting
    devices: int
    settled_at: float | None = None
    problems: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    windows_checked: int = 0
    alerts_expected: int = 0
    is_checked: bool = False
    accounting: dict[str, Any] | None = None
    """The pipeline's own, of the time of the run; None where others post too."""
    isolation: Isolation | None = None
    """What became of a poison record, where one was sent."""
    casualties: Casualties | None = None
    """What was killed, where something was."""

    @property
    def unaccounted(self) -> int:
        """How many readings the pipeline itself misses."""
        return int(self.accounting["unaccounted"]) if self.accounting else 0

    @property
    def is_ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems and not self.differences

    @property
    def loaded_seconds(self) -> float:
        """Seconds from the first request to the last answer."""
        first, last = self.posting.first_post_at, self.posting.last_answer_at
        return last - first if first and last else 0.0

    @property
    def accepted_per_second(self) -> float:
        """Readings that the API took a second, while devices posted."""
        return self.ledger.counts.accepted / self.loaded_seconds if self.loaded_seconds else 0.0

    @property
    def stored_per_second(self) -> float:
        """Readings a second that went all the way, from the first request to the drained stream."""
        first = self.posting.first_post_at
        seconds = self.settled_at - first if first and self.settled_at else 0.0
        return self.ledger.counts.accepted / seconds if seconds else 0.0


def problems(report: Report) -> list[str]:
    """Return what is wrong besides windows and alerts."""
    counts, seen = report.ledger.counts, report.monitor.latest
    found = []
    if report.differences and seen.settled < counts.accepted:
        found.append(f"{counts.accepted - seen.settled:,} accepted readings didn't meet their end")
    if counts.unanswered:
        found.append(
            f"{counts.unanswered:,} readings got no answer: nobody knows whether they were taken"
        )
    if seen.quarantined:
        found.append(f"{seen.quarantined:,} readings are in quarantine")
    if report.unaccounted:
        found.append(f"GET /accounting misses {report.unaccounted:,} readings")
    if report.accounting and accepted_in(report.accounting) < counts.accepted:
        found.append(
            f"GET /accounting has {accepted_in(report.accounting):,} accepted readings, "
            f"the devices know of {counts.accepted:,}"
        )
    if not counts.accepted:
        found.append("no reading was accepted")
    return found


def accepted_in(accounting: dict[str, Any]) -> int:
    """Return how many readings came, through `ingest` or past it (MQTT).

    A device may not have heard of all.
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
        "instance": name,
        "step_seconds": steps.seconds,
        "first_alert_seconds": first_alert and round(steps.until(first_alert), 3),
        "devices": report.devices,
        "readings": {
            "posted": counts.posted,
            "accepted": counts.accepted,
            "rejected": counts.rejected,
            "resent": counts.resent,
            "unanswered": counts.unanswered,
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
        "problems": report.problems,
        "differences": [difference._asdict() for difference in report.differences],
    }


def verdict(report: Report, console: Console) -> None:
    """Say what came of a run, shortly; the differences if there are any."""
    console.print()
    if report.is_checked and report.is_ok:
        console.print("[bold green]✓ nothing lost, nothing counted twice[/]")
    elif not report.is_ok:
        console.print("[bold red]✗ the pipeline shows otherwise than the devices sent[/]")
    for text in summary(report):
        console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)
    for text in wrongs(report):
        console.print(f"  [red]{escape(text)}[/]", highlight=False, soft_wrap=True)


def summary(report: Report) -> Iterator[str]:
    """Say how much there was of everything."""
    counts, seen = report.ledger.counts, report.monitor.latest
    yield (
        f"{counts.accepted:,} readings accepted from {report.devices:,} devices in "
        f"{duration_text(report.loaded_seconds)}: {report.accepted_per_second:,.0f} a second"
    )
    if report.settled_at:
        yield (
            f"{report.ledger.distinct():,} different ones, {seen.duplicate:,} duplicates: "
            f"{report.stored_per_second:,.0f} a second all the way to their windows"
        )
    if report.is_checked:
        yield (
            f"{report.windows_checked:,} windows and {report.alerts_expected:,} alert"
            f"{'s' * (report.alerts_expected != 1)} "
            "compared with what the devices sent"
        )
    if report.accounting:
        counted = report.accounting["stages"]["aggregate"]
        yield (
            f"{accepted_in(report.accounting):,} accepted, by the pipeline's accounting: "
            f"{counted['stored']:,} stored, {counted['duplicate']:,} duplicate, "
            f"{counted['quarantined']:,} quarantined, {report.unaccounted:,} unaccounted"
        )
    if report.isolation:
        yield report.isolation.summary()
    if report.casualties:
        yield report.casualties.summary()
    for reason, count in report.ledger.reasons.most_common(REASONS_SHOWN):
        yield f"{count:,} readings rejected: {reason}"
    if counts.resent:
        yield f"{counts.resent:,} readings sent again"


def wrongs(report: Report) -> Iterator[str]:
    """Say what is wrong, the first differences each in a line."""
    yield from report.problems
    yield from map(str, report.differences[:DIFFERENCES_SHOWN])
    more = len(report.differences) - DIFFERENCES_SHOWN
    if more > 0:
        yield f"and {more:,} more differences"
