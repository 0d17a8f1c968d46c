"""Validation: a document or a record's bytes become a reading, or are rejected with a reason.

An invalid metric is refused alone; the reading keeps its other metrics.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from telemetry.domain.decoders.text import Doubled, json_readings
from telemetry.domain.no_measurement import stands_for_none
from telemetry.domain.reading import DEVICE_FIELDS, FIELDS, METRICS, STAMPED, Reading, shown
from telemetry.domain.times import from_iso, unit_hint
from telemetry.errors import Rejected

DIGITS = re.compile(r"\s*[+-]?\d+([.,]\d*)?\s*")
# https://www.thethingsindustries.com/docs/integrations/data-formats/
ENVELOPE = {"end_device_ids", "uplink_message"}
EXACT = 2**53  # below it a double holds each whole number
# As in the archive's view (contract/athena.py); but there may be such a name in another's value.
NAMED = {name: re.compile(rf'"{name}"\s*:'.encode()) for name in FIELDS}

BRACKETS_MAX = 64 + len(METRICS)  # { and [ in a record of the stream; a pack has a list a metric
PACKED = "readings"  # the field in which a pack has its readings (domain/pack.py)
UNKNOWN_NAMED = 5  # unknown fields of one document that an answer names


class NothingMeasured(Rejected):
    """Every value of a document stands for no measurement: it is valid, but has nothing to store.

    `reading` has its identity and stamps, and no metrics.
    """

    def __init__(self, reading: Reading, left_out: int) -> None:
        super().__init__("has no measurement: metrics.yaml says that its values stand for none")
        self.reading = reading
        self.left_out = left_out


class Parsed(NamedTuple):
    """A reading with its valid metrics, and the rest of its document.

    `refused` has the invalid metrics and the unknown fields, each with field, value and reason.
    `left_out` is the number of values that stand for no measurement (metrics.yaml).
    """

    reading: Reading
    refused: tuple[Rejected, ...] = ()
    left_out: int = 0


def parse(raw: Any, device_id: str | None = None) -> Parsed:
    """Return the reading in a device's document (decoded JSON); raise Rejected if it has none.

    A reading needs a device, a time and one valid metric. It may not have a field that the pipeline
    stamps. `device_id` is the posting device, if the request names one: then the document may leave
    it out, and may not name another.
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
    return _judged(raw)


def measured(device_id: str, metric: str, value: float) -> float | None:
    """Return a value as it is stored; None if it stands for no measurement.

    Raise Rejected if it is out of its metric's range. `device_id` is valid.
    """
    try:
        parsed = parse({"device_id": device_id, "recorded_at": 0, metric: value})
    except NothingMeasured:
        return None
    return parsed.reading.metrics[metric]


def decode(data: bytes) -> Parsed:
    """Return the reading in a stream record's bytes; raise Rejected for another producer's data."""
    # The archive's view passes over lines with more of them, too (contract/athena.py).
    if data.count(b"{") + data.count(b"[") > BRACKETS_MAX:
        raise Rejected(f"has more than {BRACKETS_MAX} objects and lists; a reading is one object")
    try:
        model = _model().model_validate_json(data)
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            return _judged(_read_by_python(data, error))
        _refuse_doubled(data)
        wrong = _wrong_metrics(error)
        return _without(from_json(data), wrong, {})
    if data.count(b'"') != _quotes(model):
        _refuse_doubled(data)
    return _parsed(model, [], {})


def _quotes(model: BaseModel) -> int:
    """Return the number of quotes in a record that has each name once, and its time as a number.

    Valid values have no quotes inside, so a record with a repeated name has more quotes. A few
    other records have more, too; they are only searched for repeated names.
    """
    fields = model.__dict__
    texts = 1 + (fields["trace_id"] is not None) + (fields["via"] is not None)
    return 2 * (len(model.model_fields_set) + texts)


def _refuse_doubled(data: bytes) -> None:
    """Raise Rejected if a record has the name of a reading's field more than once.

    Such a name within the value of an unknown field doesn't count, so the search for names decides
    only whether to parse the record again.
    """
    if b"\\" in data or any(len(named.findall(data)) > 1 for named in NAMED.values()):
        json_readings(data)


def _read_by_python(data: bytes, error: ValidationError) -> dict[str, Any]:
    """Return the document in a record that pydantic's parser can't read; raise Rejected.

    That parser reads no number of over 4,300 digits and no lone surrogate. Either may stand in a
    field that is refused alone.
    """
    not_json = _rejected(error.errors(include_url=False)[0])
    try:
        document = json_readings(data)
    except Doubled:
        raise
    except Rejected:
        raise not_json from None
    if not isinstance(document, dict):
        raise not_json
    return document


