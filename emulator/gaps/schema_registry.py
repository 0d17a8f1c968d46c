"""Closes a gap of the embedded AWS: Glue Schema Registry, its API and its CloudFormation types.

The emulator (1.5.33) has only Glue's data catalog. Operations of the registry are passed on to a
server beside it (`emulator.registry_server`), after the emulator has checked the caller's
permissions. The three CloudFormation types call the same operations.
"""

import http.client
import json
import os
import re
import secrets
import threading
from collections.abc import Callable
from subprocess import PIPE, Popen
from typing import Any

from emulator.gaps.imports import import_type

LOOPBACK = "127.0.0.1"
ANSWER_SECONDS_MAX = 20.0
OK_STATUS = 200
KEY, KEY_HEADER = "SCHEMA_REGISTRY_KEY", "X-Schema-Registry-Key"
"""The variable that passes the key to the server, and the header with the key in requests."""
OPERATIONS = re.compile(r"\w*(Schema|Registr)\w*")  # no other Glue operation has these in its name
# Properties whose change replaces a resource, by each type's page below
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_Glue.html
REPLACING = {
    "AWS::Glue::Registry": ("Name",),
    "AWS::Glue::Schema": ("Registry", "Name", "DataFormat", "SchemaDefinition"),
    "AWS::Glue::SchemaVersion": ("Schema", "SchemaDefinition"),
}

Document = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]
Resource = tuple[str, Document]
Send = Callable[[str, Document], Response]
"""Run an operation; return status, headers and body."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules; the server runs in an interpreter with moto."""
    if not modules.python:
        return
    command = [modules.python, "-m", "emulator.registry_server"]
    server = Server(command, modules.root, modules.core("responses"))
    serve_operations(modules.service("glue"), server.send)
    know_resources(modules.core("iam_actions"))
    serve_types(modules.service("cloudformation.provisioners"), server.send)
    types = Types(server.send)
    import_type(modules, "AWS::Glue::Registry", "Arn", unless_missing(types.find_registry))
    import_type(modules, "AWS::Glue::Schema", "Arn", unless_missing(types.find_schema))
    import_type(
        modules, "AWS::Glue::SchemaVersion", "VersionId", unless_missing(types.find_version)
    )


class Server:
    """The registry's server: a child of this process, which ends with it."""

    def __init__(self, command: list[str], folder: str, responses: Any) -> None:
        """Start the server, which takes a second. `responses` is the emulator's module."""
        self._responses = responses
        self._key = secrets.token_hex(32)  # the server refuses other callers
        environment = os.environ | {KEY: self._key}
        self._process = Popen(command, cwd=folder, env=environment, stdin=PIPE, stdout=PIPE)
        self._lock = threading.Lock()
        self._port = 0

    def send(self, operation: str, request: Document) -> Response:
        """Run an operation, for the account and region of the emulator's request."""
        region, account = self._responses.get_region(), self._responses.get_account_id()
        scope = f"registry/20260101/{region}/glue/aws4_request"
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"AWSGlue.{operation}",
            "X-Moto-Account-Id": account,
            KEY_HEADER: self._key,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=, Signature=",
        }
        connection = http.client.HTTPConnection(LOOPBACK, self.port(), timeout=ANSWER_SECONDS_MAX)
        try:
            connection.request("POST", "/", json.dumps(request), headers)
            answer = connection.getresponse()
            headers_of_answer = {"Content-Type": "application/x-amz-json-1.1"}
            return answer.status, headers_of_answer, answer.read()
        except (OSError, http.client.HTTPException) as error:  # it ended before or meanwhile
            message = f"the schema registry doesn't answer: {error}"
            return self._responses.error_response_json("InternalServiceException", message, 500)  # type: ignore[no-any-return]
        finally:
            connection.close()

    def port(self) -> int:
        """The server's port; reading it waits until the server has started."""
        with self._lock:
            if not self._port and self._process.stdout:
                self._port = int(self._process.stdout.readline() or 0)
            return self._port


def serve_operations(glue: Any, send: Send) -> None:
    """Add the registry's operations to `ministack.services.glue`."""
    handle = glue._handle_request_sync

    def handle_or_send(
        method: str, path: str, headers: dict[str, str], body: bytes, query: Any
    ) -> Response:
        operation = operation_of(headers)
        if not OPERATIONS.fullmatch(operation):
            found: Response = handle(method, path, headers, body, query)
            return found
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            request = None
        if not isinstance(request, dict):
            refused: Response = glue.error_response_json("SerializationException", "not an object")
            return refused
        return send(operation, request)

    glue._handle_request_sync = handle_or_send


