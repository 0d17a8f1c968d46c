"""Formats: what devices write is read back, and what isn't as it should be is told where."""

import io
import json
import tracemalloc
import zlib
from functools import cache
from typing import Any
from uuid import UUID

import fastavro
import pytest
from aws_schema_registry import DataAndSchema, SchemaRegistryClient
from aws_schema_registry.avro import AvroSchema
from aws_schema_registry.serde import KafkaSerializer
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.decoders.compression import unpacked
from telemetry.domain.formats import MEDIA_TYPES, Body, decode
from telemetry.errors import Rejected, TooLarge, Unavailable, Undecodable, Unsupported

from tests import writers
from tests.fakes import KnownSchemas, schema_id

AT_MS = 1_795_224_600_000  # 2026-11-21T01:30:00Z
ONE = {"device_id": "pump-1", "recorded_at": AT_MS, "temperature": 21.5}
TWO = {"device_id": "pump-2", "recorded_at": AT_MS + 1, "temperature": -0.5, "humidity": 40.0}
THREE = {"device_id": "pump-3", "recorded_at": AT_MS + 2, "pressure": 1013.25, "battery": 3.7}
MOST = 500
AVRO, PROTOBUF = "application/avro", "application/x-protobuf"


def decoded(
    data: bytes, content_type: str | None, encoding: str | None = None, most: int = MOST
) -> list[Any]:
    """The documents, without the metrics that Avro's resolution says are null."""
    documents = decode(Body(data, content_type, encoding), KnownSchemas(), most)
    return [
        {name: value for name, value in each.items() if value is not None}
        if isinstance(each, dict)
        else each
        for each in documents
    ]


def refused(data: bytes, content_type: str | None, encoding: str | None = None) -> Rejected:
    with pytest.raises(Rejected) as raised:
        decoded(data, content_type, encoding)
    return raised.value


WRITTEN = {
    "JSON": (json.dumps([ONE, TWO, THREE]).encode(), "application/json"),
    "JSON that says nothing": (json.dumps([ONE, TWO, THREE]).encode(), None),
    "NDJSON": (writers.lines([ONE, TWO, THREE]), "application/x-ndjson"),
    "Avro with Glue's header": (writers.glue([ONE, TWO, THREE]), AVRO),
    "Avro with Glue's header, zlib": (writers.glue([ONE, TWO, THREE], compressed=True), AVRO),
    "an Avro container": (writers.container([ONE, TWO, THREE]), "avro/binary"),
    "an Avro container, deflate": (writers.container([ONE, TWO, THREE], codec="deflate"), AVRO),
    "an Avro container of blocks": (writers.container([ONE, TWO, THREE], sync_interval=1), AVRO),
    "Protobuf": (writers.readings([ONE, TWO, THREE]), PROTOBUF),
    "Protobuf with Glue's header": (
        writers.header(schema_id(3)) + b"\x01" + writers.readings([ONE, TWO, THREE]),
        PROTOBUF,
    ),
    "Protobuf with Glue's header, zlib": (
        writers.header(schema_id(3), 5)
        + zlib.compress(b"\x01" + writers.readings([ONE, TWO, THREE])),
        PROTOBUF,
    ),
}


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_device_writes_is_read_back(name: str, encoding: str | None) -> None:
    data, content_type = WRITTEN[name]
    data = writers.zipped(data) if encoding else data
    assert decoded(data, content_type, encoding) == [ONE, TWO, THREE]


readings = st.builds(
    lambda device_id, at_ms, metrics: {"device_id": device_id, "recorded_at": at_ms, **metrics},
    st.from_regex(r"\A[A-Za-z0-9_-]{1,128}\Z"),
    st.integers(0, 253_402_300_799_999),
    st.dictionaries(
        st.sampled_from(["temperature", "humidity"]), st.floats(allow_nan=False), min_size=1
    ),
)


@given(st.lists(readings, min_size=1, max_size=4), st.sampled_from([1, 2, 3]))
def test_any_readings_come_out_of_each_format_as_they_went_in(
    batch: list[dict[str, Any]], version: int
) -> None:
    written_by = writers.schema(version)
    assert decoded(writers.lines(batch), "application/jsonl") == batch
    assert decoded(writers.glue(batch, version), AVRO) == batch
    assert decoded(writers.container(batch, written_by, "deflate"), AVRO) == batch
    assert decoded(writers.readings(batch), PROTOBUF) == batch
    single = f"{PROTOBUF}; messageType=telemetry.Reading"
    assert decoded(writers.reading(batch[0]), single) == batch[:1]


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("Application/JSON; charset=utf-8", json.dumps(ONE).encode()),
        ("application/x-www-form-urlencoded", json.dumps(ONE).encode()),
        ("text/plain;charset=UTF-8", json.dumps(ONE).encode()),
        ("application/vnd.apache.avro+glue", writers.glue([ONE])),
        ('application/protobuf; proto="telemetry.Reading"', writers.reading(ONE)),
        ("application/vnd.google.protobuf;messagetype=Reading", writers.reading(ONE)),
    ],
)
def test_a_content_type_may_have_parameters_and_any_case(content_type: str, data: bytes) -> None:
    assert decoded(data, content_type) == [ONE]


def test_an_unknown_content_type_is_refused_with_those_that_are_known() -> None:
    error = refused(b"<reading/>", "application/xml; charset=utf-8")
    assert isinstance(error, Unsupported)
    assert (error.field, error.value) == ("Content-Type", "application/xml")
    assert all(name in error.reason for name in MEDIA_TYPES)


