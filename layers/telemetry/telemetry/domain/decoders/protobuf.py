"""Protobuf: a Reading, or Readings (`repeated Reading readings = 1`), also after Glue's header.

The messages are made from the reading schema, whose `number` is a field's tag. So this decoder
reads every version. Fields with other tags come from newer firmware, and are dropped.
"""

from functools import cache
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from telemetry.domain.decoders import glue
from telemetry.domain.decoders.bounds import MAX_BODY_BYTES, MAX_MESSAGE_BYTES, too_many
from telemetry.domain.reading import FIELDS, METRICS
from telemetry.errors import Rejected, Undecodable

READING, READINGS = "Reading", "Readings"
# In the order of their names: Glue's serializer writes a message's place in this order.
MESSAGES = (READING, READINGS)
TYPES = {
    "string": (FieldDescriptor.TYPE_STRING, 2),  # Protobuf's type, and its wire type
    "long": (FieldDescriptor.TYPE_INT64, 0),
    "double": (FieldDescriptor.TYPE_DOUBLE, 1),
}
VARINT, FIXED64, LENGTH, GROUP, GROUP_END, FIXED32 = range(6)  # wire types
READINGS_TAG = 1 << 3 | LENGTH
VARINT_BYTES = 10
MAX_GROUPS = 100  # nested groups, the limit of Google's parser
MAX_DELIMITED = 5_000  # messages that are searched for a mistake
INSTANT = "recorded_at"
MAX_UNKNOWN = 100  # unknown fields in a Readings, which newer firmware may send


class Part(NamedTuple):
    """A part of the body: its bytes and its offset."""

    data: bytes
    at: int


def documents(data: bytes, message: str, most: int) -> list[dict[str, Any] | Rejected]:
    """Return the documents in a body; `message` is its type, unless Glue's header has it."""
    kind, body = message.rpartition(".")[2], Part(data, 0)
    if data[:1] == bytes([glue.VERSION]):  # no message begins so: it would be field 0
        kind, body = _behind_header(data)
    if kind not in MESSAGES:
        reason = f"is no message of ours; they are {READING} and {READINGS}"
        raise Rejected(reason, field="messageType", value=message)
    try:
        parts = [body] if kind == READING else _split(body, most)
        if not parts:
            raise Rejected(f"has no readings; a request brings 1 to {most}", field="body")
        found = [_document(part, index) for index, part in enumerate(parts)]
    except Rejected:
        _check_framing(body.data, kind)
        raise
    if kind == READINGS and not any(found):  # all fields of the messages were unknown
        _check_framing(body.data, kind)
    return found


def _check_framing(data: bytes, kind: str) -> None:
    """Raise Rejected if an unreadable body is one of the usual mistakes: another framing."""
    single = f"for one {READING} send {READINGS} with it"
    single += f", or over HTTPS add messageType={READING} to the Content-Type"
    if kind == READINGS and _is_reading(data):
        raise Rejected(f"is one {READING}, and {READINGS} is expected; {single}", field="body")
    if _is_delimited(data):
        reason = (
            "has messages with their lengths before them, as writeDelimitedTo writes; "
            f"{READINGS} is expected without; {single}"
        )
        raise Rejected(reason, field="body")


def _is_reading(data: bytes) -> bool:
    """Return whether bytes are a Reading with a time or a metric, and nothing else."""
    if not data or len(data) > MAX_MESSAGE_BYTES:
        return False
    message = _reading()()
    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError):
        return False
    unknown: Any = UnknownFieldSet(message)
    names = {field.name for field, _ in message.ListFields()}
    return len(unknown) == 0 and bool(names - {"device_id"})


def _is_delimited(data: bytes) -> bool:
    """Return whether bytes are messages (Reading or Readings), each after its length."""
    at = 0
    while at < len(data):
        try:
            size, start = _varint(Part(data, 0), at)
            message = data[start : start + size]
            parts = [] if _is_reading(message) else _split(Part(message, 0), MAX_DELIMITED)
        except Rejected:
            return False
        if len(message) < size or not (parts or _is_reading(message)):
            return False
        if not all(_is_reading(part.data) for part in parts):
            return False
        at = start + size
    return at > 0


def _behind_header(data: bytes) -> tuple[str, Part]:
    """Return the type and bytes of a message in Glue's form: header, index of the type, message."""
    message = glue.read(data, MAX_BODY_BYTES)
    if message.rest:
        end = len(data) - len(message.rest)
        raise Undecodable("goes on behind its message; Readings takes several", offset=end)
    index, start = _varint(Part(message.data, glue.HEADER_BYTES), 0)
    if index >= len(MESSAGES):
        reason = f"has message {index} behind Glue's header; 0 is {READING}, 1 {READINGS}"
        raise Undecodable(reason, offset=glue.HEADER_BYTES)
    return MESSAGES[index], Part(message.data[start:], glue.HEADER_BYTES + start)


