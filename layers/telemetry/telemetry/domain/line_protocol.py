r"""InfluxDB's line protocol: a request's bytes become points, and faults for its invalid lines.

    measurement[,tag=value…] field=value[,field=value…] [timestamp]

Its page is https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/. Cases that the
page leaves open were tried with InfluxDB 1.6.7. In a name, a backslash escapes a delimiter after it
and otherwise stands for itself. In a string value it escapes `"` and `\`.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from telemetry.domain.decoders.text import bare
from telemetry.domain.reading import shown
from telemetry.errors import Rejected

MAX_LINES = 5_000  # Telegraf sends 1,000 metrics a batch unless it is told otherwise
NANOSECONDS = {
    "n": 1,
    "ns": 1,
    "u": 1_000,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
BOOLEANS = dict.fromkeys(("t", "T", "true", "True", "TRUE"), True)
BOOLEANS |= dict.fromkeys(("f", "F", "false", "False", "FALSE"), False)
INT64, UINT64 = 2**63, 2**64
EARLIEST_NS, LATEST_NS = -INT64 + 2, INT64 - 2  # InfluxDB 1's first and last times: 1677, 2262

Value = float | int | str | bool


class Point(NamedTuple):
    """One line: `line` counts from 1; `time_ns` is epoch ns, None if the line has no time."""

    line: int
    measurement: str
    tags: Mapping[str, str]
    fields: Mapping[str, Value]
    time_ns: int | None


class Fault(NamedTuple):
    """A mistake in a line: the line, the column in characters (None: unknown), the reason.

    `tags` are those that were read before the mistake. `device_id`, `field` and `value` are known
    only for a point that could be read.
    """

    line: int
    column: int | None
    reason: str
    tags: Mapping[str, str] = MappingProxyType({})
    device_id: str | None = None
    field: str | None = None
    value: Any = None

    def __str__(self) -> str:
        """Return the place, then the reason."""
        column = f", column {self.column}" if self.column else ""
        return f"line {self.line}{column}: {self.reason}"


class TooManyLines(Rejected):
    """More points than a request may bring."""


def _name(delimiters: str) -> re.Pattern[str]:
    r"""Return a pattern for a name that ends before one of the delimiters, unless it is escaped.

    Two backslashes and a delimiter are a backslash and an escaped delimiter, as in InfluxDB.
    """
    return re.compile(rf"(?:[^\\\n{delimiters}]|\\++[^\\\n]|\\++(?![^\n]))++")


MEASUREMENT, NAME = _name(", "), _name(",= ")
SPACES = re.compile(r" [ \t]*+")
STRING = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
TOKEN = re.compile(r"[^, \n]*+")
# Possessive throughout: otherwise a bad number of n digits would be tried in n² ways.
NUMBER = re.compile(
    r"-?(?:(?P<whole>\d++)(?P<kind>[iu])|(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?+\d++)?+)"
)
TIME = re.compile(r"-?\d+")
# Bytes 0x00, the end of a C string, may stand at a line's end; they don't belong to the line.
END = re.compile(r"[ \t]*+\0*+\r?(?:\n|\Z)")
SKIPPED = re.compile(
    r"(?:[ \t]*+(?:#[^\n]*+|\0*+\r?)\n)++|[ \t]*+(?:#[^\n]*+|\0*+\r?)\Z"
)  # comments and empty lines
INDENT = re.compile(r"[ \t]*+")
HEAD = re.compile(r"[ \t]*+(?:[^\\ \n]|\\++[^\\\n]?)*+")  # measurement and tags
WORD = re.compile(r"\S+|\s")
ESCAPED_NAME = re.compile(r"\\([, =])")
ESCAPED_STRING = re.compile(r'\\(["\\])')


class _Wrong(Exception):
    """A mistake in a line, at a position of the text."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at
        self.reason = reason


