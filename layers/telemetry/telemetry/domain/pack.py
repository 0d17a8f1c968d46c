"""Packs: one stream record with the readings of one device in one request.

    {"device_id": "pump-17", "recorded_at": 1795224600000, "temperature": 39.000001,
     "received_at": 1795224602345, "low": {"temperature": 21.5},
     "readings": {"after_ms": [0, 1000], "temperature": [21.5, 39.0000004]}}

The readings are in columns: `after_ms` has milliseconds after `recorded_at`, which is the earliest
reading's; a metric's column has null where a reading lacks it. Numbers are exact. The other fields
are a single record's, once for all readings, and each metric on top is the pack's highest value,
where event filters look. `low` has the lowest.

A consumer treats a pack as its readings, each a record by itself with the pack's stamps. So a bad
reading takes no other along. Only a record that isn't a pack's form is rejected as a whole.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json

from telemetry.domain import no_measurement, validation
from telemetry.domain import reading as readings_of
from telemetry.domain.decoders.text import json_value
from telemetry.domain.reading import FIELDS, METRICS, Reading
from telemetry.domain.validation import BRACKETS_MAX, PACKED, Parsed
from telemetry.errors import Rejected

AFTER, LOW = "after_ms", "low"
MARK = f'"{PACKED}"'.encode()
# A pack of all readings that a request may have is about 15 kB with four metrics. So the 1 KB and
# 5 KB to which Kinesis and Firehose round up hardly count, and a batch that fails for one device
# repeats little for the others. It may only grow: the archive has packs of this size.
MAX_READINGS = 500
# Bounds the bytes, too, however many metrics a schema has: a value takes at most 25 bytes. 500 kB
# is half of a Kinesis record, and eight of them fit, in base64, into the 6 MB of an invocation.
MAX_VALUES = 20_000
# What `numeric` compares: up to 5e9, with 15 digits, six of them behind the point ("Comparison
# operators for use in event patterns", numeric matching:
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html).
COMPARABLE_MAX = 5e9
DECIMALS, DECIMALS_MAX = 6, 1e9  # larger numbers have 15 digits with one decimal less
PLAIN_MIN = 1e-4  # Python and JSON libraries write smaller numbers with an exponent

Outcome = Parsed | Rejected
STAMPS = ("received_at", "trace_id", "via", "replayed_at")


class Packed(NamedTuple):
    """Readings of one device, and the bytes of the stream record that has them."""

    readings: list[Reading]
    data: bytes

    @property
    def device_id(self) -> str:
        return self.readings[0].device_id


class Pack:
    """A pack's readings, in order.

    `outcomes` has what `validation.decode` makes of each reading's own document: Parsed, or the
    reason why it is rejected.
    """

    def __init__(self, data: bytes, outcomes: list[Outcome]) -> None:
        self.data = data
        self.outcomes = outcomes

    @cached_property
    def documents(self) -> list[bytes]:
        """Each reading as a single record has it, with its values as they came."""
        return _documents(from_json(self.data))


# Writing.


def pack(readings: Iterable[Reading], is_packing: bool = True) -> list[Packed]:
    """Return stream records with these readings, those of a device and its stamps together.

    A reading that is alone becomes a single record; if a filter can't compare one of its values, a
    pack of one. Without `is_packing`, each reading is alone.
    """
    groups: dict[Any, list[Reading]] = {}
    for place, each in enumerate(readings):
        # all but the instant and the metrics
        key = (each.device_id, *each[3:]) if is_packing else place
        groups.setdefault(key, []).append(each)
    most = max(1, min(MAX_READINGS, MAX_VALUES // len(METRICS)))
    parts = (
        group[first : first + most]
        for group in groups.values()
        for first in range(0, len(group), most)
    )
    return [Packed(part, encode(part)) for part in parts]


def encode(readings: Sequence[Reading]) -> bytes:
    """Return the record of readings of one device with equal stamps: a pack, or a single record."""
    if len(readings) == 1 and all(map(is_comparable, readings[0].metrics.values())):
        return readings_of.encode(readings[0])
    first = readings[0]
    from_ms = min(each.recorded_at_ms for each in readings)
    names = dict.fromkeys(name for each in readings for name in each.metrics)
    columns: dict[str, list[Any]] = {AFTER: [each.recorded_at_ms - from_ms for each in readings]}
    tops, lows = [], []
    for name in names:
        columns[name] = column = [each.metrics.get(name) for each in readings]
        present = [value for value in column if value is not None]
        tops.append(f"{json.dumps(name)}:{plain(rounded_up(max(present)))}")
        lows.append(f"{json.dumps(name)}:{plain(-rounded_up(-min(present)))}")
    values = (first.received_at_ms, first.trace_id, first.via, first.replayed_at_ms)
    stamps = [
        f'"{name}":{json.dumps(value)}'
        for name, value in zip(STAMPS, values, strict=True)
        if value is not None
    ]
    identity = [f'"device_id":{json.dumps(first.device_id)}', f'"recorded_at":{from_ms}']
    exact = json.dumps(columns, separators=(",", ":"))
    parts = [*identity, *tops, *stamps, f'"{LOW}":{{{",".join(lows)}}}', f'"{PACKED}":{exact}']
    return f"{{{','.join(parts)}}}".encode()


def comparable(data: bytes) -> bytes:
    """Return a stream record of the same worth that filters can compare: itself, or a pack of one.

    What isn't a single valid reading is returned as it is.
    """
    try:
        parsed = validation.decode(data)
    except Rejected:
        return data
    is_plain = all(map(is_comparable, parsed.reading.metrics.values()))
    return data if is_plain or parsed.refused or parsed.left_out else encode([parsed.reading])


def is_comparable(value: float) -> bool:
    """Return whether a filter can compare a value, as `encode` writes it in a single record."""
    return has_six_decimals(value) and (value == 0 or abs(value) >= PLAIN_MIN)


def has_six_decimals(value: float) -> bool:
    """Return whether a value has at most six decimals, and fifteen digits."""
    return rounded_up(value) == value


def rounded_up(value: float) -> float:
    """Return the least number that a filter can compare and that isn't below `value`.

    So for each threshold with at most six decimals, the result is above it if and only if `value`
    is. (From 1e9 on, five decimals.)
    """
    if abs(value) >= DECIMALS_MAX:
        decimals = DECIMALS - 1
        value = max(-COMPARABLE_MAX, min(value, COMPARABLE_MAX))
    else:
        decimals = DECIMALS
    nearest = round(value, decimals)
    return (nearest if nearest >= value else round(nearest + 10.0**-decimals, decimals)) + 0.0


def plain(number: float) -> str:
    """Return a rounded number's text without an exponent."""
    text = repr(float(number) + 0.0)  # + 0.0: -0.0 is 0.0
    return f"{number:.{DECIMALS}f}".rstrip("0") if "e" in text else text


