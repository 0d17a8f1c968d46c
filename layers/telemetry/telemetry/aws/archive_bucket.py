"""The archive bucket: reads the records that Firehose wrote, by partition and line."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.domain.archive_layout import FOLDER, prefix_at, prefix_of
from telemetry.errors import Rejected, Unavailable

LEVELS = 2  # day, hour


class Position(NamedTuple):
    """How far a part was read: all objects before `key`, and `lines` lines of it.

    And `parts` of the next line, for a reader that takes lines in parts.
    """

    key: str = ""
    lines: int = 0
    parts: int = 0


class Line(NamedTuple):
    """A record's bytes as they were on the stream, and the position after it."""

    data: bytes
    position: Position


class Archive:
    """The archive bucket's records. Methods raise Unavailable, or Rejected for a damaged object."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def partitions(self, from_ms: int, to_ms: int) -> list[str]:
        """Return the prefixes of the hours in [from, to) that have objects, in order."""
        first, last = prefix_at(from_ms), prefix_at(to_ms - 1)
        found = [FOLDER]
        for _ in range(LEVELS):  # at each level, prefixes sort by time
            below = (prefix for parent in found for prefix in self._folders(parent))
            found = [each for each in below if first[: len(each)] <= each <= last[: len(each)]]
        return found

    def lines(self, part: str, after: Position, as_of_ms: int) -> Iterator[Line]:
        """Yield the lines of a part's objects, from a position on.

        Objects written after `as_of_ms` are left out. Otherwise a replay of the present hour would
        find its own copies there and never end.
        """
        for key in self._keys(prefix_of(part), after, as_of_ms):
            done = after.lines if key == after.key else 0
            for index, line in enumerate(self._read(key)):
                if index >= done:
                    yield Line(line.removesuffix(b"\n"), Position(key, index + 1))

    def _keys(self, prefix: str, after: Position, as_of_ms: int) -> Iterator[str]:
        if after.key:
            yield after.key
        for page in self._pages(Prefix=prefix, StartAfter=after.key):
            for found in page.get("Contents", []):
                if found["LastModified"].timestamp() * 1000 <= as_of_ms:
                    yield found["Key"]

    def _folders(self, prefix: str) -> list[str]:
        pages = self._pages(Prefix=prefix, Delimiter="/")
        return [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", [])]

    def _pages(self, **query: str) -> Iterator[dict[str, Any]]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **query)
        yield from _translated(lambda: pages)

    def _read(self, key: str) -> Iterable[bytes]:
        """Yield an object's lines; Firehose's buffer bounds its size."""

        def get() -> Iterable[bytes]:
            yield self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read()

        (body,) = _translated(get)
        with gzip.open(io.BytesIO(body)) as lines:
            while True:
                try:
                    line = lines.readline()
                except (OSError, EOFError, zlib.error) as error:
                    reason = f"is damaged, or not packed by gzip: {error}; mend it, or move it away"
                    raise Rejected(reason, field=key) from None
                if not line:
                    return
                yield line


def _translated(calls: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yield the results of `calls`; raise Unavailable for AWS's errors."""
    try:
        yield from calls()
    except (ClientError, BotoCoreError) as error:
        raise Unavailable(f"the archive can't be read: {error}") from error
