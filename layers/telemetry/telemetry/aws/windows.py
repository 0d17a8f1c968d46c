"""The windows table: key (device_id, minute_region), one item for each device, minute and region.

A rebuild makes a new generation of a region's windows (domain/generation_pointer.py). The number of
a generation is at the end of minute_region, except for the first, 0. Readers see each region's
current generation.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from telemetry.aws.generations import CACHE_SECONDS, PARTITION, to_pointer
from telemetry.aws.items import Attributes, CompareAndSet, Items
from telemetry.aws.observe import log
from telemetry.domain.generation_pointer import FIRST
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso, to_iso_minute
from telemetry.domain.window import (
    EMPTY,
    Addition,
    Fate,
    Window,
    WindowKey,
    add_readings,
    decode,
    encode,
    merge,
    window_key,
)
from telemetry.errors import Rejected, Unavailable

KEY = ("device_id", "minute_region")
# Readings that a warm environment keeps in memory: about 400 bytes each, 40 MB in all.
REMEMBERED_READINGS = 100_000
# How long it keeps them: a window grows for its minute, and a little longer by late readings.
REMEMBERED_SECONDS = 120.0


class Added(NamedTuple):
    """The result of adding a batch of readings."""

    fates: list[Fate | None]  # one for each reading, in order; None: it can't be written now
    conflicts: Counter[str]  # by device: values that differ from the one stored for their instant
    unreadable: Mapping[int, Rejected]  # by a reading's place: why no retry can store it


class GenerationKey(NamedTuple):
    """A window in one of its generations."""

    window: WindowKey
    generation: int


def minute_region(minute_ms: int, region: str, generation: int) -> str:
    """Return the sort key: 2026-11-21T01:30:00Z#us-east-1, with #1 for generation 1, and so on."""
    first = f"{to_iso_minute(minute_ms)}#{region}"
    return f"{first}#{generation}" if generation else first


def parse_minute_region(text: str) -> tuple[int, str, int]:
    """Return the minute (epoch ms), the region and the generation of a sort key."""
    minute, region, *generation = text.split("#")
    return from_iso(minute), region, int(generation[0]) if generation else 0


class Windows:
    """Adds readings to this region's windows, in each generation that `written` returns.

    A rebuild relies on this: soon after a generation begins, every acknowledged reading is stored
    in it, too. This needs no lock. After writing, `add` looks at the generations again, and answers
    only then; the pointer that it sees is at most CACHE_SECONDS old. So an answer without the new
    generation is given within CACHE_SECONDS of its beginning, and its readings are in the old
    generation by then. A writer that dies or hangs before its last look has acknowledged nothing,
    so its readings are delivered again.
    """

    def __init__(
        self,
        items: Items,
        region: str,
        retention_ms: int,
        written: Callable[[], tuple[int, ...]],
    ) -> None:
        self._region = region
        self.retention_ms = retention_ms
        self._written = written
        self._states: CompareAndSet[GenerationKey, Window, Addition] = CompareAndSet(
            items,
            self._to_item,
            to_window,
            weigh=len,
            remembered=REMEMBERED_READINGS,
            remembered_seconds=REMEMBERED_SECONDS,
        )

    def add(self, readings: Sequence[Reading]) -> Added:
        """Add each reading to its window, with one write for each window that changes.

        A window that this code can't read takes no readings; other windows are unaffected. Fates
        are those in the current generation. A reading counts as stored once it is in every
        generation that is written. If the pointer can't be read, no reading is stored.
        """
        groups: dict[WindowKey, list[Reading]] = {}
        places: dict[WindowKey, list[int]] = {}
        for place, reading in enumerate(readings):
            key = window_key(reading)
            groups.setdefault(key, []).append(reading)
            places.setdefault(key, []).append(place)
        unreadable: dict[GenerationKey, Rejected] = {}
        try:
            applied = self._write(groups, unreadable)
        except Unavailable as error:
            log.warning("no reading stored", extra={"why": str(error)})
            applied = {}
        fates: list[Fate | None] = [None] * len(readings)
        for key, result in applied.items():
            for place, fate in zip(places[key], result.fates, strict=True):
                fates[place] = fate
        conflicts: Counter[str] = Counter()
        for key, result in applied.items():
            if result.conflicts:
                conflicts[key.device_id] += result.conflicts
        reasons = {place: why for key, why in unreadable.items() for place in places[key.window]}
        return Added(fates, conflicts, reasons)

    def _write(
        self,
        groups: Mapping[WindowKey, list[Reading]],
        unreadable: dict[GenerationKey, Rejected],
    ) -> dict[WindowKey, Addition]:
        """Return the results in the current generation, for windows written in every generation."""
        applied: dict[GenerationKey, Addition] = {}
        tried: set[int] = set()
        generations = self._written()
        while missing := set(generations) - tried:
            applied |= self._states.apply(
                {
                    GenerationKey(key, generation): _adding(group)
                    for generation in sorted(missing)
                    for key, group in groups.items()
                },
                unreadable,
            )
            tried |= missing
            generations = self._written()  # the last look, on which the answer relies
        return {
            key: applied[GenerationKey(key, generations[0])]
            for key in groups
            if all(GenerationKey(key, generation) in applied for generation in tried)
        }

    def _to_item(self, key: GenerationKey, addition: Addition) -> Attributes:
        device_id, minute_ms = key.window
        return {
            "device_id": {"S": device_id},
            "minute_region": {"S": minute_region(minute_ms, self._region, key.generation)},
            "readings": {"B": encode(addition.state)},
            "expires_at": {"N": str(expires_at(minute_ms, self.retention_ms))},
        }


