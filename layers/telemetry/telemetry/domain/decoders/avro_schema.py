"""Avro schemas from outside: checked against bounds before anything is decoded with them.

With some schemas, a decoder works on a few bytes for ever. `null` takes no byte, so an array of
2^60 nulls is short. A name stands for a type of any size. A recursive type nests as deep as the
bytes say. With a schema that passes this check, decoding takes time in proportion to the bytes.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from telemetry.domain.decoders.bounds import (
    MAX_BODY_BYTES,
    MAX_DECIMAL_DIGITS,
    MAX_NODES_A_BYTE,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_NODES,
)
from telemetry.domain.reading import shown
from telemetry.errors import Rejected

# the least number of bytes of a value
PRIMITIVES = {"null": 0, "boolean": 1, "int": 1, "long": 1}
PRIMITIVES |= {"float": 4, "double": 8, "bytes": 1, "string": 1}
DECIMAL = "decimal"
NO_FIELDS: "Mapping[str, Checked]" = {}


class Logical(NamedTuple):
    """A logical type; `scale` is a decimal's."""

    name: str
    scale: int = 0


class Checked(NamedTuple):
    """A type. A value takes a decoder through `nodes` types, and has at least `least` bytes.

    `schema` has no logical types, so values are read as they are written; the type's own logical
    type is in `logical`. If `schema` is only a name, `whole` has the definition. `branches` are a
    union's, `fields` a record's.
    """

    schema: Any
    nodes: int
    least: int
    logical: Logical | None = None
    whole: Any = None
    branches: "tuple[Checked, ...]" = ()
    fields: "Mapping[str, Checked]" = NO_FIELDS


def read(text: bytes | str) -> Checked:
    """Return a record's schema from JSON, within bounds; raise Rejected."""
    if len(text) > MAX_SCHEMA_BYTES:
        raise _refused(f"has {len(text)} bytes; it may have {MAX_SCHEMA_BYTES}")
    try:
        return within_bounds(json.loads(text))
    except ValueError as error:
        raise _refused(f"is not JSON: {error}") from None
    except RecursionError:
        raise _refused("is nested too deeply") from None


def within_bounds(schema: Any) -> Checked:
    """Return a record's schema with nothing in it but types and names; raise Rejected."""
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise _refused("is not of a record", schema)
    return _checked(schema, "", {}, 0)


def _checked(schema: Any, space: str, names: dict[str, Checked | None], depth: int) -> Checked:
    if depth > MAX_SCHEMA_DEPTH:
        raise _refused(f"is nested more than {MAX_SCHEMA_DEPTH} deep")
    if isinstance(schema, str):
        return _named(schema, space, names)
    if isinstance(schema, list):
        return _union(schema, space, names, depth)
    if not isinstance(schema, dict):
        raise _refused("has what is not a type", schema)
    match schema.get("type"):
        case "record":
            return _record(schema, space, names, depth)
        case "enum" | "fixed" as kind:
            return _leaf(schema, kind, space, names)
        case "array":
            return _repeated(
                schema, "items", _checked(schema.get("items"), space, names, depth + 1)
            )
        case "map":
            values = _checked(schema.get("values"), space, names, depth + 1)
            return _repeated(schema, "values", values)
        case inner:
            checked = _checked(inner, space, names, depth + 1)
            logical = _logical(schema, checked)
            return checked._replace(logical=logical) if logical else checked


def _logical(schema: dict[str, Any], checked: Checked) -> Logical | None:
    """Return a type's logical type; None if it has none, or an invalid one.

    https://avro.apache.org/docs/1.12.0/specification/#logical-types
    """
    name = schema.get("logicalType")
    if not isinstance(name, str):
        return None
    if name != DECIMAL:
        return Logical(name)
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision:
        return None
    if checked.schema != "bytes" and not checked.whole:  # of a fixed
        return None
    if precision > MAX_DECIMAL_DIGITS:
        raise _refused(f"has a decimal of more than {MAX_DECIMAL_DIGITS} digits", precision)
    return Logical(name, scale)


