"""Avro object container files: their header and blocks, with the records still encoded.

https://avro.apache.org/docs/1.12.0/specification/#object-container-files
"""

from collections.abc import Iterator
from typing import NamedTuple

from telemetry.domain.decoders.bounds import MAX_BODY_BYTES, MAX_SCHEMA_BYTES
from telemetry.domain.decoders.compression import DEFLATE, inflated
from telemetry.errors import Rejected, Undecodable, Unsupported

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
CODECS = ("null", "deflate")
MAX_METADATA = 32
VARINT_BYTES = 10  # of a long


class Block(NamedTuple):
    """A block: the number of its records, their bytes, and the bytes' offset in the file."""

    records: int
    data: bytes
    at: int


class File:
    """A container file; `schema` is its writer's, as JSON, unchecked."""

    def __init__(self, data: bytes) -> None:
        """Read the header of `data`; raise Undecodable, Unsupported, or another Rejected."""
        self._data = data
        self._at = len(MAGIC)
        metadata = self._metadata()
        self._sync = self._take(SYNC_BYTES)
        self._codec = metadata.get(b"avro.codec", b"null").decode("utf-8", "replace")
        if self._codec not in CODECS:
            reason = f"is not supported; supported are {', '.join(CODECS)}"
            raise Unsupported(reason, field="avro.codec", value=self._codec)
        schema = metadata.get(b"avro.schema", b"")
        if len(schema) > MAX_SCHEMA_BYTES:
            reason = f"has {len(schema)} bytes; it may have {MAX_SCHEMA_BYTES}"
            raise Rejected(reason, field="schema")
        try:
            self.schema = schema.decode()
        except ValueError:
            raise Rejected("is not UTF-8", field="schema") from None

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks, unpacked; raise Undecodable, TooLarge."""
        left, index = MAX_BODY_BYTES, 0
        while self._at < len(self._data):
            begun = self._at
            count = self._long()
            if count < 1:
                reason = f"has a block of {count} records; one has 1 or more"
                raise Undecodable(reason, index=index, offset=begun)
            size, at = self._long(), self._at
            block = self._take(size)
            if self._take(SYNC_BYTES) != self._sync:
                reason = "has a block that doesn't end with the file's sync marker"
                raise Undecodable(reason, index=index, offset=self._at - SYNC_BYTES)
            if self._codec == "deflate":
                # some writers (fastavro) leave a part of zlib's checksum after the data
                block, _ = inflated(block, DEFLATE, left, index=index, at=at)
            left -= len(block)
            yield Block(count, block, at)
            index += count

    def _metadata(self) -> dict[bytes, bytes]:
        """Return the header's map. It is in blocks; a negative count is followed by a size."""
        metadata: dict[bytes, bytes] = {}
        while count := self._long():
            if count < 0:
                self._long()
            if abs(count) > MAX_METADATA - len(metadata):
                reason = f"has more than {MAX_METADATA} entries in its header"
                raise Undecodable(reason, offset=self._at)
            for _ in range(abs(count)):
                key = self._take(self._long())
                metadata[key] = self._take(self._long())
        return metadata

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._data) - self._at:
            left = len(self._data) - self._at
            reason = f"claims {size} more bytes of a file that has {left} left"
            raise Undecodable(reason, offset=self._at)
        self._at += size
        return self._data[self._at - size : self._at]

    def _long(self) -> int:
        """Return a number in Avro's encoding: zigzag, 7 bits a byte, the lowest first."""
        bits = 0
        for place, byte in enumerate(self._data[self._at : self._at + VARINT_BYTES]):
            bits |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                self._at += place + 1
                return (bits >> 1) ^ -(bits & 1)
        raise Undecodable("ends within a number, or has one of over 64 bits", offset=self._at)
