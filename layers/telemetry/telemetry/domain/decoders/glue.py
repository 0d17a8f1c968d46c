"""The header that AWS Glue Schema Registry's serializers write before a record.

The byte 3, a byte for the compression (0 none, 5 zlib), the 16 bytes of the schema version's id.
Source: `AWSSchemaRegistryConstants` in https://github.com/awslabs/aws-glue-schema-registry
"""

from typing import NamedTuple
from uuid import UUID

from telemetry.domain.decoders.compression import ZLIB, inflated
from telemetry.errors import Undecodable

VERSION = 3
PLAIN, COMPRESSED = 0, 5
HEADER_BYTES = 18


class Message(NamedTuple):
    """The schema id in a header, the message's unpacked bytes, and the bytes after the message."""

    schema_id: UUID
    data: bytes
    rest: bytes


def read(data: bytes, limit: int, *, index: int = 0, at: int = 0) -> Message:
    """Return the message at the start of `data`, of up to `limit` bytes unpacked.

    An uncompressed message has no end mark, so all bytes after the header are its data. `index` and
    `at` are the record's number and its offset in the body. Raise Undecodable or TooLarge.
    """
    if len(data) < HEADER_BYTES:
        reason = f"ends within Glue's header of {HEADER_BYTES} bytes"
        raise Undecodable(reason, index=index, offset=at + len(data))
    if data[0] != VERSION:
        reason = f"begins with {data[0]:02x}, not as Glue's header"
        raise Undecodable(reason, index=index, offset=at)
    if data[1] not in (PLAIN, COMPRESSED):
        reason = f"has compression {data[1]} in Glue's header; {PLAIN} is none, {COMPRESSED} zlib"
        raise Undecodable(reason, index=index, offset=at + 1)
    schema_id, payload = UUID(bytes=data[2:HEADER_BYTES]), data[HEADER_BYTES:]
    if data[1] == PLAIN:
        return Message(schema_id, payload, b"")
    whole, rest = inflated(payload, ZLIB, limit, index=index, at=at + HEADER_BYTES)
    return Message(schema_id, whole, rest)
