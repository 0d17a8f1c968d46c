"""Global tables: conditional writes in each region, replication later, the last writer wins."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.simulation.streams import TableStream

Item = dict[str, dict[str, Any]]
Key = tuple[str, str]
INSERT = re.compile(r'INSERT INTO "(?P<table>[^"]+)" VALUE \{(?P<fields>.*)\}')
UPDATE = re.compile(r'UPDATE "(?P<table>[^"]+)" (?P<changes>.*) WHERE (?P<condition>.*)')
NAME_IN_VALUE = re.compile(r"'([^']+)': \?")
NAME = re.compile(r'"([^"]+)" = \?')
# The conditions that the adapters use besides PartiQL's; another one is refused, not guessed.
FREE_OR_OVER = "attribute_not_exists(device_id) OR (#state = :leased AND leased_until < :now)"
PAST_MAX = 4
SET_STATE = "SET #state = :done"


class Refused(Exception):
    """The condition failed; `item` is the present item."""

    def __init__(self, item: Item | None) -> None:
        super().__init__("ConditionalCheckFailed")
        self.item = item


class Stamp(NamedTuple):
    """When and where an item was written: the later one wins."""

    at_ms: int
    serial: int
    region: str


@dataclass
class Replica:
    """One region's copy of a table."""

    stream: TableStream
    items: dict[Key, Item] = field(default_factory=dict)
    stamps: dict[Key, Stamp] = field(default_factory=dict)
    past: dict[Key, list[Item | None]] = field(default_factory=dict)
    """Each item's states before its last writes, oldest first; None before its first."""
    buckets: dict[str, set[Key]] = field(default_factory=dict)
    """The items that were ever in a partition of the status index."""


class Table:
    """A global table; `spread` replicates a write to the other regions.

    `pick` gets an item's states, the present one last, and picks the one that a read sees.
    """

    def __init__(
        self,
        name: str,
        key: tuple[str, str],
        streams: dict[str, TableStream],
        now_ms: Callable[[str], int],
        spread: Callable[[str, Callable[[str], None]], None],
        pick: Callable[[list[Item | None]], Item | None],
    ) -> None:
        self.name = name
        self.key = key
        self.replicas = {region: Replica(stream) for region, stream in streams.items()}
        self._now_ms = now_ms
        self._spread = spread
        self._pick = pick
        self._serial = 0

    def key_of(self, item: Item) -> Key:
        return item[self.key[0]]["S"], item[self.key[1]]["S"]

    def put(self, region: str, item: Item) -> None:
        """Write an item in a region; it reaches the other regions later."""
        self._serial += 1
        stamp = Stamp(self._now_ms(region), self._serial, region)
        self._apply(region, item, stamp)
        self._spread(region, lambda other: self._apply(other, item, stamp))

    def _apply(self, region: str, item: Item, stamp: Stamp) -> None:
        replica, key = self.replicas[region], self.key_of(item)
        if replica.stamps.get(key, stamp) > stamp:
            return
        before = replica.items.get(key)
        replica.past[key] = [*replica.past.get(key, [])[1 - PAST_MAX :], before]
        replica.items[key], replica.stamps[key] = item, stamp
        if "status_bucket" in item:
            replica.buckets.setdefault(item["status_bucket"]["S"], set()).add(key)
        named = {name: item[name] for name in self.key}
        replica.stream.announce(named, before, item)

    def execute(self, region: str, statement: str, parameters: list[dict[str, Any]]) -> None:
        """Run a PartiQL statement of the two forms that the adapters use; raise Refused."""
        if match := INSERT.fullmatch(statement):
            names = NAME_IN_VALUE.findall(match["fields"])
            item = dict(zip(names, parameters, strict=True))
            current = self.replicas[region].items.get(self.key_of(item))
            if current is not None:
                raise Refused(current)
            self.put(region, item)
            return
        match = UPDATE.fullmatch(statement)
        if match is None:
            raise AssertionError(f"a statement that isn't simulated: {statement}")
        names = NAME.findall(match["changes"])
        changes = dict(zip(names, parameters, strict=False))
        conditions = NAME.findall(match["condition"])
        wanted = dict(zip(conditions, parameters[len(names) :], strict=True))
        current = self.replicas[region].items.get(self.key_of(wanted))
        if current is None or any(current.get(name) != value for name, value in wanted.items()):
            raise Refused(current)
        self.put(region, current | changes)

    def claim(self, region: str, item: Item, condition: str, values: Item) -> None:
        """Put a claim with its condition; raise Refused."""
        if condition != FREE_OR_OVER:
            raise AssertionError(f"a condition that isn't simulated: {condition}")
        current = self.replicas[region].items.get(self.key_of(item))
        if current is not None:
            is_over = current["state"] == values[":leased"] and int(
                current["leased_until"]["N"]
            ) < int(values[":now"]["N"])
            if not is_over:
                raise Refused(current)
        self.put(region, item)

    def set_state(self, region: str, key: Item, expression: str, values: Item) -> None:
        """Update a claim."""
        if expression != SET_STATE:
            raise AssertionError(f"an update that isn't simulated: {expression}")
        current = self.replicas[region].items.get(self.key_of(key), key)
        self.put(region, current | {"state": values[":done"]})

    def get(self, region: str, key: Key, is_consistent: bool) -> Item | None:
        """Return an item; an inconsistent read may return an older state."""
        return self.replicas[region].items.get(key) if is_consistent else self._as_read(region, key)

    def between(
        self, region: str, partition: str, low: str, high: str, is_forward: bool = True
    ) -> list[Item]:
        """Return a partition's items in a range of sort keys, as a query does."""
        items = self.replicas[region].items
        found = [key for key in items if key[0] == partition and low <= key[1] <= high]
        seen = [self._as_read(region, key) for key in sorted(found, reverse=not is_forward)]
        return [item for item in seen if item is not None]

    def of_partition(self, region: str, partition: str) -> list[Item]:
        """Return a partition's items, as a query does."""
        return self.between(region, partition, "", "\U0010ffff")

    def indexed(
        self, region: str, bucket: str, limit: int, start: Item | None
    ) -> tuple[list[Item], Item | None]:
        """Return a page of the status index by first breach, and the start of the next page.

        DynamoDB tells of a next page where this one is full, though nothing may be left.
        """
        keys = self.replicas[region].buckets.get(bucket, set())
        seen = [self._as_read(region, key) for key in sorted(keys)]
        found = [item for item in seen if item and item["status_bucket"]["S"] == bucket]
        found.sort(key=self._place)
        if start is not None:
            found = [item for item in found if self._place(item) > self._place(start)]
        page = found[:limit]
        if len(page) < limit:
            return page, None
        names = ("status_bucket", "first_breach_ms", *self.key)
        return page, {name: page[-1][name] for name in names}

    def _place(self, item: Item) -> tuple[int, Key]:
        """Return an item's key in the status index."""
        return int(item["first_breach_ms"]["N"]), self.key_of(item)

    def _as_read(self, region: str, key: Key) -> Item | None:
        """Return an item as an inconsistent read sees it."""
        replica = self.replicas[region]
        return self._pick([*replica.past.get(key, []), replica.items.get(key)])
