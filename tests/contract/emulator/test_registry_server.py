"""The schema registry's server, which never outlives the embedded AWS."""

import json
import os
import signal
import socket
import threading
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from botocore.exceptions import ClientError
from moto.glue.models import GlueBackend

from emulator import embedded, registry_server
from emulator.gaps.schema_registry import KEY_HEADER, Server
from local.deployment import client
from local.instance import state_of, unused
from local.tools import tool

ENDED_SECONDS_MAX = 10
MODULE = "emulator.registry_server"


def server_of(pid: int) -> psutil.Process:
    """The registry's server among an emulator's children."""
    children = psutil.Process(pid).children(recursive=True)
    (server,) = [child for child in children if MODULE in child.cmdline()]
    return server


def refuses_who_has_no_key(port: int) -> None:
    """It accepts only requests with the emulator's key, which pages and other users lack."""
    page = {"Origin": "https://evil.example"}
    for method in ("POST", "OPTIONS"):
        for headers in ({}, page, {KEY_HEADER: ""}, {KEY_HEADER: "a guess"}):
            asked = {"X-Amz-Target": "AWSGlue.ListRegistries", **headers}
            url = f"http://127.0.0.1:{port}/"
            answer = httpx.request(method, url, content=b"{}", headers=asked, trust_env=False)
            assert answer.status_code == httpx.codes.FORBIDDEN
            assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_registry_serves_as_soon_as_it_is_asked_and_ends_with_the_emulator() -> None:
    own = unused("registry")
    own.create()
    aws = embedded.start(own, tool("aws", "python"))
    try:
        with closing(client(state_of(aws), "glue")) as glue:
            with pytest.raises(ClientError, match="EntityNotFoundException"):
                glue.get_schema_version(SchemaVersionId=str(uuid4()))
            server = server_of(aws.process.pid)
            connections = server.net_connections()
            listening = [each.laddr.ip for each in connections if each.status == "LISTEN"]
            assert listening == ["127.0.0.1"]
            (port,) = [each.laddr.port for each in connections if each.status == "LISTEN"]
            refuses_who_has_no_key(port)
            # ending an instance, or cleaning up after its starter's death, kills this group
            assert os.getpgid(server.pid) == aws.process.pid
        os.kill(aws.process.pid, signal.SIGKILL)  # only the emulator, without a chance to clean up
        server.wait(ENDED_SECONDS_MAX)
    finally:
        aws.stop()
        own.remove()


def record(*names: str) -> str:
    fields = [{"name": name, "type": "int"} for name in names]
    return json.dumps({"type": "record", "name": "R", "fields": fields})


def test_a_version_that_is_there_is_returned_as_it_is_when_it_comes_again() -> None:
    """That holds even if it isn't compatible with later versions, because it exists already."""

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


def test_a_server_that_ends_in_the_midst_of_an_answer_is_an_error_of_the_service() -> None:
    def refuse(kind: str, message: str, status: int) -> tuple[int, str, str]:
        return status, kind, message

    responses = SimpleNamespace(
        get_region=lambda: "us-east-1",
        get_account_id=lambda: "123456789012",
        error_response_json=refuse,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = Server(["echo", str(port)], "/", responses)

        def answer_half() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"{}"):  # what is unread at the end would be a reset
                    asked += connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}")

        thread = threading.Thread(target=answer_half)
        thread.start()
        answer: Any = server.send("GetRegistry", {})
        thread.join()
    server._process.communicate()
    assert answer[:2] == (500, "InternalServiceException")
    assert answer[2].startswith("the schema registry doesn't answer: IncompleteRead")
