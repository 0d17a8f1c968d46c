"""The bytes of each format, read by other decoders."""

import gzip
import io
import json
import uuid
from pathlib import Path

import pytest
from fastavro import schemaless_reader
from telemetry_client.errors import Invalid
from telemetry_client.formats import Avro, Json
from telemetry_client.reading import Queued, schemas

SCHEMAS = Path(__file__).parents[2] / "schemas" / "reading"
ID = "12345678-1234-1234-1234-123456789abc"
READINGS = [
    Queued(1, 1_800_000_000_000, '{"temperature":21.5}'),
    Queued(2, 1_800_000_000_001, '{"temperature":22,"humidity":40.25}'),
]
DOCUMENTS = [
    {"recorded_at": 1_800_000_000_000, "temperature": 21.5},
    {"recorded_at": 1_800_000_000_001, "temperature": 22, "humidity": 40.25},
]


def test_the_packages_schemas_are_the_projects() -> None:
    """Copy them again when a version is added: schemas/reading/ to the package's folder."""
    package = SCHEMAS.parents[1] / "clients/python/src/telemetry_client/schemas/reading"
    mine = {path.name: path.read_bytes() for path in package.iterdir()}
    assert mine == {path.name: path.read_bytes() for path in SCHEMAS.iterdir()}
    assert [schema["version"] for schema in schemas()] == list(range(1, len(mine) + 1))


def test_json_is_a_list_of_the_apis_documents() -> None:
    body = Json().encode("pump-17", READINGS)
    assert json.loads(body.data) == DOCUMENTS
    assert (body.content_type, body.content_encoding, body.name) == (
        "application/json",
        None,
        "json",
    )


def test_gzip_has_the_same_content_in_fewer_bytes() -> None:
    many = [READINGS[0]._replace(recorded_at_ms=READINGS[0][1] + each) for each in range(500)]
    plain, squeezed = Json().encode("pump-17", many), Json(gzip=True).encode("pump-17", many)
    assert gzip.decompress(squeezed.data) == plain.data
    assert (squeezed.content_encoding, squeezed.name) == ("gzip", "json-gzip")
    assert len(squeezed.data) * 5 < len(plain.data)


@pytest.mark.parametrize("is_squeezed", [False, True])
def test_avro_records_are_behind_glues_header(is_squeezed: bool) -> None:
    body = Avro(ID, 2, gzip=is_squeezed).encode("pump-17", READINGS)
    stream = io.BytesIO(gzip.decompress(body.data) if is_squeezed else body.data)
    writer = json.loads((SCHEMAS / "v2.avsc").read_text("utf-8"))
    assert stream.read(18) == b"\x03\x00" + uuid.UUID(ID).bytes
    for document in DOCUMENTS:
        expected = dict(document)
        record = schemaless_reader(stream, writer)
        assert isinstance(record, dict)
        assert record["device_id"] == "pump-17"
        assert round(record["recorded_at"].timestamp() * 1000) == expected.pop("recorded_at")
        assert {name: record[name] for name in expected} == expected
    assert stream.read() == b""
    assert body.content_type == "application/vnd.apache.avro+glue"


def test_a_metric_that_the_avro_version_lacks_goes_as_json() -> None:
    readings = [*READINGS, Queued(3, 1_800_000_000_002, '{"battery":3.7}')]
    body = Avro(ID, 1).encode("pump-17", readings)
    assert body.content_type == "application/json"
    assert [each.get("battery") for each in json.loads(body.data)] == [None, None, 3.7]
    packed = Avro(ID, 1, gzip=True).encode("pump-17", readings)
    assert (packed.content_type, packed.content_encoding) == ("application/json", "gzip")
    assert gzip.decompress(packed.data) == body.data


@pytest.mark.parametrize(
    ("schema_id", "version", "message"),
    [
        ("no", None, "schema_version_id: 'no' is not a schema version's id, such as"),
        (None, None, "schema_version_id: None is not"),
        (ID, 99, "version: 99 is not one of 1, 2, 3"),
    ],
)
def test_an_impossible_avro_format_is_refused(
    schema_id: str, version: int | None, message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        Avro(schema_id, version)
