"""Turns the API's answers into rows, for tables and for CSV (RFC 4180)."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

Json = Mapping[str, Any]

STATISTICS = ("count", "mean", "min", "max", "stddev", "last")
WINDOW_COLUMNS = ("device_id", "minute", "metric", *STATISTICS)
ALERT_COLUMNS = (
    *("device_id", "rule", "severity", "region", "episode", "status", "first_breach_at"),
    *("last_breach_at", "cleared_at", "peak", "trace_id"),
)


def window_rows(
    device_id: str, windows: Iterable[Json], metric: str | None = None
) -> Iterator[list[Any]]:
    """Return a row for each minute and metric; with `metric`, only the rows of that metric."""
    for window in windows:
        for name, statistics in sorted(window.get("metrics", {}).items()):
            if metric in (None, name):
                numbers = (statistics.get(each) for each in STATISTICS)
                yield [device_id, window["minute"], name, *numbers]


def alert_rows(alerts: Iterable[Json]) -> Iterator[list[Any]]:
    """Return a row for each alert."""
    return ([alert.get(name) for name in ALERT_COLUMNS] for alert in alerts)


def metrics_of(windows: Iterable[Json]) -> list[str]:
    """Return the names of all metrics in the windows, sorted."""
    return sorted({name for window in windows for name in window.get("metrics", {})})


def write_csv(file: IO[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows: numbers with all their digits, None as an empty cell."""
    writer = csv.writer(file)  # its default dialect is RFC 4180's: CRLF, quotes where needed
    writer.writerow(columns)
    writer.writerows(rows)


def counted(amount: int, noun: str) -> str:
    """Return a number with its noun: 1 alert, 2 alerts, 1,000 alerts."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"