# Compression


def test_an_unknown_content_encoding_is_refused_with_those_that_are_known() -> None:
    error = refused(b"{}", "application/json", "br")
    assert isinstance(error, Unsupported)
    assert (error.field, error.value) == ("Content-Encoding", "br")
    assert error.reason == "is not supported; supported is one of gzip, deflate, identity"
    assert isinstance(refused(b"{}", "application/json", "gzip, gzip"), Unsupported)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "Identity"])
def test_a_body_that_the_gateway_unpacked_already_is_read(encoding: str) -> None:
    for data, content_type in WRITTEN.values():
        assert decoded(data, content_type, encoding) == [ONE, TWO, THREE]


def deflated(data: bytes, window_bits: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize("window_bits", [15, 9, -15])
def test_deflate_is_a_zlib_stream_or_one_without_its_header(window_bits: int) -> None:
    for data, content_type in WRITTEN.values():
        assert decoded(deflated(data, window_bits), content_type, "deflate") == [ONE, TWO, THREE]


def test_a_deflate_body_is_one_stream_and_whole() -> None:
    stream = deflated(writers.lines([ONE]), 15)
    assert isinstance(refused(stream + b"x", "application/x-ndjson", "deflate"), Undecodable)
    for end in range(2, len(stream)):
        assert isinstance(refused(stream[:end], "application/x-ndjson", "deflate"), Undecodable)


def test_text_that_begins_as_zlib_does_is_text() -> None:
    assert unpacked(b"x^2 value=1", "deflate") == b"x^2 value=1"
    assert unpacked(b"x", "deflate") == b"x"


@pytest.mark.parametrize("encoding", [None, "identity", "deflate", "gzip", "x-gzip", "X-GZip "])
def test_a_body_that_begins_as_gzip_is_unpacked_whatever_its_header_says(
    encoding: str | None,
) -> None:
    for data, content_type in WRITTEN.values():
        assert decoded(writers.zipped(data), content_type, encoding) == [ONE, TWO, THREE]


def test_a_gzip_body_is_one_member_and_whole() -> None:
    member = writers.zipped(writers.lines([ONE]))
    error = refused(member + member, "application/x-ndjson", "gzip")
    assert isinstance(error, Undecodable)
    assert error.offset == len(member)
    for end in range(2, len(member)):
        assert isinstance(refused(member[:end], "application/x-ndjson", "gzip"), Undecodable)


@cache
def bomb(megabytes: int, window_bits: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, window_bits)
    parts = [stream.compress(b"0" * 1_048_576) for _ in range(megabytes)]
    return b"".join([*parts, stream.flush()])


@pytest.mark.parametrize("content_type", MEDIA_TYPES)
def test_a_gzip_bomb_is_too_large(content_type: str) -> None:
    assert isinstance(refused(bomb(64, 31), content_type, "gzip"), TooLarge)
    assert isinstance(refused(bomb(64, 15), content_type, "deflate"), TooLarge)
    assert isinstance(refused(bomb(64, -15), content_type, "deflate"), TooLarge)


def test_a_bomb_behind_glues_header_or_in_a_containers_block_is_too_large() -> None:
    data = writers.header(schema_id(3), 5) + bomb(64, 15)
    assert isinstance(refused(data, AVRO), TooLarge)
    assert isinstance(refused(data, PROTOBUF), TooLarge)
    block = bomb(64, -15)
    start = writers.container([], codec="deflate")
    data = start + b"\x02" + long(len(block)) + block + start[-16:]
    assert isinstance(refused(data, AVRO), TooLarge)


def test_what_is_beyond_the_limit_is_never_unpacked() -> None:
    data = bomb(64, 31)
    tracemalloc.start()
    try:
        refused(data, None, "gzip")
        assert tracemalloc.get_traced_memory()[1] < 8 * 1_048_576
    finally:
        tracemalloc.stop()


def test_what_was_compressed_has_no_header_within() -> None:
    inner = writers.glue([ONE], compressed=True)
    data = writers.header(schema_id(3), 5)
    data += zlib.compress(writers.datum(TWO, writers.schema(3)) + inner)
    error = refused(data, AVRO)
    assert isinstance(error, Undecodable)
    assert error.index == 1


def test_bombs_that_are_each_within_the_limit_are_too_large_together() -> None:
    record = writers.glue([{**ONE, "device_id": "x" * 600_000}], compressed=True)
    assert len(decoded(record, AVRO)) == 1
    assert isinstance(refused(record * 2, AVRO), TooLarge)


def test_blocks_that_are_each_within_the_limit_are_too_large_together() -> None:
    long_id = {**ONE, "device_id": "x" * 600_000}
    one = writers.container([long_id], codec="deflate")
    assert len(decoded(one, AVRO)) == 1
    two = writers.container([long_id, long_id], codec="deflate", sync_interval=1)
    assert isinstance(refused(two, AVRO), TooLarge)


def test_a_mebibyte_is_read_and_a_byte_more_is_too_large() -> None:
    assert decoded(json.dumps(ONE).encode().ljust(1_048_576), None) == [ONE]
    assert isinstance(refused(json.dumps(ONE).encode().ljust(1_048_577), None), TooLarge)
    packed = writers.zipped(json.dumps(ONE).encode().ljust(1_048_576))
    assert decoded(packed, None, " GZip") == [ONE]
    packed = writers.zipped(json.dumps(ONE).encode().ljust(1_048_577))
    assert isinstance(refused(packed, None, "gzip"), TooLarge)


# Lines


def test_a_bad_line_is_refused_alone() -> None:
    data = writers.lines([ONE]) + b'{"recorded_at": \n\n \xff\r\n' + b"[" * 100_000 + b"\n"
    first, cut, binary, deep, last = decoded(data + json.dumps(TWO).encode(), "application/jsonl")
    assert (first, last) == (ONE, TWO)
    assert cut.reason.startswith("is not JSON: Expecting value")
    assert (cut.field, cut.value) == (None, '{"recorded_at":')
    assert binary.reason.startswith("is not JSON: 'utf-8' codec can't decode byte 0xff")
    assert deep.reason == "is nested too deeply"


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n"])
def test_no_line_is_no_batch(data: bytes) -> None:
    assert refused(data, "application/x-ndjson").reason.startswith("has no lines")


# How many


@pytest.mark.parametrize("name", WRITTEN)
def test_a_request_brings_no_more_than_it_may(name: str) -> None:
    data, content_type = WRITTEN[name]
    assert decoded(data, content_type, most=3) == [ONE, TWO, THREE]
    with pytest.raises(Rejected, match="a request brings 1 to 2"):
        decoded(data, content_type, most=2)


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", AVRO),
        (b"", PROTOBUF),
        (writers.container([]), AVRO),
        (writers.header(schema_id(3)), AVRO),
        (b"[]", None),
    ],
)
def test_nothing_is_no_batch(data: bytes, content_type: str | None) -> None:
    refused(data, content_type)


