"""Glue Schema Registry for the embedded AWS: moto's, in its own process, on loopback.

moto stores schemas without checks. This module adds Glue's behaviour: a version that can't read
data of earlier versions gets the status FAILURE, a definition is found in any notation, and
versions can be deleted.

The embedded AWS starts this process with a key (`emulator.gaps.schema_registry`) and reads the port
from its standard output. A request without that key is refused. The process ends when its standard
input closes. Its state is in memory and is lost then.
"""

import hmac
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import avro.errors
import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from moto.core.responses import ActionResult
from moto.glue.exceptions import SchemaVersionNotFoundFromSchemaIdException
from moto.glue.models import GlueBackend
from moto.glue.responses import GlueResponse
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from emulator.gaps.schema_registry import KEY, KEY_HEADER

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOOPBACK = "127.0.0.1"
CHECKPOINT = 1  # a schema's first version, which Glue doesn't delete


class QuietHandler(WSGIRequestHandler):
    """Logs no request, because the emulator's log has them."""

    def log(self, *_: Any) -> None:
        """Log nothing."""


def reads(reader: str, writer: str) -> bool:
    """Return whether data written with one Avro schema can be read with the other."""
    try:
        schemas = avro.schema.parse(reader), avro.schema.parse(writer)
    except avro.errors.AvroException:
        return False
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(*schemas)
    return result.compatibility is SchemaCompatibilityType.compatible


def is_compatible(schema: Any, definition: str) -> bool:
    """Return whether a moto schema may get this definition as its next version."""
    written = [
        version.schema_definition
        for version in schema.schema_versions.values()
        if version.schema_version_status == "AVAILABLE"
    ]
    if schema.data_format != "AVRO" or not schema.compatibility.startswith("BACKWARD"):
        return True
    older = written if schema.compatibility == "BACKWARD_ALL" else written[-1:]
    return all(reads(definition, each) for each in older)


def find(backend: GlueBackend, schema_id: dict[str, Any]) -> Any:
    """Return a moto schema; raise moto's exception if there is none."""
    described = backend.get_schema(schema_id)
    return backend.registries[described["RegistryName"]].schemas[described["SchemaName"]]


def check_versions(backend: type[GlueBackend]) -> None:
    """Store an incompatible version with the status FAILURE, as Glue does."""
    register = backend.register_schema_version

    def register_checked(
        self: GlueBackend, schema_id: dict[str, Any], schema_definition: str
    ) -> dict[str, Any]:
        schema = find(self, schema_id)
        known, compatible = {*schema.schema_versions}, is_compatible(schema, schema_definition)
        answer: dict[str, Any] = register(self, schema_id, schema_definition)
        if answer["SchemaVersionId"] not in known and not compatible:
            version = schema.schema_versions[answer["SchemaVersionId"]]
            version.schema_version_status = answer["Status"] = "FAILURE"
            schema.latest_schema_version -= 1
        return answer

    backend.register_schema_version = register_checked  # type: ignore[method-assign]


def find_by_canonical_form(backend: type[GlueBackend]) -> None:
    """Find a version by its definition in any notation; raise Glue's error if there is none.

    Glue compares canonical forms:
    https://docs.aws.amazon.com/glue/latest/webapi/API_GetSchemaByDefinition.html
    """
    get = backend.get_schema_by_definition

    def get_by_canonical_form(
        self: GlueBackend, schema_id: dict[str, Any], schema_definition: str
    ) -> dict[str, Any]:
        schema = find(self, schema_id)
        wanted = canonical(schema_definition)
        stored = [each.schema_definition for each in schema.schema_versions.values()]
        same = [each for each in stored if canonical(each) == wanted]
        if not same:
            of_schema = schema.registry_name, schema.schema_name, schema.schema_arn
            raise SchemaVersionNotFoundFromSchemaIdException(*of_schema, None, None)
        answer: dict[str, Any] = get(self, schema_id, same[0])
        return answer

    backend.get_schema_by_definition = get_by_canonical_form  # type: ignore[method-assign]


def canonical(definition: str) -> Any:
    """Return a definition's value if it is JSON, or the text itself."""
    try:
        return json.loads(definition)
    except ValueError:
        return definition


def delete_versions(response: GlueResponse) -> ActionResult:
    """Answer DeleteSchemaVersions: delete one version, `2`, or a range, `2-4`."""
    request = json.loads(response.body)
    versions = find(response.glue_backend, request["SchemaId"]).schema_versions
    first, _, last = request["Versions"].partition("-")
    errors = []
    for number in range(int(first), int(last or first) + 1):
        if number == CHECKPOINT:
            message = "the checkpoint version can't be deleted"
            details = {"ErrorCode": "InvalidInputException", "ErrorMessage": message}
            errors.append({"VersionNumber": number, "ErrorDetails": details})
            continue
        for version in [each for each in versions.values() if each.version_number == number]:
            del versions[version.schema_version_id]
    return ActionResult({"SchemaVersionErrors": errors})


def update_registry(response: GlueResponse) -> ActionResult:
    """Answer UpdateRegistry: change a registry's description."""
    request = json.loads(response.body)
    described = response.glue_backend.get_registry(request["RegistryId"])
    registry = response.glue_backend.registries[described["RegistryName"]]
    registry.description = request["Description"]
    return ActionResult({"RegistryName": registry.name, "RegistryArn": registry.registry_arn})


def with_key_check(app: "WSGIApplication", key: str) -> "WSGIApplication":
    """Return an application that serves only requests with the key."""
    name = f"HTTP_{KEY_HEADER.upper().replace('-', '_')}"

    def serve(request: "WSGIEnvironment", start: "StartResponse") -> Any:
        if not hmac.compare_digest(str(request.get(name, "")).encode("latin-1"), key.encode()):
            start("403 Forbidden", [("Content-Length", "0")])
            return []
        return app(request, start)

    return serve


def main() -> None:
    """Serve until the process that started this one is gone."""
    check_versions(GlueBackend)
    find_by_canonical_form(GlueBackend)
    GlueResponse.delete_schema_versions = delete_versions  # type: ignore[attr-defined]
    GlueResponse.update_registry = update_registry  # type: ignore[attr-defined]
    app = with_key_check(create_backend_app("glue"), os.environ[KEY])
    server = make_server(LOOPBACK, 0, app, threaded=True, request_handler=QuietHandler)
    threading.Thread(target=end_with_starter, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()  # in the main thread, so that its error ends the process and is seen


def end_with_starter() -> None:
    """End this process at once when the process that started it is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
