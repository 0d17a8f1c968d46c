"""Recorded measurements of a CSV file, as a source of readings.

Options map columns to the device, the time and the metrics. The readings are due at the recorded
pace, faster, or all at once. They can be shifted in time so that the last one is now.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from telemetry_client.errors import Invalid
from telemetry_client.reading import check_metric, from_iso

from local.errors import LocalError
from local.fleet.reading import METRICS, Reading
from local.values import finite_number

BLANK = " \t\r\n\0"  # with the NUL that ends a C string
DEVICE_ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,128}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_PATTERN = re.compile(r"\d{9,19}(\.\d+)?", re.ASCII)
EPOCH_SECONDS_MAX, EPOCH_MS_MAX, EPOCH_US_MAX = 10**11, 10**14, 10**17
OFFSET_PATTERN = re.compile(r"([+-])(\d{2}):?(\d{2})")
MORE_CELLS = "cells without a column"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")

TO_CELSIUS: Mapping[str, Callable[[float], float]] = {
    "fahrenheit": lambda value: (value - 32) * 5 / 9,
    "kelvin": lambda value: value - 273.15,
}


@dataclass(frozen=True)
class CsvOptions:
    """How to read a file, and when to send its readings."""

    path: Path
    time_column: str
    metrics: Mapping[str, str]
    """The column of each metric: {"temperature": "temp"}."""
    device: str | None = None
    device_column: str | None = None
    celsius_from: str | None = None
    """Unit of the file's temperatures, if it isn't Celsius: a key of TO_CELSIUS."""
    time_format: str | None = None
    zone: str = "UTC"
    """Zone of times without one: a name such as Europe/Berlin, or an offset such as +01:00."""
    speed: float | None = 1.0
    """How many times faster than recorded. None: all readings are due at once."""
    is_ending_now: bool = False

    def __post_init__(self) -> None:
        """Raise LocalError if the device or the metrics are missing, or the device is double."""
        if (self.device is None) == (self.device_column is None):
            raise LocalError(
                "--csv needs the device: either --device NAME or --device-column COLUMN"
            )
        if not self.metrics:
            raise LocalError(
                "--csv needs at least one --metric, for example --metric temperature=temp"
            )


class Recording:
    """The source of a file's readings."""

    def __init__(self, options: CsvOptions, start_ms: int) -> None:
        """Read the file; raise LocalError, naming row and column, for a wrong cell."""
        self.options = options
        self.start_ms = start_ms
        rows = read(options)
        self._readings = (
            shifted(rows.readings, start_ms) if options.is_ending_now else rows.readings
        )
        self._taken = 0
        self.left_out = rows.conflicting

    @property
    def devices(self) -> list[str]:
        """The ids of its devices."""
        return sorted({reading.device_id for reading in self._readings})

    @property
    def size(self) -> int:
        """The number of all readings."""
        return len(self._readings)

    def take_due(self, now_ms: int, limit: int) -> list[Reading]:
        """Take the readings that are due by now, at most `limit`."""
        start = end = self._taken
        while end < min(len(self._readings), start + limit) and self._send_ms(end) <= now_ms:
            end += 1
        self._taken = end
        return self._readings[start:end]

    def take_remaining(self) -> list[Reading]:
        """Return no readings: none is late or double."""
        return []

    def next_due_ms(self) -> int | None:
        """Return the time at which the next reading is due; None after the last one."""
        return self._send_ms(self._taken) if self._taken < len(self._readings) else None

    def _send_ms(self, index: int) -> int:
        if self.options.speed is None:
            return self.start_ms
        waited_ms = self._readings[index].recorded_at_ms - self._readings[0].recorded_at_ms
        return self.start_ms + int(waited_ms / self.options.speed)


@dataclass
class Rows:
    """The readings of a file."""

    readings: list[Reading] = field(default_factory=list)
    conflicting: int = 0
    """Number of rows left out, in part or whole, for a larger value of their device and time."""


