"""Glue Schema Registry beside the embedded AWS: routing of operations, and permissions."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.gaps import schema_registry
from emulator.gaps.schema_registry import Types, resource_in, unless_gone, updating

SCHEMA = "arn:aws:glue:us-east-1:123456789012:schema/telemetry/reading"
REGISTRY = "arn:aws:glue:us-east-1:123456789012:registry/telemetry"


@pytest.mark.parametrize(
    ("request_", "resource"),
    [
        ({"SchemaId": {"SchemaArn": SCHEMA}}, SCHEMA),
        ({"SchemaId": {"RegistryName": "telemetry", "SchemaName": "reading"}}, SCHEMA),
        ({"RegistryId": {"RegistryArn": REGISTRY}}, REGISTRY),
        ({"RegistryId": {"RegistryName": "telemetry"}, "SchemaName": "reading"}, REGISTRY),
        ({"RegistryName": "telemetry"}, REGISTRY),
        ({"SchemaVersionId": "3fa85f64-5717-4562-b3fc-2c963f66afa6"}, "*"),
        ([], "*"),
    ],
)
def test_a_permission_is_checked_on_the_schema_or_registry_that_a_request_names(
    request_: Any, resource: str
) -> None:
    body = json.dumps(request_).encode()
    assert resource_in(body, "us-east-1", "123456789012") == resource


def test_only_the_registrys_operations_leave_the_emulators_glue() -> None:
    sent: list[tuple[str, Any]] = []

    def send(operation: str, request: Any) -> tuple[int, dict[str, str], bytes]:
        sent.append((operation, request))
        return 200, {}, b"beside"

    glue = SimpleNamespace(
        _handle_request_sync=lambda *_: (200, {}, b"own"),
        error_response_json=lambda *_: (400, {}, b"refused"),
    )
    schema_registry.serve_operations(glue, send)

    def answer(operation: str, body: bytes = b'{"RegistryName": "a"}') -> bytes:
        headers = {"x-amz-target": f"AWSGlue.{operation}"}
        _, _, found = glue._handle_request_sync("POST", "/", headers, body, {})
        return bytes(found)

    for own in ("GetTable", "CreateDatabase", "SearchTables", "GetPartitions"):
        assert answer(own) == b"own"
    for beside in ("ListRegistries", "GetRegistry", "CreateSchema", "RegisterSchemaVersion"):
        assert answer(beside) == b"beside"
        assert sent.pop() == (beside, {"RegistryName": "a"})
    assert answer("CreateSchema", b"[]") == answer("CreateSchema", b"{") == b"refused"


def test_a_change_is_made_in_place_or_replaces_the_resource() -> None:
    done: list[tuple[Any, ...]] = []

    def create(*arguments: Any) -> schema_registry.Resource:
        done.append(("create", *arguments))
        return "new", {}

    def change(*arguments: Any) -> schema_registry.Resource:
        done.append(("change", *arguments))
        return "old", {}

    def delete(*arguments: Any) -> None:
        done.append(("delete", *arguments))

    update = updating(create, change, delete, ("Name",))
    assert update("old", {"Name": "a"}, {"Name": "a", "Tags": 1}, "stack", "Id") == ("old", {})
    assert update("old", {"Name": "a"}, {"Name": "b"}, "stack", "Id") == ("new", {})
    assert done == [
        ("change", "old", {"Name": "a", "Tags": 1}),
        ("create", "Id", {"Name": "b"}, "stack"),
        ("delete", "old", {"Name": "a"}),
    ]


@pytest.mark.parametrize(("code", "is_raised"), [("EntityNotFoundException", False), ("X", True)])
def test_deleting_a_deleted_resource_succeeds(code: str, is_raised: bool) -> None:
    refused: schema_registry.Response = 400, {}, json.dumps({"__type": code}).encode()
    delete = unless_gone(Types(lambda *_: refused).delete_schema)
    if is_raised:
        with pytest.raises(ValueError, match="DeleteSchema"):
            delete(SCHEMA, {})
    else:
        delete(SCHEMA, {})