# Avro


def test_readers_and_writers_of_all_versions_mix_in_one_request() -> None:
    old, new = writers.glue([ONE, TWO], 1), writers.glue([THREE], 3)
    packed = writers.glue([TWO, ONE], 2, compressed=True)
    assert decoded(old + new + packed + old, AVRO) == [ONE, TWO, THREE, TWO, ONE, ONE, TWO]


def test_fields_that_only_a_newer_firmware_knows_are_passed_over() -> None:
    newer = json.loads(json.dumps(writers.schema(3)))
    newer["fields"][2:2] = [
        {"name": "firmware", "type": "string"},
        {"name": "axes", "type": {"type": "array", "items": "float"}},
        {"name": "tags", "type": {"type": "map", "values": ["null", "string"]}},
        {"name": "mode", "type": {"type": "enum", "name": "Mode", "symbols": ["ON", "OFF"]}},
        {"name": "mac", "type": {"type": "fixed", "name": "Mac", "size": 6}},
        {"name": "last_mode", "type": ["null", "Mode"], "default": None},
    ]
    more = {"firmware": "4.1", "axes": [0.5, 1.5], "tags": {"a": None, "b": "c"}}
    more |= {"mode": "OFF", "mac": b"\0\1\2\3\4\5", "last_mode": "ON"}
    added = UUID(int=4)
    data = writers.header(added) + writers.datum({**ONE, **more}, newer)
    documents = decode(Body(data * 2, AVRO), KnownSchemas({added: newer}), MOST)
    assert [each["temperature"] for each in documents] == [21.5, 21.5]
    assert not documents[0].keys() & more.keys()
    assert decoded(writers.container([{**ONE, **more}], newer), AVRO) == [ONE]


def test_a_writer_with_narrower_numbers_is_widened() -> None:
    fields = [("device_id", "string"), ("recorded_at", "long"), ("temperature", "float")]
    fields += [("humidity", "int")]
    written_by = {
        "type": "record",
        "name": "Reading",
        "fields": [{"name": name, "type": kind} for name, kind in fields],
    }
    sent = {**ONE, "humidity": 40}
    assert decoded(writers.container([sent], written_by), AVRO) == [sent]


@pytest.mark.parametrize("name", ["recorded_at", "temperature"])
def test_a_writer_whose_field_is_no_number_is_refused(name: str) -> None:
    fields = [
        {"name": name, "type": "string"} if field["name"] == name else field
        for field in writers.schema(3)["fields"]
    ]
    written_by = {"type": "record", "name": "Reading", "fields": fields}
    data = writers.container([{**ONE, name: "2026-11-21T01:30:00Z"}], written_by)
    assert "can't be read as a reading" in refused(data, AVRO).reason


def of_types(types: dict[str, Any]) -> dict[str, Any]:
    """A writer's schema: these fields, and a reading's that aren't among them."""
    fields = {"device_id": "string", "recorded_at": "long", "temperature": "double", **types}
    listed = [{"name": name, "type": kind} for name, kind in fields.items()]
    return {"type": "record", "name": "Measured", "namespace": "fleet", "fields": listed}