def _judged(raw: dict[str, Any]) -> Parsed:
    """Return the reading in a document; raise Rejected if it has none."""
    # names with lone surrogates go into `unknown`, since pydantic takes no document with one
    unknown = {name: value for name, value in raw.items() if name not in FIELDS}
    known = {name: value for name, value in raw.items() if name in FIELDS} if unknown else raw
    try:
        return _parsed(_model().model_validate(known), [], unknown)
    except ValidationError as error:
        wrong = _wrong_metrics(error)
    return _without(known, wrong, unknown)


def _wrong_metrics(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors of metrics; raise Rejected if another field has an error."""
    details = error.errors(include_url=False, include_context=True)
    for detail in details:
        if not detail["loc"] or detail["loc"][0] not in METRICS:
            raise _rejected(detail)
    return details


def _without(raw: dict[str, Any], wrong: list[ErrorDetails], unknown: dict[str, Any]) -> Parsed:
    """Return the reading in a document without its wrong metrics."""
    names = {detail["loc"][0] for detail in wrong}
    rest = {name: value for name, value in raw.items() if name not in names}
    return _parsed(_model().model_validate(rest), wrong, unknown)


def _instant(value: Any) -> Any:
    """Return epoch ms from the forms that devices send: ISO 8601, or a whole int or float."""
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
            reason = f"has a fraction; whole epoch milliseconds are meant{unit_hint(value)}"
        elif math.isfinite(value):
            limits = FIELDS["recorded_at"]
            above, below = f"above {limits['maximum']}", f"below {limits['minimum']}"
            reason = f"{value} is {above if value > 0 else below}{unit_hint(value)}"
    elif isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("instant", "{reason}", {"reason": reason})


@cache
def _model() -> type[BaseModel]:
    """Return a validator made from the schema's fields."""
    config = ConfigDict(extra="allow", strict=True)
    return create_model("ReadingModel", __config__=config, **shapes())


def shapes() -> dict[str, Any]:
    """Return the type, range or pattern, and default of each field, by the schema."""
    found: dict[str, Any] = {}
    for name, field in FIELDS.items():
        limits = Field(
            ge=field.get("minimum"),
            le=field.get("maximum"),
            pattern=field.get("pattern"),
            allow_inf_nan=False if "unit" in field else None,
        )
        if "unit" in field:
            found[name] = (Annotated[float, limits] | None, None)
        elif "stamped_by" in field:
            kind = str if "string" in field["type"] else int
            found[name] = (Annotated[kind, limits] | None, None)
        elif name == "recorded_at":
            found[name] = (Annotated[int, limits, BeforeValidator(_instant)], ...)
        else:
            found[name] = (Annotated[str, limits], ...)
    return found


def _parsed(model: BaseModel, wrong: list[ErrorDetails], unknown: dict[str, Any]) -> Parsed:
    """Return a valid document's reading; `wrong` and `unknown` are the fields it came without."""
    unknown = unknown or model.model_extra or {}
    if isinstance(unknown.get(PACKED), dict):
        reason = "is how the pipeline packs readings; a reading has its values beside its time"
        raise Rejected(reason, field=PACKED)
    fields = model.__dict__
    device_id = fields["device_id"]
    refused, left_out = [], 0
    for detail in wrong:
        if stands_for_none(device_id, str(detail["loc"][0]), detail["input"]):
            left_out += 1
        else:
            refused.append(_rejected(detail))
    refused += _unknown(unknown)
    metrics = {}
    for name in METRICS:
        value = fields[name]
        if value is None:
            continue
        if stands_for_none(device_id, name, value):
            left_out += 1
        else:
            # adding 0.0 turns -0.0 into 0.0, so equal values are stored as equal bytes
            metrics[name] = value + 0.0
    reading = Reading(
        device_id,
        fields["recorded_at"],
        metrics,
        fields["received_at"],
        fields["trace_id"],
        fields["via"],
        fields["replayed_at"],
    )
    if metrics:
        return Parsed(reading, tuple(refused), left_out)
    if refused:
        raise Rejected.all_of(refused)
    if left_out:
        raise NothingMeasured(reading, left_out)
    raise Rejected(f"has none of the metrics {', '.join(METRICS)}")


def _unknown(extra: Mapping[str, Any]) -> Iterator[Rejected]:
    """Yield a refusal for each of the first unknown fields; the last one counts the rest.

    A document may have a hundred thousand unknown fields, and an answer is bounded.
    """
    known = ", ".join(DEVICE_FIELDS)
    for place, (name, value) in enumerate(islice(extra.items(), UNKNOWN_NAMED), 1):
        more = len(extra) - place if place == UNKNOWN_NAMED else 0
        others = f", as {more} more of this reading aren't" if more else ""
        reason = f"is not a field of a reading{others}; its fields are {known}"
        yield Rejected(reason, field=shown(name), value=value)


def _rejected(detail: ErrorDetails) -> Rejected:
    """Return pydantic's error as a refusal, with the field and a correction."""
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
            return f"{value} is above {field['maximum']}{unit or unit_hint(detail['input'])}"
        case "string_pattern_mismatch":
            return f"does not match {field['pattern']}, as {field['example']} does"
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
