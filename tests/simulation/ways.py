"""Ways to send: over HTTPS or MQTT, in each of the formats, by old and new firmware.

The bytes are made by the formats' own libraries (`tests/writers.py`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests import writers
from tests.simulation.iot import Publication
from tests.simulation.judge import RANGES

Json = dict[str, Any]
Write = Callable[[list[Any]], bytes]
OLD = ("temperature", "humidity")
"""The metrics of the first version of the schema."""
BASIC_INGEST = "$aws/rules/BatchRule/"
# A container's blocks are told apart by a marker, which is random unless it is given.
MARKER = bytes(range(16))


@dataclass(frozen=True)
class Way:
    """How a device sends; `topic` is the part after its name over MQTT, None over HTTPS."""

    name: str
    write: Write
    content_type: str = "application/json"
    topic: str = ""
    route: str = "/devices/{device_id}/readings"
    prefix: str = ""
    metrics: tuple[str, ...] = tuple(RANGES)
    is_binary: bool = False
    """Records of this format have the schema's types, and name their device."""
    is_single: bool = False
    names_itself: bool = False

    @property
    def is_zipped(self) -> bool:
        return self.name.endswith("-gzip")

    def meant(self, document: Json) -> Json:
        """Return the part of a document that this way sends: old firmware knows fewer metrics."""
        known = ("recorded_at", *self.metrics)
        return {name: value for name, value in document.items() if name in known}

    def written(self, device_id: str, documents: list[Any]) -> bytes:
        """Return documents as a body or a message."""
        if self.is_binary or self.names_itself:
            documents = [{"device_id": device_id, **each} for each in documents]
        data = self.write(documents)
        return writers.zipped(data) if self.is_zipped else data

    def message(self, device_id: str, documents: list[Any]) -> Publication:
        """Return documents as a message of this device."""
        topic = f"{self.prefix}telemetry/{device_id}/{self.topic}"
        return Publication(topic, self.written(device_id, documents), device_id, documents)


def one(documents: list[Any]) -> bytes:
    (document,) = documents
    return json.dumps(document).encode()


def several(documents: list[Any]) -> bytes:
    return json.dumps(documents).encode()


def old_avro(documents: list[Any]) -> bytes:
    return writers.glue(documents, 1)


def new_avro(documents: list[Any]) -> bytes:
    return writers.glue(documents, 3)


def squeezed_avro(documents: list[Any]) -> bytes:
    return writers.glue(documents, 3, compressed=True)


def file(documents: list[Any]) -> bytes:
    return writers.container(documents, codec="deflate", sync_marker=MARKER)


def points(documents: list[Any]) -> bytes:
    """Return documents in InfluxDB's line protocol, with nanoseconds."""
    lines = []
    for document in documents:
        values = {name: value for name, value in document.items() if name in RANGES}
        fields = ",".join(f"{name}={value!r}" for name, value in values.items())
        lines.append(f"weather {fields} {document['recorded_at'] * 1_000_000}\n")
    return "".join(lines).encode()


INFLUX = "/write"
AVRO, PROTOBUF = "application/avro", "application/x-protobuf"
JSON = Way("json", several)
HTTPS = (
    JSON,
    JSON,
    Way("json-gzip", several),
    Way("ndjson", writers.lines, "application/x-ndjson"),
    Way("avro-1", old_avro, AVRO, metrics=OLD, is_binary=True),
    Way("avro-3", new_avro, AVRO, is_binary=True),
    Way("avro-3-gzip", squeezed_avro, AVRO, is_binary=True),
    Way("avro-file", file, AVRO, is_binary=True),
    Way("protobuf", writers.readings, PROTOBUF, is_binary=True),
    Way("influx", points, "text/plain", route=INFLUX),
)
READINGS = Way("mqtt-json", one, topic="readings", is_single=True)
MQTT = (
    READINGS,
    READINGS,
    READINGS,
    Way("mqtt-named", one, topic="readings", is_single=True, names_itself=True),
    Way("mqtt-batch", several, topic="batch/json"),
    Way("mqtt-basic", several, topic="batch/json", prefix=BASIC_INGEST),
    Way("mqtt-lines-gzip", writers.lines, topic="batch/ndjson-gzip", prefix=BASIC_INGEST),
    Way("mqtt-avro-1", old_avro, topic="batch/avro", metrics=OLD, is_binary=True),
    Way("mqtt-avro-3-gzip", new_avro, topic="batch/avro-gzip", is_binary=True),
    Way(
        "mqtt-protobuf",
        writers.readings,
        topic="batch/protobuf",
        prefix=BASIC_INGEST,
        is_binary=True,
    ),
)
WAYS = (*HTTPS, *MQTT)
NEWEST = tuple(way for way in WAYS if way.metrics != OLD)
