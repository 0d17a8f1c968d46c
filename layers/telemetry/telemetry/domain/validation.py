"""Validation: a document or a record's bytes become a reading, or are rejected with the reason."""

import json
import re
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from telemetry.domain.decoders.text import json_value
from telemetry.domain.reading import DEVICE_FIELDS, FIELDS, METRICS, STAMPED, Reading, shown
from telemetry.domain.times import from_iso, unit_told
from telemetry.errors import Rejected

DIGITS = re.compile(r"\s*[+-]?\d+([.,]\d*)?\s*")
# https://www.thethingsindustries.com/docs/integrations/data-formats/
ENVELOPE = {"end_device_ids", "uplink_message"}
EXACT = 2**53  # below it a double holds each whole number


def parse(raw: Any, device_id: str | None = None) -> Reading:
    """The reading in a device's document (decoded JSON), or Rejected.

    `device_id` is who posts, where the request says so: the document may leave it out, and may
    not name another.
    """
    if not isinstance(raw, dict):
        raise Rejected("is not a JSON object with a reading's fields", value=raw)
    if raw.keys() >= ENVELOPE:
        reason = (
            "is an envelope of The Things Stack; the reading is in its decoded_payload: "
            "post that, with the uplink's received_at as recorded_at"
        )
        raise Rejected(reason, field="uplink_message")
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


def decode(data: bytes) -> Reading:
    """The reading in a stream record's bytes, or Rejected: other producers may write there too."""
    try:
        model = _model().model_validate_json(data)
    except ValidationError as error:
        raise _rejected(error) from None
    reading = _reading(model)
    if data.count(b'"') != _quotes(model, reading):
        json_value(data)  # raises for a name that is there twice
    return reading


def _quotes(model: BaseModel, reading: Reading) -> int:
    """How many quotes a record has in which each name is once, and its time a number.

    No value that is taken has a quote in it. So a record with a name twice has more of them, and
    the few that have more for another reason are looked at.
    """
    texts = 1 + (reading.trace_id is not None) + (reading.via is not None)
    return 2 * (len(model.model_fields_set) + texts)


def _instant(value: Any) -> Any:
    """Epoch ms from the forms that devices send: ISO 8601, a whole number, also as a float."""
    reason = "is neither an ISO 8601 time with an offset nor whole epoch milliseconds"
    if isinstance(value, str):
        try:
            return from_iso(value)
        except (ValueError, OverflowError):
            if DIGITS.fullmatch(value):
                reason = "is a string; epoch milliseconds are a number, not a string"
    elif isinstance(value, float):
        if value.is_integer() and abs(value) < EXACT:
            return int(value)
        if abs(value) < EXACT:
            reason = f"has a fraction; whole epoch milliseconds are meant{unit_told(value)}"
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("instant", "{reason}", {"reason": reason})


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
            shapes[name] = (Annotated[kind, limits] | None, None)
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
        fields["via"],
        fields["replayed_at"],
    )


def _rejected(error: ValidationError) -> Rejected:
    """The first thing wrong, with the field and what would be right."""
    detail = error.errors(include_url=False, include_context=True)[0]
    name = shown(detail["loc"][0]) if detail["loc"] else None
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
            told = unit or unit_told(detail["input"])
            return f"{value} is above {field['maximum']}{told}"
        case "string_pattern_mismatch":
            return f"does not match {field['pattern']}, as {field['example']} does"
        case "extra_forbidden":
            return f"is not a field of a reading; its fields are {', '.join(DEVICE_FIELDS)}"
        case "float_type" | "finite_number" | "float_parsing":
            return _no_number(detail["input"], unit)
        case "string_type":
            return "is not a string"
        case "json_invalid":
            return "is not JSON"
        case "model_type" | "model_attributes_type":
            return "is not a JSON object with a reading's fields"
        case _:
            return detail["msg"]


def _no_number(value: Any, unit: str) -> str:
    if isinstance(value, str) and DIGITS.fullmatch(value):
        return f"{json.dumps(shown(value))} is a string; a number is written without quotes"
    return f"is not a finite number of{unit}"
