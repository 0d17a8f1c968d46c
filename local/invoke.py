"""One function in a container, by `sam local invoke`, with an instance as its AWS.

Four gaps lie between the container and the embedded AWS. All are closed here, so that neither
the template nor a function knows of it:

- `sam local` gives `!Ref` as logical ids: the values are read from the deployed function;
- it passes on only variables that the template declares: AWS_ENDPOINT_URL is added to a copy;
- a nested stack gets its layer by a parameter, which it takes for one on AWS: a copy has it itself;
- the embedded AWS listens on loopback, and a container's loopback is its own: a relay listens on
  the Docker bridge for as long as the invocation takes. The embedded AWS takes requests for its own
  host alone, and a container signs them for the relay's: the relay tells which that is, and proves
  that it knows the instance's secret. The signature is checked as any other.
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
# What Docker Desktop, where the containers are in a virtual machine, calls the host's loopback.
DESKTOP_HOST = "host.docker.internal"
LOOPBACK = IPv4Network("127.0.0.0/8")
CHUNK_BYTES = 65_536
HEAD_BYTES_MAX = 65_536
HEAD_END = b"\r\n\r\n"
OF_THE_CONNECTION = (
    *(b"host", b"connection", b"keep-alive", b"upgrade", b"http2-settings"),
    *(b"x-relayed-host", b"x-relay-proof"),
)
"""Headers that the relay doesn't pass on."""
LAYER = "AWS::Serverless::LayerVersion"

Json = dict[str, Any]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def invoke(instance: Instance, function: str, event: Path, arguments: list[str]) -> int:
    """Run the function of this logical id on an event's file; return sam's exit code.

    Events of `events/` are stamped: their times are those of now, else their readings expire.
    Logs go to stderr, what the function answers to stdout. Raises LocalError for a function that
    isn't in the stack, a missing event, and where there is no Docker.
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
    """Return the environment that the stack gave a function; raise LocalError for none of its."""
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
    """Write copies of templates in which a function declares AWS_ENDPOINT_URL; return the root's.

    The function is in the built root template or in one that is nested in it.
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
    """Make a nested template's parameters that are layers of the root's layers of its own.

    `sam local` takes a layer that comes by a parameter for an ARN on AWS.
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
    """Write a changed template beside the built one, since its paths are relative."""
    copy = path.with_name("template-local.json")
    copy.write_text(json.dumps(template, default=str), "utf-8")
    return copy


def bridge_network() -> tuple[IPv4Network, IPv4Address]:
    """Return containers' network and the host's address in it; raise LocalError without Docker."""
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
    """Pass what containers send to `address` on to the instance; yield their endpoint."""
    with ExitStack() as closing:
        try:
            listener = closing.enter_context(socket.create_server((str(address), 0)))
            name = str(address)
        except OSError:  # the bridge is in Docker Desktop's virtual machine
            listener = closing.enter_context(socket.create_server(("127.0.0.1", 0)))
            network, name = LOOPBACK, DESKTOP_HOST  # which leads to loopback
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
    """Serve connections until told to stop; those under way are cut off then."""
    server = await asyncio.start_server(serve, sock=listener, limit=HEAD_BYTES_MAX)
    await stopped.wait()
    server.close()


def passing_on(state: State, network: IPv4Network, reached_as: str) -> Serve:
    """Return what serves a request of a container's: it joins its connection to the instance."""

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
    """Return a request's head for the instance: with its Host, and the one that was signed.

    The connection ends with the answer, so that each request has a head that is looked at. Raises
    ValueError for a request that isn't for the relay.
    """
    first, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines]
    named = list(zip(lines, names, strict=True))
    hosts = [line.partition(b":")[2].strip() for line, name in named if name == b"host"]
    if hosts != [reached_as.encode()] or any(name != name.strip() for name in names):
        raise ValueError(f"{hosts}: {reached_as} was expected")
    kept = [line for line, name in named if name not in OF_THE_CONNECTION]
    own = (
        f"Host: 127.0.0.1:{state.port}",
        f"X-Relayed-Host: {reached_as}",
        f"X-Relay-Proof: {relay_proof(state.secret_key, reached_as)}",
        "Connection: close",
    )
    return b"\r\n".join((first, *(line.encode() for line in own), *kept)) + HEAD_END


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the one side ends, then end the other."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()
