"""Checks a reading before it is recorded, by the pipeline's schema."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib.resources import files
from numbers import Real
from typing import Any, NamedTuple

from telemetry_client.errors import Invalid

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_MS = 1_577_836_800_000  # 2020: an earlier time is from an unset clock, or in seconds
LATEST_MS = 253_402_300_799_999  # the end of the year 9999
YEAR_2100_MS = 4_102_444_800_000
# Only the seconds of the time of day: not the end of a fraction, nor an offset's seconds.
LEAP_SECOND = re.compile(
    r"([0-9]{4}-?(?:[0-9]{2}-?[0-9]{2}|W[0-9]{2}(?:-?[0-9])?)[^0-9]"  # a date, a separator
    r"[0-9]{2}:?[0-9]{2}:?)60((?:[.,][0-9]+)?(?:Z|[+-].*)?)"
)
EXACT = 2**53  # below it, a float is exact for whole numbers
Schema = dict[str, Any]


class Queued(NamedTuple):
    """A reading that waits to be sent; `metrics` is its metrics' JSON object, as stored."""

    number: int
    recorded_at_ms: int
    metrics: str


@cache
def schemas() -> tuple[Schema, ...]:
    """Return every version of the reading schema in this package, oldest first."""
    folder = files("telemetry_client") / "schemas" / "reading"
    versions = [json.loads(path.read_text("utf-8")) for path in folder.iterdir()]
    return tuple(sorted(versions, key=lambda schema: int(schema["version"])))


@cache
def fields() -> dict[str, dict[str, Any]]:
    """Return the metrics' fields of the newest version, by name."""
    return {field["name"]: field for field in schemas()[-1]["fields"] if "unit" in field}


def check_device_id(device_id: Any) -> str:
    """Return a device's id; raise Invalid if it can't be one."""
    (field,) = [each for each in schemas()[-1]["fields"] if each["name"] == "device_id"]
    if not isinstance(device_id, str) or not re.fullmatch(field["pattern"].strip("^$"), device_id):
        reason = f"does not match {field['pattern']}, as {field['example']} does"
        raise Invalid("device_id", device_id, reason)
    return device_id


def encode_metrics(metrics: Mapping[str, float | None]) -> str:
    """Return a reading's metrics as JSON, without those that are None; raise Invalid."""
    present = {name: value for name, value in metrics.items() if value is not None}
    if not present:
        raise Invalid("metrics", dict(metrics), f"has none of {', '.join(fields())}")
    checked = {name: check_metric(name, value) for name, value in present.items()}
    return json.dumps(checked, separators=(",", ":"))


def check_metric(name: str, value: Any) -> int | float:
    """Return a metric's value as it is sent; raise Invalid if the pipeline would refuse it."""
    field = fields().get(name)
    if field is None:
        raise Invalid(name, value, f"is of no metric; the metrics are {', '.join(fields())}")
    unit = field["unit"]
    number = to_number(name, value, unit)
    if isinstance(number, float) and not math.isfinite(number):
        raise Invalid(name, value, f"is not a finite number of {unit}")
    if number < field["minimum"]:
        raise Invalid(name, value, f"is below {field['minimum']} {unit}")
    if number > field["maximum"]:
        raise Invalid(name, value, f"is above {field['maximum']} {unit}")
    return number


def to_number(name: str, value: Any, unit: str) -> int | float:
    """Return a number (also a Decimal, a Fraction, or numpy's) as int or float; raise Invalid."""
    if isinstance(value, bool):
        raise Invalid(name, value, f"is a bool, and not a finite number of {unit}")
    if isinstance(value, int | float):
        return value
    if isinstance(value, Real | Decimal):
        try:
            return float(value)
        except (ValueError, OverflowError):
            raise Invalid(name, value, f"is not a finite number of {unit}") from None
    reason = f"is a {type(value).__name__}, and not a finite number of {unit}"
    raise Invalid(name, value, f"{reason}; float(…) makes one of it, if it is one")


def from_iso(text: str) -> datetime:
    """Return the time of ISO 8601 text; raise ValueError. A leap second (60) becomes the next."""
    text = text.replace("z", "Z")
    leap = LEAP_SECOND.fullmatch(text)
    if leap is None:
        return datetime.fromisoformat(text)
    return datetime.fromisoformat(f"{leap[1]}59{leap[2]}") + timedelta(seconds=1)


def to_ms(recorded_at: Any) -> int:
    """Return a caller's time in epoch ms.

    It is a datetime with an offset, or whole epoch ms, also as a float. Raise Invalid for anything
    else, and for times outside of 2020 to 9999.
    """
    sent = recorded_at
    if isinstance(recorded_at, datetime):
        if recorded_at.tzinfo is None:
            raise Invalid("recorded_at", sent, "has no offset from UTC: datetime.now(UTC)")
        recorded_at = (recorded_at - EPOCH) // timedelta(milliseconds=1)
    if isinstance(recorded_at, float) and recorded_at.is_integer() and abs(recorded_at) < EXACT:
        recorded_at = int(recorded_at)
    if isinstance(recorded_at, bool) or not isinstance(recorded_at, int):
        reason = "is neither a datetime with an offset nor whole epoch milliseconds"
        is_number = isinstance(recorded_at, float) and math.isfinite(recorded_at)
        raise Invalid("recorded_at", sent, reason + (_unit_hint(recorded_at) if is_number else ""))
    if not EARLIEST_MS <= recorded_at <= LATEST_MS:
        reason = f"is not of 2020 to 9999, in epoch milliseconds{_unit_hint(recorded_at)}"
        raise Invalid("recorded_at", recorded_at, reason)
    return recorded_at


def _unit_hint(number: float) -> str:
    """Return a hint at the unit in which a number is a time of 2020 to 2100; empty if none is."""
    for unit, at_ms in (
        ("seconds", number * 1000),
        ("microseconds", number // 1000),
        ("nanoseconds", number // 1_000_000),
    ):
        if EARLIEST_MS <= at_ms < YEAR_2100_MS:
            return f"; it looks like {unit}"
    return ""
