"""What becomes of the readings, as it happens: a live view in a terminal, a line elsewhere."""

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from local.tables import counted
from local.trial.mapping_state import MappingState, lag_text, records_text
from local.trial.monitor import Monitor, Snapshot
from local.values import duration_text

PLAIN_LINE_SECONDS = 5.0
BARS = " ▁▂▃▄▅▆▇█"
COUNTS = ("posted", "accepted", "rejected", "stored", "duplicate", "quarantined")
COUNTS_WIDTH = 32
ALERTS_WIDTH_MIN = 24
"""Narrower, open alerts are only counted."""
ROOMY_LINES = 20
"""From so many lines on there is room for empty ones between the parts."""
BARS_LABEL = "stored per s"

Row = tuple[str, ...]


class Column:
    """A column of a part, which is left out where it, and those before it, don't fit."""

    def __init__(self, name: str, width: int, justify: str = "right") -> None:
        """Be as wide as that at least."""
        self.name = name
        self.width = width
        self.is_right = justify == "right"


ALERT_COLUMNS = (
    Column("device", 12, "left"),
    Column("since", 8, "left"),
    Column("rule", 12, "left"),
    Column("peak", 7),
    Column("severity", 8, "left"),
    Column("last breach", 11, "left"),
    Column("region", 12, "left"),
    Column("trace", 36, "left"),
)
MAPPING_COLUMNS = (
    Column("mapping", 11, "left"),
    Column("lag", 8),
    Column("behind", 7),
    Column("records", 9),
    Column("retries", 7),
    Column("discarded", 9),
    Column("filtered", 9),
    Column("state", 10, "left"),
    Column("last result", 40, "left"),
)


