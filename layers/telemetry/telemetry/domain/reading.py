"""Readings: what devices report, checked against its single source, `schemas/reading.avsc`."""

import base64
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from telemetry.domain.times import from_iso, to_iso
from telemetry.errors import Rejected

SCHEMA_FILE = Path(__file__).parent.parent / "schemas" / "reading.avsc"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
FIELDS: dict[str, dict[str, Any]] = {field["name"]: field for field in SCHEMA["fields"]}
METRICS = tuple(name for name, field in FIELDS.items() if "unit" in field)
STAMPED = tuple(name for name, field in FIELDS.items() if "stamped_by" in field)
DEVICE_FIELDS = tuple(name for name in FIELDS if name not in STAMPED)

FUTURE_LIMIT_MS = 5 * 60_000  # a device's clock may be ahead by this much
SHOWN_VALUE_LENGTH = 100  # characters of an offending value that an answer repeats


class Reading(NamedTuple):
    """One reading; `metrics` holds the metrics it has, by name, in the schema's units."""

    device_id: str
    recorded_at_ms: int
    metrics: Mapping[str, float]
    received_at_ms: int | None = None
    trace_id: str | None = None


def parse(raw: Any, device_id: str | None = None) -> Reading:
    """The reading in a device's document (decoded JSON), or Rejected.

    `device_id` is who posts, where the request says so: the document may leave it out, and may
    not name another.
    """
    if not isinstance(raw, dict):
        raise Rejected("is not a JSON object with a reading's fields", value=raw)
    for name in STAMPED:
        if name in raw:
            raise Rejected("is set by the pipeline, not by devices", field=name, value=raw[name])
    if device_id is not None:
        if raw.get("device_id", device_id) != device_id:
            reason = f"differs from the device that posts, {device_id}"
            raise Rejected(reason, field="device_id", value=raw["device_id"])
        raw = {**raw, "device_id": device_id}
    try:
        return _reading(_model().model_validate(raw))
    except ValidationError as error:
        raise _rejected(error) from None


def check_time(reading: Reading, now_ms: int, retention_ms: int) -> None:
    """Raise Rejected for a reading too far in the future, or older than windows are kept."""
    at_ms = reading.recorded_at_ms
    if at_ms > now_ms + FUTURE_LIMIT_MS:
        reason = f"is more than 5 minutes after the pipeline's clock, {to_iso(now_ms)}"
        raise Rejected(reason, field="recorded_at", value=to_iso(at_ms))
    if at_ms < now_ms - retention_ms:
        oldest = to_iso(now_ms - retention_ms)
        reason = f"is older than windows are kept; the oldest accepted now is {oldest}"
        raise Rejected(reason, field="recorded_at", value=to_iso(at_ms))


def encode(reading: Reading) -> bytes:
    """The canonical JSON that goes on the stream: metrics at the top level, where filters look."""
    document: dict[str, Any] = {
        "device_id": reading.device_id,
        "recorded_at": reading.recorded_at_ms,
        **reading.metrics,
        "received_at": reading.received_at_ms,
        "trace_id": reading.trace_id,
    }
    present = {name: value for name, value in document.items() if value is not None}
    return json.dumps(present, separators=(",", ":")).encode()


def decode(data: bytes) -> Reading:
    """The reading in a stream record's bytes, or Rejected: other producers may write there too."""
    try:
        return _reading(_model().model_validate_json(data))
    except ValidationError as error:
        raise _rejected(error) from None


def shown(value: Any) -> Any:
    """`value` as an answer or a log may repeat it: JSON, and not longer than a person reads."""
    if isinstance(value, bytes):
        return base64.b64encode(value[:SHOWN_VALUE_LENGTH]).decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, TypeError):  # an int of more digits than Python prints
        text = f"a {type(value).__name__}"
    text = text.encode("utf-8", "replace").decode()  # lone surrogates have no UTF-8
    return text if len(text) <= SHOWN_VALUE_LENGTH else text[:SHOWN_VALUE_LENGTH] + "…"


def _instant(value: Any) -> Any:
    """Epoch ms from either form that devices send."""
    if isinstance(value, str):
        try:
            return from_iso(value)
        except (ValueError, OverflowError):
            value = None
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError(
            "instant", "is neither an ISO 8601 time with an offset nor whole epoch milliseconds"
        )
    return value


@cache
def _model() -> type[BaseModel]:
    """A validator made from the schema's fields: types, ranges, patterns."""
    shapes: dict[str, Any] = {}
    for name, field in FIELDS.items():
        limits = Field(
            ge=field.get("minimum"),
            le=field.get("maximum"),
            pattern=field.get("pattern"),
            allow_inf_nan=False if "unit" in field else None,
        )
        if "unit" in field:
            shapes[name] = (Annotated[float, limits] | None, None)
        elif "stamped_by" in field:
            kind = str if "string" in field["type"] else int
            shapes[name] = (kind | None, None)
        elif name == "recorded_at":
            shapes[name] = (Annotated[int, limits, BeforeValidator(_instant)], ...)
        else:
            shapes[name] = (Annotated[str, limits], ...)
    config = ConfigDict(extra="forbid", strict=True)
    return create_model("ReadingModel", __config__=config, **shapes)


def _reading(model: BaseModel) -> Reading:
    fields = model.__dict__
    # adding 0.0 turns -0.0 into 0.0: equal values are written as equal bytes
    metrics = {name: fields[name] + 0.0 for name in METRICS if fields[name] is not None}
    if not metrics:
        raise Rejected(f"has none of the metrics {', '.join(METRICS)}")
    return Reading(
        fields["device_id"],
        fields["recorded_at"],
        metrics,
        fields["received_at"],
        fields["trace_id"],
    )


def _rejected(error: ValidationError) -> Rejected:
    """The first thing wrong, with the field and what would be right."""
    detail = error.errors(include_url=False, include_context=True)[0]
    name = str(detail["loc"][0]) if detail["loc"] else None
    value = None if detail["type"] == "missing" else detail["input"]
    return Rejected(_reason(detail, name), field=name, value=value)


def _reason(detail: ErrorDetails, name: str | None) -> str:
    field = FIELDS.get(name or "", {})
    unit = f" {field['unit']}" if "unit" in field else ""
    value = shown(detail["input"])
    match detail["type"]:
        case "missing":
            return "is missing"
        case "greater_than_equal":
            return f"{value} is below {field['minimum']}{unit}"
        case "less_than_equal":
            return f"{value} is above {field['maximum']}{unit}"
        case "string_pattern_mismatch":
            return f"does not match {field['pattern']}, as {field['example']} does"
        case "extra_forbidden":
            return f"is not a field of a reading; its fields are {', '.join(DEVICE_FIELDS)}"
        case "float_type" | "finite_number" | "float_parsing":
            return f"is not a finite number of{unit}"
        case "string_type":
            return "is not a string"
        case "json_invalid":
            return "is not JSON"
        case "model_type" | "model_attributes_type":
            return "is not a JSON object with a reading's fields"
        case _:
            return detail["msg"]
