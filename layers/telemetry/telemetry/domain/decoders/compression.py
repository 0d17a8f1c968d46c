"""Decompression up to a limit: bytes beyond it are never produced."""

import zlib

from telemetry.domain.decoders.bounds import MAX_BODY_BYTES
from telemetry.errors import TooLarge, Undecodable, Unsupported

GZIP = 31  # zlib's window bits, which also say what container it is
ZLIB = 15
DEFLATE = -15
GZIP_MAGIC = b"\x1f\x8b"
IDENTITY = "identity"
CODINGS, X_GZIP = ("gzip", "deflate", IDENTITY), "x-gzip"
ZLIB_METHOD = 8  # in the low four bits of a zlib stream's first byte (RFC 1950, section 2.2)
PRINTABLE = bytes(range(0x20, 0x7F))


def within_limit(data: bytes) -> None:
    """Raise TooLarge for more than a request may bring."""
    if len(data) > MAX_BODY_BYTES:
        reason = f"has {len(data)} bytes; a request may bring {MAX_BODY_BYTES}"
        raise TooLarge(reason, field="body")


def unpacked(data: bytes, content_encoding: str | None, most: int = MAX_BODY_BYTES) -> bytes:
    """Return a body without its Content-Encoding; raise Unsupported, TooLarge or Undecodable.

    API Gateway unpacks encodings that it knows, and leaves the header. So a body may already be
    unpacked. No supported format begins as gzip does, so such a body is unpacked whatever its
    header says: some clients compress without a header. A body sent as `deflate` is unpacked only
    if it looks like it. `x-gzip` is gzip: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1.3
    """
    coding = (content_encoding or IDENTITY).strip().lower()
    if coding not in (*CODINGS, X_GZIP):
        reason = f"is not supported; supported is one of {', '.join(CODINGS)}"
        raise Unsupported(reason, field="Content-Encoding", value=content_encoding)
    if data.startswith(GZIP_MAGIC):
        return _alone(data, GZIP, most)
    return _deflated(data, most) if coding == "deflate" else data


def _deflated(data: bytes, most: int) -> bytes:
    """Return a body sent as `deflate`, unpacked if it is compressed.

    In RFC 9110, section 8.4.1.2, `deflate` is a zlib stream; its note says that some clients leave
    out zlib's header. Text may begin like a zlib stream (`x^`), and a stream without a header may
    begin like any text. So such a body counts as compressed only if all of it is one stream.
    """
    is_zlib = (
        len(data) > 1 and data[0] & 0x0F == ZLIB_METHOD and data[0] * 256 % 31 == -data[1] % 31
    )
    if is_zlib and data[1:2] not in PRINTABLE:
        return _alone(data, ZLIB, most)
    for container in (ZLIB, DEFLATE):
        try:
            return _alone(data, container, most)
        except Undecodable:
            continue
    return data


def _alone(data: bytes, container: int, most: int) -> bytes:
    """Return the content of a body that is exactly one compressed stream; raise Undecodable."""
    whole, rest = inflated(data, container, most, most=most)
    if rest:
        unit = "gzip member" if container == GZIP else "zlib stream"
        reason = f"goes on behind the end of its {unit}; one body is one"
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
    """Return the content of a compressed stream at the start of `data`, and the bytes after it.

    `limit` is the stream's limit in bytes, `most` that of a whole request. `index` and `at` are the
    record's number and its offset in the body, for errors. Raise TooLarge or Undecodable.
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
