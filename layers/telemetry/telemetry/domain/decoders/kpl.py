"""KPL's aggregated records: the Kinesis Producer Library packs several records into one.

The format is the bytes f3 89 9a c2, a Protobuf message AggregatedRecord, and its MD5. Field 3 of
the message is a record, and field 3 of a record is its data; other fields are for routing.
Source: https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md
"""

import hashlib
from collections.abc import Iterator

from telemetry.errors import Undecodable

MAGIC = b"\xf3\x89\x9a\xc2"
MD5_BYTES = 16
RECORDS, DATA = 3, 3  # numbers of fields
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
VARINT_BYTES = 10


def records(data: bytes) -> list[bytes]:
    """Return the data of each record in an aggregated record; raise Undecodable if damaged."""
    message, digest = data[len(MAGIC) : -MD5_BYTES], data[-MD5_BYTES:]
    if len(data) < len(MAGIC) + MD5_BYTES or _md5(message) != digest:
        raise _damaged("whose MD5 isn't that of its bytes: it is cut or damaged")
    found = []
    for number, record in _fields(message):
        if number == RECORDS:
            parts = [value for part, value in _fields(record) if part == DATA]
            if not parts:
                raise _damaged("with a record that has no data")
            found.append(parts[-1])
    if not found:
        raise _damaged("with no record in it")
    return found


def _md5(message: bytes) -> bytes:
    return hashlib.md5(message, usedforsecurity=False).digest()


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and bytes of each of a message's length-delimited fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            _, at = _varint(message, at)
            continue
        if kind == LENGTH:
            size, at = _varint(message, at)
        elif kind in FIXED_BYTES:
            size = FIXED_BYTES[kind]
        else:
            raise _damaged(f"with a field of wire type {kind}")
        if size > len(message) - at:
            raise _damaged("whose lengths don't fit its bytes")
        if kind == LENGTH:
            yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned number at an offset, and the offset of its end."""
    number = 0
    for place, byte in enumerate(message[at : at + VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise _damaged("that ends within a number")


def _damaged(how: str) -> Undecodable:
    return Undecodable(f"is a KPL-aggregated record {how}")
