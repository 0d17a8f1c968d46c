"""Closes a gap of the embedded AWS: streams take less memory, and all readable records remain.

The emulator (1.5.33) keeps a stream's records as Python objects for a week (0.8 kB for a small
record), every change of a table with both images for a day, and every event of a bus for ever.
Here the older records of a Kinesis shard are compressed. A table's stream that was never read keeps
only its latest changes, and a bus keeps no events.
"""

import base64
import json
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, overload

Record = dict[str, Any]
FIELDS = ("SequenceNumber", "ApproximateArrivalTimestamp", "Data", "PartitionKey")
BLOCK_RECORDS = 256
BLOCKS_AT_HAND = 8
"""Unpacked blocks in memory: a reader that is far behind needs the same blocks several times."""
UNREAD_CHANGES = 100


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    pack_records(modules.service("kinesis"))
    forget_unread_changes(modules.service("dynamodb"))
    forget_events(modules.service("eventbridge"))


class PackedRecords(Sequence[Record]):
    """A shard's records in order: older ones in compressed blocks, the latest as objects."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """Start with these records."""
        self._blocks: list[bytes] = []
        self._at_hand: OrderedDict[int, list[Record]] = OrderedDict()
        self._latest: list[Record] = []
        for record in records:
            self.append(record)

    def append(self, record: Record) -> None:
        """Add a record at the end."""
        self._latest.append(record)
        if len(self._latest) >= 2 * BLOCK_RECORDS:
            self._blocks.append(pack(self._latest[:BLOCK_RECORDS]))
            del self._latest[:BLOCK_RECORDS]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._blocks) * BLOCK_RECORDS + len(self._latest)

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...

    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        """Return one record, or a slice as a list."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(place)
        block, within = divmod(place, BLOCK_RECORDS)
        if block >= len(self._blocks):
            return self._latest[place - len(self._blocks) * BLOCK_RECORDS]
        return self._unpacked(block)[within]

    def _unpacked(self, block: int) -> list[Record]:
        """Return a block's records, unpacked only if they aren't in memory."""
        found = self._at_hand.pop(block, None)
        if found is None:
            found = unpack(self._blocks[block])
        self._at_hand[block] = found
        if len(self._at_hand) > BLOCKS_AT_HAND:
            self._at_hand.popitem(last=False)
        return found


def pack(records: Iterable[Record]) -> bytes:
    """Return records in compressed form."""
    rows = []
    for record in records:
        sequence, at, data, key = (record[name] for name in FIELDS)
        rows.append([sequence, at, raw(data).decode("latin-1"), key])
    return zlib.compress(json.dumps(rows).encode(), 1)


def unpack(block: bytes) -> list[Record]:
    """Return the records of `pack`; their data are base64, in which they are shown anyway."""
    records = []
    for sequence, at, text, key in json.loads(zlib.decompress(block)):
        data = base64.b64encode(text.encode("latin-1")).decode()
        records.append(dict(zip(FIELDS, (sequence, at, data, key), strict=True)))
    return records


def raw(data: str | bytes) -> bytes:
    """Return the bytes of a record's data, which may be base64 or plain."""
    if isinstance(data, bytes):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        return data.encode()


def pack_records(kinesis: Any) -> None:
    """Make `ministack.services.kinesis` pack records when it expires old ones, at each put."""
    expire_records = kinesis._expire_records

    def expire_and_pack(stream: dict[str, Any]) -> None:
        expire_records(stream)
        for shard in stream["shards"].values():
            if isinstance(shard["records"], list):
                shard["records"] = PackedRecords(shard["records"])

    kinesis._expire_records = expire_and_pack


def forget_unread_changes(dynamodb: Any) -> None:
    """Make `ministack.services.dynamodb` keep few changes of a table whose stream isn't read."""
    read: set[str] = set()
    trim = dynamodb._trim_stream_records

    def noting(reading: Any) -> Any:
        def note_and_read(table_name: str, *args: Any, **named: Any) -> Any:
            read.add(table_name)
            return reading(table_name, *args, **named)

        return note_and_read

    def trim_unread(table_name: str, **scope: Any) -> None:
        trim(table_name, **scope)
        records = dynamodb._stream_records.get(table_name)
        if table_name not in read and records and len(records) >= 2 * UNREAD_CHANGES:
            del records[:UNREAD_CHANGES]
            trimmed = dynamodb._stream_trimmed.get(table_name, 0)
            dynamodb._stream_trimmed[table_name] = trimmed + UNREAD_CHANGES

    dynamodb._trim_stream_records = trim_unread
    for name in ("stream_start_position", "stream_end_position", "stream_records_since"):
        setattr(dynamodb, name, noting(getattr(dynamodb, name)))


def forget_events(eventbridge: Any) -> None:
    """Make `ministack.services.eventbridge` store no event after sending it: nothing reads them."""
    eventbridge._events_log_list = list