def read(options: CsvOptions) -> Rows:
    """Read a whole file, ordered by time; an empty cell is a metric that wasn't measured."""
    try:
        with options.path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, restkey=MORE_CELLS)
            check_columns(options, table.fieldnames or [])
            clock = Clock(options.zone)
            return ordered(from_row(options, clock, table.line_num, row) for row in table)
    except UnicodeDecodeError as error:
        is_utf_16 = error.object[:2] in UTF_16
        why = "it is UTF-16; save it as UTF-8" if is_utf_16 else str(error)
        raise LocalError(f"--csv {options.path}: {why}") from error
    except OSError as error:
        raise LocalError(f"--csv {options.path}: {error}") from error


def check_columns(options: CsvOptions, columns: Iterable[str]) -> None:
    """Raise LocalError if an option names a column that the file hasn't."""
    named = {"--time-column": options.time_column, "--device-column": options.device_column}
    named |= {f"--metric {metric}": column for metric, column in options.metrics.items()}
    present = list(columns)
    for option, column in named.items():
        if column is not None and column not in present:
            columns_there = ", ".join(present)
            raise LocalError(
                f"{option}: {options.path.name} has no column '{column}'; it has {columns_there}"
            )


def from_row(
    options: CsvOptions, clock: "Clock", line: int, row: Mapping[str, str]
) -> Reading | None:
    """Return the reading of a row, or None if the row has no metric; raise LocalError."""
    where = f"{options.path.name} line {line}"
    if MORE_CELLS in row:
        raise LocalError(
            f"{where}: has more cells than the first line has columns, from {row[MORE_CELLS][0]!r} "
            "on: a cell with a comma in it is written in quotes, and a decimal comma as a point"
        )
    metrics: dict[str, float] = {}
    for metric, column in options.metrics.items():
        cell = (row[column] or "").strip(BLANK)
        if not cell:
            continue
        value = number(cell, f"{where}, column {column}")
        if metric == "temperature" and options.celsius_from:
            value = TO_CELSIUS[options.celsius_from](value)
        metrics[metric] = value
    if not metrics:
        return None
    device = options.device if options.device_column is None else row[options.device_column]
    if device is None or not DEVICE_ID_PATTERN.fullmatch(device):
        raise LocalError(
            f"{where}: '{device}' isn't a device id: letters, digits, - and _, at most 128"
        )
    moment = moment_of(
        row[options.time_column] or "",
        options.time_format,
        f"{where}, column {options.time_column}",
    )
    return Reading(device, clock.ms(device, moment), metrics)


def ordered(readings: Iterable[Reading | None]) -> Rows:
    """Order readings by time; merge those with the same device and time, metric by metric.

    Of two values the larger one stays, as in the pipeline, where a value that is out of its
    metric's range isn't compared.
    """
    rows = Rows()
    measured = [reading for reading in readings if reading is not None]
    merged: dict[tuple[str, int], dict[str, float]] = {}
    for reading in measured:
        metrics = merged.setdefault((reading.device_id, reading.recorded_at_ms), {})
        for name, value in reading.metrics.items():
            present = metrics.get(name, value)
            metrics[name] = max(present, value, key=lambda each: (is_in_range(name, each), each))
    for reading in measured:
        metrics = merged[reading.device_id, reading.recorded_at_ms]
        rows.conflicting += any(metrics[name] != value for name, value in reading.metrics.items())
    rows.readings = [
        Reading(device, at_ms, metrics)
        for (device, at_ms), metrics in sorted(merged.items(), key=lambda each: each[0][::-1])
    ]
    if not rows.readings:
        raise LocalError("--csv: the file has no reading")
    return rows


def is_in_range(metric: str, value: float) -> bool:
    """Return whether the pipeline accepts a metric's value."""
    try:
        check_metric(metric, value)
    except Invalid:
        return False
    return True