class LiveView:
    """What a monitor has seen, in as many columns and lines as there are.

    It makes no call to anything: what it shows was seen by the monitor's threads.
    """

    def __init__(self, monitor: Monitor, title: str, status: str, lines_max: int = 0) -> None:
        """Show it under a title, and how far it is; in at most so many lines (0: the screen's)."""
        self._monitor = monitor
        self._title = title
        self._status = status
        self._lines_max = lines_max

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the lines, for the size that the terminal has now."""
        width = options.max_width
        height = self._lines_max or options.height or console.size.height
        gap = [Text("")] if height >= ROOMY_LINES else []
        heading = [*gap, fitted(Text.assemble((self._title, "bold"), "  ", self._status), width)]
        if self._monitor.problem:
            heading.append(fitted(Text(self._monitor.problem, style="yellow"), width))
        below = [*gap, *mapping_lines(self._monitor.mappings, self._monitor.stack, width)]
        bars = [*gap, bars_line(self._monitor.history, width)]
        counts = count_lines(self._monitor)
        room = height - len(heading) - len(gap) - len(below) - len(bars)
        if room < len(counts):
            room, bars = room + len(bars), []
        room = max(room, len(counts))
        beside = beside_lines(counts, alert_lines(self._monitor, width - COUNTS_WIDTH, room), width)
        lines = [*heading, *gap, *beside, *bars, *below][:height]
        whole = Text("\n", no_wrap=True, overflow="crop").join(lines)
        whole.end = ""
        yield whole


def fitted(line: Text, width: int) -> Text:
    """Return a line, cut where the terminal ends."""
    line = line.copy()
    line.truncate(width, overflow="ellipsis")
    return line


def table_lines(
    columns: Sequence[Column], rows: Sequence[tuple[Row, str]], width: int, heading: str = ""
) -> list[Text]:
    """Return a heading and rows, each with its style, in as many of the columns as fit.

    What is wider than its column takes what is left of the width, the first columns first.
    """
    shown: list[Column] = []
    for column in columns:
        if sum(each.width + 1 for each in shown) + column.width > width:
            break
        shown.append(column)
    free = width - sum(each.width for each in shown) - len(shown) + 1
    names = (heading or shown[0].name, *(each.name for each in shown[1:])) if shown else ()
    widths = []
    for place, column in enumerate(shown):
        longest = max([column.width, len(names[place]), *(len(row[place]) for row, _ in rows)])
        grown = min(longest - column.width, free)
        widths.append(column.width + grown)
        free -= grown
    names = tuple(
        heading if heading and not place else each.name for place, each in enumerate(shown)
    )
    lines = []
    for row, style in [(names, "bold"), *rows]:
        cells = []
        for cell, column, size in zip(row, shown, widths, strict=False):
            cut = cell if len(cell) <= size else f"{cell[: size - 1]}…"
            cells.append(f"{cut:>{size}}" if column.is_right else f"{cut:<{size}}")
        lines.append(Text(" ".join(cells).rstrip(), style=style, no_wrap=True))
    return lines


def beside_lines(left: list[Text], right: list[Text], width: int) -> list[Text]:
    """Return two parts side by side."""
    lines = []
    for place in range(max(len(left), len(right))):
        line = left[place].copy() if place < len(left) else Text("")
        line.truncate(min(COUNTS_WIDTH, width), pad=True)
        if place < len(right):
            line.append_text(right[place])
        lines.append(fitted(line, width))
    return lines


def count_lines(monitor: Monitor) -> list[Text]:
    """Return the readings by what became of them, and how fast."""
    lines = [Text(f"{'readings':<11} {'total':>10} {'per s':>7}", style="bold")]
    for name in COUNTS:
        count, rate = monitor.count(name), monitor.per_second(name)
        shown_rate = "-" if rate is None else f"{rate:,.0f}"
        style = "red" if name in ("rejected", "quarantined") and count else ""
        lines.append(Text(f"{name:<11} {count:>10,} {shown_rate:>7}", style=style))
    if monitor.latest.overflowed:
        text = f"{'in overflow':<11} {monitor.latest.overflowed:>10,}"
        lines.append(Text(text, style="yellow"))
    lines.append(Text(f"{'lag':<11} {stored_lag_text(monitor.latest.lag_ms):>10}"))
    return lines


def alert_lines(monitor: Monitor, width: int, lines_max: int) -> list[Text]:
    """Return the open alerts, the newest breaches first, and how many there is no room for."""
    alerts = sorted(monitor.alerts, key=lambda alert: str(alert["first_breach_at"]), reverse=True)
    heading = counted(len(alerts), "open alert")
    if width < ALERTS_WIDTH_MIN:
        return [Text(heading[: max(width, 0)], style="bold")]
    rows = lines_max - 1
    shown = alerts if len(alerts) <= rows else alerts[: max(rows - 1, 0)]
    lines = table_lines(ALERT_COLUMNS, [(alert_row(each), "red") for each in shown], width, heading)
    if len(shown) < len(alerts):
        lines.append(Text(f"and {len(alerts) - len(shown):,} more", style="red"))
    return lines


def alert_row(alert: dict[str, object]) -> Row:
    """Return an alert's cells; of one that can't be read, what is known."""
    peak = alert.get("peak")
    return (
        str(alert["device_id"]),
        str(alert["first_breach_at"])[11:19],
        str(alert["rule"]),
        f"{peak:.1f}" if isinstance(peak, int | float) else "?",
        str(alert.get("severity", "")),
        str(alert.get("last_breach_at", ""))[11:19],
        str(alert.get("region", "")),
        str(alert.get("trace_id") or ""),
    )


def mapping_lines(mappings: Sequence[MappingState], stack: str, width: int) -> list[Text]:
    """Return the mappings, a line each; functions of the stack without its name."""
    rows = []
    for each in mappings:
        row = (
            each.function.removeprefix(f"{stack}-"),
            lag_text(each.lag_ms),
            records_text(each.lag_records),
            *(f"{each.count(name):,}" for name in ("records", "retries", "discarded", "filtered")),
            each.state,
            each.last_result,
        )
        rows.append((row, "red" if each.last_result.startswith("PROBLEM") else ""))
    return table_lines(MAPPING_COLUMNS, rows, width)


def bars_line(history: Sequence[Snapshot], width: int) -> Text:
    """Return how fast readings were stored, look by look, and the most that there was."""
    rates = [
        (after.stored - before.stored) / (after.at - before.at)
        for before, after in pairwise(history)
        if after.at > before.at
    ]
    room = max(width - len(BARS_LABEL) - len(" most 1,000,000") - 2, 0)
    rates = rates[-room:] if room else []
    most = max(rates, default=0.0)
    text = Text(f"{BARS_LABEL} {sparkline(rates)} most {most:,.0f}", style="dim")
    return fitted(text, width)


def sparkline(rates: Sequence[float]) -> str:
    """Return rates as bars, the highest of them as the highest bar."""
    most = max(rates, default=0.0)
    if not most:
        return BARS[0] * len(rates)
    return "".join(BARS[round(rate / most * (len(BARS) - 1))] for rate in rates)


class PlainLines:
    """The same in lines, for a log: one where something has changed since the last, and no more."""

    def __init__(self, console: Console) -> None:
        """Tell on a console that isn't a terminal."""
        self._console = console
        self._told: object = None

    def print(self, monitor: Monitor, status: str, *, is_clock: bool) -> None:
        """Print a line, unless it says what the last one said; time alone is no change.

        `is_clock`: `status` says only how late it is.
        """
        seen = counts_text(monitor), "" if is_clock else status
        if seen != self._told:
            self._told = seen
            self._console.print(plain_line(monitor, status), highlight=False, soft_wrap=True)


def plain_line(monitor: Monitor, status: str) -> str:
    """Return what became of the readings in one line."""
    return f"{status}: {counts_text(monitor)}, lag {stored_lag_text(monitor.latest.lag_ms)}"


def counts_text(monitor: Monitor) -> str:
    """Return the counts of readings, by what became of them, and of open alerts."""
    counts = ", ".join(f"{name} {monitor.count(name):,}" for name in COUNTS)
    return f"{counts}, open alerts {len(monitor.alerts):,}"


def stored_lag_text(lag_ms: float | None) -> str:
    """Return how long readings take from their arrival to their window."""
    return "-" if lag_ms is None else duration_text(lag_ms / 1000)
