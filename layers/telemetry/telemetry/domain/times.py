"""Instants: integers of epoch milliseconds inside, ISO 8601 in UTC outside."""

import re
from datetime import UTC, datetime, timedelta

MINUTE_MS = 60_000
LATEST_MS = 253_402_300_740_000  # the last minute that ISO 8601 writes with four digits of year
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_2000_MS, YEAR_2100_MS = 946_684_800_000, 4_102_444_800_000
# Only the seconds of the time of day: not the end of a fraction, nor an offset's seconds.
LEAP_SECOND = re.compile(
    r"([0-9]{4}-?(?:[0-9]{2}-?[0-9]{2}|W[0-9]{2}(?:-?[0-9])?)[^0-9]"  # a date, a separator
    r"[0-9]{2}:?[0-9]{2}:?)60((?:[.,][0-9]+)?(?:Z|[+-].*)?)"
)


def from_iso(text: str) -> int:
    """Return the epoch ms of an ISO 8601 instant; raise ValueError, also if it has no offset.

    Second 60, a leap second, is read as the next second, as POSIX does. Whether a leap second was
    inserted there isn't checked. RFC 3339, section 5.6, allows second 60 and a lower-case z:
    https://www.rfc-editor.org/rfc/rfc3339#section-5.6
    """
    text = text.replace("z", "Z")
    leap = LEAP_SECOND.fullmatch(text)
    instant = datetime.fromisoformat(f"{leap[1]}59{leap[2]}" if leap else text)
    if instant.tzinfo is None:
        raise ValueError("no offset from UTC")
    return (instant - EPOCH) // timedelta(milliseconds=1) + (1000 if leap else 0)


def other_unit(number: float) -> str | None:
    """Return the unit, other than ms, in which a number is a time from 2000 to 2100, or None."""
    for unit, at_ms in (
        ("seconds", number * 1000),
        ("microseconds", number // 1000),
        ("nanoseconds", number // 1_000_000),
    ):
        if YEAR_2000_MS <= at_ms < YEAR_2100_MS:
            return unit
    return None


def unit_hint(number: float) -> str:
    """Return the end of a message: a hint that a time seems to be in another unit, or nothing."""
    unit = other_unit(number)
    return f"; it looks like {unit}, and milliseconds are meant" if unit else ""


def to_iso(at_ms: int) -> str:
    """Return `2026-11-21T01:30:00.250Z`: always milliseconds and UTC, so texts sort by time."""
    instant = EPOCH + timedelta(milliseconds=at_ms)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def minute_of(at_ms: int) -> int:
    """Return the start of an instant's minute, epoch ms."""
    return at_ms - at_ms % MINUTE_MS


def to_iso_minute(at_ms: int) -> str:
    """Return a minute's start, to the second: `2026-11-21T01:30:00Z`."""
    return (EPOCH + timedelta(milliseconds=at_ms)).isoformat().replace("+00:00", "Z")
