"""Runs one function in a container, by `sam local invoke`, with an instance as its AWS.

Four gaps lie between the container and the embedded AWS. They are closed here, so that the template
and the functions don't have to:

- `sam local` passes `!Ref` as a logical id. The values are read from the deployed function instead.
- `sam local` passes only variables that the template declares. A copy of the template declares
  AWS_ENDPOINT_URL.
- A nested stack gets its layer by a parameter. `sam local` takes it for an ARN on AWS, so a copy of
  the nested template has the layer itself.
- The embedded AWS listens on loopback, and a container has a loopback of its own. A relay listens
  on the Docker bridge during the invocation. The container signs requests for the relay's host, but
  the embedded AWS takes requests for its own host only. The relay therefore adds the signed host,
  with a proof that it knows the instance's secret; the signature is checked as any other.
"""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Any

import yaml

from emulator.sigv4 import relay_proof
from local.deployment import (
    NESTED_STACK,
    build_for_container,
    client,
    container_parameters,
    overrides,
    stack_resources,
    tool_environment,
)
from local.errors import LocalError
from local.events import stamped_copy
from local.instance import ROOT, Instance, State
from local.tools import tool

INSPECT_BRIDGE = ("docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}")
# Docker Desktop's name for the host's loopback: its containers are in a virtual machine.
DESKTOP_HOST = "host.docker.internal"
LOOPBACK = IPv4Network("127.0.0.0/8")
CHUNK_BYTES = 65_536
HEAD_BYTES_MAX = 65_536
HEAD_END = b"\r\n\r\n"
HEADERS_OF_CONNECTION = (
    *(b"host", b"connection", b"keep-alive", b"upgrade", b"http2-settings"),
    *(b"x-relayed-host", b"x-relay-proof"),
)
"""Headers that the relay doesn't pass on."""
LAYER = "AWS::Serverless::LayerVersion"

