"""JSON: one document, a list of documents, or a document a line.

A byte order mark before a text and bytes 0x00 after it are dropped. An object with a repeated name
is refused, because it is unknown which value is meant (RFC 8259, section 4):
https://www.rfc-editor.org/rfc/rfc8259#section-4
"""

import json
import math
from typing import Any

from telemetry.domain.decoders.bounds import too_many
from telemetry.domain.reading import shown
from telemetry.errors import Rejected

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # UTF-8's
REPLACEMENT = "\ufffd".encode()  # a gateway that makes text of bytes puts it for non-UTF-8
TRAILING = b"\0 \t\r\n"  # a C string's end, and the whitespace of JSON


class Sent(float):
    """A number that no double can represent; `text` is its spelling."""

    text: str

    def __new__(cls, text: str) -> "Sent":
        """Make a NaN or an infinity that keeps the sender's spelling."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


def json_documents(data: bytes, most: int) -> list[Any]:
    """Return the documents in a list, or a single object as one document; raise Rejected.

    A Rejected stands in place of an object with a repeated name.
    """
    body = _value(data)
    documents = body if isinstance(body, list) else [body]
    if not documents or len(documents) > most:
        reason = f"has {len(documents)} elements; a request brings 1 to {most}"
        raise Rejected(reason, field="body")
    return documents


def lines(data: bytes, most: int) -> list[Any]:
    """Return the documents of the lines that aren't blank, a Rejected for a line without JSON."""
    found = [line for line in map(_stripped, bare(data).split(b"\n")) if line]
    if not found:
        raise Rejected(f"has no lines; a request brings 1 to {most}", field="body")
    if len(found) > most:
        raise Rejected(too_many(most), field="body")
    return [_line(line) for line in found]


def _line(line: bytes) -> Any:
    try:
        return _parsed(line)
    except Rejected as error:
        return Rejected(error.reason, value=line.decode("utf-8", "replace"))


def json_value(data: bytes) -> Any:
    """Return the value of a JSON text; raise Rejected if it isn't JSON or repeats a name."""
    value = _value(data)
    if isinstance(value, Rejected):
        raise value
    return value


def bare(data: bytes) -> bytes:
    """Return a text without its byte order mark and without trailing zero bytes and blanks.

    Raise Rejected for UTF-16 and UTF-32, which JSON and line protocol aren't sent in.
    """
    start = data.lstrip(REPLACEMENT) if data.startswith(REPLACEMENT) else data
    encoding = json.detect_encoding(start)
    if encoding.startswith(("utf-16", "utf-32")):
        reason = f"is {encoding[:6].upper()}; it has to be UTF-8"
        raise Rejected(reason, field="body")
    return _stripped(data)


def _stripped(data: bytes) -> bytes:
    return data.removeprefix(BYTE_ORDER_MARK).rstrip(TRAILING)


def _value(data: bytes) -> Any:
    """Return the value of a JSON text; a Rejected stands for an object with a repeated name."""
    return _parsed(bare(data))


def _parsed(data: bytes) -> Any:
    try:
        return _decoded(data.decode())
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error}"
        if error.doc.startswith("\0", error.pos):
            reason += "; a byte 0x00 is there: is the length right?"
        raise Rejected(reason, field="body") from None
    except ValueError as error:
        raise Rejected(f"is not JSON: {error}", field="body") from None
    except RecursionError:
        raise Rejected("is nested too deeply", field="body") from None


def _decoded(text: str) -> Any:
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a whole number with more digits than Python reads
        return LONG_DECODER.decode(text)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _doubled(pairs)


def _doubled(pairs: list[tuple[str, Any]]) -> Rejected:
    """Return the refusal of an object's repeated name, with both values."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            break
        found[name] = value
    reason = f"is there twice, as {shown(found[name])} and {shown(value)}; leave one out"
    return Rejected(reason, field=shown(name), value=value)


def _float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else Sent(text)


def _int(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return Sent(text)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=Sent)
LONG_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=Sent
)
