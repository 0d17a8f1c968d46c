"""Encodes readings as devices do, with the formats' own libraries, not the pipeline's code."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable
from functools import cache
from typing import Any
from uuid import UUID

import fastavro
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from telemetry.domain.schema import versions

from tests.fakes import schema_id

Document = dict[str, Any]

# As schemas/reading has them; written out, so that a changed number shows.
NUMBERS = {
    "device_id": (1, "STRING"),
    "recorded_at": (2, "INT64"),
    "temperature": (3, "DOUBLE"),
    "humidity": (4, "DOUBLE"),
    "pressure": (5, "DOUBLE"),
    "battery": (6, "DOUBLE"),
}


def schema(version: int) -> Document:
    return versions("reading")[version - 1]


def datum(document: Document, written_by: Any) -> bytes:
    """Return one record's bytes, without a header."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, written_by, document)
    return out.getvalue()


def header(schema_id: UUID, compression: int = 0) -> bytes:
    return bytes([3, compression]) + schema_id.bytes


def glue(documents: Iterable[Document], version: int = 3, *, compressed: bool = False) -> bytes:
    """Return records of one schema version behind one header."""
    data = b"".join(datum(each, schema(version)) for each in documents)
    data = zlib.compress(data) if compressed else data
    return header(schema_id(version), 5 if compressed else 0) + data


def container(
    documents: Iterable[Document], written_by: Any = None, codec: str = "null", **options: Any
) -> bytes:
    """Return an object container file."""
    out = io.BytesIO()
    fastavro.writer(out, written_by or schema(3), documents, codec=codec, **options)
    return out.getvalue()


@cache
def messages() -> tuple[type[Message], type[Message]]:
    """Return the classes Reading and Readings, as a device's generated code has them."""
    file = descriptor_pb2.FileDescriptorProto(
        name="device.proto", package="device", syntax="proto3"
    )
    reading = file.message_type.add(name="Reading")
    for index, (name, (number, kind)) in enumerate(NUMBERS.items()):
        reading.oneof_decl.add(name=f"_{name}")
        reading.field.add(
            name=name,
            number=number,
            type=getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind}"),
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            proto3_optional=True,
            oneof_index=index,
        )
    file.message_type.add(name="Readings").field.add(
        name="readings",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
        type_name=".device.Reading",
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    pool = DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"device.{name}") for name in ("Reading", "Readings"))
    reading_class, readings_class = map(message_factory.GetMessageClass, found)
    return reading_class, readings_class


def reading(document: Document) -> bytes:
    return messages()[0](**document).SerializeToString()


def readings(documents: Iterable[Document]) -> bytes:
    return messages()[1](readings=documents).SerializeToString()


def lines(documents: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


# Records that other producers put on the stream.

KPL_MAGIC = bytes.fromhex("f3899ac2")


@cache
def _kpl_messages() -> type[Message]:
    """Return KPL's AggregatedRecord, by its aggregation-format.md."""
    file = descriptor_pb2.FileDescriptorProto(name="kpl.proto", package="kpl", syntax="proto2")
    record = file.message_type.add(name="Record")
    for number, name, kind in (
        (1, "partition_key_index", "UINT64"),
        (2, "explicit_hash_key_index", "UINT64"),
        (3, "data", "BYTES"),
    ):
        field = record.field.add(name=name, number=number)
        field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind}")
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    whole = file.message_type.add(name="AggregatedRecord")
    for number, name in enumerate(("partition_key_table", "explicit_hash_key_table"), 1):
        field = whole.field.add(name=name, number=number)
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    field = whole.field.add(name="records", number=3, type_name=".kpl.Record")
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    pool = DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kpl.AggregatedRecord"))


def kpl(records: Iterable[bytes]) -> bytes:
    """Return an aggregated record of the Kinesis Producer Library."""
    message: Any = _kpl_messages()(partition_key_table=["a", "b"], explicit_hash_key_table=["1"])
    for index, data in enumerate(records):
        message.records.add(partition_key_index=index % 2, explicit_hash_key_index=0, data=data)
    encoded: bytes = message.SerializeToString()
    return KPL_MAGIC + encoded + hashlib.md5(encoded, usedforsecurity=False).digest()
