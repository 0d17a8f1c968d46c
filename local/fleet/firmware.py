"""Encodes readings in Avro, by the version of the reading schema that a device's firmware has."""

import io
import uuid
from collections.abc import Mapping, Sequence
from functools import cache

from fastavro import schemaless_writer
from telemetry_client.formats import GLUE_HEADER_VERSION, GLUE_UNCOMPRESSED, Avro, parsed
from telemetry_client.reading import schemas

from local.fleet.reading import Reading

CONTENT_TYPE = Avro.CONTENT_TYPE
OLDEST, NEWEST = 1, max(int(schema["version"]) for schema in schemas())
SchemaIds = Mapping[int, uuid.UUID]
"""The registry's id of each version of the reading schema."""


def schema_ids(output: str) -> SchemaIds:
    """Return the ids in the stack's output ReadingSchemaIds, which is `id=version,…`."""
    pairs = (entry.partition("=") for entry in output.split(","))
    return {int(version): uuid.UUID(text) for text, _, version in pairs}


@cache
def metrics(version: int) -> frozenset[str]:
    """Return the metrics of a version."""
    (schema,) = [each for each in schemas() if each["version"] == version]
    return frozenset(field["name"] for field in schema["fields"] if "unit" in field)


def encode(readings: Sequence[Reading], version: int, schema_id: uuid.UUID) -> bytes:
    """Return the readings as Avro records behind the header of Glue's schema registry."""
    out = io.BytesIO()
    out.write(bytes([GLUE_HEADER_VERSION, GLUE_UNCOMPRESSED]) + schema_id.bytes)
    for reading in readings:
        schemaless_writer(out, parsed(version), reading.body())
    return out.getvalue()
