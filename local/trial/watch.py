"""What becomes of the readings, as it happens: a live table in a terminal, a line elsewhere."""

from itertools import pairwise

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from local.trial.mapping_state import mappings_table
from local.trial.monitor import Monitor
from local.values import duration_text

ALERTS_SHOWN = 7
PLAIN_LINE_SECONDS = 5.0
BARS = " ▁▂▃▄▅▆▇█"


def live_table(monitor: Monitor, title: str, status: str) -> RenderableType:
    """Return the live table: what became of the readings, how fast, and who overheats."""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(counts_table(monitor), alerts_table(monitor))
    heading = Text.assemble((title, "bold"), "  ", (status, "dim"))
    bars = sparkline([seen.stored for seen in monitor.history])
    stored = Text(f"stored {bars}", style="dim")
    parts: list[RenderableType] = [
        heading,
        grid,
        stored,
        mappings_table(monitor.mappings, monitor.stack),
    ]
    if monitor.problem:
        parts.append(Text(monitor.problem, style="yellow"))
    return Padding(Group(*parts), (1, 0, 0, 1))


def counts_table(monitor: Monitor) -> Table:
    """Return the readings by what became of them."""
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("readings", no_wrap=True, min_width=11)
    table.add_column("total", justify="right", min_width=8)
    table.add_column("per s", justify="right", min_width=6)
    for name in ("posted", "accepted", "rejected", "stored", "duplicate", "quarantined"):
        count = monitor.count(name)
        style = "red" if name in ("rejected", "quarantined") and count else ""
        table.add_row(name, f"{count:,}", f"{monitor.per_second(name):,.0f}", style=style)
    if monitor.latest.overflowed:
        table.add_row("in overflow", f"{monitor.latest.overflowed:,}", "", style="yellow")
    table.add_row("lag", lag_text(monitor.latest.lag_ms), "")
    return table


def alerts_table(monitor: Monitor) -> Table:
    """Return the open alerts, the newest breaches first."""
    alerts = sorted(monitor.alerts, key=lambda alert: str(alert["first_breach_at"]), reverse=True)
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column(
        f"{len(alerts)} open alerts" if len(alerts) != 1 else "1 open alert", no_wrap=True
    )
    table.add_column("rule")
    table.add_column("since", no_wrap=True, min_width=8)
    table.add_column("peak", justify="right")
    for alert in alerts[:ALERTS_SHOWN]:
        since = str(alert["first_breach_at"])[11:19]
        table.add_row(
            str(alert["device_id"]), str(alert["rule"]), since, f"{alert['peak']:.1f}", style="red"
        )
    return table


class PlainLines:
    """The same in lines, for a log: one where something has changed since the last, and no more."""

    def __init__(self, console: Console) -> None:
        """Tell on a console that isn't a terminal."""
        self._console = console
        self._told: object = None

    def tell(self, monitor: Monitor, status: str, *, is_clock: bool) -> None:
        """Print a line, unless it says what the last one said; time alone is no change.

        `is_clock`: `status` says only how late it is.
        """
        seen = counts_text(monitor), "" if is_clock else status
        if seen != self._told:
            self._told = seen
            self._console.print(plain_line(monitor, status), highlight=False, soft_wrap=True)


def plain_line(monitor: Monitor, status: str) -> str:
    """Return what became of the readings in one line."""
    return f"{status}: {counts_text(monitor)}, lag {lag_text(monitor.latest.lag_ms)}"


def counts_text(monitor: Monitor) -> str:
    """Return the counts of readings, by what became of them, and of open alerts."""
    counts = ", ".join(
        f"{name} {monitor.count(name):,}"
        for name in ("posted", "accepted", "rejected", "stored", "duplicate", "quarantined")
    )
    return f"{counts}, open alerts {len(monitor.alerts):,}"


def lag_text(lag_ms: float | None) -> str:
    """Return how long readings take from their arrival to their window."""
    return "-" if lag_ms is None else duration_text(lag_ms / 1000)


def sparkline(totals: list[int]) -> str:
    """Return how a total grew from look to look, as bars."""
    grown = [after - before for before, after in pairwise(totals)]
    most = max(grown, default=0)
    return "".join(
        BARS[round(value / most * (len(BARS) - 1))] if most else BARS[0] for value in grown
    )