def expires_at(minute_ms: int, retention_ms: int) -> int:
    """Return when a window expires, in epoch seconds."""
    return (minute_ms + retention_ms) // 1000


def _adding(group: list[Reading]) -> Callable[[Window | None], Addition]:
    return lambda window: add_readings(window, group)


def to_window(item: Attributes) -> Window:
    """Return the window in an item; raise Rejected if this code can't read it."""
    data = item["readings"]["B"]
    return decode(bytes(data))


class WindowReader:
    """Reads windows for the query API: each region's current generation, merged over regions."""

    def __init__(self, dynamodb: Any, table: str, clock: Callable[[], float] = time.time) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._clock = clock
        self._read_at = float("-inf")
        self._generations: Mapping[str, int] = {}

    def between(
        self,
        device_id: str,
        from_ms: int,
        to_ms: int,
        page_size: int = 100,
        newest_first: bool = False,
    ) -> Iterator[tuple[int, Window]]:
        """Yield (minute's start in epoch ms, window) of the minutes in [from, to), in time order.

        Items are read page by page, up to `page_size` a call, as the iteration goes on, so it is
        cheap to take a few of many. Raise Unavailable for an item that this code can't read.
        """
        minute_ms, window = None, EMPTY
        current = self._current()
        for item in self._items(device_id, from_ms, to_ms, page_size, newest_first):
            at_ms, region, generation = parse_minute_region(item["minute_region"]["S"])
            if generation != current.get(region, FIRST.current):
                continue
            if at_ms != minute_ms:
                if minute_ms is not None:
                    yield minute_ms, window
                minute_ms, window = at_ms, EMPTY
            try:
                part = to_window(item)
            except Rejected as error:  # newer code wrote it; the caller did nothing wrong
                raise Unavailable(f"a window of {device_id} is not readable: {error}") from error
            window = merge(window, part)
        if minute_ms is not None:
            yield minute_ms, window

    def ping(self) -> None:
        """Raise boto3's error if the table can't be read. This costs half a read unit."""
        nothing = {"device_id": {"S": PARTITION}, "minute_region": {"S": "ping"}}
        self._dynamodb.get_item(TableName=self._table, Key=nothing)

    def _current(self) -> Mapping[str, int]:
        """Return each region's current generation; a region without a pointer has the first."""
        now = self._clock()
        if not 0 <= now - self._read_at < CACHE_SECONDS:
            self._generations = {
                item["minute_region"]["S"]: to_pointer(item).current for item in self._pointers()
            }
            self._read_at = now
        return self._generations

    def _pointers(self) -> Iterator[Attributes]:
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="device_id = :partition",
            ExpressionAttributeValues={":partition": {"S": PARTITION}},
        )
        for page in pages:
            yield from page["Items"]

    def _items(
        self, device_id: str, from_ms: int, to_ms: int, page_size: int, newest_first: bool
    ) -> Iterator[Attributes]:
        # "…Z" alone sorts before "…Z#region", so the range has every region of its minutes
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="device_id = :device AND minute_region BETWEEN :from AND :to",
            ExpressionAttributeValues={
                ":device": {"S": device_id},
                ":from": {"S": to_iso_minute(from_ms)},
                ":to": {"S": to_iso_minute(to_ms)},
            },
            ScanIndexForward=not newest_first,
            PaginationConfig={"PageSize": page_size},
        )
        for page in pages:
            yield from page["Items"]
