"""Windows: the set of one device's readings in one minute of event time.

A window maps each reading's offset from the minute's start (ms) to its metrics. Adding is set
union, so a reading that is added twice, in any order and by any retry, is there once. Every
statistic is a function of the set. Treat a window as immutable: the functions here return new ones.

Where readings of one instant disagree on a metric, the largest value stays and is marked as
`Contested`. This, too, is a function of the set: for each instant and metric, the window has the
largest value that came, and knows whether a different one came.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from telemetry.domain.reading import Reading
from telemetry.domain.times import MINUTE_MS, minute_of
from telemetry.errors import Rejected


class Contested(float):
    """A value that won over a different one for the same instant and metric."""

    __slots__ = ()


Metrics = Mapping[str, float]
Window = Mapping[int, Metrics]

MAX_READINGS = 6_000  # 100 Hz for a minute: about 200 kB of the 400 kB an item may have
EMPTY: Window = {}
FORMAT, CONTESTED_FORMAT = 1, 2  # first byte of the encoded form


class WindowKey(NamedTuple):
    """The device of a window, and its minute (the start, epoch ms)."""

    device_id: str
    minute_ms: int


class Fate(Enum):
    """The result of adding one reading to its window."""

    STORED = "stored"  # it brought a new instant or metric
    DUPLICATE = "duplicate"  # it brought nothing new
    OVERFLOW = "overflow"  # the window is full: the reading wasn't added


class Addition(NamedTuple):
    """The result of adding readings; `state` is the very window given where nothing was new."""

    state: Window
    fates: Sequence[Fate]  # one for each reading, in their order
    conflicts: int  # values that differed from the one stored for the same instant and metric


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of one metric in one window, in the metric's unit."""

    count: int
    mean: float
    min: float
    max: float
    stddev: float  # of the population
    last: float  # the value with the latest event time


def window_key(reading: Reading) -> WindowKey:
    """Return the key of a reading's window."""
    return WindowKey(reading.device_id, minute_of(reading.recorded_at_ms))


def add_readings(window: Window | None, readings: Iterable[Reading]) -> Addition:
    """Return the union of a window and readings of its device and minute."""
    before: Window = EMPTY if window is None else window
    after = dict(before)
    conflicts = 0
    is_changed = False
    fates = []
    for reading in readings:
        offset = reading.recorded_at_ms % MINUTE_MS
        present = after.get(offset)
        if present is None:
            if len(after) >= MAX_READINGS:
                fates.append(Fate.OVERFLOW)
                continue
            after[offset] = reading.metrics
            is_changed = True
            fates.append(Fate.STORED)
            continue
        merged, disagreeing = _merge_metrics(present, reading.metrics)
        conflicts += disagreeing
        fates.append(Fate.STORED if len(merged) > len(present) else Fate.DUPLICATE)
        if merged is not present:
            after[offset] = merged
            is_changed = True
    return Addition(after if is_changed else before, fates, conflicts)


def merge(a: Window, b: Window) -> Window:
    """Return the union of two windows of one key; commutative, associative and idempotent."""
    merged = dict(a)
    for offset, metrics in b.items():
        present = merged.get(offset)
        merged[offset] = metrics if present is None else _merge_metrics(present, metrics)[0]
    return merged


def _merge_metrics(a: Metrics, b: Metrics) -> tuple[Metrics, int]:
    """Return the union by metric, and the number of conflicts.

    Of two values that differ, the larger one stays, so the order doesn't matter. The union is `a`
    itself where `b` brings nothing new.
    """
    merged = dict(a)
    disagreeing = 0
    is_changed = False
    for name, value in b.items():
        present = merged.get(name)
        if present is None:
            merged[name] = value
        elif present != value:
            disagreeing += 1
            if isinstance(present, Contested) and present > value:
                continue
            merged[name] = Contested(max(present, value))
        elif isinstance(value, Contested) and not isinstance(present, Contested):
            merged[name] = value
        else:
            continue
        is_changed = True
    return merged if is_changed else a, disagreeing


def is_within(a: Window, b: Window) -> bool:
    """Return whether window `b` has every value of `a`, or a larger value in its place."""
    return all(
        _has(b.get(offset, {}).get(name), value)
        for offset, metrics in a.items()
        for name, value in metrics.items()
    )


def _has(present: float | None, value: float) -> bool:
    if present is None or present < value:
        return False
    return present > value or isinstance(present, Contested) or not isinstance(value, Contested)


