"""Decides what a valid reading is, without the pipeline's code: its refusals are checked by it."""

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
    """A rule on temperatures, for the oracle."""

    name: str
    above: float
    clears_below: float


HOT, THAWING = Rule("overheating", 38.0, 37.0), Rule("thawing", -18.0, -20.0)
STAMPS = {"received_at", "trace_id", "via", "replayed_at"}


class Judged(NamedTuple):
    """A document's valid metrics (none: it isn't a reading), and whether that is all of it."""

    metrics: Json
    is_whole: bool


def judged(documents: list[Any], device_id: str, at_ms: int) -> list[Judged]:
    """Return the valid parts of documents that a device sent together.

    Of two values of one instant the larger does.
    """
    found = [judged_alone(document, device_id, at_ms) for document in documents]
    largest: dict[tuple[int, str], float] = {}
    for document, each in zip(documents, found, strict=True):
        for name, value in each.metrics.items():
            key = document["recorded_at"], name
            largest[key] = max(value, largest.get(key, value))
    agreed = []
    for document, each in zip(documents, found, strict=True):
        metrics = {
            name: value
            for name, value in each.metrics.items()
            if value == largest[document["recorded_at"], name]
        }
        agreed.append(Judged(metrics, each.is_whole and metrics == each.metrics))
    return agreed


def judged_alone(document: Any, device_id: str, at_ms: int) -> Judged:
    """Return the valid part of a document that came from a device at some time."""
    nothing = Judged({}, is_whole=False)
    if not isinstance(document, dict) or document.get("device_id", device_id) != device_id:
        return nothing
    rest = {name: value for name, value in document.items() if name != "device_id"}
    recorded_at = rest.pop("recorded_at", None)
    if type(recorded_at) is not int or not is_in_time(recorded_at, at_ms) or STAMPS & rest.keys():
        return nothing
    good = {name: rest[name] for name in rest if name in RANGES and is_within(name, rest[name])}
    return Judged(good, bool(good) and len(good) == len(rest))


def is_within(metric: str, value: Any) -> bool:
    """Return whether a value is in a metric's range; a value that isn't a number never is."""
    low, high = RANGES[metric]
    return type(value) in (int, float) and low <= value <= high


def is_in_time(recorded_at: int, at_ms: int) -> bool:
    """Return whether a reading isn't from the future, and not older than windows are kept."""
    return at_ms - RETENTION_MS <= recorded_at <= at_ms + AHEAD_MS


def apart(data: bytes) -> list[bytes]:
    """Return a record of the stream as single records: a pack's readings, or itself."""
    try:
        document = json.loads(data)
    except ValueError:
        return [data]
    columns = document.get("readings") if isinstance(document, dict) else None
    if not isinstance(columns, dict) or len({len(column) for column in columns.values()}) != 1:
        return [data]
    if not all(type(each) is int and each >= 0 for each in columns.get("after_ms", [None])):
        return [data]
    names = columns.keys() - {"after_ms"}
    shared = {
        name: value
        for name, value in document.items()
        if name not in {"recorded_at", "low", "readings", *names}
    }
    singles = []
    for place, after_ms in enumerate(columns["after_ms"]):
        row = {name: columns[name][place] for name in sorted(names)}
        measured = {name: value for name, value in row.items() if value is not None}
        singles.append(shared | {"recorded_at": document["recorded_at"] + after_ms} | measured)
    return [json.dumps(single).encode() for single in singles]


def is_passed_over(record: bytes, single: bytes, arrived_at_ms: int, rule: Rule) -> bool:
    """Return whether filters may pass over a breach that bypassed `ingest`, for its digits.

    `record` is the stream record of the reading. AWS documents six decimals.
    """
    reading = reading_in(single, arrived_at_ms)
    if reading is None or ("received_at" in reading and "via" not in reading):
        return False
    if "temperature" not in reading or reading["temperature"] <= rule.above:
        return False
    text = json.loads(record, parse_float=str, parse_int=str)["temperature"]
    return "e" in text.lower() or len(text.partition(".")[2]) > 6


def reading_in(data: bytes, arrived_at_ms: int) -> Json | None:
    """Return the reading in a record of the stream, with its stamps; None if there is none."""
    document, found = _of_record(data, arrived_at_ms)
    if not found.metrics:
        return None
    kept = {"device_id", "recorded_at", *STAMPS, *found.metrics}
    return {name: value for name, value in document.items() if name in kept}


def is_whole_in(data: bytes, arrived_at_ms: int) -> bool:
    """Return whether a record of the stream is a reading without refused parts."""
    return _of_record(data, arrived_at_ms)[1].is_whole


def _of_record(data: bytes, arrived_at_ms: int) -> tuple[Json, Judged]:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    is_record = isinstance(document, dict) and not isinstance(document.get("readings"), dict)
    if not is_record or "device_id" not in document:
        return {}, Judged({}, is_whole=False)
    plain = {name: value for name, value in document.items() if name not in STAMPS}
    at_ms = document.get("received_at", arrived_at_ms)
    return document, judged_alone(plain, document["device_id"], at_ms)