def plain(schema: Any) -> Any:
    """A schema without logical types, so that a library writes numbers and bytes as they are."""
    if isinstance(schema, list):
        return [plain(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "logicalType" in schema and schema["type"] != "fixed":
        return plain(schema["type"])
    return {key: plain(value) for key, value in schema.items() if key != "logicalType"}


def container_of(types: dict[str, Any], *documents: dict[str, Any]) -> bytes:
    """A file whose header has the logical types; its records are written without them."""
    written_by = of_types(types)
    schema, sync = json.dumps(written_by).encode(), bytes(range(16))
    records = b"".join(writers.datum(each, plain(written_by)) for each in documents)
    entry = varint(11) + b"avro.schema" + varint(len(schema)) + schema
    header = b"Obj\x01" + varint(1) + entry + varint(0) + sync
    return header + varint(len(documents)) + varint(len(records)) + records + sync


def varint(number: int) -> bytes:
    out, number = b"", number * 2
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def logical(name: str, of: str = "long", /, **more: Any) -> dict[str, Any]:
    return {"type": of, "logicalType": name, **more}


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (logical("timestamp-millis"), AT_MS),
        (logical("timestamp-micros"), AT_MS * 1000),
        (logical("timestamp-micros"), AT_MS * 1000 + 999),
        (logical("timestamp-nanos"), AT_MS * 1_000_000 + 999_999),
        (["null", logical("timestamp-micros")], AT_MS * 1000),
        ([logical("timestamp-micros"), "null"], AT_MS * 1000),
        ({"type": logical("timestamp-micros")}, AT_MS * 1000),
        (logical("of another's own"), AT_MS),
        ("double", float(AT_MS)),
        (["null", "double"], float(AT_MS)),
    ],
)
def test_an_avro_time_is_read_in_the_unit_that_the_writers_schema_says(
    kind: Any, written: float
) -> None:
    data = container_of({"recorded_at": kind}, {**ONE, "recorded_at": written})
    assert decoded(data, AVRO) == [ONE]
    written_by = of_types({"recorded_at": kind})
    schemas = KnownSchemas({UUID(int=5): written_by})
    record = writers.datum({**ONE, "recorded_at": written}, plain(written_by))
    (found,) = decode(Body(writers.header(UUID(int=5)) + record, AVRO), schemas, MOST)
    assert found["recorded_at"] == AT_MS


def test_an_avro_time_before_1970_is_floored() -> None:
    data = container_of(
        {"recorded_at": logical("timestamp-micros")}, {**ONE, "recorded_at": -1_500}
    )
    assert decoded(data, AVRO) == [{**ONE, "recorded_at": -2}]


@pytest.mark.parametrize("unit", ["millis", "micros", "nanos"])
def test_a_local_timestamp_is_refused_by_name_with_the_type_that_is_read(unit: str) -> None:
    for kind in (
        logical(f"local-timestamp-{unit}"),
        ["null", logical(f"local-timestamp-{unit}")],
    ):
        error = refused(container_of({"recorded_at": kind}, ONE), AVRO)
        assert error.field == "recorded_at"
        assert error.reason == (
            f"is a local-timestamp-{unit}, a clock without a zone; "
            f"timestamp-{unit} is in UTC, and is read"
        )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (logical("date", "int"), "date"),
        (logical("time-millis", "int"), "time-millis"),
        (logical("time-micros"), "time-micros"),
        (logical("decimal", "bytes", precision=13), "decimal"),
        (logical("duration", "fixed", name="D", size=12), "duration"),
        (logical("uuid", "string"), "uuid"),
    ],
)
def test_what_is_no_instant_is_refused_by_the_name_of_its_type(kind: Any, name: str) -> None:
    written = {"int": 5, "long": 5, "bytes": b"5", "fixed": bytes(12), "string": "x"}
    data = container_of({"recorded_at": kind}, {**ONE, "recorded_at": written[kind["type"]]})
    error = refused(data, AVRO)
    assert (error.field, error.reason) == (
        "recorded_at",
        f"is a {name}; an instant is a timestamp-millis",
    )


AS_FIXED = logical("decimal", "fixed", name="fleet.D", size=4, precision=9, scale=2)


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (logical("decimal", "bytes", precision=4, scale=2), b"\x08\x66", 21.5),
        (logical("decimal", "bytes", precision=4, scale=1), b"\xff\x29", -21.5),
        (logical("decimal", "bytes", precision=4), b"\x15", 21.0),
        (logical("decimal", "bytes", precision=3, scale=3), b"", 0.0),
        (["null", logical("decimal", "bytes", precision=4, scale=2)], b"\x08\x66", 21.5),
        ([logical("decimal", "bytes", precision=4, scale=2), "null"], b"\x08\x66", 21.5),
        (["double", logical("decimal", "bytes", precision=4, scale=2)], 21.5, 21.5),
        (AS_FIXED, b"\x00\x00\x08\x66", 21.5),
        (["null", AS_FIXED], b"\xff\xff\xff\xff", -0.01),
        # the double nearest to 0.1234567890123456789012345678901234567
        (
            logical("decimal", "bytes", precision=37, scale=37),
            (1234567890123456789012345678901234567).to_bytes(16, "big"),
            0.12345678901234568,
        ),
    ],
)
def test_a_decimal_metric_is_the_double_nearest_to_it(
    kind: Any, written: Any, value: float
) -> None:
    (found,) = decoded(container_of({"temperature": kind}, {**ONE, "temperature": written}), AVRO)
    assert found == {**ONE, "temperature": value}


def test_two_metrics_may_be_decimals_of_one_name() -> None:
    data = container_of(
        {"temperature": AS_FIXED, "humidity": ["null", "fleet.D"]},
        {**ONE, "temperature": b"\0\0\x08\x66", "humidity": b"\0\0\x0f\xa0"},
    )
    assert decoded(data, AVRO) == [{**ONE, "temperature": 21.5, "humidity": 40.0}]


def test_a_decimal_beyond_a_double_is_refused_with_its_reading_alone() -> None:
    kind = logical("decimal", "bytes", precision=4)
    data = container_of({"temperature": kind}, ONE | {"temperature": b"\x7f" + bytes(500)})
    assert decoded(data, AVRO) == [{**ONE, "temperature": float("inf")}]


