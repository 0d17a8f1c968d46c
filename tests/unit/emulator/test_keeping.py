"""The embedded AWS's streams return the same records and take less memory."""

import base64
import bisect
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.gaps.keeping import (
    BLOCK_RECORDS,
    BLOCKS_AT_HAND,
    UNREAD_CHANGES,
    PackedRecords,
    forget_events,
    forget_unread_changes,
    pack,
    pack_records,
    unpack,
)


def record(number: int, data: bytes = b"{}") -> dict[str, Any]:
    return {
        "SequenceNumber": f"{number:056}",
        "ApproximateArrivalTimestamp": 1_795_224_600 + number / 1000,
        "Data": base64.b64encode(data).decode(),
        "PartitionKey": f"pump-{number % 7}",
    }


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_records_come_out_as_they_went_in(datas: list[bytes]) -> None:
    records = [record(number, data) for number, data in enumerate(datas)]
    assert unpack(pack(records)) == records


@pytest.mark.parametrize("data", ["not base64!", b"bytes", "YQ"])
def test_data_that_are_not_base64_are_shown_unchanged(data: str | bytes) -> None:
    (kept,) = unpack(pack([{**record(1), "Data": data}]))
    shown = data.encode() if isinstance(data, str) else data
    assert base64.b64decode(kept["Data"]) == shown


@pytest.mark.parametrize("count", [0, 1, 2 * BLOCK_RECORDS - 1, 2 * BLOCK_RECORDS, 5_000])
def test_packed_records_behave_like_a_list(count: int) -> None:
    plain = [record(number) for number in range(count)]
    packed = PackedRecords(plain)
    assert len(packed) == count
    assert list(packed) == plain
    assert packed[count // 3 : count // 2] == plain[count // 3 : count // 2]
    assert packed[-3:] == plain[-3:]
    assert bool(packed) is bool(plain)
    with pytest.raises(IndexError):
        packed[count]
    if count:
        assert (packed[0], packed[-1]) == (plain[0], plain[-1])


def test_a_record_is_found_by_sequence_number() -> None:
    packed = PackedRecords(record(number) for number in range(0, 20_000, 2))

    def sequence_of(each: dict[str, Any]) -> int:
        return int(each["SequenceNumber"])

    for wanted in (-1, 0, 1, 9_998, 9_999, 19_998, 20_001):
        expected = max(0, wanted // 2 + 1)
        found = bisect.bisect_right(packed, wanted, key=sequence_of)
        assert found == min(expected, 10_000)


def test_packed_records_take_a_fraction_of_the_memory() -> None:
    reading = {"device_id": "device-0001", "temperature": 21.53, "humidity": 48.2}
    packed = PackedRecords(
        record(number, json.dumps({**reading, "recorded_at": number}).encode())
        for number in range(10_000)
    )
    compressed = sum(map(len, packed._blocks))
    assert compressed < 100 * len(packed)
    list(packed)
    assert len(packed._at_hand) == BLOCKS_AT_HAND


def test_a_shard_is_packed_when_the_emulator_expires_records() -> None:
    looked: list[Any] = []
    kinesis = SimpleNamespace(_expire_records=looked.append)
    pack_records(kinesis)
    stream: dict[str, Any] = {"shards": {"0": {"records": [record(1)]}, "1": {"records": []}}}
    kinesis._expire_records(stream)
    kinesis._expire_records(stream)
    assert looked == [stream, stream]
    records = stream["shards"]["0"]["records"]
    assert isinstance(records, PackedRecords)
    assert list(records) == [record(1)]


class Tables:
    """The part of the emulator's DynamoDB that the gap changes."""

    def __init__(self) -> None:
        self._stream_records: dict[str, list[int]] = {"alerts": [], "windows": []}
        self._stream_trimmed: dict[str, int] = {}
        self._trim_stream_records: Any = lambda _table, **_scope: None
        self.stream_start_position: Any = lambda table, **_scope: self._stream_trimmed.get(table, 0)
        self.stream_end_position: Any = lambda _table, **_scope: 0
        self.stream_records_since: Any = lambda _table, *_place, **_scope: []


def test_an_unread_table_stream_keeps_only_its_latest_changes() -> None:
    tables = Tables()
    forget_unread_changes(tables)
    tables.stream_start_position("alerts")
    for change in range(5 * UNREAD_CHANGES):
        for table in ("alerts", "windows"):
            tables._stream_records[table].append(change)
            tables._trim_stream_records(table)
    assert len(tables._stream_records["alerts"]) == 5 * UNREAD_CHANGES
    kept = tables._stream_records["windows"]
    assert UNREAD_CHANGES <= len(kept) < 2 * UNREAD_CHANGES <= 200  # of 4 kB each, with its images
    assert kept[-1] == 5 * UNREAD_CHANGES - 1
    # a later reader finds them at their original places
    assert tables.stream_start_position("windows") == kept[0]


def test_sent_events_are_not_stored() -> None:
    noted: list[str] = []
    eventbridge = SimpleNamespace(_events_log_list=lambda: noted)
    forget_events(eventbridge)
    eventbridge._events_log_list().append("event")
    assert (noted, eventbridge._events_log_list()) == ([], [])
