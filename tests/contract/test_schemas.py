"""Schemas by id: known ones without a call, others once, Glue's troubles translated."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError
from telemetry.aws import clients
from telemetry.aws.schemas import REMEMBERED, Schemas, known_ids, schemas
from telemetry.domain.schema import versions
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import SchemaSettings, SettingMissing

KNOWN = UUID("3fa85f64-5717-4562-b3fc-2c963f66afa6")
NEW = {"type": "record", "name": "Reading", "version": 9, "fields": []}
ARN = "arn:aws:glue:us-east-1:123456789012:schema/telemetry/reading"


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """A Glue client that counts what is asked, and may answer for itself."""

    def __init__(self, answer: Callable[[str], dict[str, Any]]) -> None:
        self.answer = answer
        self.ids: list[str] = []

    def get_schema_version(self, SchemaVersionId: str) -> dict[str, Any]:  # noqa: N803 - as boto3
        self.ids.append(SchemaVersionId)
        return self.answer(SchemaVersionId)


def answered(**changes: str) -> dict[str, Any]:
    """What Glue says of a version."""
    found = {"SchemaArn": ARN, "Status": "AVAILABLE", "DataFormat": "AVRO"}
    return {"SchemaDefinition": json.dumps(NEW), **found, **changes}


def refused(code: str) -> Callable[[str], dict[str, Any]]:
    def raise_it(_schema_id: str) -> dict[str, Any]:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "GetSchemaVersion")

    return raise_it


def of(glue: Any, clock: Clock | None = None) -> Schemas:
    return Schemas(lambda: glue, "telemetry", {KNOWN: {"version": 3}}, clock or Clock())


def register(glue: Any, registry: str, name: str) -> UUID:
    """The id of a schema's first version in moto's Glue."""
    created = glue.create_schema(
        RegistryId={"RegistryName": registry},
        SchemaName=name,
        DataFormat="AVRO",
        Compatibility="BACKWARD",
        SchemaDefinition=json.dumps(NEW),
    )
    return UUID(created["SchemaVersionId"])


@pytest.fixture
def glue(in_moto: None) -> Any:  # noqa: ARG001
    client = boto3.client("glue")
    for registry in ("telemetry", "xtelemetry"):
        client.create_registry(RegistryName=registry)
    return client


def test_a_version_that_the_code_does_not_have_is_fetched_once(glue: Any) -> None:
    schema_id = register(glue, "telemetry", "reading")
    asked = Asked(lambda each: glue.get_schema_version(SchemaVersionId=each))
    registry = of(asked)
    assert registry.writer(schema_id) == registry.writer(schema_id) == NEW
    assert asked.ids == [str(schema_id)]


@pytest.mark.parametrize(
    ("registry", "name", "said"),
    [
        ("telemetry", "window", "is of another schema, telemetry/window"),
        ("xtelemetry", "reading", "is of another schema, xtelemetry/reading"),
    ],
)
def test_an_id_of_another_schema_is_rejected(
    glue: Any, registry: str, name: str, said: str
) -> None:
    schema_id = register(glue, registry, name)
    with pytest.raises(Rejected) as rejected:
        of(glue).writer(schema_id)
    right = "; ids are those of the versions of reading in this pipeline's Glue registry"
    assert (rejected.value.field, rejected.value.value) == ("schema_id", str(schema_id))
    assert rejected.value.reason == said + right


def test_an_id_that_glue_does_not_know_is_rejected_and_asked_again_a_minute_later(
    glue: Any,
) -> None:
    schema_id, clock = uuid4(), Clock()
    asked = Asked(lambda each: glue.get_schema_version(SchemaVersionId=each))
    registry = of(asked, clock)
    for seconds in (0, 59):
        clock.now = 1000.0 + seconds
        with pytest.raises(Rejected, match="is of no schema version"):
            registry.writer(schema_id)
    assert len(asked.ids) == 1
    clock.now = 1060.0
    asked.answer = lambda _: answered()
    assert registry.writer(schema_id) == NEW


def test_a_known_id_needs_no_call() -> None:
    asked = Asked(refused("ThrottlingException"))
    assert of(asked).writer(KNOWN) == {"version": 3}
    assert asked.ids == []


def unreachable(_schema_id: str) -> dict[str, Any]:
    raise EndpointConnectionError(endpoint_url="http://glue")


def slow(_schema_id: str) -> dict[str, Any]:
    raise ConnectTimeoutError(endpoint_url="http://glue")


@pytest.mark.parametrize(
    "trouble",
    [refused("ThrottlingException"), refused("AccessDeniedException"), unreachable, slow],
    ids=["throttles", "denies", "is unreachable", "is slow"],
)
def test_glue_that_does_not_answer_is_left_alone_for_five_seconds(
    trouble: Callable[[str], dict[str, Any]],
) -> None:
    clock, asked = Clock(), Asked(trouble)
    registry = of(asked, clock)
    for seconds in (0.0, 0.1, 4.9):
        clock.now = 1000.0 + seconds
        with pytest.raises(Unavailable):
            registry.writer(uuid4())
    assert len(asked.ids) == 1
    assert registry.writer(KNOWN) == {"version": 3}
    clock.now, asked.answer = 1005.0, lambda _: answered()
    assert registry.writer(uuid4()) == NEW


def test_a_fetched_schema_is_available_while_glue_does_not_answer() -> None:
    asked, schema_id = Asked(lambda _: answered()), uuid4()
    registry = of(asked)
    registry.writer(schema_id)
    asked.answer = unreachable
    with pytest.raises(Unavailable):
        registry.writer(uuid4())
    assert registry.writer(schema_id) == NEW


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Status": "FAILURE"}, "status is FAILURE"),
        ({"Status": "DELETING"}, "status is DELETING"),
        ({"DataFormat": "JSON"}, "is of JSON, not AVRO"),
    ],
)
def test_a_version_that_cannot_be_read_with_is_rejected(changes: dict[str, str], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        of(Asked(lambda _: answered(**changes))).writer(uuid4())


def test_a_version_that_is_being_checked_is_asked_for_again() -> None:
    asked, schema_id = Asked(lambda _: answered(Status="PENDING")), uuid4()
    registry = of(asked)
    with pytest.raises(Unavailable, match="is being checked"):
        registry.writer(schema_id)
    asked.answer = lambda _: answered()
    assert registry.writer(schema_id) == NEW


def test_the_longest_unused_version_is_forgotten_first() -> None:
    asked = Asked(lambda _: answered())
    registry = of(asked)
    first, second, *others = [uuid4() for _ in range(REMEMBERED)]
    for each in (first, second, *others, first, uuid4()):  # one more than it remembers
        registry.writer(each)
    asked.ids = []
    registry.writer(first)
    assert asked.ids == []
    registry.writer(second)
    assert asked.ids == [str(second)]


def test_misses_are_bounded_too() -> None:
    asked = Asked(refused("EntityNotFoundException"))
    registry = of(asked)
    first, *others = [uuid4() for _ in range(REMEMBERED + 1)]
    for each in (first, *others, first):
        with pytest.raises(Rejected):
            registry.writer(each)
    assert asked.ids.count(str(first)) == 2


def test_ids_stand_for_the_versions_in_order_and_other_registries_name_theirs() -> None:
    ids = [str(UUID(int=number)) for number in range(5)]
    known = known_ids(",".join([*ids[:3], f"{ids[3]}=1", f"{ids[4]}=3"]))
    assert [known[UUID(each)]["version"] for each in ids] == [1, 2, 3, 1, 3]
    assert known[UUID(ids[1])] == versions("reading")[1]


@pytest.mark.parametrize(
    "setting", ["", "pump", f"{KNOWN}=9", f"{KNOWN}=x", ",".join([str(KNOWN)] * 99)]
)
def test_a_setting_that_names_no_versions_says_what_is_wrong(setting: str) -> None:
    with pytest.raises(SettingMissing, match=r"READING_SCHEMA_IDS: .* is not an id, or id=version"):
        known_ids(setting)


def test_the_client_is_made_when_it_is_needed_and_keeps_a_call_short(glue: Any) -> None:
    settings = SchemaSettings(30, "telemetry", str(KNOWN))
    made = schemas(settings)
    clients.client.cache_clear()
    assert made.writer(KNOWN) == versions("reading")[0]
    assert clients.client.cache_info().currsize == 0  # none is made for what is known
    assert made.writer(register(glue, "telemetry", "reading")) == NEW
    config = made._glue().meta.config
    assert (config.read_timeout, config.connect_timeout) == (1, 2)
    assert config.retries["total_max_attempts"] == 1
