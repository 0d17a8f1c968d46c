"""Avro's logical types on a reading's fields: each is read by its meaning, or refused by name.

https://avro.apache.org/docs/1.12.0/specification/#logical-types
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from telemetry.domain.decoders.avro_schema import DECIMAL, Checked, Logical
from telemetry.domain.reading import FIELDS, METRICS
from telemetry.errors import Rejected

INSTANT = "recorded_at"
MILLIS = "timestamp-millis"
DIVISORS = {MILLIS: 1, "timestamp-micros": 1_000, "timestamp-nanos": 1_000_000}
LOCAL = "local-"
# Logical types whose values are neither a metric's number nor an instant, except for decimals.
OTHERS = {"date", "time-millis", "time-micros", "duration", "uuid", "big-decimal", DECIMAL}
NAMED = {*DIVISORS, *(LOCAL + name for name in DIVISORS), *OTHERS}
WHOLE, FLOAT, DOUBLE = ("int", "long"), "float", "double"
MAX_DECIMAL_BYTES = 128  # a double holds no larger number

Convert = Callable[[Any], Any]


class Plan(NamedTuple):
    """The types that some fields are resolved to, and functions for their values, by name."""

    types: Mapping[str, Any]
    converts: Mapping[str, Convert]


def plan(fields: Mapping[str, Checked]) -> Plan:
    """Return the plan for reading the fields of a writer's record.

    Raise Rejected, with the field, for a logical type that doesn't fit the field.
    """
    types: dict[str, Any] = {}
    converts: dict[str, Convert] = {}
    defined: set[str] = set()
    for name, checked in fields.items():
        branches = [each for each in checked.branches or (checked,) if each.schema != "null"]
        if name == INSTANT:
            _refuse_float(branches)
            divisor = _divisor(branches)
            if divisor != 1:
                converts[name] = _dividing(divisor)
            if any(each.schema == DOUBLE for each in branches):
                types[name] = ["long", "double"]
        elif name in METRICS:
            decimals = list(_decimals(name, branches))
            if decimals:
                types[name] = ["null", "double", *(_type(each, defined) for each in decimals)]
                converts[name] = _scaling(_only(name, {_scale(each) for each in decimals}))
        elif name in FIELDS:
            _refuse_bytes(name, branches)
    return Plan(types, converts)


def _refuse_float(branches: list[Checked]) -> None:
    """Raise Rejected for an instant's type of 32 bits: its times of today are 131 s apart.

    A union with one is refused, too: once read, a value doesn't say its type.
    """
    if any(each.schema == FLOAT for each in branches):
        reason = f"is a float, whose 24 bits can't hold an instant; a {MILLIS} or a double can"
        raise Rejected(reason, field=INSTANT)


def _divisor(branches: list[Checked]) -> int:
    """Return the number by which to divide a writer's times to get milliseconds."""
    found = set()
    for branch in branches:
        name = branch.logical.name if branch.logical else None
        if name and name.startswith(LOCAL):
            right = name.removeprefix(LOCAL)
            reason = f"is a {name}, a clock without a zone; {right} is in UTC, and is read"
            raise Rejected(reason, field=INSTANT)
        if name in OTHERS:
            raise Rejected(f"is a {name}; an instant is a {MILLIS}", field=INSTANT)
        if branch.schema in WHOLE:
            found.add(DIVISORS.get(name or MILLIS, 1))
    return _only(INSTANT, found or {1})


def _decimals(metric: str, branches: list[Checked]) -> Iterator[Checked]:
    """Yield the types of a metric that are decimals; raise Rejected for one that is no number."""
    for branch in branches:
        logical = branch.logical
        if logical is None or logical.name not in NAMED:
            continue
        if logical.name != DECIMAL:
            unit = FIELDS[metric]["unit"]
            raise Rejected(f"is a {logical.name}, and not a number of {unit}", field=metric)
        yield branch


def _refuse_bytes(name: str, branches: list[Checked]) -> None:
    """Raise Rejected for a logical type of bytes on a field that is a string."""
    for branch in branches:
        if branch.logical and branch.logical.name in NAMED and branch.whole:
            size = branch.whole.get("size")
            reason = f"is a {branch.logical.name} of {size} bytes; a string is read"
            raise Rejected(reason, field=name)


def _only(name: str, found: set[int]) -> int:
    """Return a field's only unit; raise Rejected for several, since values don't say theirs."""
    if len(found) > 1:
        reason = "is a union of logical types of different units; a field has one"
        raise Rejected(reason, field=name)
    return next(iter(found))


def _type(decimal: Checked, defined: set[str]) -> Any:
    """Return a decimal's type to resolve to; a name is defined once in a schema."""
    if decimal.whole is None:
        return decimal.schema
    full: str = decimal.whole["name"]
    if full in defined:
        return full
    defined.add(full)
    return decimal.whole


def _scale(decimal: Checked) -> int:
    logical: Logical | None = decimal.logical
    return logical.scale if logical else 0


def _dividing(divisor: int) -> Convert:
    """Return a function that divides, rounding down, as ISO 8601 times are read."""
    return lambda value: value // divisor if isinstance(value, int) else value


def _scaling(scale: int) -> Convert:
    """Return a function from a decimal's bytes (two's complement, big-endian) to a double."""

    def convert(value: Any) -> Any:
        if not isinstance(value, bytes):
            return value
        if len(value) > MAX_DECIMAL_BYTES:
            return math.inf
        return int.from_bytes(value, "big", signed=True) / 10**scale

    return convert