def operation_of(headers: dict[str, str]) -> str:
    """Return the operation that a request names."""
    return headers.get("x-amz-target", "").rpartition(".")[2]


def know_resources(iam_actions: Any) -> None:
    """Make `ministack.core.iam_actions` find the schema or registry in a request.

    A request with only a version's id has no resource on AWS, so it needs a permission on all
    (https://docs.aws.amazon.com/glue/latest/dg/schema-registry-gs-serde.html, deserializers).
    """
    resource_of = iam_actions.extract_resource_arn

    def registry_or_resource(
        service: str, method: str, path: str, headers: Any, body: bytes, query: Any, *where: str
    ) -> str:
        if service == "glue" and OPERATIONS.fullmatch(operation_of(headers)):
            return resource_in(body, *where)
        found: str = resource_of(service, method, path, headers, body, query, *where)
        return found

    iam_actions.extract_resource_arn = registry_or_resource


def resource_in(body: bytes, region: str, account: str) -> str:
    """Return the ARN of the schema or registry in a request; `*` if it names none."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return "*"
    if not isinstance(request, dict):
        return "*"
    registry, schema = request.get("RegistryId") or {}, request.get("SchemaId") or {}
    arn = schema.get("SchemaArn") or registry.get("RegistryArn")
    if arn:
        return str(arn)
    if schema.get("SchemaName"):
        name = f"schema/{schema.get('RegistryName')}/{schema['SchemaName']}"
    elif registry.get("RegistryName") or request.get("RegistryName"):
        name = f"registry/{registry.get('RegistryName') or request['RegistryName']}"
    else:
        return "*"
    return f"arn:aws:glue:{region}:{account}:{name}"


class Types:
    """The CloudFormation types, by the registry's operations."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def call(self, operation: str, request: Document) -> Document:
        """Run an operation; raise ValueError if it fails, as the emulator's own types do."""
        status, _, body = self._send(operation, request)
        if status != OK_STATUS:
            raise ValueError(f"{operation}: {body.decode('utf-8', 'replace')}")
        answer: Document = json.loads(body or b"{}")
        return answer

    def create_registry(self, _logical_id: str, wanted: Document, _stack: str) -> Resource:
        """Create an AWS::Glue::Registry."""
        request = {"RegistryName": wanted["Name"], "Description": wanted.get("Description")}
        arn = self.call("CreateRegistry", request)["RegistryArn"]
        return arn, {"Arn": arn}

    def change_registry(self, arn: str, wanted: Document) -> Resource:
        """Apply the changeable properties of the registry."""
        request = {"RegistryId": {"RegistryArn": arn}, "Description": wanted.get("Description", "")}
        self.call("UpdateRegistry", request)
        return arn, {"Arn": arn}

    def find_registry(self, arn: str) -> Resource:
        """Return the registry as a resource; raise ValueError if it is missing."""
        self.call("GetRegistry", {"RegistryId": {"RegistryArn": arn}})
        return arn, {"Arn": arn}

    def delete_registry(self, arn: str, _properties: Document) -> None:
        """Delete the registry with its schemas."""
        self.call("DeleteRegistry", {"RegistryId": {"RegistryArn": arn}})

    def create_schema(self, _logical_id: str, wanted: Document, _stack: str) -> Resource:
        """Create an AWS::Glue::Schema, with its first version."""
        registry = wanted.get("Registry", {})
        known = {"RegistryArn": registry.get("Arn"), "RegistryName": registry.get("Name")}
        copied = ("Description", "DataFormat", "Compatibility", "SchemaDefinition")
        request = {"SchemaName": wanted["Name"]} | {key: wanted.get(key) for key in copied}
        request["RegistryId"] = {key: value for key, value in known.items() if value}
        answer = self.call("CreateSchema", request)
        first = {"InitialSchemaVersionId": answer["SchemaVersionId"]}
        return answer["SchemaArn"], {"Arn": answer["SchemaArn"], **first}

    def change_schema(self, arn: str, wanted: Document) -> Resource:
        """Apply the changeable properties of the schema."""
        changes = {key: wanted.get(key) for key in ("Compatibility", "Description")}
        self.call("UpdateSchema", {"SchemaId": {"SchemaArn": arn}, **changes})
        return self.find_schema(arn)

    def find_schema(self, arn: str) -> Resource:
        """Return the schema as a resource; raise ValueError if it is missing."""
        first = {"SchemaId": {"SchemaArn": arn}, "SchemaVersionNumber": {"VersionNumber": 1}}
        version = self.call("GetSchemaVersion", first)["SchemaVersionId"]
        return arn, {"Arn": arn, "InitialSchemaVersionId": version}

    def delete_schema(self, arn: str, _properties: Document) -> None:
        """Delete the schema with its versions."""
        self.call("DeleteSchema", {"SchemaId": {"SchemaArn": arn}})

    def create_version(self, logical_id: str, wanted: Document, _stack: str) -> Resource:
        """Create an AWS::Glue::SchemaVersion; raise ValueError if it isn't compatible."""
        request = {"SchemaId": wanted["Schema"], "SchemaDefinition": wanted["SchemaDefinition"]}
        answer = self.call("RegisterSchemaVersion", request)
        if answer["Status"] != "AVAILABLE":
            self.delete_version(answer["SchemaVersionId"], wanted)
            raise ValueError(f"{logical_id} is not compatible with the versions before it")
        return answer["SchemaVersionId"], {"VersionId": answer["SchemaVersionId"]}

    def change_version(self, version: str, _wanted: Document) -> Resource:
        """Return the version unchanged: it has no property that can change."""
        return version, {"VersionId": version}

    def find_version(self, version: str) -> Resource:
        """Return the version as a resource; raise ValueError if it is missing."""
        self.call("GetSchemaVersion", {"SchemaVersionId": version})
        return version, {"VersionId": version}

    def delete_version(self, version: str, _properties: Document) -> None:
        """Delete the version; a schema's first version stays until the schema goes."""
        found = self.call("GetSchemaVersion", {"SchemaVersionId": version})
        schema, number = {"SchemaArn": found["SchemaArn"]}, str(found["VersionNumber"])
        self.call("DeleteSchemaVersions", {"SchemaId": schema, "Versions": number})


