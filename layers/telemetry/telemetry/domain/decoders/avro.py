"""Avro: records behind Glue's headers, or an object container file.

Each record is read by the schema that it was written with, and resolved to the newest of
`schemas/reading/`. So old and new firmware may post side by side. A field that the writer's schema
lacks is absent; a field that only the writer's schema has is dropped.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from io import BytesIO
from struct import error as StructError  # noqa: N812
from typing import Any, NamedTuple
from uuid import UUID

from fastavro import parse_schema, schemaless_reader
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, UnknownType

from telemetry.domain.decoders import avro_logical, avro_schema, container, glue
from telemetry.domain.decoders.avro_logical import Convert
from telemetry.domain.decoders.bounds import MAX_BODY_BYTES, too_many
from telemetry.domain.reading import FIELDS, STAMPED, shown
from telemetry.errors import Rejected, Undecodable

Schema = dict[str, Any]
# fastavro's errors for bytes that don't fit a schema, and for an invalid schema.
UNREADABLE = (
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    StructError,
    SchemaResolutionError,
)
NAME = "telemetry.Reading"
NO_TYPES: Mapping[str, Any] = {}
WRITERS_KEPT = 32  # parsed schemas in memory, so that requests needn't parse them again
TOO_SHORT = (EOFError, LookupError, StructError)  # fastavro's errors where the bytes end too early


class Writer(NamedTuple):
    """The schema with which records were written.

    `reader` is the schema that they are resolved to, None if that isn't needed. `converts` has
    functions for the values of fields with logical types.
    """

    schema: Schema
    reader: Schema | None
    converts: Mapping[str, Convert]

    def source(self, data: bytes) -> BytesIO:
        """Return a stream of records; only resolving skips fields, which needs `Whole`."""
        return Whole(data) if self.reader else BytesIO(data)


class Whole(BytesIO):
    """A stream that raises EOFError if it has fewer bytes than a read asks for.

    fastavro skips values of a fixed size without checking that their bytes exist. Twelve bytes can
    claim an array of 2^60 doubles, which it would skip for ever.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if len(data) != size:  # or the size is below 0
            raise EOFError
        return data


def documents(data: bytes, writer: Callable[[UUID], Schema], most: int) -> list[Schema]:
    """Return the documents in a body: its first bytes say whether it is a container file."""
    if data.startswith(container.MAGIC):
        return _of_container(data, most)
    if data[:1] == bytes([glue.VERSION]):
        return _of_messages(data, writer, most)
    reason = f"begins with {data[:4].hex(' ') or 'nothing'}, neither as Glue's header (03) nor as"
    raise Undecodable(f"{reason} an object container file (4f 62 6a 01)", offset=0)


def _of_messages(data: bytes, writer: Callable[[UUID], Schema], most: int) -> list[Schema]:
    """Return the documents of records; a header is before the first, and before another schema.

    A record can't begin with the 3 of a header: as the length of a device id it would be negative.
    """
    found: list[Schema] = []
    unpacked = 0
    rest = data
    while rest:
        at = len(data) - len(rest)
        message = glue.read(rest, MAX_BODY_BYTES - unpacked, index=len(found), at=at)
        written_by = _of_id(message.schema_id, writer(message.schema_id))
        if message.rest or rest[1] == glue.COMPRESSED:
            unpacked += len(message.data)
            end = _read_into(found, message.data, written_by, most, (at, False))
            rest = message.rest
        else:
            end = _read_into(found, message.data, written_by, most, (at + glue.HEADER_BYTES, True))
            rest = message.data[end:]
    return found


def _of_container(data: bytes, most: int) -> list[Schema]:
    file = container.File(data)
    written_by = _of_text(file.schema)
    found: list[Schema] = []
    for block in file.blocks():
        if block.records > most - len(found):
            raise Rejected(too_many(most), field="body")
        begun = len(found)
        source = written_by.source(block.data)
        for _ in range(block.records):
            found.append(_record(source, written_by, len(found), block.at))
        if source.tell() != len(block.data):
            reason = f"has bytes behind the {block.records} records of a block"
            raise Undecodable(reason, index=begun, offset=block.at)
    if not found:
        raise Rejected(f"has no records; a request brings 1 to {most}", field="body")
    return found


