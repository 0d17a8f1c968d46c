"""Faults in a deployed pipeline, each repaired at the end of its block."""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from local.instance import ROOT
from tests.pipeline.deployed import Pipeline, becomes
from tests.pipeline.roles import as_list

DYING = Path(__file__).with_name("dying.py")
DEADLY = Path(__file__).with_name("deadly.py")


@contextmanager
def dying(pipeline: Pipeline, function: str, marks: Path, deaths: list[str]) -> Iterator[None]:
    """Let a function die after half of its writes, "raising" or "killed"; then restore it.

    Each death leaves a file in `marks`.
    """
    with instead(pipeline, function, DYING, {"marks": str(marks), "deaths": deaths}):
        yield


@contextmanager
def killed_by(pipeline: Pipeline, function: str, text: str) -> Iterator[None]:
    """Let any record whose bytes have this text kill a function; then restore the function."""
    with instead(pipeline, function, DEADLY, {"text": text}):
        yield


@contextmanager
def instead(
    pipeline: Pipeline, function: str, faulty: Path, fault: dict[str, Any]
) -> Iterator[None]:
    """Deploy a faulty handler in place of a function's own; then restore it."""
    name = f"{pipeline.state.stack}-{function}"
    aws = pipeline.aws("lambda")
    before = httpx.get(aws.get_function(FunctionName=name)["Code"]["Location"]).content
    handler = ROOT / "functions" / function / "handler.py"
    files = {"handler.py": faulty.read_text(), "stage.py": handler.read_text()}
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        for file, text in (files | {"fault.json": json.dumps(fault)}).items():
            archive.writestr(file, text)
    try:
        update_code(aws, name, package.getvalue())
        yield
    finally:
        update_code(aws, name, before)


def update_code(aws: Any, name: str, package: bytes) -> None:
    """Change a function's code, and wait until it is active."""
    aws.update_function_code(FunctionName=name, ZipFile=package)
    status = lambda: aws.get_function_configuration(FunctionName=name)["LastUpdateStatus"]  # noqa: E731
    becomes(status, "Successful", f"the update of {name}")


@contextmanager
def impatient(pipeline: Pipeline, function: str) -> Iterator[None]:
    """Let a function's mapping give up on a whole batch after one try; then restore it."""
    aws = pipeline.aws("lambda")
    name = f"{pipeline.state.stack}-{function}"
    (found,) = aws.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    hasty = {"MaximumRetryAttempts": 0, "BisectBatchOnFunctionError": False}
    try:
        update_mapping(aws, found["UUID"], hasty)
        yield
    finally:
        update_mapping(aws, found["UUID"], {name: found[name] for name in hasty})


def update_mapping(aws: Any, uuid: str, settings: dict[str, Any]) -> None:
    """Change a mapping's settings, and wait until they are active."""
    aws.update_event_source_mapping(UUID=uuid, **settings)
    state = lambda: aws.get_event_source_mapping(UUID=uuid)["State"]  # noqa: E731
    becomes(state, "Enabled", "the update of a mapping")


@contextmanager
def without(pipeline: Pipeline, function: str, *actions: str) -> Iterator[None]:
    """Remove actions from a function's role; then restore it."""
    with role_without(pipeline, f"{function.title()}Role", *actions):
        yield


@contextmanager
def role_without(pipeline: Pipeline, logical_id: str, *actions: str) -> Iterator[None]:
    """Remove actions from a role of the template; then restore it."""
    iam = pipeline.aws("iam")
    role = pipeline.made(logical_id)
    policies = {
        policy: iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]
    }
    allowed = {
        action
        for document in policies.values()
        for statement in document["Statement"]
        for action in as_list(statement["Action"])
    }
    assert allowed >= set(actions), f"{logical_id} is not allowed {actions} anyway"
    try:
        for policy, document in policies.items():
            put_policy(iam, role, policy, less(document, actions))
        yield
    finally:
        for policy, document in policies.items():
            put_policy(iam, role, policy, document)


def less(document: dict[str, Any], actions: tuple[str, ...]) -> dict[str, Any]:
    """Return a policy without these actions."""
    statements = []
    for statement in document["Statement"]:
        left = [action for action in as_list(statement["Action"]) if action not in actions]
        if left:
            statements.append({**statement, "Action": left})
    nothing = {"Effect": "Deny", "Action": "none:None", "Resource": "*"}
    return {**document, "Statement": statements or [nothing]}


def put_policy(iam: Any, role: str, policy: str, document: dict[str, Any]) -> None:
    iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(document))


@contextmanager
def glue_away(pipeline: Pipeline) -> Iterator[None]:
    """Make the schema registry unavailable; then available again."""
    (server,) = [
        each
        for each in psutil.Process(pipeline.state.pid).children(recursive=True)
        if "emulator.registry_server" in each.cmdline()
    ]
    server.suspend()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def visible_after(pipeline: Pipeline, output: str, seconds: int) -> Iterator[None]:
    """Set a queue's visibility timeout; then restore it."""
    sqs, url = pipeline.aws("sqs"), pipeline.outputs[output]
    name = "VisibilityTimeout"
    before = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"]
    try:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={name: str(seconds)})
        yield
    finally:
        sqs.set_queue_attributes(QueueUrl=url, Attributes=before)
