"""Formats of a batch: JSON, or Avro with the header of AWS Glue's schema registry."""

import io
import json
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

from telemetry_client.errors import Invalid
from telemetry_client.reading import Queued, schemas

GZIP_LEVEL = 6
GZIP_WBITS = 31
GLUE_HEADER_VERSION = 3
GLUE_UNCOMPRESSED = 0


class Body(NamedTuple):
    """A batch as bytes; `name` is its format's name in an MQTT topic."""

    data: bytes
    content_type: str
    content_encoding: str | None
    name: str
    is_plain: bool


class Format(Protocol):
    """A format of a batch."""

    def encode(self, device_id: str, readings: Sequence[Queued]) -> Body:
        """Return the readings as bytes."""


@dataclass(frozen=True)
class Json:
    """A JSON list, compressed or not."""

    gzip: bool = False

    def encode(self, device_id: str, readings: Sequence[Queued]) -> Body:
        """Return the list, without the device: the path or topic names it."""
        del device_id
        documents = (f'{{"recorded_at":{each[1]},{each[2][1:]}' for each in readings)
        data = f"[{','.join(documents)}]".encode()
        if not self.gzip:
            return Body(data, "application/json", None, "json", is_plain=True)
        squeezed = compressed(data)
        return Body(squeezed, "application/json", "gzip", "json-gzip", is_plain=False)


class Avro:
    """Glue's header, followed by Avro records. Needs the extra `avro`."""

    CONTENT_TYPE = "application/vnd.apache.avro+glue"

    def __init__(
        self, schema_version_id: str, version: int | None = None, *, gzip: bool = False
    ) -> None:
        """Take the reading schema's `version` (default: the newest) and its id in the registry.

        Raise Invalid if the id isn't a UUID, or this package doesn't have the version.
        """
        try:
            self._id = uuid.UUID(schema_version_id)
        except (ValueError, AttributeError, TypeError):
            reason = "is not a schema version's id, such as 12345678-1234-1234-1234-123456789abc"
            raise Invalid("schema_version_id", schema_version_id, reason) from None
        known = {int(schema["version"]): schema for schema in schemas()}
        self._version = max(known) if version is None else version
        if self._version not in known:
            raise Invalid("version", version, f"is not one of {', '.join(map(str, known))}")
        self._metrics = {each["name"] for each in known[self._version]["fields"] if "unit" in each}
        self._gzip = gzip
        parsed(self._version)  # raises now if fastavro is missing

    def encode(self, device_id: str, readings: Sequence[Queued]) -> Body:
        """Return the records; as JSON if a metric isn't in the schema's version."""
        from fastavro import schemaless_writer  # noqa: PLC0415 - an extra

        out = io.BytesIO()
        out.write(bytes([GLUE_HEADER_VERSION, GLUE_UNCOMPRESSED]) + self._id.bytes)
        for reading in readings:
            metrics = json.loads(reading.metrics)
            if metrics.keys() - self._metrics:
                return Json(gzip=self._gzip).encode(device_id, readings)
            record = {"device_id": device_id, "recorded_at": reading.recorded_at_ms, **metrics}
            schemaless_writer(out, parsed(self._version), record)
        data = out.getvalue()
        if self._gzip:
            return Body(compressed(data), self.CONTENT_TYPE, "gzip", "avro-gzip", is_plain=False)
        return Body(data, self.CONTENT_TYPE, None, "avro", is_plain=False)


@cache
def parsed(version: int) -> Any:
    """Return a version's schema as fastavro parses it; raise Invalid without fastavro."""
    try:
        from fastavro import parse_schema  # noqa: PLC0415 - an extra
    except ImportError:
        reason = "needs fastavro: pip install 'telemetry-client[avro]'"
        raise Invalid("format", "avro", reason) from None
    (schema,) = [each for each in schemas() if each["version"] == version]
    return parse_schema(schema)


def compressed(data: bytes) -> bytes:
    """Return gzip data without a timestamp, so that equal batches give equal bytes."""
    squeeze = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WBITS)
    return squeeze.compress(data) + squeeze.flush()
