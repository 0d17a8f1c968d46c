"""The schema registry's server beside the embedded AWS: it never outlives it."""

import json
import os
import signal
from contextlib import closing
from uuid import uuid4

import psutil
import pytest
from botocore.exceptions import ClientError
from moto.glue.models import GlueBackend

from local import embedded, instance, registry_server
from local.deployment import client
from local.instance import State

ENDED_SECONDS_MAX = 10
MODULE = "local.registry_server"


def server_of(pid: int) -> psutil.Process:
    """The registry's server among an emulator's children."""
    children = psutil.Process(pid).children(recursive=True)
    (server,) = [child for child in children if MODULE in child.cmdline()]
    return server


def test_the_registry_serves_as_soon_as_it_is_asked_and_ends_with_the_emulator() -> None:
    own = instance.unused("registry")
    own.create()
    aws = embedded.start(own)
    try:
        with closing(client(State(port=aws.port), "glue")) as glue:
            with pytest.raises(ClientError, match="EntityNotFoundException"):
                glue.get_schema_version(SchemaVersionId=str(uuid4()))
            server = server_of(aws.process.pid)
            connections = server.net_connections()
            listening = [each.laddr.ip for each in connections if each.status == "LISTEN"]
            assert listening == ["127.0.0.1"]
            # what ends an instance, or clears up after its starter's death, kills this group
            assert os.getpgid(server.pid) == aws.process.pid
        os.kill(aws.process.pid, signal.SIGKILL)  # the emulator alone, with no time for goodbyes
        server.wait(ENDED_SECONDS_MAX)
    finally:
        aws.stop()
        own.remove()


def record(*names: str) -> str:
    fields = [{"name": name, "type": "int"} for name in names]
    return json.dumps({"type": "record", "name": "R", "fields": fields})


def test_a_version_that_is_there_is_returned_as_it_is_when_it_comes_again() -> None:
    """Also where it couldn't follow what came after it: it doesn't follow, it is there."""

    class Backend(GlueBackend):
        """One whose mending ends with the test."""

    registry_server.check_versions(Backend)
    glue = Backend("us-east-1", "123456789012")
    schema = {"RegistryName": "own", "SchemaName": "reading"}
    glue.create_registry("own", "", {})
    glue.create_schema(
        {"RegistryName": "own"}, "reading", "AVRO", "BACKWARD", record("a", "b"), "", {}
    )
    assert glue.register_schema_version(schema, record("a"))["Status"] == "AVAILABLE"
    again = glue.register_schema_version(schema, record("a", "b"))
    assert (again["VersionNumber"], again["Status"]) == (1, "AVAILABLE")
    assert glue.register_schema_version(schema, record("a", "c"))["Status"] == "FAILURE"
    assert glue.get_schema(schema)["LatestSchemaVersion"] == 2
