"""The stream of readings and the tables' write streams, as the engine reads them."""

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any

from emulator.mappings.memory import MemoryShard, MemoryStream
from emulator.mappings.model import Page, Record
from emulator.mappings.ports import NowMs, OutsideProblem
from tests.simulation import judge

LINGER_SECONDS = 20.0
"""How long a fetch waits for a record, so that an idle stream takes no time."""
HASHES = 2**32
SHARDS_MAX = 6


class WaitingStream(MemoryStream):
    """A stream whose reader waits for the next record instead of polling each second."""

    def __init__(self, now_ms: NowMs, is_away: Callable[[], bool] = lambda: False) -> None:
        self._changed = asyncio.Event()
        self._is_away = is_away
        super().__init__(now_ms)

    def _fail_if_told(self) -> None:
        if self._is_away():
            raise OutsideProblem("the stream is away")

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:
        page = await super().fetch(shard_id, cursor, limit)
        if page.records or page.cursor is None:
            return page
        changed = self._changed
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await changed.wait()
        except TimeoutError:
            pass
        return await super().fetch(shard_id, cursor, limit)

    def _wake(self) -> None:
        """Wake the readers."""
        self._changed.set()
        self._changed = asyncio.Event()


class Stream(WaitingStream):
    """The stream of readings: a shard has a range of the keys' hashes, and can be split or merged.

    `log` has all that was ever put on it, with its place and time: the oracle reads it. A pack is
    in it as its readings, each a record whose number ends in # and its place.
    """

    def __init__(self, now_ms: NowMs, is_away: Callable[[], bool]) -> None:
        self.log: list[tuple[str, str, bytes, int]] = []
        self.of_packs: set[tuple[str, str]] = set()
        """The places in the log of readings that came in packs, alone or together."""
        self.records: dict[tuple[str, str], bytes] = {}
        """The stream record of each place in the log."""
        self._ranges = {"shardId-000000000000": (0, HASHES)}
        super().__init__(now_ms, is_away)

    def take(self, data: bytes, key: str) -> tuple[str, str]:
        """Put a record; return its shard and sequence number."""
        place = zlib.crc32(key.encode())
        shard_id = next(name for name, (low, high) in self._ranges.items() if low <= place < high)
        number = self.put(data, key, shard_id)
        singles = judge.apart(data)
        for at, single in enumerate(singles):
            name = f"{number}#{at}" if len(singles) > 1 else number
            self.log.append((shard_id, name, single, self._now_ms()))
            self.records[shard_id, name] = data
            if single is not data:
                self.of_packs.add((shard_id, name))
        self._wake()
        return shard_id, number

    def split(self, index: int) -> str:
        """Split an open shard in the middle."""
        shard_id = list(self._ranges)[index % len(self._ranges)]
        low, high = self._ranges.pop(shard_id)
        middle = (low + high) // 2
        for bounds in ((low, middle), (middle, high)):
            self._ranges[self.add_shard(shard_id)] = bounds
        self._wake()
        return f"{shard_id} is split"

    def merge(self) -> str:
        """Merge the two lowest shards."""
        first, second = sorted(self._ranges, key=lambda name: self._ranges[name])[:2]
        low, high = self._ranges.pop(first)[0], self._ranges.pop(second)[1]
        self._ranges[self.add_shard(first, second)] = (low, high)
        self._wake()
        return f"{first} and {second} are merged"

    @property
    def open_shards(self) -> int:
        return len(self._ranges)


class TableStream(WaitingStream):
    """A table's changes in one region, replicated ones included."""

    def __init__(
        self, now_ms: NowMs, region: str, is_away: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(now_ms, is_away)
        self._region = region
        self.log: list[tuple[int, dict[str, Any]]] = []
        """Each change: when it was, and the item as it became."""

    def announce(
        self, key: dict[str, Any], before: dict[str, Any] | None, after: dict[str, Any]
    ) -> None:
        """Append a change of an item."""
        shard: MemoryShard = next(iter(self.by_id.values()))
        number, at_ms = str(self._next_sequence), self._now_ms()
        self._next_sequence += 1
        self.log.append((at_ms, after))
        change = {"Keys": key, "NewImage": after, "SequenceNumber": number}
        if before is not None:
            change["OldImage"] = before
        event = {
            "eventID": number,
            "eventName": "INSERT" if before is None else "MODIFY",
            "eventSource": "aws:dynamodb",
            "awsRegion": self._region,
            "dynamodb": change | {"ApproximateCreationDateTime": at_ms // 1000},
        }
        shard.records.append(Record(number, json.dumps(key), at_ms, 1000, event))
        self._wake()
