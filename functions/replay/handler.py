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
from typing import Any

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
from telemetry.domain.bundle import readings_in
from telemetry.domain.reading import Reading, encode
from telemetry.domain.validation import NothingMeasured
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import ReplaySettings

PARTS_AT_ONCE = 4  # the state machine's MaxConcurrency
PAGE_LINES = 250
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
    if not isinstance(rate, int) or not 1 <= rate <= RATE_MAX:
        reason = f"is not a whole number from 1 to {RATE_MAX}"
        raise Rejected(reason, field="readings_per_second", value=rate)
    return rate


def send(event: dict[str, Any], archive: Archive, stream: Stream, pace: Pace) -> dict[str, Any]:
    """Send a part's lines, from the token on, until its end or until time is up."""
    selection, planned_ms = parse_selection(event["request"]), event["as_of_ms"]
    part, sent = event["part"], 0
    position = Position(*(event["token"] or Position()))
    lines = archive.lines(part, position, planned_ms)
    per_second = event["readings_per_second"]
    page_lines = max(1, min(PAGE_LINES, int(per_second * PAGE_SECONDS)))
    pace.begin()
    is_done = True
    for page in chunks(lines, _size, page_lines, MAX_BYTES):
        chosen = [keyed for line in page for keyed in _selected(line, part, selection, planned_ms)]
        left = stream.put_lines(chosen)
        if left and sent == 0:
            raise Unavailable(f"the stream didn't take {len(left)} of {len(chosen)} records")
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


def _size(line: Line) -> int:
    return len(line.data)


def _selected(
    line: Line, part: str, selection: Selection, planned_ms: int
) -> list[tuple[str, bytes]]:
    """Return the records to send for a line, each with its device id or another key.

    A bundle's readings are sent instead of the bundle, because `aggregate` would only put them on
    the stream once more. A reading is sent with its valid metrics; a reading without a measurement
    isn't sent. A line that isn't a reading is sent as it was, and `aggregate` quarantines it. An
    empty line isn't a record: the record before it ended with a newline, and Firehose added one.
    """
    if not line.data:
        return []
    try:
        readings = readings_in(line.data)
    except NothingMeasured:
        return []
    if not readings and selects(selection, part, None):
        return [(f"{zlib.crc32(line.data):08x}", line.data)]
    return [
        _copied(reading, part, planned_ms)
        for reading in readings
        if selects(selection, part, reading)
    ]


def _copied(reading: Reading, part: str, planned_ms: int) -> tuple[str, bytes]:
    copy = reading._replace(replayed_at_ms=planned_ms)
    if reading.received_at_ms is None:
        copy = copy._replace(received_at_ms=received_at_ms(reading, part), via=VIA)
    return reading.device_id, encode(copy)


@functools.cache
def wired() -> tuple[Archive, Stream, Pace]:
    settings = ReplaySettings.read(os.environ)
    return (
        Archive(client("s3"), settings.archive_bucket),
        Stream(client("kinesis", attempts=1), settings.stream_name),
        Pace(),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A state's input in, its output out."""
    events.expect("replay", event, events.tasks("plan", "send"))
    return run(event, int(time.time() * 1000), *wired())
