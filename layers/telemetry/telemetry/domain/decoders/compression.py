"""Compressed bytes, unpacked to a limit: what is beyond it is never produced."""

import zlib

from telemetry.domain.decoders.bounds import MAX_BODY_BYTES
from telemetry.errors import TooLarge, Undecodable, Unsupported

GZIP = 31  # zlib's window bits, which also say what container it is
ZLIB = 15
DEFLATE = -15
GZIP_MAGIC = b"\x1f\x8b"
CODINGS = ("gzip", "identity")


def within_limit(data: bytes) -> None:
    """Raise TooLarge for more than a request may bring."""
    if len(data) > MAX_BODY_BYTES:
        reason = f"has {len(data)} bytes; a request may bring {MAX_BODY_BYTES}"
        raise TooLarge(reason, field="body")


def unpacked(data: bytes, content_encoding: str | None, most: int = MAX_BODY_BYTES) -> bytes:
    """A body as it was before Content-Encoding; raises Unsupported, TooLarge, Undecodable.

    API Gateway unpacks gzip itself and leaves the header, so a body may come unpacked already. No
    format that is read here begins as gzip does.
    """
    coding = (content_encoding or "identity").strip().lower()
    if coding not in CODINGS:
        reason = f"is not supported; supported are {', '.join(CODINGS)}"
        raise Unsupported(reason, field="Content-Encoding", value=content_encoding)
    if not data.startswith(GZIP_MAGIC):
        return data
    if coding == "identity":
        raise Undecodable("is gzip; its Content-Encoding has to say so", offset=0)
    whole, rest = inflated(data, GZIP, most, most=most)
    if rest:
        reason = "goes on behind the end of its gzip member; one body is one member"
        raise Undecodable(reason, offset=len(data) - len(rest))
    return whole


def inflated(
    data: bytes,
    container: int,
    limit: int,
    *,
    most: int = MAX_BODY_BYTES,
    index: int | None = None,
    at: int = 0,
) -> tuple[bytes, bytes]:
    """What a compressed stream at the start of `data` holds, and the bytes behind it.

    `limit`: how many bytes it may hold; `most`: how many a whole request may bring. `index` and
    `at`: which record it is and its offset in the body, for errors. Raises TooLarge, Undecodable.
    """
    stream = zlib.decompressobj(container)
    try:
        whole = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise Undecodable(f"can't be decompressed: {error}", index=index, offset=at) from None
    if len(whole) > limit:
        reason = f"has more than {most} bytes decompressed; a request may bring so many"
        raise TooLarge(reason, field="body")
    if not stream.eof:
        end = at + len(data)
        raise Undecodable("ends within its compressed data", index=index, offset=end)
    return whole, stream.unused_data
