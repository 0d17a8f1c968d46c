"""Shows the pipeline's work: a live view in a terminal, lines in a log."""

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
"""In less width, open alerts are only counted."""
ROOMY_LINES = 20
"""From this number of lines on, empty lines separate the parts."""
BARS_LABEL = "stored per s"

Row = tuple[str, ...]


class Column:
    """A table's column, which is left out if it doesn't fit after the columns before it."""

    def __init__(self, name: str, width: int, justify: str = "right") -> None:
        """Take the least width."""
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
    """A monitor's view, fitted to the terminal's columns and lines.

    It makes no network calls: the monitor's threads do.
    """

    def __init__(self, monitor: Monitor, title: str, status: str, lines_max: int = 0) -> None:
        """Show a title, a status and the view, in at most `lines_max` lines (0: the screen's)."""
        self._monitor = monitor
        self._title = title
        self._status = status
        self._lines_max = lines_max

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines, for the terminal's present size."""
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
    """Return a line, cut to `width`."""
    line = line.copy()
    line.truncate(width, overflow="ellipsis")
    return line


def table_lines(
    columns: Sequence[Column], rows: Sequence[tuple[Row, str]], width: int, heading: str = ""
) -> list[Text]:
    """Return a heading and rows, each with its style, in as many of the columns as fit.

    Columns with wider cells take the free width, the first columns first.
    """
    fitting: list[Column] = []
    for column in columns:
        if sum(each.width + 1 for each in fitting) + column.width > width:
            break
        fitting.append(column)
    free = width - sum(each.width for each in fitting) - len(fitting) + 1
    names = (heading or fitting[0].name, *(each.name for each in fitting[1:])) if fitting else ()
    widths = []
    for place, column in enumerate(fitting):
        longest = max([column.width, len(names[place]), *(len(row[place]) for row, _ in rows)])
        grown = min(longest - column.width, free)
        widths.append(column.width + grown)
        free -= grown
    names = tuple(
        heading if heading and not place else each.name for place, each in enumerate(fitting)
    )
    lines = []
    for row, style in [(names, "bold"), *rows]:
        cells = []
        for cell, column, size in zip(row, fitting, widths, strict=False):
            cut = cell if len(cell) <= size else f"{cell[: size - 1]}…"
            cells.append(f"{cut:>{size}}" if column.is_right else f"{cut:<{size}}")
        lines.append(Text(" ".join(cells).rstrip(), style=style, no_wrap=True))
    return lines


def beside_lines(left: list[Text], right: list[Text], width: int) -> list[Text]:
    """Return the lines of two parts side by side."""
    lines = []
    for place in range(max(len(left), len(right))):
        line = left[place].copy() if place < len(left) else Text("")
        line.truncate(min(COUNTS_WIDTH, width), pad=True)
        if place < len(right):
            line.append_text(right[place])
        lines.append(fitted(line, width))
    return lines


def count_lines(monitor: Monitor) -> list[Text]:
    """Return the counts of readings and their rates, a line each, and the lag."""
    lines = [Text(f"{'readings':<11} {'total':>10} {'per s':>7}", style="bold")]
    for name in COUNTS:
        count, rate = monitor.count(name), monitor.per_second(name)
        rate_text = "-" if rate is None else f"{rate:,.0f}"
        style = "red" if name in ("rejected", "quarantined") and count else ""
        lines.append(Text(f"{name:<11} {count:>10,} {rate_text:>7}", style=style))
    if monitor.latest.overflowed:
        text = f"{'in overflow':<11} {monitor.latest.overflowed:>10,}"
        lines.append(Text(text, style="yellow"))
    lines.append(Text(f"{'lag':<11} {stored_lag_text(monitor.latest.lag_ms):>10}"))
    return lines


def alert_lines(monitor: Monitor, width: int, lines_max: int) -> list[Text]:
    """Return the open alerts, newest breaches first, and the number of those that don't fit."""
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
    """Return an alert's cells; an unreadable alert has only some."""
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
    """Return the mappings, a line each, with their functions' names without the stack's."""
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
    """Return the rates of stored readings between looks as bars, and the highest rate."""
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
    """Return rates as bars; the highest rate has the highest bar."""
    most = max(rates, default=0.0)
    if not most:
        return BARS[0] * len(rates)
    return "".join(BARS[round(rate / most * (len(BARS) - 1))] for rate in rates)


class PlainLines:
    """Prints a monitor's view as lines in a log, one at each change."""

    def __init__(self, console: Console) -> None:
        """Take a console that isn't a terminal."""
        self._console = console
        self._printed: object = None

    def print(self, monitor: Monitor, status: str, *, is_clock: bool) -> None:
        """Print a line, unless only the time has changed since the last line.

        `is_clock`: `status` says only the time.
        """
        seen = counts_text(monitor), "" if is_clock else status
        if seen != self._printed:
            self._printed = seen
            self._console.print(plain_line(monitor, status), highlight=False, soft_wrap=True)


def plain_line(monitor: Monitor, status: str) -> str:
    """Return the status, the counts and the lag in one line."""
    return f"{status}: {counts_text(monitor)}, lag {stored_lag_text(monitor.latest.lag_ms)}"


def counts_text(monitor: Monitor) -> str:
    """Return the counts of readings and of open alerts as text."""
    counts = ", ".join(f"{name} {monitor.count(name):,}" for name in COUNTS)
    return f"{counts}, open alerts {len(monitor.alerts):,}"


def stored_lag_text(lag_ms: float | None) -> str:
    """Return the time from a reading's arrival to its window as text; `-` if it isn't known."""
    return "-" if lag_ms is None else duration_text(lag_ms / 1000)