def serve_types(provisioners: Any, send: Send) -> None:
    """Add the three types to `ministack.services.cloudformation.provisioners`."""
    types = Types(send)
    for kind, name in (
        ("Registry", "registry"),
        ("Schema", "schema"),
        ("SchemaVersion", "version"),
    ):
        create, change, delete = (
            getattr(types, f"{verb}_{name}") for verb in ("create", "change", "delete")
        )
        replacing = REPLACING[f"AWS::Glue::{kind}"]
        provisioners._RESOURCE_HANDLERS[f"AWS::Glue::{kind}"] = {
            "create": create,
            "update": updating(create, change, delete, replacing),
            "update_with_logical_id": True,
            "delete": unless_gone(delete),
        }


def updating(
    create: Callable[..., Resource],
    change: Callable[..., Resource],
    delete: Callable[..., None],
    replacing: tuple[str, ...],
) -> Callable[..., Resource]:
    """Return a function that updates a resource in place, or replaces it if it must."""

    def update(
        physical_id: str, old: Document, new: Document, stack: str, logical_id: str = ""
    ) -> Resource:
        if all(old.get(key) == new.get(key) for key in replacing):
            return change(physical_id, new)
        made = create(logical_id, new, stack)
        unless_gone(delete)(physical_id, old)
        return made

    return update


def unless_missing(find: Callable[[str], Resource]) -> Callable[[str], Resource | None]:
    """Return `find` changed to return None for a missing resource."""

    def found_or_none(identifier: str) -> Resource | None:
        try:
            return find(identifier)
        except ValueError as error:
            if "EntityNotFoundException" not in str(error):
                raise
            return None

    return found_or_none


def unless_gone(delete: Callable[..., None]) -> Callable[..., None]:
    """Return `delete` changed to accept a resource that is already deleted."""

    def delete_if_there(physical_id: str, properties: Document) -> None:
        try:
            delete(physical_id, properties)
        except ValueError as error:
            if "EntityNotFoundException" not in str(error):
                raise

    return delete_if_there
