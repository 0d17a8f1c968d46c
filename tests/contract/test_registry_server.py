"""The schema registry's server beside the embedded AWS: it never outlives it."""

import os
import signal
from contextlib import closing
from uuid import uuid4

import psutil
import pytest
from botocore.exceptions import ClientError

from local import embedded, instance
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
