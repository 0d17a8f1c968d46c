"""Readings: the measurements that devices report. The newest `schemas/reading/` defines them."""

import base64
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from telemetry.domain.schema import latest
from telemetry.domain.times import YEAR_2000_MS, other_unit, to_iso
from telemetry.errors import Rejected

FIELDS: dict[str, dict[str, Any]] = {field["name"]: field for field in latest("reading")["fields"]}
METRICS = tuple(name for name, field in FIELDS.items() if "unit" in field)
STAMPED = tuple(name for name, field in FIELDS.items() if "stamped_by" in field)
DEVICE_FIELDS = tuple(name for name in FIELDS if name not in STAMPED)

FUTURE_LIMIT_MS = 5 * 60_000  # a device's clock may be ahead by this much
SHOWN_VALUE_LENGTH = 100  # characters of a wrong value that an answer repeats


class Reading(NamedTuple):
    """One reading; `metrics` has its values by metric name, in the schema's units."""

    device_id: str
    recorded_at_ms: int
    metrics: Mapping[str, float]
    received_at_ms: int | None = None
    trace_id: str | None = None
    via: str | None = None  # how it bypassed `ingest`: `mqtt` or `stream`; None if it didn't
    replayed_at_ms: int | None = None  # set on the copy that a replay sends


def check_time(reading: Reading, now_ms: int, retention_ms: int, sent: Any = None) -> None:
    """Raise Rejected for a reading too far in the future, or older than windows are kept.

    `sent` is the time as the device sent it, for the message; None if unknown.
    """
    at_ms = reading.recorded_at_ms
    if at_ms > now_ms + FUTURE_LIMIT_MS:
        reason = f"is more than 5 minutes after the pipeline's clock, {to_iso(now_ms)}"
    elif at_ms < now_ms - retention_ms:
        oldest = to_iso(now_ms - retention_ms)
        reason = f"is older than windows are kept; the oldest accepted now is {oldest}"
    else:
        return
    if at_ms >= YEAR_2000_MS:
        raise Rejected(reason, field="recorded_at", value=to_iso(at_ms))
    unit = other_unit(at_ms)
    if unit:
        reason = f"looks like {unit}; epoch milliseconds are meant, as {now_ms} is now"
    else:
        reason += f"; in epoch milliseconds it is {to_iso(at_ms)}: is the clock set?"
    raise Rejected(reason, field="recorded_at", value=at_ms if sent is None else sent)


def encode(reading: Reading) -> bytes:
    """Return the canonical JSON for the stream: metrics at the top level, where filters look."""
    document: dict[str, Any] = {
        "device_id": reading.device_id,
        "recorded_at": reading.recorded_at_ms,
        **reading.metrics,
        "received_at": reading.received_at_ms,
        "trace_id": reading.trace_id,
        "via": reading.via,
        "replayed_at": reading.replayed_at_ms,
    }
    present = {name: value for name, value in document.items() if value is not None}
    return json.dumps(present, separators=(",", ":")).encode()


def shown(value: Any) -> Any:
    """Return `value` as an answer or a log may repeat it: valid JSON, and short."""
    if isinstance(value, bytes):
        return base64.b64encode(value[:SHOWN_VALUE_LENGTH]).decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        value = str(value)
    if isinstance(value, Rejected):  # stands for a value that a decoder refused
        value = str(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    # an int with more digits than Python prints, or lists nested deeper than it follows
    except (ValueError, TypeError, RecursionError):
        text = f"a {type(value).__name__}"
    text = text.encode("utf-8", "replace").decode()  # UTF-8 has no lone surrogates
    return text if len(text) <= SHOWN_VALUE_LENGTH else text[:SHOWN_VALUE_LENGTH] + "…"