def test_a_decimal_of_absurdly_many_digits_is_refused() -> None:
    kind = logical("decimal", "bytes", precision=10**9, scale=10**9)
    error = refused(container_of({"temperature": kind}, ONE | {"temperature": b"1"}), AVRO)
    assert error.reason == "has a decimal of more than 100 digits"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (logical("timestamp-millis"), "timestamp-millis"),
        (logical("date", "int"), "date"),
        (["null", logical("time-micros")], "time-micros"),
        (logical("duration", "fixed", name="D", size=12), "duration"),
    ],
)
def test_a_metric_that_is_a_time_is_refused_by_the_name_of_its_type(kind: Any, name: str) -> None:
    written = bytes(12) if name == "duration" else 5
    error = refused(container_of({"temperature": kind}, ONE | {"temperature": written}), AVRO)
    assert (error.field, error.reason) == (
        "temperature",
        f"is a {name}, and not a number of °C",
    )


def test_a_decimal_that_is_not_as_avro_says_is_no_decimal() -> None:
    kind = logical("decimal", "bytes", precision=2, scale=3)
    data = container_of({"temperature": kind}, ONE | {"temperature": b"1"})
    assert "can't be read as a reading" in refused(data, AVRO).reason


def test_a_union_of_times_of_several_units_is_refused() -> None:
    kind = [logical("timestamp-micros"), "int"]
    error = refused(container_of({"recorded_at": kind}, ONE), AVRO)
    assert error.field == "recorded_at"
    assert "different units" in error.reason


@pytest.mark.parametrize(
    "kind",
    [
        "float",
        {"type": "float"},
        ["null", "float"],
        ["long", "float"],
        logical("timestamp-millis", "float"),
    ],
)
def test_an_instant_of_32_bits_is_refused_by_the_name_of_its_type(kind: Any) -> None:
    error = refused(container_of({"recorded_at": kind}, ONE), AVRO)
    assert error.field == "recorded_at"
    assert error.reason.startswith("is a float, ")
    assert error.reason.endswith("; a timestamp-millis or a double can")


@pytest.mark.parametrize("kind", ["double", ["null", "double"], ["long", "double"]])
def test_an_instant_may_be_a_double(kind: Any) -> None:
    sent = {**ONE, "recorded_at": float(AT_MS)}
    assert decoded(container_of({"recorded_at": kind}, sent), AVRO) == [sent]


def test_a_device_id_may_be_a_uuid_that_is_a_string() -> None:
    name = "c4a0e1f2-0000-4000-8000-000000000001"
    data = container_of({"device_id": logical("uuid", "string")}, {**ONE, "device_id": name})
    assert decoded(data, AVRO) == [{**ONE, "device_id": name}]
    fixed = logical("uuid", "fixed", name="U", size=16)
    data = container_of({"device_id": fixed}, {**ONE, "device_id": bytes(16)})
    error = refused(data, AVRO)
    assert (error.field, error.reason) == (
        "device_id",
        "is a uuid of 16 bytes; a string is read",
    )


def test_what_the_pipeline_stamps_is_left_out_where_it_is_null_and_kept_for_refusal() -> None:
    stamped = {**ONE, "received_at": AT_MS}
    (document,) = decode(Body(writers.glue([ONE]), AVRO), KnownSchemas(), MOST)
    assert "received_at" not in document
    assert decoded(writers.glue([stamped]), AVRO) == [stamped]


def test_an_unknown_schema_id_is_refused_and_a_registry_that_is_away_is_not_the_devices_fault() -> (
    None
):
    data = writers.header(UUID(int=77)) + b"\0"
    error = refused(data, AVRO)
    assert (error.field, error.value) == ("schema_id", str(UUID(int=77)))
    schemas = KnownSchemas()
    schemas.down = True
    with pytest.raises(Unavailable):
        decode(Body(data, AVRO), schemas, MOST)


def test_an_avro_record_that_is_cut_says_which_and_where() -> None:
    data = writers.glue([ONE, TWO])
    error = refused(data[:-3], AVRO)
    assert isinstance(error, Undecodable)
    assert (error.index, error.offset) == (1, len(data) - 3)
    assert error.reason == f"ends within a record (record 1, byte {len(data) - 3})"


def test_bytes_that_are_no_avro_of_ours_say_what_would_be() -> None:
    error = refused(b"\xc3\x01" + bytes(20), AVRO)  # the single-object encoding
    assert "begins with c3 01 00 00, neither as Glue's header (03) nor as" in error.reason
    unknown = refused(b"\x03\x07" + bytes(16), AVRO)
    assert "has compression 7 in Glue's header; 0 is none, 5 zlib" in unknown.reason


def test_a_containers_codec_that_is_not_read_is_refused_with_those_that_are() -> None:
    error = refused(writers.container([ONE], codec="bzip2"), AVRO)
    assert (error.field, error.value) == ("avro.codec", "bzip2")
    assert error.reason == "is not supported; supported are null, deflate"


def test_a_schema_that_is_no_readings_is_refused() -> None:
    other = {"type": "record", "name": "Other", "fields": [{"name": "a", "type": "string"}]}
    assert "device_id" in refused(writers.container([{"a": "b"}], other), AVRO).reason