def parse(body: bytes, precision: str) -> tuple[list[Point], list[Fault]]:
    """Return the points in a request's body, and the faults; `precision` is the timestamps' unit.

    Raise Rejected for an unknown precision and for UTF-16, TooManyLines for more than 5,000 points.
    """
    unit_ns = NANOSECONDS.get(precision)
    if unit_ns is None:
        reason = f"is not one of {', '.join(NANOSECONDS)}"
        raise Rejected(reason, field="precision", value=precision)
    text = bare(body).decode("utf-8", errors="surrogateescape")
    points: list[Point] = []
    faults: list[Fault] = []
    at, line = 0, 1
    while at < len(text):
        start, skipped = at, SKIPPED.match(text, at)
        if skipped:
            at = skipped.end()
            line += text.count("\n", start, at)
            continue
        if len(points) + len(faults) == MAX_LINES:
            reason = f"has more than {MAX_LINES} points; send it in parts"
            raise TooManyLines(reason, field="body")
        tags: dict[str, str] = {}
        try:
            point, at = _point(text, start, line, unit_ns, tags)
            points.append(point)
        except _Wrong as wrong:
            faults.append(_fault(text, start, line, wrong)._replace(tags=tags))
            at = _end_of_line(text, start)
        line += text.count("\n", start, at)
    return points, faults


def _fault(text: str, start: int, line: int, wrong: _Wrong) -> Fault:
    """Return the mistake with its line and column; a string value may contain line ends."""
    row = text.count("\n", start, wrong.at)
    return Fault(line + row, wrong.at - text.rfind("\n", 0, wrong.at), wrong.reason)


def _end_of_line(text: str, start: int) -> int:
    """Return where a faulty line ends; a newline in a string value doesn't end it.

    An unclosed quote is a fault of its own line only, not of the lines after it.
    """
    head = HEAD.match(text, start)
    at = head.end() if head else start
    while True:
        newline = text.find("\n", at)
        if newline < 0:
            return len(text)
        quote = text.find('="', at, newline)
        string = STRING.match(text, quote + 1) if quote >= 0 else None
        if string is None:
            return newline + 1
        at = string.end()


def _point(
    text: str, start: int, line: int, unit_ns: int, tags: dict[str, str]
) -> tuple[Point, int]:
    """Return the point in the line at `start`, and where the next line starts; raise _Wrong.

    The point's tags are added to `tags`.
    """
    at = _behind_spaces(text, start)
    name = MEASUREMENT.match(text, at)
    if name is None:
        raise _Wrong(at, "the measurement is missing; a line is measurement,tags fields timestamp")
    at = name.end()
    while text.startswith(",", at):
        at = _tag(text, at + 1, tags)
    spaces = SPACES.match(text, at)
    if spaces is None:
        raise _Wrong(at, "the fields are missing: a space, then field=value")
    fields: dict[str, Value] = {}
    at = _field(text, spaces.end(), fields)
    while text.startswith(",", at):
        at = _field(text, at + 1, fields)
    time_ns, at = _time(text, at, unit_ns)
    end = END.match(text, at)
    if end is None:
        at = _behind_spaces(text, at)
        raise _Wrong(at, f"{_word(text, at)} follows the timestamp, where the line should end")
    if not text.isascii():
        _check_utf8(text, start, at)
    return Point(line, _plain(name[0]), tags, fields, time_ns), end.end()


def _tag(text: str, at: int, tags: dict[str, str]) -> int:
    """Add the tag at a position; return where it ends."""
    key = NAME.match(text, at)
    if key is None:
        raise _Wrong(at, "a tag's key is missing; a tag is key=value")
    if not text.startswith("=", key.end()):
        raise _Wrong(key.end(), f"tag {shown(key[0])} has no value; a tag is key=value")
    value = NAME.match(text, key.end() + 1)
    if value is None:
        raise _Wrong(key.end() + 1, f"tag {shown(key[0])} has an empty value; leave the tag out")
    if text.startswith("=", value.end()):
        raise _Wrong(value.end(), r"in a tag's value an equals sign is written \=")
    name = _plain(key[0])
    if name in tags:
        raise _Wrong(at, f"tag {shown(name)} is there twice")
    tags[name] = _plain(value[0])
    return value.end()


