"""Compressed bytes, unpacked to a limit: what is beyond it is never produced."""

import zlib

from telemetry.domain.decoders.bounds import MAX_BODY_BYTES
from telemetry.errors import TooLarge, Undecodable, Unsupported

GZIP = 31  # zlib's window bits, which also say what container it is
ZLIB = 15
DEFLATE = -15
GZIP_MAGIC = b"\x1f\x8b"
IDENTITY = "identity"
CODINGS = ("gzip", "deflate", IDENTITY)
ZLIB_METHOD = 8  # in the low four bits of a zlib stream's first byte (RFC 1950, section 2.2)
PRINTABLE = bytes(range(0x20, 0x7F))


def within_limit(data: bytes) -> None:
    """Raise TooLarge for more than a request may bring."""
    if len(data) > MAX_BODY_BYTES:
        reason = f"has {len(data)} bytes; a request may bring {MAX_BODY_BYTES}"
        raise TooLarge(reason, field="body")


def unpacked(data: bytes, content_encoding: str | None, most: int = MAX_BODY_BYTES) -> bytes:
    """A body as it was before Content-Encoding; raises Unsupported, TooLarge, Undecodable.

    API Gateway unpacks what it knows itself and leaves the header, so a body may come unpacked
    already: it is unpacked here only where it is what the header says.
    """
    coding = (content_encoding or IDENTITY).strip().lower()
    if coding not in CODINGS:
        reason = f"is not supported; supported is one of {', '.join(CODINGS)}"
        raise Unsupported(reason, field="Content-Encoding", value=content_encoding)
    is_gzip = data.startswith(GZIP_MAGIC)  # with which no format that is read here begins
    if is_gzip and coding != "gzip":
        raise Undecodable("is gzip; its Content-Encoding has to say so", offset=0)
    if is_gzip:
        return _alone(data, GZIP, most)
    return _deflated(data, most) if coding == "deflate" else data


def _deflated(data: bytes, most: int) -> bytes:
    """A body sent as `deflate`, unpacked where it is packed.

    By RFC 9110, section 8.4.1.2, that is a zlib stream; some clients leave zlib's header out, as
    its note says. Text and zlib streams may begin alike (`x^`), and nothing tells a stream without
    header from text, so those are packed where all of the body is one stream.
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
    """What a body holds that is one compressed stream and nothing else."""
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
