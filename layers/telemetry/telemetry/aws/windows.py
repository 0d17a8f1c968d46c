"""The windows table: key (device_id, minute_region), one item a device, minute and region."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from telemetry.aws.items import Attributes, CompareAndSet, Items
from telemetry.domain import window as windows_of
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso, to_iso_minute
from telemetry.domain.window import Addition, Fate, Window, WindowKey
from telemetry.errors import Rejected, Unavailable

KEY = ("device_id", "minute_region")
# Readings that a warm environment keeps at hand, about 400 bytes each: 40 MB
REMEMBERED_READINGS = 100_000
# and how long: a window grows for its minute, and by what is a little late
REMEMBERED_SECONDS = 120.0


class Added(NamedTuple):
    """What became of the readings of a batch."""

    fates: list[Fate | None]  # of each reading, in their order; None: it can't be written now
    conflicts: int


class Windows:
    """Adds readings to this region's windows."""

    def __init__(self, items: Items, region: str, retention_ms: int) -> None:
        self._region = region
        self._retention_ms = retention_ms
        self._states: CompareAndSet[WindowKey, Window, Addition] = CompareAndSet(
            items,
            self._to_item,
            _to_state,
            weigh=len,
            remembered=REMEMBERED_READINGS,
            remembered_seconds=REMEMBERED_SECONDS,
        )

    def add(self, readings: Sequence[Reading]) -> Added:
        """Add each reading to the window it belongs to; one write a window that changed."""
        groups: dict[WindowKey, list[Reading]] = {}
        places: dict[WindowKey, list[int]] = {}
        for place, reading in enumerate(readings):
            key = windows_of.key_of(reading)
            groups.setdefault(key, []).append(reading)
            places.setdefault(key, []).append(place)
        applied = self._states.apply({key: _adding(group) for key, group in groups.items()})
        fates: list[Fate | None] = [None] * len(readings)
        for key, result in applied.items():
            for place, fate in zip(places[key], result.fates, strict=True):
                fates[place] = fate
        return Added(fates, sum(result.conflicts for result in applied.values()))

    def _to_item(self, key: WindowKey, addition: Addition) -> Attributes:
        expires_at = (key.minute_ms + self._retention_ms) // 1000
        return {
            "device_id": {"S": key.device_id},
            "minute_region": {"S": f"{to_iso_minute(key.minute_ms)}#{self._region}"},
            "readings": {"B": windows_of.encode(addition.state)},
            "expires_at": {"N": str(expires_at)},
        }


def _adding(group: list[Reading]) -> Callable[[Window | None], Addition]:
    return lambda window: windows_of.add(window, group)


def _to_state(item: Attributes) -> Window:
    data = item["readings"]["B"]
    return windows_of.decode(bytes(data))


class WindowReader:
    """Reads windows for the query API, merged over regions."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def between(
        self,
        device_id: str,
        from_ms: int,
        to_ms: int,
        page_size: int = 100,
        newest_first: bool = False,
    ) -> Iterator[tuple[int, Window]]:
        """(minute's start in epoch ms, window) of minutes in [from, to), in order of time.

        Items are read page by page, up to `page_size` a call, as the iteration goes on, so taking
        few of many is cheap. Raises Unavailable for an item that this code can't read.
        """
        minute_ms, window = None, windows_of.EMPTY
        for item in self._items(device_id, from_ms, to_ms, page_size, newest_first):
            at_ms = from_iso(item["minute_region"]["S"].partition("#")[0])
            if at_ms != minute_ms:
                if minute_ms is not None:
                    yield minute_ms, window
                minute_ms, window = at_ms, windows_of.EMPTY
            try:
                part = _to_state(item)
            except Rejected as error:  # newer code wrote it; the caller did nothing wrong
                raise Unavailable(f"a window of {device_id} is not readable: {error}") from error
            window = windows_of.merge(window, part)
        if minute_ms is not None:
            yield minute_ms, window

    def _items(
        self, device_id: str, from_ms: int, to_ms: int, page_size: int, newest_first: bool
    ) -> Iterator[Attributes]:
        # "…Z" alone sorts before "…Z#region": the range takes every region of its minutes
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
