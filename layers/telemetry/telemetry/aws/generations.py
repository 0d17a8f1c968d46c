"""The regions' generation pointers: an item for each region, in the windows table.

The items are in the partition `#generations`, which can't be a device's id.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.items import Attributes, Items, Write, Written
from telemetry.domain.generation_pointer import FIRST, Pointer
from telemetry.errors import Unavailable

PARTITION = "#generations"
CACHE_SECONDS = 5.0  # how long a function may use a pointer that it has read
ATTEMPTS = 8


class Versioned(NamedTuple):
    """A pointer, and the version of its item (0: there is no item yet)."""

    pointer: Pointer
    version: int


class Generations:
    """A region's pointer. Its methods raise Unavailable rather than use an outdated pointer."""

    def __init__(
        self,
        dynamodb: Any,
        table: str,
        region: str,
        items: Items,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._region = region
        self._items = items
        # not the monotonic clock: it may stand still while an execution environment is frozen
        self._clock = clock
        self._read_at = float("-inf")
        self._written = FIRST.written

    def written(self) -> tuple[int, ...]:
        """Return the generations to write, the current one first; at most CACHE_SECONDS old."""
        now = self._clock()
        if not 0 <= now - self._read_at < CACHE_SECONDS:
            self._written = self.read().written
            self._read_at = now
        return self._written

    def read(self) -> Pointer:
        """Return the pointer as it is now."""
        return self._read().pointer

    def change(self, change: Callable[[Pointer], Pointer]) -> Pointer:
        """Apply a change to the pointer, on the version that the change saw; return the result."""
        for _ in range(ATTEMPTS):
            pointer, version = self._read()
            changed = change(pointer)
            if changed == pointer:
                return pointer
            item = {**to_item(self._region, changed), "version": {"N": str(version + 1)}}
            if self._items.write([Write(item, version)]) == [Written()]:
                return changed
        raise Unavailable("the generations can't be written")

    def _read(self) -> Versioned:
        item = self._get({"device_id": {"S": PARTITION}, "minute_region": {"S": self._region}})
        return (
            Versioned(to_pointer(item), int(item["version"]["N"])) if item else Versioned(FIRST, 0)
        )

    def _get(self, key: Attributes) -> Attributes | None:
        try:
            answer = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"the generations can't be read: {error}") from error
        item: Attributes | None = answer.get("Item")
        return item


def to_item(region: str, pointer: Pointer) -> Attributes:
    """Return the item of a region's pointer, without the version."""
    numbers = {
        name: {"NULL": True} if value is None else {"N": str(value)}
        for name, value in pointer._asdict().items()
    }
    return {"device_id": {"S": PARTITION}, "minute_region": {"S": region}, **numbers}


def to_pointer(item: Mapping[str, Any]) -> Pointer:
    """Return the pointer in an item."""
    numbers = {name: item[name].get("N") for name in Pointer._fields}
    return Pointer(**{name: number and int(number) for name, number in numbers.items()})
