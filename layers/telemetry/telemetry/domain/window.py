"""Windows: the set of one device's readings in one minute of event time.

A window maps each reading's offset from the minute's start (ms) to its metrics. Adding is union,
so a reading added twice, in any order, through any retry, is there once; every statistic is a
function of the set. Treat a window as immutable: functions here return new ones.

Where readings of one instant disagree on a metric, the largest value is the one that stays, and it
is a `Contested` one from then on. That, too, is a function of the set: of all values that came for
an instant and metric the window has the largest, and whether there was another.
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
    """A value that another one of the same instant and metric was different from."""

    __slots__ = ()


Metrics = Mapping[str, float]
Window = Mapping[int, Metrics]

MAX_READINGS = 6_000  # 100 Hz for a minute: about 200 kB of the 400 kB an item may have
EMPTY: Window = {}
FORMAT, CONTESTED_FORMAT = 1, 2  # first byte of the encoded form


class WindowKey(NamedTuple):
    """Whose readings, and of which minute (its start, epoch ms)."""

    device_id: str
    minute_ms: int


class Fate(Enum):
    """What became of a reading that was added to its window."""

    STORED = "stored"  # it brought an instant or a metric that wasn't there
    DUPLICATE = "duplicate"  # it brought nothing new
    OVERFLOW = "overflow"  # the window is full and didn't take it


class Addition(NamedTuple):
    """What adding readings did; `state is` the window added to where nothing was new."""

    state: Window
    fates: Sequence[Fate]  # of each reading, in their order
    conflicts: int  # values that disagreed with the one stored for the same instant and metric


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one metric in one window, in the metric's unit."""

    count: int
    mean: float
    min: float
    max: float
    stddev: float  # of the population
    last: float  # the value with the latest event time


def window_key(reading: Reading) -> WindowKey:
    """The window that a reading belongs to."""
    return WindowKey(reading.device_id, minute_of(reading.recorded_at_ms))


def add_readings(window: Window | None, readings: Iterable[Reading]) -> Addition:
    """Union of a window and readings of its device and minute."""
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
    """Union of two windows of the same device and minute: commutative, associative, idempotent."""
    merged = dict(a)
    for offset, metrics in b.items():
        present = merged.get(offset)
        merged[offset] = metrics if present is None else _merge_metrics(present, metrics)[0]
    return merged


def _merge_metrics(a: Metrics, b: Metrics) -> tuple[Metrics, int]:
    """Metric by metric; of two values that disagree the larger, so the order can't matter.

    The first of the result is `a` itself where `b` brings nothing new.
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
    """Whether the second window has every value of the first, or a larger one in its place."""
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
    """How many values of a window others of their instant and metric were different from."""
    return sum(
        isinstance(value, Contested) for metrics in window.values() for value in metrics.values()
    )


def summarize(window: Window) -> dict[str, Statistics]:
    """By metric name, for each metric that any reading has."""
    columns: dict[str, list[float]] = {}
    for offset in sorted(window):
        for name, value in window[offset].items():
            columns.setdefault(name, []).append(value)
    return {name: _summary(values) for name, values in sorted(columns.items())}


def last_values(window: Window) -> dict[str, tuple[int, float]]:
    """By metric name, the offset of the latest reading that has it, and its value there."""
    return {
        name: (offset, value) for offset in sorted(window) for name, value in window[offset].items()
    }


def _summary(values: list[float]) -> Statistics:
    """Of values in event-time order; fsum makes mean and stddev independent of that order."""
    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / count
    return Statistics(count, mean, min(values), max(values), math.sqrt(variance), values[-1])


def encode(window: Window) -> bytes:
    """Columns, little-endian: equal windows give equal bytes, whatever order they grew in.

    format u8 | count u16 | offsets u16 × count | columns u8, then for each, by name:
    name length u8 | name | presence bitmap (bit i: reading i has it) | f64 × present

    A window with contested values has format 2: each column ends with one more bitmap (bit i: the
    value of reading i is contested).
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
    """The window that `encode` wrote; columns this version doesn't know are kept.

    Raises Rejected for bytes of another format or of the wrong length.
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