def test_a_serializer_of_the_aws_glue_schema_registry_is_understood() -> None:
    """The public package's own serializer, with a client that gives our id."""

    class Client(SchemaRegistryClient):  # type: ignore[misc]  # has no types
        def __init__(self) -> None:
            pass

        def get_or_register_schema_version(self, *_: Any, **__: Any) -> Any:
            return type("Version", (), {"version_id": schema_id(1)})

    serializer = KafkaSerializer(Client())
    written_by = AvroSchema(json.dumps(writers.schema(1)))
    data = [
        serializer.serialize("readings", DataAndSchema(each, written_by)) for each in (ONE, TWO)
    ]
    assert decoded(data[0], AVRO) == [ONE]
    assert decoded(b"".join(data), AVRO) == [ONE, TWO]


# Protobuf


def test_a_reading_in_protobuf_is_these_bytes() -> None:
    # by hand: field 1, length 1, "a"; field 2, varint 300; field 3, a double: 1.0
    data = bytes.fromhex("0a0161 10ac02 19000000000000f03f")
    wanted = [{"device_id": "a", "recorded_at": 300, "temperature": 1.0}]
    assert decoded(data, f"{PROTOBUF}; messageType=Reading") == wanted
    assert decoded(b"\x0a" + bytes([len(data)]) + data, PROTOBUF) == wanted


def test_metrics_that_are_absent_or_zero_are_told_apart_in_protobuf() -> None:
    sent = {"device_id": "a", "recorded_at": 0, "temperature": 0.0}
    assert decoded(writers.readings([sent]), PROTOBUF) == [sent]


def test_fields_of_other_numbers_are_a_newer_firmwares() -> None:
    newer = writers.reading(ONE) + b"\xa2\x06\x03abc" + b"\xa8\x06\x01"  # fields 100 and 101
    data = b"\x0a" + bytes([len(newer)]) + newer + b"\x12\x01x" + b"\x18\x05" + b"\x25abcd"
    assert decoded(data, PROTOBUF) == [ONE]


def test_a_field_of_another_wire_type_is_not_passed_over() -> None:
    as_float = b"\x0a\x01a\x10\x01\x1d\x00\x00\x80\x3f"  # field 3 in four bytes
    error = refused(b"\x0a" + bytes([len(as_float)]) + as_float, PROTOBUF)
    assert isinstance(error, Undecodable)
    assert error.reason.startswith("has wire type 5 for temperature; it has 1")
    assert error.index == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x05ab", "claims 5 bytes and has 2 (record 0, byte 0)"),
        (b"\x0a\x05abcd", "claims 5 bytes and has 4 (record 0, byte 0)"),
        (b"\x0a", "ends within a number, or has one of over 64 bits (byte 1)"),
        (b"\x0a" + b"\xff" * 10, "ends within a number, or has one of over 64 bits (byte 1)"),
        (b"\x0b\x0c", "has wire type 3 for readings; a message has 2 (record 0, byte 0)"),
        (b"\x14", "has a field of wire type 4 (byte 0)"),
        (b"\x13\x0c", "ends another group than it began (byte 1)"),
        (b"\x13\x08\x05", "ends within a number, or has one of over 64 bits (byte 3)"),
        (b"\x13\x0a\x05x", "has a group that doesn't end (byte 1)"),
        (b"\x13" * 101, "has a group that doesn't end (byte 1)"),
        (b"\x08\x01", "has wire type 0 for readings; a message has 2 (record 0, byte 0)"),
        (b"\x00\x01", "has a field of number 0 (byte 0)"),
        (b"\x12\x00" * 101, "has more than 100 fields that Readings doesn't have (byte 200)"),
    ],
)
def test_bytes_that_are_no_readings_message_say_where(data: bytes, reason: str) -> None:
    assert refused(data, PROTOBUF).reason == reason


def test_an_unknown_group_is_passed_over_as_googles_parser_does() -> None:
    # within: a number, a text, 8 and 4 bytes, and a group
    group = bytes.fromhex("4b 0805 120161 19 0000000000000000 25 00000000 53 0801 54 4c")
    data = writers.readings([ONE])
    assert decoded(data + group, PROTOBUF) == decoded(group + data, PROTOBUF) == [ONE]


NOT_OPTIONAL = "; without `optional`, proto3 leaves out a 0"


def test_a_reading_without_a_metric_is_told_of_proto3s_zeros_and_refused_alone() -> None:
    none = {"device_id": "a", "recorded_at": AT_MS}
    first, second = decoded(writers.readings([none, ONE]), PROTOBUF)
    assert isinstance(first, Rejected)
    assert first.reason == (
        f"has none of the metrics temperature, humidity, pressure, battery{NOT_OPTIONAL}"
    )
    assert second == ONE


@pytest.mark.parametrize("device_id", ["pump-1", "p1", "", "x" * 100])
def test_one_reading_that_is_not_said_to_be_one_is_told_how_to_be(device_id: str) -> None:
    document = {**ONE, "device_id": device_id} if device_id else {**ONE, "humidity": 5.0}
    document = {name: value for name, value in document.items() if device_id or name != "device_id"}
    data = writers.reading(document)
    error = refused(data, PROTOBUF)
    assert error.reason == (
        "is one Reading, and Readings is expected; "
        "for one Reading send Readings with it, "
        "or over HTTPS add messageType=Reading to the Content-Type"
    )
    assert decoded(data, f"{PROTOBUF}; messageType=Reading") == [document]


