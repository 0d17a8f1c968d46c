"""Formats: decode a request's body by its Content-Type.

The result is a list of documents. A document is a dict of a reading's fields, for
`validation.parse` to check. Where a decoder can refuse one document alone (a line of NDJSON), a
Rejected stands in its place in the list.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from telemetry.domain.decoders import text
from telemetry.domain.decoders.compression import unpacked, within_limit
from telemetry.errors import Unsupported


class Schemas(Protocol):
    """The registered schemas with which records were written."""

    def writer(self, schema_id: UUID) -> dict[str, Any]:
        """Return a version's Avro schema; raise Rejected if it isn't registered, or Unavailable."""
        ...


class Body(NamedTuple):
    """A request's body, and the headers that describe it."""

    data: bytes
    content_type: str | None = None
    content_encoding: str | None = None


def decode(body: Body, schemas: Schemas, most: int) -> list[Any]:
    """Return the 1 to `most` documents in a body.

    Raise Unsupported, TooLarge, Undecodable or another Rejected for a body that can't be read, and
    Unavailable if the schema registry doesn't answer now.
    """
    within_limit(body.data)
    media_type, parameters = _parsed(body.content_type or "")
    if media_type not in MEDIA_TYPES:
        reason = f"is not supported; supported are {', '.join(filter(None, MEDIA_TYPES))}"
        raise Unsupported(reason, field="Content-Type", value=media_type)
    data = unpacked(body.data, body.content_encoding)
    return MEDIA_TYPES[media_type](data, parameters, schemas, most)


def _parsed(content_type: str) -> tuple[str, dict[str, str]]:
    """Return a media type and its parameters, names in lower case."""
    media_type, *rest = content_type.split(";")
    pairs = [each.partition("=") for each in rest]
    parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
    return media_type.strip().lower(), parameters


Decoder = Callable[[bytes, dict[str, str], Schemas, int], list[Any]]


def _json(data: bytes, _parameters: dict[str, str], _schemas: Schemas, most: int) -> list[Any]:
    return text.json_documents(data, most)


def _lines(data: bytes, _parameters: dict[str, str], _schemas: Schemas, most: int) -> list[Any]:
    return text.lines(data, most)


# The binary decoders' packages are imported by the first request that needs them.


def _avro(data: bytes, _parameters: dict[str, str], schemas: Schemas, most: int) -> list[Any]:
    from telemetry.domain.decoders import avro  # noqa: PLC0415

    return avro.documents(data, schemas.writer, most)


def _protobuf(data: bytes, parameters: dict[str, str], _schemas: Schemas, most: int) -> list[Any]:
    from telemetry.domain.decoders import protobuf  # noqa: PLC0415

    message = parameters.get("messagetype") or parameters.get("proto") or protobuf.READINGS
    return protobuf.documents(data, message, most)


MEDIA_TYPES: dict[str, Decoder] = {
    "": _json,  # no Content-Type
    "application/json": _json,
    "text/json": _json,
    "text/plain": _json,  # a browser's fetch sends this with a string
    "application/x-www-form-urlencoded": _json,  # curl -d sends this with any data
    "application/x-ndjson": _lines,
    "application/jsonl": _lines,
    "application/avro": _avro,
    "application/x-avro": _avro,
    "application/vnd.apache.avro": _avro,
    "application/vnd.apache.avro+glue": _avro,
    "avro/binary": _avro,
    "application/x-protobuf": _protobuf,
    "application/protobuf": _protobuf,
    "application/vnd.google.protobuf": _protobuf,
}
