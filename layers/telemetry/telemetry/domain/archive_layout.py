"""The archive's layout: one line for each stream record, in partitions of an hour of arrival.

A partition is `readings/day=2026-11-21/hour=10/`, in UTC. A part is a unit of work: one partition,
or all of a day. Firehose names an object's partition by the arrival of the oldest record in it, and
an object may hold 15 minutes of records. A reading that waited in the overflow queue reached the
stream later than `ingest` received it. So a search by time of receipt also covers the hours before
and after.
"""

import re
from typing import Any, NamedTuple

from telemetry.domain.reading import FUTURE_LIMIT_MS, Reading
from telemetry.domain.times import from_iso, to_iso
from telemetry.domain.token import SUBJECT
from telemetry.errors import Rejected

FOLDER = "readings/"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MARGIN_MS = HOUR_MS
RECEIVED, RECORDED = "received", "recorded"
PARTS_MAX = 5_000  # hours, over half a year; for a longer span, a part is a day
PART = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d))?")  # 2026-11-21T10, or 2026-11-21
PREFIX = re.compile(rf"{FOLDER}day=(\d{{4}}-\d\d-\d\d)/hour=(\d\d)/")


class Selection(NamedTuple):
    """The archived readings that a replay sends: from `from_ms` inclusive to `to_ms` exclusive."""

    from_ms: int
    to_ms: int
    device_id: str | None = None  # None: every device
    by: str = RECEIVED  # RECEIVED: the span is of times of receipt; RECORDED: of event times


def parse_selection(raw: dict[str, Any]) -> Selection:
    """Return the selection that a request to replay asks for; raise Rejected if it is invalid."""
    from_ms, to_ms = (_instant(raw, name) for name in ("from", "to"))
    if from_ms >= to_ms:
        raise Rejected(f"is not before to, {to_iso(to_ms)}", field="from", value=raw["from"])
    device_id = raw.get("device")
    if device_id is not None and not (isinstance(device_id, str) and SUBJECT.fullmatch(device_id)):
        raise Rejected(f"does not match {SUBJECT.pattern}", field="device", value=device_id)
    by = raw.get("by", RECEIVED)
    if by not in (RECEIVED, RECORDED):
        raise Rejected(f"is neither {RECEIVED} nor {RECORDED}", field="by", value=by)
    return Selection(from_ms, to_ms, device_id, by)


def _instant(raw: dict[str, Any], name: str) -> int:
    try:
        return from_iso(raw[name])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        reason = "is not an ISO 8601 time with an offset, such as 2026-11-21T10:00:00Z"
        raise Rejected(reason, field=name, value=raw.get(name)) from None


def search_span(selection: Selection, now_ms: int) -> tuple[int, int]:
    """Return the span of arrival to search, from and to in epoch ms: whole hours, up to now.

    A reading may arrive any time after its event time. It may also arrive before it, by as much as
    a device's clock may be ahead.
    """
    by_event_time = selection.by == RECORDED
    first_ms = max(0, selection.from_ms - MARGIN_MS - (FUTURE_LIMIT_MS if by_event_time else 0))
    end_ms = now_ms + 1 if by_event_time else min(selection.to_ms + MARGIN_MS, now_ms + 1)
    return first_ms - first_ms % HOUR_MS, end_ms + -end_ms % HOUR_MS


def selects(selection: Selection, part: str, reading: Reading | None) -> bool:
    """Return whether a line of a part is selected; `reading` is None if the line isn't a reading.

    A line without a time of its own is selected with its part: it isn't a reading, or another
    producer wrote it. This may select too much, but a reading that is sent again changes nothing.
    A copy that a replay sent isn't selected, because the archive has its original.
    """
    if reading is not None and reading.replayed_at_ms is not None:
        return False
    if selection.device_id is not None and (
        reading is None or reading.device_id != selection.device_id
    ):
        return False
    at_ms = None
    if reading is not None:
        by_event_time = selection.by == RECORDED
        at_ms = reading.recorded_at_ms if by_event_time else reading.received_at_ms
    if at_ms is None:
        first_ms, end_ms = span_of(part)
        return first_ms < selection.to_ms and selection.from_ms < end_ms
    return selection.from_ms <= at_ms < selection.to_ms


def received_at_ms(reading: Reading, part: str) -> int:
    """Return when a reading of a part was received, epoch ms, as far as the archive knows.

    Without a stamp, it is the time within the part that is nearest to the reading's own. So a
    reading that passed the time checks when it came passes them again.
    """
    if reading.received_at_ms is not None:
        return reading.received_at_ms
    first_ms, end_ms = span_of(part)
    return min(max(reading.recorded_at_ms, first_ms), end_ms + MARGIN_MS)


def to_parts(prefixes: list[str]) -> list[str]:
    """Return the parts for partitions: hours, or days where the hours are more than PARTS_MAX."""
    hours = [f"{match[1]}T{match[2]}" for match in map(PREFIX.fullmatch, prefixes) if match]
    if len(hours) <= PARTS_MAX:
        return hours
    return sorted({hour.partition("T")[0] for hour in hours})


def prefix_of(part: str) -> str:
    """Return the prefix of a part's objects; raise Rejected if the text is no part."""
    match = PART.fullmatch(part)
    if match is None:
        raise Rejected("is neither an hour, 2026-11-21T10, nor a day", field="part", value=part)
    day, hour = match.groups()
    return f"{FOLDER}day={day}/" + (f"hour={hour}/" if hour else "")


def span_of(part: str) -> tuple[int, int]:
    """Return a part's start and end, epoch ms."""
    is_hour = "T" in part
    first_ms = from_iso(f"{part}:00Z" if is_hour else f"{part}T00:00Z")
    return first_ms, first_ms + (HOUR_MS if is_hour else DAY_MS)


def prefix_at(at_ms: int) -> str:
    """Return the prefix of an instant's partition."""
    return prefix_of(to_iso(at_ms)[:13])