def count_contested(window: Window) -> int:
    """Return the number of contested values in a window."""
    return sum(
        isinstance(value, Contested) for metrics in window.values() for value in metrics.values()
    )


def summarize(window: Window) -> dict[str, Statistics]:
    """Return the statistics of each metric that any reading has, by metric name."""
    columns: dict[str, list[float]] = {}
    for offset in sorted(window):
        for name, value in window[offset].items():
            columns.setdefault(name, []).append(value)
    return {name: _summary(values) for name, values in sorted(columns.items())}


def last_values(window: Window) -> dict[str, tuple[int, float]]:
    """Return, by metric name, the offset (ms) and value of the latest reading that has it."""
    return {
        name: (offset, value) for offset in sorted(window) for name, value in window[offset].items()
    }


def _summary(values: list[float]) -> Statistics:
    """Summarize values in event-time order; fsum makes mean and stddev independent of the order."""
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / count
    return Statistics(count, mean, min(values), max(values), math.sqrt(variance), values[-1])


def encode(window: Window) -> bytes:
    """Return a window in columns, little-endian; equal windows give equal bytes.

    format u8 | count u16 | offsets u16 × count | columns u8, then for each, by name:
    name length u8 | name | presence bitmap (bit i: reading i has it) | f64 × present

    Format 2 is for windows with contested values. Each of its columns ends with one more bitmap
    (bit i: the value of reading i is contested).
    """
    offsets = sorted(window)
    count = len(offsets)
    names = sorted({name for metrics in window.values() for name in metrics})
    rows = [window[offset] for offset in offsets]
    is_contested = any(Contested in set(map(type, metrics.values())) for metrics in rows)
    form = CONTESTED_FORMAT if is_contested else FORMAT
    parts = [struct.pack(f"<BH{count}HB", form, count, *offsets, len(names))]
    bitmap_size = (count + 7) // 8
    for name in names:
        values = [metrics[name] for metrics in rows if name in metrics]
        present = (1 << count) - 1
        if len(values) < count:
            present = sum(1 << index for index, metrics in enumerate(rows) if name in metrics)
        label = name.encode()
        parts.append(struct.pack("<B", len(label)) + label)
        parts.append(present.to_bytes(bitmap_size, "little"))
        parts.append(struct.pack(f"<{len(values)}d", *values))
        if is_contested:
            marked = sum(
                1 << index
                for index, metrics in enumerate(rows)
                if isinstance(metrics.get(name), Contested)
            )
            parts.append(marked.to_bytes(bitmap_size, "little"))
    return b"".join(parts)


def decode(data: bytes) -> Window:
    """Return the window that `encode` wrote, with the columns that this version doesn't know.

    Raise Rejected for bytes of another format or of the wrong length.
    """
    if not data or data[0] not in (FORMAT, CONTESTED_FORMAT):
        reason = f"is neither in format {FORMAT} nor in {CONTESTED_FORMAT}"
        raise Rejected(reason, field="readings", value=data[:1])
    try:
        return _decode(memoryview(data))
    except (struct.error, LookupError, ValueError) as error:
        raise Rejected(f"is cut off or damaged: {error}", field="readings") from None


def _decode(data: memoryview) -> Window:
    (count,) = struct.unpack_from("<H", data, 1)
    offsets = struct.unpack_from(f"<{count}H", data, 3)
    at = 3 + 2 * count
    columns, at = data[at], at + 1
    rows: list[dict[str, float]] = [{} for _ in offsets]
    bitmap_size = (count + 7) // 8
    for _ in range(columns):
        length = data[at]
        name = bytes(data[at + 1 : at + 1 + length]).decode()
        at += 1 + length
        present = int.from_bytes(data[at : at + bitmap_size], "little")
        at += bitmap_size
        values = struct.unpack_from(f"<{present.bit_count()}d", data, at)
        at += 8 * len(values)
        having = rows
        if len(values) < count:
            having = [row for index, row in enumerate(rows) if present >> index & 1]
        for row, value in zip(having, values, strict=True):
            row[name] = value
        if data[0] == CONTESTED_FORMAT:
            marked = int.from_bytes(data[at : at + bitmap_size], "little")
            at += bitmap_size
            for index, row in enumerate(rows):
                if marked >> index & 1:
                    row[name] = Contested(row[name])
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after its end")
    return dict(zip(offsets, rows, strict=True))
