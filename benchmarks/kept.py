"""Measures the memory that the embedded AWS needs for its data.

It holds a window's item as dictionaries of DynamoDB's JSON, and packs the records of the stream
(`emulator.gaps.keeping`). Here all data is read, and measured in these forms.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from emulator.gaps.keeping import BLOCK_RECORDS, pack
from local.deployment import client
from local.instance import State


def kept_bytes(state: State) -> int:
    """Return the bytes of all windows' items and of all records of the stream."""
    return sum(map(bytes_of, items_of(state))) + sum(map(sys.getsizeof, blocks_of(state)))


def items_of(state: State) -> Iterator[Mapping[str, Any]]:
    """Return the items of the table of windows."""
    pages = client(state, "dynamodb").get_paginator("scan")
    for page in pages.paginate(TableName=state.outputs["WindowsTable"]):
        yield from page["Items"]


def blocks_of(state: State) -> Iterator[bytes]:
    """Return the records of the stream, packed."""
    kinesis, stream = client(state, "kinesis"), state.outputs["StreamName"]
    for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
        token = kinesis.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while token:
            page = kinesis.get_records(ShardIterator=token, Limit=BLOCK_RECORDS)
            if not page["Records"]:
                break
            yield pack(map(as_kept, page["Records"]))
            token = page.get("NextShardIterator")


def as_kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its time as a number."""
    arrived = record["ApproximateArrivalTimestamp"].timestamp()
    return {**record, "ApproximateArrivalTimestamp": arrived}


def bytes_of(value: Any) -> int:
    """Return the memory of a value with all its content; bytes count as base64 text."""
    if isinstance(value, bytes):
        return sys.getsizeof("") + (len(value) + 2) // 3 * 4
    inner = value.values() if isinstance(value, Mapping) else ()
    return sys.getsizeof(value) + sum(map(bytes_of, inner))
