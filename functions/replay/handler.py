"""Replay stage: send a span of the archive back into the stream.

Windows are sets and episodes are joins, so readings that are stored already change nothing. The
state machine asks once for a plan. Then, for several parts of the plan at a time, it asks to send
page after page, until the answer has no token. A lost invocation is repeated, so its pages are sent
twice.

Replayed readings are archived again. So each copy is stamped `replayed_at`, which isn't stored in
windows, and a replay doesn't send stamped readings. Otherwise each replay of the last hours would
send twice as much as the one before. A reading of another producer also gets its time of arrival,
as far as the archive knows it: consumers check its event time by that, and not by the replay's.
"""

import functools
import os
import time
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from telemetry.aws import events
from telemetry.aws.archive_bucket import Archive, Line, Position
from telemetry.aws.chunks import chunks
from telemetry.aws.clients import client
from telemetry.aws.observe import count, log, observed
from telemetry.aws.pace import Pace
from telemetry.aws.stream import MAX_BYTES, VIA, Stream
from telemetry.domain.archive_layout import (
    Selection,
    parse_selection,
    received_at_ms,
    search_span,
    selects,
    to_parts,
)
from telemetry.domain.bundle import content
from telemetry.domain.reading import Reading
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import ReplaySettings

PARTS_AT_ONCE = 4  # the state machine's MaxConcurrency
PAGE_ITEMS = 500  # readings, and lines without
PAGE_SECONDS = 30  # at a low rate, a page must not take more than an invocation's time
RATE_MAX = 100_000


def run(
    event: dict[str, Any], now_ms: int, archive: Archive, stream: Stream, pace: Pace
) -> dict[str, Any]:
    """Return the plan, or the event with the number of sent readings and the next token.

    Raise Rejected for an invalid request, Unavailable if not even one page could be sent.
    """
    if event["task"] == "plan":
        return plan(event["request"], now_ms, archive)
    return send(event, archive, stream, pace)


def plan(request: dict[str, Any], now_ms: int, archive: Archive) -> dict[str, Any]:
    """Return the parts of the archive that may have a request's readings, and each part's rate."""
    from_ms, to_ms = search_span(parse_selection(request), now_ms)
    parts = to_parts(archive.partitions(from_ms, to_ms))
    at_once = min(PARTS_AT_ONCE, len(parts)) or 1
    return {
        "request": request,
        "parts": parts,
        "as_of_ms": now_ms,
        "readings_per_second": _rate(request) / at_once,
    }


def _rate(request: dict[str, Any]) -> int:
    rate = request.get("readings_per_second")
    if type(rate) is not int or not 1 <= rate <= RATE_MAX:  # `true` is an int to Python
        reason = f"is not a whole number from 1 to {RATE_MAX}"
        raise Rejected(reason, field="readings_per_second", value=rate)
    return rate


class Item(NamedTuple):
    """A reading or a line's bytes to send, None for a line without; and the position after it."""

    sends: Reading | tuple[str, bytes] | None
    position: Position


def send(event: dict[str, Any], archive: Archive, stream: Stream, pace: Pace) -> dict[str, Any]:
    """Send what a part has, from the token on, until its end or until time is up."""
    part, sent, is_done = event["part"], 0, True
    position = Position(*(event["token"] or Position()))
    per_second = event["readings_per_second"]
    page_items = max(1, min(PAGE_ITEMS, int(per_second * PAGE_SECONDS)))
    pace.begin()
    for page in chunks(_items(event, archive, position), _size, page_items, MAX_BYTES):
        chosen = [item.sends for item in page if item.sends is not None]
        readings = [each for each in chosen if isinstance(each, Reading)]
        left = len(stream.put(readings))
        left += len(stream.put_lines([each for each in chosen if not isinstance(each, Reading)]))
        if left and sent == 0:
            raise Unavailable(f"the stream didn't take {left} of {len(chosen)} records")
        is_done = not left
        if left:  # the next invocation sends this page again
            break
        sent, position = sent + len(chosen), page[-1].position
        pace.spend(len(chosen), per_second)
        if pace.is_over:
            is_done = False
            break
    count(ReadingsReplayed=sent)
    log.info("replayed", extra={"part": part, "sent": sent})
    return {**event, "token": None if is_done else position, "done": event["done"] + sent}


def _size(item: Item) -> int:
    sends = item.sends
    return 0 if sends is None or isinstance(sends, Reading) else len(sends[1])


def _items(event: dict[str, Any], archive: Archive, after: Position) -> Iterator[Item]:
    """Yield what to send of a part's lines, from a position on; a line's parts in its order."""
    selection, planned_ms = parse_selection(event["request"]), event["as_of_ms"]
    done = after.parts
    for line in archive.lines(event["part"], after, planned_ms):
        sends = _selected(line, event["part"], selection, planned_ms)
        before = line.position._replace(lines=line.position.lines - 1)
        for place, each in list(enumerate(sends, 1))[done:]:
            is_last = place == len(sends)
            yield Item(each, line.position if is_last else before._replace(parts=place))
        if not sends:
            yield Item(None, line.position)
        done = 0


def _selected(
    line: Line, part: str, selection: Selection, planned_ms: int
) -> list[Reading | tuple[str, bytes]]:
    """Return the readings to send for a line, or its bytes with a key.

    The readings of a pack or a bundle are sent instead of it; the stream packs them again. A
    reading is sent with its valid metrics; a reading without a measurement isn't sent. What isn't a
    reading is sent as it was, and `aggregate` quarantines it. An empty line isn't a record: the
    record before it ended with a newline, and Firehose added one.
    """
    if not line.data:
        return []
    readings, others = content(line.data)
    sends: list[Reading | tuple[str, bytes]] = [
        _copied(reading, part, planned_ms)
        for reading in readings
        if selects(selection, part, reading)
    ]
    if selects(selection, part, None):
        sends += [(f"{zlib.crc32(each):08x}", each) for each in others]
    return sends


def _copied(reading: Reading, part: str, planned_ms: int) -> Reading:
    copy = reading._replace(replayed_at_ms=planned_ms)
    if reading.received_at_ms is None:
        copy = copy._replace(received_at_ms=received_at_ms(reading, part), via=VIA)
    return copy


@functools.cache
def wired() -> tuple[Archive, Stream, Pace]:
    settings = ReplaySettings.read(os.environ)
    return (
        Archive(client("s3"), settings.archive_bucket),
        Stream(
            client("kinesis", attempts=1),
            settings.stream_name,
            is_packing=settings.pack_readings,
        ),
        Pace(),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A state's input in, its output out."""
    events.expect("replay", event, events.tasks("plan", "send"))
    return run(event, int(time.time() * 1000), *wired())
