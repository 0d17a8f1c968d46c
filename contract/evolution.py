"""Checks whether a version may follow the earlier ones: Avro's BACKWARD rule, and our own rules."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import avro.errors
import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

from contract.versions import ContractBroken, Field, Version

READING = "reading"
IDENTITY = ("device_id", "recorded_at")  # every other device field is a metric
METRIC_TYPE = ["null", "double"]
PARTITIONS = ("day", "hour")  # of the archive's table
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# https://protobuf.dev/programming-guides/proto3/#assigning
NUMBER_MAX = 2**29 - 1
NUMBERS_RESERVED = range(19_000, 20_000)

Rule = Callable[[Sequence[Version]], Iterator[str]]


def check(contracts: dict[str, list[Version]]) -> None:
    """Raise ContractBroken that names every broken rule."""
    problems = []
    for name, versions in contracts.items():
        own = READING_RULES if name == READING else ()
        rules: tuple[Rule, ...] = (names, documented, unreadable, *own)
        problems += [problem for rule in rules for problem in rule(versions)]
    if problems:
        raise ContractBroken(problems)


def at(version: Version, name: str, problem: str) -> str:
    """Return a problem with its file and field."""
    return f"{version.file}: field {name}: {problem}"


def names(versions: Sequence[Version]) -> Iterator[str]:
    """Yield names that aren't in snake case, or are repeated."""
    for version in versions:
        seen: set[str] = set()
        for name in (field["name"] for field in version.schema["fields"]):
            if not SNAKE_CASE.fullmatch(name):
                yield at(version, name, f"is not in snake case; {snake_case(name)} would be")
            if name in seen:
                yield at(version, name, "is there twice; a name stands for one field")
            seen.add(name)


def documented(versions: Sequence[Version]) -> Iterator[str]:
    """Yield fields without a description."""
    for version in versions:
        for name, field in version.fields.items():
            if not isinstance(field.get("doc"), str) or not field["doc"].strip():
                yield at(version, name, f"doc is {found(field, 'doc')}; it says what it is")


def snake_case(name: str) -> str:
    """Return the nearest name in snake case."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return "_".join(words).lower().lstrip("0123456789_") or "a_name"


def unreadable(versions: Sequence[Version]) -> Iterator[str]:
    """Yield versions that aren't a schema, or can't read the data of an earlier one."""
    parsed: list[tuple[Version, avro.schema.Schema]] = []
    for version in versions:
        try:
            schema = avro.schema.parse(json.dumps(version.schema))
        except avro.errors.AvroException as error:
            yield f"{version.file}: is not an Avro schema: {error}"
            continue
        for older, written in parsed:
            yield from incompatibilities(version, schema, older, written)
        parsed.append((version, schema))


def incompatibilities(
    version: Version, schema: avro.schema.Schema, older: Version, written: avro.schema.Schema
) -> Iterator[str]:
    """Yield the reasons why `version` can't read the data of `older`."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(schema, written)
    if result.compatibility is not SchemaCompatibilityType.incompatible:
        return
    defaults = set(version.fields) - set(older.fields)
    lacking = {name for name in defaults if "default" not in version.fields[name]}
    for name in sorted(lacking):
        yield at(version, name, f"version {older.number} doesn't have it: a default is needed")
    if not lacking:
        indexes = {
            int(each)
            for each in re.findall(r"^/fields/(\d+)", "\n".join(result.locations), re.MULTILINE)
        }
        places = [f"field {version.schema['fields'][each]['name']}: " for each in sorted(indexes)]
        reasons = "; ".join(sorted(result.messages))
        said = f"can't read what version {older.number} wrote: {reasons}"
        yield f"{version.file}: {''.join(places)}{said}"


def numbers(versions: Sequence[Version]) -> Iterator[str]:
    """Yield device fields without a number of their own, which they keep for ever."""
    owners: dict[int, str] = {}
    numbered: dict[str, int] = {}
    for version in versions:
        for name, field in version.fields.items():
            number = field.get("number")
            if "stamped_by" in field:
                if number is not None:
                    yield at(version, name, f"number {number}: the pipeline's fields have none")
            elif not is_tag(number):
                free = max(owners, default=0) + 1
                yield at(
                    version, name, f"number is {found(field, 'number')}; {free} is the next free"
                )
            elif numbered.get(name, number) != number:
                was = numbered[name]
                yield at(version, name, f"number is {number}; it was {was} and stays {was}")
            elif owners.get(number, name) != name:
                free = max(owners) + 1
                owner = owners[number]
                yield at(version, name, f"number {number} is {owner}'s for ever; {free} is free")
            else:
                owners[number], numbered[name] = name, number


def is_tag(number: Any) -> TypeGuard[int]:
    """Return whether a number may be a field's number in Protobuf."""
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    return is_whole and 1 <= number <= NUMBER_MAX and number not in NUMBERS_RESERVED


def metrics(versions: Sequence[Version]) -> Iterator[str]:
    """Yield device fields that are neither part of the identity nor complete metrics."""
    for version in versions:
        for name in IDENTITY:
            if name not in version.device_fields:
                yield at(version, name, "is missing; it is part of what names a reading")
        for name, field in version.device_fields.items():
            if name in IDENTITY:
                continue
            if name in PARTITIONS:
                yield at(version, name, "is what the archive calls a partition; choose another")
            yield from (at(version, name, problem) for problem in unlike_a_metric(field))


def unlike_a_metric(field: Field) -> Iterator[str]:
    """Yield the properties of a metric that a device field lacks."""
    if field["type"] != METRIC_TYPE:
        yield f"type is {json.dumps(field['type'])}; a metric's is {json.dumps(METRIC_TYPE)}"
    if "default" not in field or field["default"] is not None:
        yield f"default is {found(field, 'default')}; a metric's is null"
    if not isinstance(field.get("unit"), str) or not field["unit"].strip():
        yield f"unit is {found(field, 'unit')}; it says °C or the like"
    limits = field.get("minimum"), field.get("maximum")
    for key, limit in zip(("minimum", "maximum"), limits, strict=True):
        if not is_number(limit):
            yield f"{key} is {found(field, key)}; a metric has one, a finite number in its unit"
    low, high = limits
    if is_number(low) and is_number(high) and low >= high:
        yield f"minimum {low} is not below maximum {high}"


def found(field: Field, key: str) -> str:
    """Return a field's property as its file has it, or "missing"."""
    return json.dumps(field[key], ensure_ascii=False) if key in field else "missing"


def is_number(limit: Any) -> TypeGuard[float]:
    """Return whether a limit is a finite number."""
    is_real = isinstance(limit, int | float) and not isinstance(limit, bool)
    return is_real and math.isfinite(limit)


def ranges(versions: Sequence[Version]) -> Iterator[str]:
    """Yield metrics that change their unit or narrow their range: a valid reading stays valid."""
    widest: dict[str, Field] = {}
    for version in versions:
        for name, field in version.metrics.items():
            before = widest.setdefault(name, field)
            if field["unit"] != before["unit"]:
                stays = f"a metric keeps its unit, {before['unit']!r}: give another name"
                yield at(version, name, f"unit is {field['unit']!r}; {stays}")
            for key, inside in (("minimum", 1), ("maximum", -1)):
                now, was = field.get(key), before.get(key)
                if is_number(now) and is_number(was) and (now - was) * inside > 0:
                    side = "below" if key == "minimum" else "above"
                    yield at(version, name, f"{key} is {now}; it was {was}, or {side} it")
            widest[name] = field


READING_RULES: tuple[Rule, ...] = (numbers, metrics, ranges)
