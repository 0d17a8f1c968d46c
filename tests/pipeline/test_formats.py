"""Readings in each format, over HTTP as devices send them, come out as the same windows."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from aws_schema_registry import DataAndSchema, SchemaRegistryClient
from aws_schema_registry.avro import AvroSchema
from aws_schema_registry.serde import KafkaSerializer
from telemetry.domain.times import from_iso

from tests import writers
from tests.pipeline.deployed import Pipeline, at, bearer, becomes, minutes_ago
from tests.pipeline.faults import glue_away, visible_after
from tests.pipeline.mqtt import connected

Documents = list[dict[str, Any]]
FORMATS: dict[str, tuple[str, Callable[[Documents], bytes]]] = {
    "json": ("application/json", lambda sent: writers.lines([sent])),
    "ndjson": ("application/x-ndjson", writers.lines),
    "container": ("application/avro", lambda sent: writers.container(sent, codec="deflate")),
    "container-1": ("avro/binary", lambda sent: writers.container(sent, writers.schema(1))),
    "protobuf": ("application/x-protobuf", writers.readings),
}


def written_by(version: int, schema_id: UUID, sent: Documents) -> bytes:
    data = (writers.datum(each, writers.schema(version)) for each in sent)
    return writers.header(schema_id) + b"".join(data)


def post(pipeline: Pipeline, device_id: str, data: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"/devices/{device_id}/readings"
    named |= bearer(pipeline.token(device_id))
    return pipeline.http.post(path, content=data, headers=named)


def test_each_format_plain_and_zipped_makes_the_same_windows(pipeline: Pipeline) -> None:
    first, second = minutes_ago(10), minutes_ago(9)
    metrics: Any = [{"temperature": 20.0 + index, "humidity": 40.0} for index in range(4)]
    places = [(first, 0.25), (first, 59.999), (second, 0), (second, 30)]
    sent = [at(*place, **each) for place, each in zip(places, metrics, strict=True)]
    formats = FORMATS | {
        f"glue-{version}": ("application/avro", partial(written_by, version, schema_id))
        for version, schema_id in enumerate(pipeline.schema_ids(), 1)
    }
    names = [f"{name}-{zipped}" for name in formats for zipped in ("plain", "zipped")]
    for device_id in names:
        name, _, packing = device_id.rpartition("-")
        content_type, written = formats[name]
        data = written([{**each, "device_id": device_id} for each in sent])
        headers = {"Content_Type": content_type}
        if packing == "zipped":
            data, headers = writers.zipped(data), {**headers, "Content_Encoding": "gzip"}
        answer = post(pipeline, device_id, data, **headers)
        assert answer.status_code == 202, (device_id, answer.text)
        assert answer.json()["accepted"] == 4
        again = post(pipeline, device_id, data, **headers)
        assert again.status_code == 202
    for device_id in names:
        becomes(partial(pipeline.counts, device_id), {first: 2, second: 2}, device_id)
        windows = pipeline.windows(device_id)
        shown = windows[second]["metrics"]["temperature"]
        assert (shown["mean"], shown["stddev"], shown["last"]) == (22.5, 0.5, 23.0)
        latest: Any = pipeline.operator.device(device_id)["latest"]
        assert from_iso(latest["recorded_at"]) == second + 30_000
        assert (latest["temperature"], latest["humidity"]) == (23.0, 40.0)


def test_records_of_the_registrys_public_serializer_are_read(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(7)
    registry = SchemaRegistryClient(pipeline.aws("glue"), pipeline.state.stack, 10, 0.1)
    serializer = KafkaSerializer(registry, schema_naming_strategy=lambda *_of: "reading")
    spin = {"name": "spin", "type": ["null", "double"], "default": None, "doc": "a fleet's own"}
    own = {**writers.schema(2), "fields": [*writers.schema(2)["fields"], spin]}
    firmware = [writers.schema(1), own]  # registered by the deployment, and by the package now
    for second, written_by in enumerate(firmware):
        reading = {"device_id": "producer", **at(minute, second, temperature=20.0), "spin": 5.0}
        known = {field["name"] for field in written_by["fields"]}
        document = {name: value for name, value in reading.items() if name in known}
        data = DataAndSchema(document, AvroSchema(json.dumps(written_by)))
        body = serializer.serialize("readings", data)
        answer = post(pipeline, "producer", body, Content_Type="application/vnd.apache.avro")
        assert answer.status_code == 202, answer.text
    becomes(lambda: pipeline.counts("producer"), {minute: 2}, "the window")


@pytest.mark.alone
def test_while_glue_is_unavailable_only_readings_with_unknown_ids_wait_and_none_is_lost(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(6)
    wind = {"name": "wind", "number": 98, "type": ["null", "double"], "default": None, "doc": "own"}
    own = {**writers.schema(3), "version": 98, "fields": [*writers.schema(3)["fields"], wind]}
    registered = pipeline.aws("glue").register_schema_version(
        SchemaId={"RegistryName": pipeline.state.stack, "SchemaName": "reading"},
        SchemaDefinition=json.dumps(own),
    )
    unknown, known = UUID(registered["SchemaVersionId"]), pipeline.schema_ids()[0]

    def written(second: int) -> bytes:
        document = {"device_id": "offline", **at(minute, second, temperature=20.0)}
        return writers.header(unknown) + writers.datum(document, own)

    avro = {"Content_Type": "application/avro"}
    with visible_after(pipeline, "OverflowUrl", 2), connected(pipeline, "offline") as device:
        with glue_away(pipeline):
            for _ in range(2):
                answer = post(pipeline, "offline", written(0), **avro)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            reading = {"device_id": "offline", **at(minute, 1, temperature=20.0)}
            assert post(pipeline, "offline", written_by(1, known, [reading]), **avro).is_success
            # nobody hears of it over MQTT: tried three times by Lambda, it waits for `drain`
            device.publish("telemetry/offline/batch/avro", written(2))
            becomes(lambda: pipeline.waiting("OverflowUrl"), 1, "what Lambda gave up on")
        becomes(lambda: post(pipeline, "offline", written(0), **avro).is_success, True, "an answer")
        becomes(lambda: pipeline.counts("offline"), {minute: 3}, "the window")
    becomes(lambda: pipeline.waiting("OverflowUrl"), 0, "an empty overflow queue")
    assert pipeline.quarantined("offline") == []


@pytest.mark.parametrize(
    ("data", "headers", "status", "told"),
    [
        (b"<a/>", {"Content_Type": "text/xml"}, 415, "supported are application/json"),
        (b"x", {"Content_Type": "application/json", "Content_Encoding": "br"}, 415, "Unsupported"),
        (b"\x0a\x05ab", {"Content_Type": "application/protobuf"}, 400, "(record 0, byte 0)"),
        (bytes(18), {"Content_Type": "application/avro"}, 400, "neither as Glue's header (03)"),
        (writers.zipped(b" " * 2**21), {"Content_Encoding": "gzip"}, 413, "1048576"),
    ],
    ids=["type", "coding", "protobuf", "avro", "bomb"],
)
def test_an_unreadable_body_is_answered_with_the_readable_formats(
    pipeline: Pipeline, data: bytes, headers: dict[str, str], status: int, told: str
) -> None:
    answer = post(pipeline, "unread", data, **headers)
    assert (answer.status_code, told in answer.text) == (status, True), answer.text