def _named(name: str, space: str, names: dict[str, Checked | None]) -> Checked:
    if name in PRIMITIVES:
        return Checked(name, 1, PRIMITIVES[name])
    full = name if "." in name or not space else f"{space}.{name}"
    if full not in names:
        raise _refused("names a type that it doesn't have", name)
    checked = names[full]
    if checked is None:
        raise _refused("has a recursive type, which isn't read here", name)
    return checked._replace(schema=full)


def _full_name(schema: dict[str, Any], space: str, names: dict[str, Checked | None]) -> str:
    name, own = schema.get("name"), schema.get("namespace", space)
    if not isinstance(name, str) or not isinstance(own, str):
        raise _refused("has a type without a name", schema)
    full = name if "." in name or not own else f"{own}.{name}"
    if full in names or full in PRIMITIVES:
        raise _refused("has two types of one name", full)
    names[full] = None  # until it is checked as a whole; a use before that is recursive
    return full


def _record(
    schema: dict[str, Any], space: str, names: dict[str, Checked | None], depth: int
) -> Checked:
    full, listed = _full_name(schema, space, names), schema.get("fields")
    if not isinstance(listed, list):
        raise _refused("has a record without fields", full)
    fields, kinds, nodes, least = [], {}, 1, 0
    for field in listed:
        if not isinstance(field, dict) or not isinstance(field.get("name"), str):
            raise _refused(f"has a field without a name in {shown(full)}", field)
        kind = _checked(field.get("type"), full.rpartition(".")[0], names, depth + 1)
        nodes, least = _bounded(nodes + kind.nodes), least + kind.least
        fields.append({"name": field["name"], "type": kind.schema})
        kinds[field["name"]] = kind
    record = {"type": "record", "name": full, "fields": fields}
    checked = Checked(record, nodes, least, whole=record, fields=kinds)
    names[full] = checked
    return checked


def _leaf(
    schema: dict[str, Any], kind: str, space: str, names: dict[str, Checked | None]
) -> Checked:
    full = _full_name(schema, space, names)
    if kind == "fixed":
        size = schema.get("size")
        if type(size) is not int or not 0 <= size <= MAX_BODY_BYTES:
            raise _refused(f"has a fixed that is not of 0 to {MAX_BODY_BYTES} bytes", size)
        fixed = {"type": "fixed", "name": full, "size": size}
        checked = Checked(fixed, 1, size, whole=fixed)
        checked = checked._replace(logical=_logical(schema, checked))
    else:
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(each, str) for each in symbols):
            raise _refused("has an enum without symbols", full)
        checked = Checked({"type": "enum", "name": full, "symbols": symbols}, 1, 1)
    names[full] = checked
    return checked


def _union(schema: list[Any], space: str, names: dict[str, Checked | None], depth: int) -> Checked:
    if not schema or any(isinstance(each, list) for each in schema):
        raise _refused("has a union of nothing or of unions", schema)
    branches = [_checked(each, space, names, depth + 1) for each in schema]
    nodes = _bounded(1 + sum(each.nodes for each in branches))
    least = 1 + min(each.least for each in branches)
    schemas = [each.schema for each in branches]
    return Checked(schemas, nodes, least, branches=tuple(branches))


def _repeated(schema: dict[str, Any], of: str, item: Checked) -> Checked:
    """Return an array or a map; a map's keys take at least a byte each."""
    least = item.least + (of == "values")
    if item.nodes > MAX_NODES_A_BYTE * least:
        raise _refused(
            f"has {of} of {item.nodes} types in {least} bytes, which repeat", item.schema
        )
    return Checked({"type": schema["type"], of: item.schema}, _bounded(1 + item.nodes), 1)


def _bounded(nodes: int) -> int:
    if nodes > MAX_SCHEMA_NODES:
        raise _refused(f"has more than {MAX_SCHEMA_NODES} types, names written out")
    return nodes


def _refused(reason: str, value: Any = None) -> Rejected:
    return Rejected(reason, field="schema", value=value)
