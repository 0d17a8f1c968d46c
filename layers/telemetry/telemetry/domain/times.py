"""Instants: integers of epoch milliseconds inside, ISO 8601 in UTC outside."""

from datetime import UTC, datetime, timedelta

MINUTE_MS = 60_000
LATEST_MS = 253_402_300_740_000  # the last minute that ISO 8601 writes with four digits of year
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_iso(text: str) -> int:
    """Epoch ms of an ISO 8601 instant; raises ValueError, also where the offset is missing."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("no offset from UTC")
    return (instant - EPOCH) // timedelta(milliseconds=1)


def to_iso(at_ms: int) -> str:
    """`2026-11-21T01:30:00.250Z`: always milliseconds, always UTC, so texts sort by time."""
    instant = EPOCH + timedelta(milliseconds=at_ms)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def minute_of(at_ms: int) -> int:
    """The start of the minute that an instant falls in, epoch ms."""
    return at_ms - at_ms % MINUTE_MS


def to_iso_minute(at_ms: int) -> str:
    """`2026-11-21T01:30:00Z`: a minute's start, to the second."""
    return (EPOCH + timedelta(milliseconds=at_ms)).isoformat().replace("+00:00", "Z")
