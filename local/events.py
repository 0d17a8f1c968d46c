"""Stamps the events in `events/`: moves their times to now.

They were recorded in one minute. Readings older than `WindowRetentionDays` are refused, so the
recorded files expire; stamped copies don't.

`python -m local.events FOLDER` writes stamped copies of all of them.
"""

import base64
import binascii
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from local.instance import ROOT

EVENTS = ROOT / "events"
RECORDED_MS = 1_795_224_720_000
"""2026-11-21T01:32:00Z: just after the newest time in any event."""
BEFORE_MS, AFTER_MS = 3_600_000, 600_000
"""Times this far before and after RECORDED_MS belong to the recording. Others stay as they are."""
NOT_STAMPED = ("replay",)
"""Names of events that name an hour of the archive; the archive takes an hour of any age."""
MINUTE_MS = 60_000
UNITS_NS = (1_000_000_000, 1_000_000, 1_000, 1)
"""Units of an epoch time, in ns: s, ms, µs, ns."""
NS_PER_MS = 1_000_000
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?")
APACHE = re.compile(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d")
APACHE_FORMAT = "%d/%b/%Y:%H:%M:%S"
EPOCH = re.compile(r"(?<![\w.-])\d{10,19}(?![\w-])")
BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")


def stamped(event: Any, now_ms: int) -> Any:
    """Return an event with its recorded times moved to the minute before `now_ms`."""
    shift_ms = (now_ms - RECORDED_MS) // MINUTE_MS * MINUTE_MS
    return moved(event, shift_ms)


def moved(value: Any, shift_ms: int) -> Any:
    """Return a JSON value with each recorded time moved, also within strings and base64."""
    if isinstance(value, dict):
        document = {name: moved(each, shift_ms) for name, each in value.items()}
        if "md5OfBody" in document:
            digest = hashlib.md5(document["body"].encode(), usedforsecurity=False)
            document["md5OfBody"] = digest.hexdigest()
        return document
    if isinstance(value, list):
        return [moved(each, shift_ms) for each in value]
    if isinstance(value, str):
        return moved_text(value, shift_ms)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return moved_number(value, shift_ms)
    return value


def moved_number(number: float, shift_ms: int) -> float:
    """Return a number; if it is a recorded time in s, ms, µs or ns, moved."""
    for unit_ns in UNITS_NS:
        at_ms = number * unit_ns / NS_PER_MS
        if is_recorded(at_ms):
            shift = shift_ms * NS_PER_MS // unit_ns
            return number + shift
    return number


def is_recorded(at_ms: float) -> bool:
    """Return whether a time belongs to the recording."""
    return RECORDED_MS - BEFORE_MS <= at_ms <= RECORDED_MS + AFTER_MS


def moved_text(text: str, shift_ms: int) -> str:
    """Return a string with its recorded times moved, also within base64."""
    if BASE64.fullmatch(text):
        inside = decoded(text)
        if inside is not None:
            return base64.b64encode(moved_text(inside, shift_ms).encode()).decode()
    else:
        text = BASE64.sub(lambda found: moved_text(found[0], shift_ms), text)
    text = EPOCH.sub(lambda found: moved_digits(found[0], shift_ms), text)
    text = ISO.sub(lambda found: moved_iso(found[0], shift_ms), text)
    return APACHE.sub(lambda found: moved_apache(found[0], shift_ms), text)


def moved_digits(digits: str, shift_ms: int) -> str:
    """Return digits; if they are a recorded time (not an account id, say), moved."""
    after = moved_number(int(digits), shift_ms)
    return digits if after == int(digits) else str(after)


def decoded(text: str) -> str | None:
    """Return the text that a base64 string encodes; None if it encodes no text."""
    try:
        inside = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return inside if inside.isprintable() or "\n" in inside else None


def moved_iso(text: str, shift_ms: int) -> str:
    """Return an ISO 8601 time in UTC moved, with as many digits as before."""
    at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    if not is_recorded(at.timestamp() * 1000):
        return text
    after = (at + timedelta(milliseconds=shift_ms)).replace(tzinfo=None)
    return after.isoformat(timespec="microseconds")[: len(text)]


def moved_apache(text: str, shift_ms: int) -> str:
    """Return a time in the format of API Gateway's `requestTime`, moved."""
    at = datetime.strptime(text, APACHE_FORMAT).replace(tzinfo=UTC)
    if not is_recorded(at.timestamp() * 1000):
        return text
    return (at + timedelta(milliseconds=shift_ms)).strftime(APACHE_FORMAT)


def stamped_copy(event: Path, folder: Path, now_ms: int) -> Path:
    """Write a stamped copy of an event into a folder; return the copy's path.

    An event from outside `events/`, or one that needs no stamp, isn't copied: its own path returns.
    """
    if event.resolve().parent != EVENTS or event.stem.partition("-")[0] in NOT_STAMPED:
        return event
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / event.name
    recorded = json.loads(event.read_text("utf-8"))
    copy.write_text(json.dumps(stamped(recorded, now_ms), indent=2) + "\n", "utf-8")
    return copy


def main(arguments: Sequence[str]) -> int:
    """Write stamped copies of all events into a folder."""
    (folder,) = arguments
    for event in sorted(EVENTS.glob("*.json")):
        copy = stamped_copy(event, Path(folder), int(time.time() * 1000))
        if copy == event:
            Path(folder, event.name).write_bytes(event.read_bytes())
    sys.stdout.write(f"{folder}: the events of events/, with the times of now\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