def _field(text: str, at: int, fields: dict[str, Value]) -> int:
    """Add the field at a position; return where it ends."""
    key = NAME.match(text, at)
    if key is None:
        raise _Wrong(at, "a field's key is missing; a field is key=value")
    if not text.startswith("=", key.end()):
        raise _Wrong(key.end(), f"field {shown(key[0])} has no value; a field is key=value")
    name = _plain(key[0])
    if name in fields:
        raise _Wrong(at, f"field {shown(name)} is there twice")
    at = key.end() + 1
    if text.startswith('"', at):
        string = STRING.match(text, at)
        if string is None:
            raise _Wrong(at, f'the string of field {shown(name)} has no closing "')
        fields[name] = ESCAPED_STRING.sub(r"\1", string[1])
        return string.end()
    token = TOKEN.match(text, at)
    word = token[0].rstrip("\r\0") if token else ""
    try:
        fields[name] = _value(word)
    except ValueError as error:
        raise _Wrong(at, f"field {shown(name)}: {shown(word)!r} {error}") from None
    return at + len(word)


def _value(word: str) -> Value:
    """Return the number or boolean that a word stands for; raise ValueError with a correction."""
    found = NUMBER.fullmatch(word) if word.isascii() else None
    if found is None:
        if word in BOOLEANS:
            return BOOLEANS[word]
        raise ValueError('is none of 21.5, 21i, 21u, true, false, "text"')
    if found["kind"] is None:
        number = float(word)
        if not math.isfinite(number):
            raise ValueError("is out of a double's range")
        return number
    if len(found["whole"].lstrip("0")) > 20:  # more than 64 bits, and Python may refuse to read it
        raise ValueError("is out of an integer's range, 64 bits")
    whole = int(_without_zeros(word[:-1]))
    least, limit = (-INT64, INT64) if found["kind"] == "i" else (0, UINT64)
    if not least <= whole < limit:
        raise ValueError(f"is out of an integer's range, {least} to {limit - 1}")
    return whole


def _time(text: str, at: int, unit_ns: int) -> tuple[int | None, int]:
    """Return the time after the fields, epoch ns or None, and where it ends."""
    spaces = SPACES.match(text, at)
    if spaces is None or END.match(text, spaces.end()):
        if spaces is None and not END.match(text, at):
            raise _Wrong(at, f"{_word(text, at)} follows a value; a comma or a space should")
        return None, at
    at = spaces.end()
    found = TIME.match(text, at)
    if found is None:
        raise _Wrong(at, f"{_word(text, at)} is not a timestamp: a whole number since 1970")
    digits = _without_zeros(found[0])
    if len(digits) > 20 or not EARLIEST_NS <= int(digits) * unit_ns <= LATEST_NS:
        raise _Wrong(at, f"timestamp {shown(found[0])} is out of range; is `precision` right?")
    return int(digits) * unit_ns, found.end()


def _without_zeros(digits: str) -> str:
    """Return a whole number's digits without leading zeros; both InfluxDBs accept leading zeros."""
    sign = "-" if digits.startswith("-") else ""
    return sign + (digits.lstrip("-0") or "0")


def _check_utf8(text: str, start: int, end: int) -> None:
    """Raise _Wrong for a byte that isn't UTF-8: decoding made a lone surrogate of it."""
    found = re.search("[\udc80-\udcff]", text[start:end])
    if found:
        byte = ord(found[0]) - 0xDC00
        raise _Wrong(start + found.start(), f"byte 0x{byte:02x} is not UTF-8")


def _behind_spaces(text: str, at: int) -> int:
    found = INDENT.match(text, at)
    return found.end() if found else at


def _plain(name: str) -> str:
    """Return a name without its escapes."""
    return ESCAPED_NAME.sub(r"\1", name) if "\\" in name else name


def _word(text: str, at: int) -> str:
    """Return the word at a position, for a message."""
    found = WORD.match(text, at)
    return repr(shown(found[0])) if found else "the end"