def _read_into(
    found: list[Schema], data: bytes, written_by: Writer, most: int, place: tuple[int, bool]
) -> int:
    """Read records up to the end of `data`, or up to the next header; return that offset in it.

    `place`: the offset of `data` in the body, and whether a header may follow.
    """
    at, headers_follow = place
    source = written_by.source(data)
    end = 0
    while True:
        if len(found) == most:
            raise Rejected(too_many(most), field="body")
        found.append(_record(source, written_by, len(found), at))
        if source.tell() == end:  # none of its schema's fields takes a byte
            raise Undecodable("has a record of no bytes", index=len(found) - 1, offset=at + end)
        end = source.tell()
        if end >= len(data) or (headers_follow and data[end] == glue.VERSION):
            return end


def _record(source: BytesIO, written_by: Writer, index: int, at: int) -> Schema:
    begun = source.tell()
    try:
        record: Any = schemaless_reader(source, written_by.schema, written_by.reader)
    except UNREADABLE as error:
        if isinstance(error, TOO_SHORT) and source.tell() == len(source.getbuffer()):
            reason = "ends within a record"
            raise Undecodable(reason, index=index, offset=at + source.tell()) from None
        reason = f"can't be read as a reading: {shown(str(error))}"
        raise Undecodable(reason, index=index, offset=at + begun) from None
    for name, convert in written_by.converts.items():
        record[name] = convert(record[name])
    # a stamped field is null unless a device has set it
    return {
        name: value for name, value in record.items() if value is not None or name not in STAMPED
    }


def reader_schema(types: Mapping[str, Any] = NO_TYPES) -> Schema:
    """Return the newest reading schema, parsed; some of its fields with other types."""
    fields = [
        {key: field[key] for key in ("name", "type", "default") if key in field}
        for field in FIELDS.values()
    ]
    plain = [
        {**field, "type": types.get(field["name"]) or _plain(field["type"])} for field in fields
    ]
    return _parse({"type": "record", "name": NAME, "fields": plain})


@cache
def _ours() -> Schema:
    return reader_schema()


def _plain(kind: Any) -> Any:
    """Return a type without its logical type: a time stays a number."""
    if isinstance(kind, list):
        return [_plain(each) for each in kind]
    return kind["type"] if isinstance(kind, dict) else kind


def _of_id(schema_id: UUID, schema: Schema) -> Writer:
    """Return the writer of a registered schema; parse it again only if the object has changed."""
    known = _registered.get(schema_id)
    if known is None or known[0] is not schema:
        if len(_registered) == WRITERS_KEPT:
            _registered.clear()
        known = _registered[schema_id] = schema, _of_text(json.dumps(schema))
    return known[1]


_registered: dict[UUID, tuple[Schema, Writer]] = {}


@lru_cache(maxsize=WRITERS_KEPT)
def _of_text(text: str) -> Writer:
    """Return the writer of a schema, checked and parsed; raise Rejected if the schema is invalid.

    Its record may have any name. If all of its fields are a reading's, with the same types, records
    aren't resolved, which takes a third of the time.
    """
    checked = avro_schema.read(text)
    types, converts = avro_logical.plan(checked.fields)
    parsed = _parse({**checked.schema, "name": NAME})
    ours = {each["name"]: each["type"] for each in _ours()["fields"]}
    is_ours = not types and all(
        ours.get(field["name"]) == field["type"] for field in parsed["fields"]
    )
    reader = reader_schema(types) if types else _ours()
    return Writer(parsed, None if is_ours else reader, converts)


def _parse(schema: Schema) -> Schema:
    try:
        parsed: Any = parse_schema(schema)
    except (SchemaParseException, UnknownType, *UNREADABLE) as error:
        reason = f"is not an Avro schema: {shown(str(error))}"
        raise Rejected(reason, field="schema") from None
    return dict(parsed)