Json = dict[str, Any]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def invoke(instance: Instance, function: str, event: Path, arguments: list[str]) -> int:
    """Run the function with this logical id on an event's file; return sam's exit code.

    Events of `events/` are stamped with the time of now, because old readings are refused. Logs go
    to stderr, the function's answer to stdout. Raise LocalError if the stack has no such function,
    the event's file is missing, or there is no Docker.
    """
    state = instance.deployed()
    if not event.is_file():
        raise LocalError(f"{event} isn't a file: an event as JSON was expected, as in events/")
    variables = deployed_variables(state, function)
    bridge = bridge_network()
    build_for_container(instance).wait()
    template = with_endpoint_declared(instance.folder / "invoke" / "template.yaml", function)
    event = stamped_copy(event, instance.folder / "events", now_ms=time.time_ns() // 1_000_000)
    with relayed(state, *bridge) as endpoint:
        values = instance.folder / "invoke.json"
        values.write_text(json.dumps({function: variables | {"AWS_ENDPOINT_URL": endpoint}}))
        command: list[str | Path] = [tool("sam", "sam"), "local", "invoke", function]
        command += ["--event", event, "--template", template, "--env-vars", values]
        command += ["--region", state.region, *overrides(container_parameters()), *arguments]
        env = tool_environment(instance.folder, instance.endpoint)
        return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode


def deployed_variables(state: State, function: str) -> dict[str, str]:
    """Return the variables of a deployed function; raise LocalError if it isn't in the stack."""
    names = {
        resource["LogicalResourceId"]: resource["PhysicalResourceId"]
        for resource in stack_resources(state)
        if resource["ResourceType"] == "AWS::Lambda::Function"
    }
    if function not in names:
        raise LocalError(f"there is no {function} in the stack: {', '.join(sorted(names))}")
    answer = client(state, "lambda").get_function_configuration(FunctionName=names[function])
    variables: dict[str, str] = answer["Environment"]["Variables"]
    return variables


def with_endpoint_declared(built: Path, function: str) -> Path:
    """Write copies of the built templates that declare AWS_ENDPOINT_URL for a function.

    The function is in the root template or in a nested one. Return the path of the root's copy.
    """
    template = yaml.safe_load(built.read_text("utf-8"))
    if function in template["Resources"]:
        declare_endpoint(template, function)
    else:
        for nested in template["Resources"].values():
            if nested["Type"] == NESTED_STACK:
                path = built.parent / nested["Properties"]["TemplateURL"]
                inner = yaml.safe_load(path.read_text("utf-8"))
                if function in inner["Resources"]:
                    declare_endpoint(inner, function)
                    bring_layers(inner, nested["Properties"], template["Resources"], built.parent)
                    nested["Properties"]["TemplateURL"] = str(copied_beside(path, inner))
    return copied_beside(built, template)


def declare_endpoint(template: Json, function: str) -> None:
    """Add AWS_ENDPOINT_URL to a function's variables."""
    properties = template["Resources"][function]["Properties"]
    properties["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = ""


def bring_layers(inner: Json, given: Json, resources: Json, folder: Path) -> None:
    """Replace the parameters of a nested template that are layers by the layers themselves.

    `sam local` takes a layer that is a parameter for an ARN on AWS.
    """
    for name, value in list(given["Parameters"].items()):
        layer = resources.get(str(value.get("Ref"))) if isinstance(value, dict) else None
        if layer and layer["Type"] == LAYER:
            content = str(folder / layer["Properties"]["ContentUri"])
            own = {**layer, "Properties": {**layer["Properties"], "ContentUri": content}}
            own["Properties"].pop("LayerName", None)
            inner["Resources"][name] = own
            del inner["Parameters"][name], given["Parameters"][name]


def copied_beside(path: Path, template: Json) -> Path:
    """Write a changed template beside the built one, since it has relative paths."""
    copy = path.with_name("template-local.json")
    copy.write_text(json.dumps(template, default=str), "utf-8")
    return copy


def bridge_network() -> tuple[IPv4Network, IPv4Address]:
    """Return the containers' network and the host's address in it.

    Raise LocalError if there is no Docker.
    """
    if shutil.which("docker") is None:
        raise LocalError("docker is missing: a function runs in a container here")
    asked = subprocess.run(INSPECT_BRIDGE, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise LocalError(f"docker doesn't answer: {asked.stderr.strip()}")
    config = json.loads(asked.stdout)[0]
    network = IPv4Network(config["Subnet"])
    return network, IPv4Address(config.get("Gateway") or network[1])


@contextlib.contextmanager
def relayed(state: State, network: IPv4Network, address: IPv4Address) -> Iterator[str]:
    """Relay requests that containers send to `address` to the instance; yield their endpoint."""
    with ExitStack() as closing:
        try:
            listener = closing.enter_context(socket.create_server((str(address), 0)))
            name = str(address)
        except OSError:  # the bridge is in Docker Desktop's virtual machine
            listener = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
            network, name = LOOPBACK, DESKTOP_HOST  # Docker Desktop routes it to loopback
        reached_as = f"{name}:{listener.getsockname()[1]}"
        runner, stopped = closing.enter_context(asyncio.Runner()), asyncio.Event()
        loop = runner.get_loop()
        serving = serve_until(stopped, listener, passing_on(state, network, reached_as))
        thread = threading.Thread(target=loop.run_until_complete, args=(serving,), daemon=True)
        thread.start()
        try:
            yield f"http://{reached_as}"
        finally:
            loop.call_soon_threadsafe(stopped.set)
            thread.join()


async def serve_until(stopped: asyncio.Event, listener: socket.socket, serve: Serve) -> None:
    """Serve connections until `stopped` is set; open connections are cut off then."""
    server = await asyncio.start_server(serve, sock=listener, limit=HEAD_BYTES_MAX)
    await stopped.wait()
    server.close()


def passing_on(state: State, network: IPv4Network, reached_as: str) -> Serve:
    """Return a callback that relays a container's connection to the instance."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = None
        if ip_address(writer.get_extra_info("peername")[0]) in network:
            with contextlib.suppress(EOFError, asyncio.LimitOverrunError, ValueError, OSError):
                received = await reader.readuntil(HEAD_END)
                head = head_to_pass_on(received, reached_as, state)
        if head is None:
            writer.close()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", state.port)
        there_writer.write(head)
        try:
            await asyncio.gather(copied(reader, there_writer), copied(there_reader, writer))
        finally:
            there_writer.close()
            writer.close()

    return serve


def head_to_pass_on(head: bytes, reached_as: str, state: State) -> bytes:
    """Return a request's head for the instance: with the instance's Host and the signed one.

    The connection ends with the answer, so that every request's head passes here. Raise ValueError
    for a request that isn't for the relay.
    """
    first, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines]
    named = list(zip(lines, names, strict=True))
    hosts = [line.partition(b":")[2].strip() for line, name in named if name == b"host"]
    if hosts != [reached_as.encode()] or any(name != name.strip() for name in names):
        raise ValueError(f"{hosts}: {reached_as} was expected")
    passed_on = [line for line, name in named if name not in HEADERS_OF_CONNECTION]
    own = (
        f"Host: 127.0.0.1:{state.port}",
        f"X-Relayed-Host: {reached_as}",
        f"X-Relay-Proof: {relay_proof(state.secret_key, reached_as)}",
        "Connection: close",
    )
    return b"\r\n".join((first, *(line.encode() for line in own), *passed_on)) + HEAD_END


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the reader ends, then close the writer."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