@pytest.mark.parametrize("kind", ["Reading", "Readings"])
def test_messages_behind_their_lengths_are_told_to_be_that(kind: str) -> None:
    one, both = writers.reading(ONE), writers.readings([ONE, TWO])
    for messages in ([one], [one, one], [both]):
        data = b"".join(bytes([len(each)]) + each for each in messages)
        assert "writeDelimitedTo" in refused(data, f"{PROTOBUF};messageType={kind}").reason


def test_a_reading_that_is_no_message_says_which() -> None:
    bad = b"\x0a\x02\xff\xfe"  # a device id that isn't UTF-8
    data = writers.readings([ONE]) + b"\x0a" + bytes([len(bad)]) + bad
    error = refused(data, PROTOBUF)
    assert isinstance(error, Undecodable)
    assert (error.index, error.offset) == (1, len(data) - len(bad))
    assert "is not a message Reading" in error.reason


def test_a_reading_of_more_than_8_kib_is_refused() -> None:
    others = len(writers.reading({**ONE, "device_id": "x" * 8_000})) - 8_000
    longest = "x" * (8_192 - others)
    most = {**ONE, "device_id": longest}
    assert decoded(writers.readings([most]), PROTOBUF) == [most]
    data = writers.readings([{**ONE, "device_id": longest + "x"}])
    assert "one may have 8192" in refused(data, PROTOBUF).reason


def test_a_message_that_is_not_ours_is_refused_with_those_that_are() -> None:
    error = refused(writers.reading(ONE), f"{PROTOBUF}; messageType=a.Window")
    assert (error.field, error.value) == ("messageType", "a.Window")
    assert error.reason == "is no message of ours; they are Reading and Readings"


def test_a_message_behind_a_compressed_one_is_not_passed_over() -> None:
    data = WRITTEN["Protobuf with Glue's header, zlib"][0]
    error = refused(data * 2, PROTOBUF)
    assert error.reason == (
        f"goes on behind its message; Readings takes several (byte {len(data)})"
    )


def test_glues_message_index_says_which_message_it_is() -> None:
    # as its MessageIndexFinder does: the place among the sorted names, as an unsigned varint
    data = writers.header(schema_id(3))
    assert decoded(data + b"\x00" + writers.reading(ONE), PROTOBUF) == [ONE]
    assert decoded(data + b"\x01" + writers.readings([ONE, TWO]), PROTOBUF) == [ONE, TWO]
    assert "has message 2 behind Glue's header" in refused(data + b"\x02", PROTOBUF).reason


# Schemas from outside


def long(number: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    return out.getvalue()


def hostile(written_by: Any, data: bytes, records: int = 1) -> bytes:
    """A container whose header has this schema and whose one block this data."""
    start = writers.container([], {"type": "record", "name": "Reading", "fields": []})
    sync = start[-16:]
    text = json.dumps(written_by).encode()
    meta = long(1) + long(11) + b"avro.schema" + long(len(text)) + text + b"\0"
    return b"Obj\x01" + meta + sync + long(records) + long(len(data)) + data + sync


def with_field(kind: Any) -> dict[str, Any]:
    fields = [{"name": "x", "type": kind}, *writers.schema(3)["fields"]]
    return {"type": "record", "name": "Reading", "fields": fields}


def empty(name: str, *fields: Any) -> dict[str, Any]:
    listed = [{"name": f"f{at}", "type": kind} for at, kind in enumerate(fields)]
    return {"type": "record", "name": name, "fields": listed}


def nested(depth: int) -> Any:
    kind: Any = "null"
    for _ in range(depth):
        kind = {"type": "array", "items": kind if kind != "null" else "long"}
    return kind


FIXED = {"type": "fixed", "name": "F", "size": 4}


def doubled(times: int) -> Any:
    kind: Any = empty("R0", "null", "null")
    for at in range(times):
        kind = empty(f"R{at + 1}", kind, f"R{at}")
    return kind


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"type": "array", "items": "null"}, "has items of 1 types in 0 bytes, which repeat"),
        ({"type": "array", "items": empty("E")}, "has items of 1 types in 0 bytes"),
        ({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, "in 0 bytes"),
        (
            {"type": "map", "values": empty("W", *["null"] * 40)},
            "has values of 41 types in 1 bytes",
        ),
        (
            {"type": "array", "items": ["null", FIXED, empty("U", *["null"] * 10)]},
            "has items of 14 types in 1 bytes",
        ),
        ({"type": "fixed", "name": "F", "size": 2**40}, "has a fixed that is not of 0 to 1048576"),
        ({"type": "fixed", "name": "F", "size": -1}, "has a fixed that is not of 0 to 1048576"),
        (empty("L", ["null", "L"]), "has a recursive type"),
        (nested(20), "is nested more than 16 deep"),
        (doubled(12), "has more than 1000 types, names written out"),
        (empty("N", *["null"] * 1_000), "has more than 1000 types"),
        ("Unknown", "names a type that it doesn't have"),
        ({"type": "enum", "name": "M", "symbols": 3}, "has an enum without symbols"),
        ({"type": "record", "name": "B", "fields": 3}, "has a record without fields"),
        ({"type": "record", "fields": []}, "has a type without a name"),
        ([], "has a union of nothing or of unions"),
        (None, "has what is not a type"),
        ({"type": {"type": {"type": 3}}}, "has what is not a type"),
        ({"type": "enum", "name": "S", "symbols": ["a b"]}, "is not an Avro schema"),
        (empty("Reading"), "has two types of one name"),
    ],
)
def test_a_hostile_writers_schema_is_refused_before_anything_is_read_by_it(
    kind: Any, reason: str
) -> None:
    error = refused(hostile(with_field(kind), b"\xff" * 64), AVRO)
    assert error.field == "schema"
    assert reason in error.reason
    added = UUID(int=9)
    with pytest.raises(Rejected, match="schema"):
        decode(
            Body(writers.header(added) + b"\0", AVRO), KnownSchemas({added: with_field(kind)}), MOST
        )