# Reading.


def decode(data: bytes) -> Pack | None:
    """Return the pack in a stream record's bytes; None if they are no pack.

    Raise Rejected for a malformed pack.
    """
    if MARK not in data:
        return None
    return _well_formed(data) or _judged(data)


@cache
def _model() -> type[BaseModel]:
    """Return a validator of packs whose readings are all valid, column by column."""
    config = ConfigDict(extra="forbid", strict=True)
    shapes = validation.shapes()
    numbers: dict[str, Any] = dict.fromkeys(
        METRICS, (Annotated[float, Field(allow_inf_nan=False)], None)
    )
    columns: dict[str, Any] = {name: (_list_of(shapes[name][0]), None) for name in METRICS}
    times = _list_of(Annotated[int, Field(ge=0)])
    columns[AFTER] = (Annotated[times, Field(min_length=1, max_length=MAX_READINGS)], ...)
    instant = FIELDS["recorded_at"]
    fields: dict[str, Any] = {
        **shapes,
        "recorded_at": (Annotated[int, Field(ge=instant["minimum"], le=instant["maximum"])], ...),
        **numbers,  # on top
        LOW: (create_model("Low", __config__=config, **numbers), ...),
        PACKED: (create_model("Columns", __config__=config, **columns), ...),
    }
    return create_model("PackModel", __config__=config, **fields)


def _list_of(kind: Any) -> Any:
    return list[kind]


def _well_formed(data: bytes) -> Pack | None:
    """Return a pack whose readings are all valid; None for any other record."""
    try:
        model = _model().model_validate_json(data)
    except ValidationError:
        return None
    top = model.__dict__
    low, readings = top[LOW], top[PACKED]
    texts = 1 + (top["trace_id"] is not None) + (top["via"] is not None)
    names = sum(len(each.__pydantic_fields_set__) for each in (model, low, readings))
    if data.count(b'"') != 2 * (names + texts):  # a name may be there twice
        return None
    columns: dict[str, list[Any]] = {}
    is_full, no_measurements = True, no_measurement.shipped()
    for name in METRICS:
        column, highest, lowest = readings.__dict__[name], top[name], low.__dict__[name]
        if column is None and highest is None:
            continue
        if column is None or highest is None or lowest is None:
            return None
        present = column
        if None in column:
            is_full = False
            present = [value for value in column if value is not None]
        # all null is rare, and judged below
        if not present or not _is_within(present, lowest, highest):
            return None
        if name in no_measurements and no_measurement.may_stand_for_none(name, present):
            return None
        columns[name] = column
        if lowest <= 0 <= highest:  # -0.0 is 0.0, as in validation
            columns[name] = [None if value is None else value + 0.0 for value in column]
    return _transposed(data, top, readings.__dict__[AFTER], columns, is_full)


def _is_within(values: Sequence[float], lowest: float, highest: float) -> bool:
    return lowest <= min(values) and max(values) <= highest