def shifted(readings: list[Reading], end_ms: int) -> list[Reading]:
    """Move all readings by the same time, so that the last one is at `end_ms`."""
    shift_ms = end_ms - readings[-1].recorded_at_ms
    return [
        reading._replace(recorded_at_ms=reading.recorded_at_ms + shift_ms) for reading in readings
    ]


def number(cell: str, where: str) -> float:
    """Return a cell's number; raise LocalError, with `where`, if it isn't a finite number."""
    try:
        return finite_number(cell)
    except ValueError as error:
        raise LocalError(f"{where}: {error}; leave a cell empty if nothing was measured") from None


class Clock:
    """Turns a file's times into instants; they may be local times."""

    def __init__(self, zone: str) -> None:
        """Take times without a zone as times of `zone`; raise LocalError for an unknown one."""
        self._zone = zone_of(zone)
        self._last_ms: dict[str, int] = {}

    def ms(self, device: str, moment: datetime) -> int:
        """Return the ms since 1970 of the time in a device's next row, rounded down.

        When clocks are set back, local times of one hour occur twice. Such a time is taken as the
        first, unless the device's times would then go back: then it is the second.
        """
        if moment.tzinfo is not None:
            return ms_of(moment)
        first = ms_of(moment.replace(tzinfo=self._zone))
        second = ms_of(moment.replace(tzinfo=self._zone, fold=1))
        last = self._last_ms.get(device)
        chosen = second if last is not None and first < last <= second else first
        self._last_ms[device] = chosen
        return chosen


def zone_of(name: str) -> tzinfo:
    """Return a zone by its name or its offset from UTC; raise LocalError for an unknown one."""
    offset = OFFSET_PATTERN.fullmatch(name)
    if offset:
        minutes = int(offset[2]) * 60 + int(offset[3])
        return timezone(timedelta(minutes=-minutes if offset[1] == "-" else minutes))
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise LocalError(
            f"--zone: '{name}' isn't a zone that this machine knows, such as Europe/Berlin, "
            "or an offset, such as +01:00"
        ) from None


def ms_of(moment: datetime) -> int:
    """Return the ms since 1970 of a moment with a zone, rounded down."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def moment_of(cell: str, time_format: str | None, where: str) -> datetime:
    """Return a cell's time, without a zone if it has none; raise LocalError if it isn't a time.

    Its format is `time_format`. Without that it is ISO 8601 (with - or /), or epoch seconds or ms.
    """
    text = cell.strip(BLANK)
    try:
        if time_format is not None:
            return datetime.strptime(text, time_format)  # noqa: DTZ007 - the clock has the zone
        if EPOCH_PATTERN.fullmatch(text):
            return epoch_moment(text, f"{where}: '{cell}'")
        return from_iso(text.replace("/", "-"))
    except ValueError:
        expected = (
            time_format
            or "a time like 2026-11-21T01:30:00Z, 2026/11/21 01:30, or seconds since 1970"
        )
        raise LocalError(
            f"{where}: '{cell}' isn't {expected} (--time-format sets another format)"
        ) from None


def epoch_moment(text: str, where: str) -> datetime:
    """Return the moment of seconds or ms since 1970; raise LocalError for a finer unit."""
    epoch = Decimal(text)
    if epoch > EPOCH_MS_MAX:
        unit = "microseconds" if epoch <= EPOCH_US_MAX else "nanoseconds"
        raise LocalError(f"{where} looks like {unit}; seconds or milliseconds are meant")
    ms = int(epoch if epoch > EPOCH_SECONDS_MAX else epoch * 1000)
    return EPOCH + timedelta(milliseconds=ms)


def metric_column(text: str) -> tuple[str, str]:
    """Return metric and column of `temperature=temp`; raise ValueError for other text."""
    metric, equals, column = text.partition("=")
    if not equals or not column:
        raise ValueError(f"'{text}' isn't METRIC=COLUMN, for example temperature=temp")
    if metric not in METRICS:
        raise ValueError(f"'{metric}' isn't a metric: {', '.join(METRICS)} are")
    return metric, column