def _split(body: Part, most: int) -> list[Part]:
    """Return the readings of a Readings, still encoded: they are counted before any is decoded."""
    parts: list[Part] = []
    at = unknown = 0
    while at < len(body.data):
        tag, start = _varint(body, at)
        size, start = _size(body, tag, at, start)
        if tag >> 3 == 0:
            raise Undecodable("has a field of number 0", offset=body.at + at)
        if start + size > len(body.data):
            reason = f"claims {size} bytes and has {len(body.data) - start}"
            raise Undecodable(reason, index=len(parts), offset=body.at + at)
        if tag == READINGS_TAG:
            if len(parts) == most:
                raise Rejected(too_many(most), field="body")
            parts.append(Part(body.data[start : start + size], body.at + start))
        elif tag >> 3 == READINGS_TAG >> 3:
            reason = f"has wire type {tag & 7} for readings; a message has {LENGTH}"
            raise Undecodable(reason, index=len(parts), offset=body.at + at)
        else:
            unknown += 1
        if unknown > MAX_UNKNOWN:
            reason = f"has more than {MAX_UNKNOWN} fields that {READINGS} doesn't have"
            raise Undecodable(reason, offset=body.at + at)
        at = start + size
    return parts


def _size(body: Part, tag: int, at: int, start: int) -> tuple[int, int]:
    """Return a field's size in bytes and its start; 0 and its end if it isn't of a fixed size."""
    match tag & 7:
        case 0:
            return 0, _varint(body, start)[1]
        case 1:
            return 8, start
        case 2:
            return _varint(body, start)
        case 3:
            return 0, _group_end(body, tag >> 3, start)
        case 5:
            return 4, start
        case _:
            raise Undecodable(f"has a field of wire type {tag & 7}", offset=body.at + at)


def _group_end(body: Part, number: int, start: int) -> int:
    """Return the end of a group that began before `start`; groups are skipped."""
    open_groups, at = [number], start
    while open_groups:
        tag, behind = _varint(body, at)
        if tag & 7 == GROUP:
            open_groups.append(tag >> 3)
        elif tag & 7 == GROUP_END:
            if open_groups.pop() != tag >> 3:
                raise Undecodable("ends another group than it began", offset=body.at + at)
        else:
            size, behind = _size(body, tag, at, behind)
            behind += size
        if len(open_groups) > MAX_GROUPS or behind > len(body.data):
            raise Undecodable("has a group that doesn't end", offset=body.at + start)
        at = behind
    return at


def _varint(body: Part, at: int) -> tuple[int, int]:
    """Return the unsigned number at an offset, and the offset of its end."""
    number = 0
    for place, byte in enumerate(body.data[at : at + VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise Undecodable("ends within a number, or has one of over 64 bits", offset=body.at + at)


def _document(part: Part, index: int) -> dict[str, Any] | Rejected:
    """Return the fields of a Reading, or a Rejected; raise Undecodable if the bytes are damaged."""
    if len(part.data) > MAX_MESSAGE_BYTES:
        reason = f"has a reading of {len(part.data)} bytes; one may have {MAX_MESSAGE_BYTES}"
        raise Undecodable(reason, index=index, offset=part.at)
    message = _reading()()
    try:
        message.ParseFromString(part.data)
    except (DecodeError, ValueError) as error:
        reason = f"is not a message {READING}: {error}"
        raise Undecodable(reason, index=index, offset=part.at) from None
    unknown_fields: Any = UnknownFieldSet(message)  # its stubs don't say that it is a sequence
    for unknown in unknown_fields:
        if unknown.field_number in _wire_types():  # a known field, of a wrong wire type
            name, expected = _wire_types()[unknown.field_number]
            reason = f"has wire type {unknown.wire_type} for {name}; it has {expected}"
            raise Undecodable(reason, index=index, offset=part.at)
    document = {field.name: value for field, value in message.ListFields()}
    if INSTANT in document and not document.keys() & set(METRICS):
        metrics = ", ".join(METRICS)
        reason = f"has none of the metrics {metrics}; without `optional`, proto3 leaves out a 0"
        return Rejected(reason, device_id=document.get("device_id"))
    return document


@cache
def _wire_types() -> dict[int, tuple[str, int]]:
    """Return the fields' names and wire types by their numbers."""
    return {
        field["number"]: (name, TYPES[_avro_type(field)][1])
        for name, field in FIELDS.items()
        if "number" in field
    }


@cache
def _reading() -> type[Message]:
    """Return the message class, with a field for each schema field that has a number."""
    file = descriptor_pb2.FileDescriptorProto(
        name="telemetry/reading.proto", package="telemetry", syntax="proto3"
    )
    message = file.message_type.add(name=READING)
    for name, field in FIELDS.items():
        if "number" in field:
            message.oneof_decl.add(name=f"_{name}")
            message.field.add(
                name=name,
                number=field["number"],
                type=TYPES[_avro_type(field)][0],
                label=FieldDescriptor.LABEL_OPTIONAL,
                proto3_optional=True,
                oneof_index=len(message.oneof_decl) - 1,
            )
    pool = DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"telemetry.{READING}"))


def _avro_type(field: dict[str, Any]) -> str:
    """Return a field's type, without null and without its logical type."""
    kind = field["type"]
    if isinstance(kind, list):
        kind = next(each for each in kind if each != "null")
    return str(kind["type"] if isinstance(kind, dict) else kind)