def _transposed(
    data: bytes,
    top: Mapping[str, Any],
    after_ms: list[int],
    columns: Mapping[str, list[Any]],
    is_full: bool,
) -> Pack | None:
    """Return the pack of valid columns.

    None if columns differ in length, a reading has no metric, or a time is too late.
    """
    if any(len(column) != len(after_ms) for column in columns.values()) or not columns:
        return None
    names, rows = list(columns), zip(*columns.values(), strict=True)
    if is_full:
        metrics = [dict(zip(names, row, strict=True)) for row in rows]
    else:
        metrics = [
            {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for row in rows
        ]
        if not all(metrics):
            return None
    device_id, from_ms = top["device_id"], top["recorded_at"]
    if from_ms + max(after_ms) > FIELDS["recorded_at"]["maximum"]:
        return None
    stamps = tuple(top[name] for name in STAMPS)
    outcomes: list[Outcome] = [
        Parsed(Reading(device_id, from_ms + after, values, *stamps), (), 0)
        for after, values in zip(after_ms, metrics, strict=True)
    ]
    return Pack(data, outcomes)


def _judged(data: bytes) -> Pack | None:
    """Return a pack of any readings, each judged as a single record; None if it is no pack.

    Raise Rejected if the pack is malformed.
    """
    try:
        value = from_json(data)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get(PACKED), dict):
        return None
    if data.count(b"{") + data.count(b"[") > BRACKETS_MAX:
        raise Rejected(f"has more than {BRACKETS_MAX} objects and lists; a pack has a few")
    raw = _named_once(data)
    _check(raw)
    documents = _documents(raw)
    found = Pack(data, [_outcome(each) for each in documents])
    found.documents = documents
    return found


def _outcome(document: bytes) -> Outcome:
    try:
        return validation.decode(document)
    except Rejected as error:
        return error


def _named_once(data: bytes) -> dict[str, Any]:
    """Return a pack's JSON; raise Rejected if an object of it has a name twice."""
    value: dict[str, Any] = json_value(data)
    for name in (LOW, PACKED):
        inner = value.get(name)
        if isinstance(inner, Rejected):
            raise Rejected(inner.reason, field=f"{name}.{inner.field}", value=inner.value)
    return value


def _check(raw: Mapping[str, Any]) -> None:
    """Raise Rejected unless a pack's columns fit each other, its times and its extremes."""
    from_ms, columns, low = raw.get("recorded_at"), raw[PACKED], raw.get(LOW)
    if type(from_ms) is not int:
        reason = "is not whole epoch milliseconds, as a pack's first instant is"
        raise Rejected(reason, field="recorded_at", value=from_ms)
    if not isinstance(low, dict):
        raise Rejected("is not an object with a pack's lowest values", field=LOW, value=low)
    after_ms = columns.get(AFTER)
    if not isinstance(after_ms, list) or not 1 <= len(after_ms) <= MAX_READINGS:
        reason = f"is not a list of 1 to {MAX_READINGS} times, as a pack has"
        raise Rejected(reason, field=f"{PACKED}.{AFTER}", value=after_ms)
    for place, after in enumerate(after_ms):
        if type(after) is not int or after < 0:
            reason = "is not a whole number of milliseconds from 0 on"
            raise Rejected(reason, field=f"{PACKED}.{AFTER}[{place}]", value=after)
    for name, column in columns.items():
        if name != AFTER:
            _check_column(name, column, len(after_ms), low.get(name), raw.get(name))
    for name in METRICS:
        if raw.get(name) is not None and name not in columns:
            reason = "has a highest value but no column"
            raise Rejected(reason, field=f"{PACKED}.{name}")


def _check_column(name: str, column: Any, count: int, lowest: Any, highest: Any) -> None:
    field = f"{PACKED}.{name}"
    if name in FIELDS and name not in METRICS:
        raise Rejected(f"is a column of {name}, which a pack has once, on top", field=field)
    if not isinstance(column, list):
        raise Rejected("is not a list of values", field=field, value=column)
    if len(column) != count:
        reason = f"has {len(column)} values, and {AFTER} has {count}; a pack's columns have as many"
        raise Rejected(reason, field=field)
    numbers = [each for each in column if _is_number(each)]
    if numbers and not (_is_number(highest) and highest >= max(numbers)):
        reason = f"is below the highest value of {field}, {max(numbers)}, which filters would miss"
        raise Rejected(reason, field=name, value=highest)
    if numbers and not (_is_number(lowest) and lowest <= min(numbers)):
        reason = f"is above the lowest value of {field}, {min(numbers)}"
        raise Rejected(reason, field=f"{LOW}.{name}", value=lowest)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < math.inf


def _documents(raw: Mapping[str, Any]) -> list[bytes]:
    """Return a well-formed pack's readings, each as a single record has it."""
    columns = raw[PACKED]
    names = [name for name in columns if name != AFTER]
    stamps = {
        name: value
        for name, value in raw.items()
        if name not in ("device_id", "recorded_at", LOW, PACKED, *names)
    }
    identity = {"device_id": raw["device_id"]} if "device_id" in raw else {}
    found = []
    for place, after in enumerate(columns[AFTER]):
        row = {name: columns[name][place] for name in names}
        document = {
            **identity,
            "recorded_at": raw["recorded_at"] + after,
            **{name: value for name, value in row.items() if value is not None},
            **stamps,
        }
        found.append(json.dumps(document, separators=(",", ":")).encode())
    return found
