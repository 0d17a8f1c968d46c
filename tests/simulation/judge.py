"""What a reading is, worked out anew: what the pipeline refuses is held to this."""

import json
from typing import Any, NamedTuple

Json = dict[str, Any]
DAY_MS = 24 * 3_600_000
RETENTION_MS = 30 * DAY_MS
AHEAD_MS = 5 * 60_000
# As the schemas have them; written out, so that a change of one shows.
RANGES = {"temperature": (-90, 150), "humidity": (0, 100), "pressure": (300, 1100)}
RANGES |= {"battery": (0, 60)}


class Rule(NamedTuple):
    """A rule on temperatures, as the oracle has it."""

    name: str
    above: float
    clears_below: float


HOT, THAWING = Rule("overheating", 38.0, 37.0), Rule("thawing", -18.0, -20.0)
STAMPS = {"received_at", "trace_id", "via", "replayed_at"}


def is_reading(document: Any, device_id: str, at_ms: int) -> bool:
    """Whether a document that came from a device at some time is one of its readings."""
    if not isinstance(document, dict) or document.get("device_id", device_id) != device_id:
        return False
    rest = {name: value for name, value in document.items() if name != "device_id"}
    recorded_at = rest.pop("recorded_at", None)
    is_good = rest and all(name in RANGES and is_within(name, rest[name]) for name in rest)
    return type(recorded_at) is int and bool(is_good) and is_in_time(recorded_at, at_ms)


def is_within(metric: str, value: Any) -> bool:
    """Whether a metric can have a value; one that isn't a number is in no range."""
    low, high = RANGES[metric]
    return type(value) in (int, float) and low <= value <= high


def is_in_time(recorded_at: int, at_ms: int) -> bool:
    """Whether a reading isn't of the future, nor older than windows are kept."""
    return at_ms - RETENTION_MS <= recorded_at <= at_ms + AHEAD_MS


def reading_in(data: bytes, arrived_at_ms: int) -> Json | None:
    """The reading in a record of the stream, with its stamps; None where there is none."""
    try:
        document = json.loads(data)
    except ValueError:
        return None
    if not isinstance(document, dict) or "device_id" not in document:
        return None
    plain = {name: value for name, value in document.items() if name not in STAMPS}
    at_ms = document.get("received_at", arrived_at_ms)
    return document if is_reading(plain, document["device_id"], at_ms) else None
