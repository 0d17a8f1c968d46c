"""Bundles: stream records that hold readings in another form than one canonical JSON object.

Other producers write them: aggregated records of the Kinesis Producer Library, lists of readings,
readings a line each, JSON with a byte order mark or a C string's end. Event filters can't look into
them, so `aggregate` puts each reading of a bundle back on the stream as a record of its own.
"""

import json
from typing import Any, NamedTuple

from telemetry.domain import pack as packs
from telemetry.domain.decoders import kpl, text
from telemetry.domain.reading import Reading
from telemetry.domain.validation import NothingMeasured, Parsed, decode
from telemetry.errors import Rejected

MAX_READINGS = 5_000  # five seconds of a shard: an invocation puts for half a minute

# first bytes: of a list, an object, UTF-8's byte order mark, and UTF-16's two
BEGINNINGS = (b"[", b"{", b"\xef", b"\xff", b"\xfe")


class Member(NamedTuple):
    """A reading in a bundle; `document` is set where a value of it is refused or left out."""

    reading: Reading
    document: dict[str, Any] | None = None


class Bundle(NamedTuple):
    """A bundle's readings, the number of its other documents, and the reason for the first."""

    members: list[Member]
    refused: int
    rejected: Rejected | None


def opened(data: bytes) -> Bundle | None:
    """Return the bundle in a record's bytes; None if they are no bundle.

    Raise Rejected for a bundle that is damaged or empty, or has more than MAX_READINGS readings.
    """
    is_kpl = data.startswith(kpl.MAGIC)
    found = _of_kpl(data) if is_kpl else _documents(data)
    if found is None:
        return None
    results = [member for document in found for member in _members(document)]
    if not 1 <= len(results) <= MAX_READINGS:
        reason = f"has {len(results)} readings; a record of another producer has 1 to "
        raise Rejected(reason + str(MAX_READINGS))
    members = [each for each in results if isinstance(each, Member)]
    refused = [(at, each) for at, each in enumerate(results, 1) if isinstance(each, Rejected)]
    return Bundle(members, len(refused), _first_of(refused, len(results)))


class Content(NamedTuple):
    """The readings in a line of the archive, with valid metrics only, and what is none in it."""

    readings: list[Reading]
    others: list[bytes]


def content(data: bytes) -> Content:
    """Return the content of a line of the archive, as `aggregate` takes a record.

    Of a pack, the readings that are rejected come as single records. The refused documents of a
    bundle don't come, unless it has no reading. A reading without a measurement is nothing.
    """
    try:
        pack = packs.decode(data)
        outcomes = [decode(data)] if pack is None else pack.outcomes
    except NothingMeasured:
        return Content([], [])
    except Rejected:
        readings = _in_bundle(data)
        return Content(readings, [] if readings else [data])
    return Content(
        [each.reading for each in outcomes if isinstance(each, Parsed)],
        [
            pack.documents[place]
            for place, each in enumerate(outcomes)
            if pack and isinstance(each, Rejected) and not isinstance(each, NothingMeasured)
        ],
    )


def _in_bundle(data: bytes) -> list[Reading]:
    try:
        bundle = opened(data)
    except Rejected:
        return []
    return [member.reading for member in bundle.members if member.reading.metrics] if bundle else []


def _of_kpl(data: bytes) -> list[Any]:
    """Return the documents in an aggregated record; a Rejected stands for an unreadable one."""
    found: list[Any] = []
    for record in kpl.records(data):
        try:
            found += text.json_documents(record, MAX_READINGS)
        except Rejected as error:
            found += _of_lines(record) or [Rejected(error.reason, value=record)]
    return found


def _documents(data: bytes) -> list[Any] | None:
    """Return the documents in a text; None if it is a single plain object, or no JSON at all."""
    if data.lstrip()[:1] not in BEGINNINGS:
        return None
    bare = text.bare(data)
    is_marked = bare != data.rstrip()
    try:
        value = text.json_readings(bare)
    except Rejected as error:
        return _of_lines(bare) or ([error] if is_marked else None)
    if isinstance(value, list):
        return value
    return [value] if is_marked else None


def _of_lines(data: bytes) -> list[Any]:
    """Return the documents of the lines; none unless at least one line is an object."""
    if b"\n" not in data:
        return []
    found = text.lines(data, len(data))
    return found if any(isinstance(each, dict) for each in found) else []


def _members(document: Any) -> list[Member | Rejected]:
    """Return the reading in a document, or a pack's, as if it were a record; or the reasons."""
    if isinstance(document, Rejected):
        return [document]
    data = json.dumps(document, default=str).encode()
    try:
        pack = packs.decode(data)
    except Rejected as error:
        return [error]
    if pack is None:
        return [_member(data)]
    return [_member(each) for each in pack.documents]


def _member(data: bytes) -> Member | Rejected:
    try:
        parsed = decode(data)
    except NothingMeasured as error:
        return Member(error.reading, json.loads(data))
    except Rejected as error:
        return error
    is_whole = not parsed.refused and not parsed.left_out
    return Member(parsed.reading, None if is_whole else json.loads(data))


def _first_of(refusals: list[tuple[int, Rejected]], documents: int) -> Rejected | None:
    """Return the first refusal, with the counts, as the reason to quarantine the whole bundle."""
    if not refusals:
        return None
    place, first = refusals[0]
    where = f" (reading {place} of {documents} in the record; {len(refusals)} are refused)"
    where = where if documents > 1 else ""
    return Rejected(first.reason + where, field=first.field, value=first.value)
