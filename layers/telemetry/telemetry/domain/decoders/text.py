"""JSON: one document, a list of documents, or a document a line.

A byte order mark before a text and bytes 0x00 after it are dropped. An object with a repeated name
is refused, because it is unknown which value is meant (RFC 8259, section 4):
https://www.rfc-editor.org/rfc/rfc8259#section-4
Only in a reading's document a name may be repeated that is none of a reading's fields: it is
refused as an unknown name anyway, and takes no metric with it.
"""

import json
import math
import re
from collections import Counter
from typing import Any

from telemetry.domain.decoders.bounds import too_many
from telemetry.domain.reading import FIELDS, shown
from telemetry.errors import Rejected

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # UTF-8's
REPLACEMENT = "\ufffd".encode()  # a gateway that makes text of bytes puts it for non-UTF-8
DEVICE = re.compile(rb'"device_id"\s*:\s*"([A-Za-z0-9_-]{1,128})"')  # in a line that isn't JSON
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


class Doubled(Rejected):
    """The refusal of an object with repeated names, with both values of the first one."""

    def __init__(self, pairs: list[tuple[str, Any]], repeated: list[str]) -> None:
        first, second, *_ = [value for name, value in pairs if name == repeated[0]]
        reason = f"is there twice, as {shown(first)} and {shown(second)}; leave one out"
        named = [value for name, value in pairs if name == "device_id"]
        device_id = named[0] if len(named) == 1 else None
        super().__init__(reason, field=shown(repeated[0]), value=second, device_id=device_id)
        self.pairs = pairs
        self.repeated = repeated


def json_documents(data: bytes, most: int) -> list[Any]:
    """Return the documents in a list, or a single object as one document; raise Rejected.

    A Rejected stands in place of a reading with a repeated field.
    """
    body = _readings(_value(data))
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
        return _reading(_parsed(line))
    except Rejected as error:
        device = DEVICE.search(line)
        device_id = device[1].decode() if device else None
        return Rejected(error.reason, value=line.decode("utf-8", "replace"), device_id=device_id)


def json_value(data: bytes) -> Any:
    """Return the value of a JSON text; raise Rejected if it isn't JSON or repeats a name."""
    value = _value(data)
    if isinstance(value, Rejected):
        raise value
    return value


def json_readings(data: bytes) -> Any:
    """Return the value of a JSON text without marks: a reading's document, a list, or another.

    Raise Rejected if it isn't JSON, or a reading with a repeated field. In a list, a Rejected
    stands in place of such a reading.
    """
    value = _readings(_parsed(data))
    if isinstance(value, Rejected):
        raise value
    return value


def _readings(value: Any) -> Any:
    return [_reading(each) for each in value] if isinstance(value, list) else _reading(value)


def _reading(value: Any) -> Any:
    """Return a document, the last value of a repeated unknown name; or a refusal by a field."""
    if not isinstance(value, Doubled):
        return value
    repeated = [name for name in value.repeated if name in FIELDS]
    return Doubled(value.pairs, repeated) if repeated else dict(value.pairs)


def bare(data: bytes) -> bytes:
    """Return a text without its byte order mark and without trailing zero bytes and blanks.

    Raise Rejected for UTF-16 and UTF-32, which JSON and line protocol aren't sent in.
    """
    start = data.lstrip(REPLACEMENT) if data.startswith(REPLACEMENT) else data
    encoding = json.detect_encoding(start) if start.strip(TRAILING) else "utf-8"
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
    if len(found) == len(pairs):
        return found
    times = Counter(name for name, _ in pairs)
    return Doubled(pairs, [name for name, count in times.items() if count > 1])


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