@pytest.mark.parametrize(("nulls", "is_read"), [(2, True), (3, False)])
def test_an_array_has_up_to_four_types_for_a_byte(nulls: int, is_read: bool) -> None:
    kind = {"type": "array", "items": empty("I", "boolean", *["null"] * nulls)}
    data = hostile(with_field(kind), b"\0" + writers.datum(ONE, writers.schema(3)))
    if is_read:
        assert decoded(data, AVRO) == [ONE]
    else:
        assert "has items of 5 types in 1 bytes" in refused(data, AVRO).reason


@pytest.mark.parametrize("kind", ["boolean", "float", "double", FIXED, "string"])
def test_a_record_that_is_cut_within_a_newer_firmwares_field_is_refused(kind: Any) -> None:
    fields = [*writers.schema(3)["fields"], {"name": "x", "type": kind}]
    data = hostile({**writers.schema(3), "fields": fields}, writers.datum(ONE, writers.schema(3)))
    assert "ends within a record" in refused(data, AVRO).reason


def test_a_string_of_a_negative_length_does_not_take_the_records_behind_it() -> None:
    written_by = {
        **writers.schema(3),
        "fields": [*writers.schema(3)["fields"], {"name": "x", "type": "string"}],
    }
    one = writers.datum({**ONE, "x": ""}, written_by)
    refused(hostile(written_by, one[:-1] + long(-1) + one, records=1), AVRO)


@pytest.mark.parametrize("text", [b"", b"[", b"[" * 60_000, b'"string"', b"{}", b"\xff", b"1e999"])
def test_a_schema_that_is_none_is_refused(text: bytes) -> None:
    whole = hostile("?", b"")
    data = whole.replace(long(3) + b'"?"', long(len(text)) + text)
    assert refused(data, AVRO).field == "schema"


def test_a_schema_of_more_than_64_kib_is_refused() -> None:
    schema = {**writers.schema(3), "doc": "x" * 66_000}
    assert "it may have 65536" in refused(hostile(schema, b""), AVRO).reason


def headed(*blocks: bytes) -> bytes:
    """A container of ONE whose header has these blocks of entries, each after its count."""
    datum = writers.datum(ONE, writers.schema(3))
    block = long(1) + long(len(datum)) + datum
    return b"Obj\x01" + b"".join(blocks) + long(0) + bytes(16) + block + bytes(16)


def entry(key: bytes, value: bytes) -> bytes:
    return long(len(key)) + key + long(len(value)) + value


def test_a_containers_header_may_tell_its_sizes_and_has_few_entries() -> None:
    schema = entry(b"avro.schema", json.dumps(writers.schema(3)).encode())
    assert decoded(headed(long(-1) + long(len(schema)) + schema), AVRO) == [ONE]
    others = [long(1) + entry(b"%d" % number, b"") for number in range(32)]
    assert decoded(headed(long(1) + schema, *others[:31]), AVRO) == [ONE]
    error = refused(headed(long(1) + schema, *others), AVRO)
    assert error.reason.startswith("has more than 32 entries in its header")


def test_a_block_of_a_negative_size_is_refused() -> None:
    begun = writers.container([])
    error = refused(begun + long(1) + long(-18) + begun[-16:], AVRO)
    assert error.reason.startswith("claims -18 more bytes")


def test_what_follows_a_compressed_message_begins_with_a_header_too() -> None:
    first, second = writers.glue([ONE], compressed=True), writers.glue([TWO])
    assert decoded(first + second, AVRO) == [ONE, TWO]
    error = refused(first + b"\x00" + second[1:], AVRO)
    assert error.reason == f"begins with 00, not as Glue's header (record 1, byte {len(first)})"


@pytest.mark.parametrize(
    "data",
    [
        b"Obj\x01" + long(2**62),
        b"Obj\x01" + long(-(2**62)) + long(1),
        b"Obj\x01" + long(1) + long(2**62),
        b"Obj\x01" + long(1) + long(-1),
        b"Obj\x01" + b"\xff" * 30,
        writers.container([ONE])[:-1] + b"!",
        hostile(writers.schema(3), b"", records=2**60),
        hostile(writers.schema(3), b"", records=0),
        hostile(writers.schema(3), b"", records=-1),
        hostile(writers.schema(3), writers.datum(ONE, writers.schema(3)) + b"\0"),
        hostile(writers.schema(3), b"\xff" * 9 + b"\x01"),  # an id of a negative length
        hostile(with_field({"type": "array", "items": "long"}), long(2**60) + bytes(1_000)),
        *(
            hostile(with_field({"type": "array", "items": kind}), long(2**60) + bytes(1_000))
            for kind in ("boolean", "float", "double", FIXED, empty("I", "null", "double"))
        ),
        hostile(with_field("bytes"), long(2**60)),
        hostile(with_field("bytes"), long(-5) + bytes(90)),
    ],
)
def test_lengths_that_are_claimed_and_not_there_are_refused(data: bytes) -> None:
    assert not isinstance(refused(data, AVRO), Unsupported)
