"""A deployed stack: its outputs, and clients of AWS's services in its region."""

import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ops.errors import OpsError

SAMCONFIG = Path(__file__).parent.parent / "samconfig.toml"
Connect = Callable[[str], Any]
ANSWER_SECONDS_MAX = 300
"""How long to wait for an answer: longer than any function that operators invoke may run."""
LOCAL = "local"
"""The environment of samconfig.toml that `python -m local` deploys to this machine with."""
ENDPOINT = "AWS_ENDPOINT_URL"
"""The SDKs' variable for another address of AWS; with `_<SERVICE>` at its end, of one service."""
SET_BY_ENV = (
    *(ENDPOINT, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"),
)
ABSENT = "ValidationError"
"""The error code of DescribeStacks for an unknown stack."""


@dataclass(frozen=True)
class Target:
    """A stack that commands act on; `connect` makes a boto3 client of a service in its region.

    `outputs` is None where there is no stack of this name.
    """

    stack: str
    outputs: Mapping[str, str] | None
    connect: Connect

    def output(self, name: str) -> str:
        """Return an output of the stack; raise OpsError if the deployed version doesn't have it."""
        if self.outputs is None:
            raise OpsError(f"there is no stack {self.stack}: `make deploy` makes it")
        try:
            return self.outputs[name]
        except KeyError:
            reason = f"stack {self.stack} has no output {name}: deploy this version of the template"
            raise OpsError(reason) from None


def on_aws(environment: str, samconfig: Path = SAMCONFIG) -> Target:
    """Return the stack that an environment of samconfig.toml names, with your AWS credentials.

    Region and profile are from the file if it has them, otherwise from the AWS configuration.
    """
    settings = settings_of(environment, samconfig)
    refuse_this_machine(environment)
    try:
        session = boto3.Session(
            region_name=settings.get("region"), profile_name=settings.get("profile")
        )
        stack = described(session.client("cloudformation"), settings["stack_name"])
    except (BotoCoreError, ClientError) as error:
        reason = f"stack {settings['stack_name']} (environment {environment}): {error}"
        raise OpsError(reason) from None
    config = Config(read_timeout=ANSWER_SECONDS_MAX, retries={"mode": "standard"})

    def connect(service: str) -> Any:
        return session.client(service, config=config)  # type: ignore[call-overload]

    outputs = None if stack is None else outputs_of(stack)
    return Target(settings["stack_name"], outputs, connect)


def refuse_this_machine(environment: str, variables: Mapping[str, str] = os.environ) -> None:
    """Raise OpsError if the shell's variables lead to this machine; only LOCAL may be there.

    `python -m local env` sets them, and they stay in the shell when the instance has ended.
    """
    if environment == LOCAL:
        return
    for name, value in variables.items():
        if name.startswith(ENDPOINT) and is_loopback(urlsplit(value).hostname or ""):
            raise OpsError(
                f"{name}: '{value}' is on this machine, and environment {environment} is on AWS; "
                f"`python -m local env` sets such variables: unset {' '.join(SET_BY_ENV)}, "
                "or open a new shell"
            )


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def described(formation: Any, stack: str) -> dict[str, Any] | None:
    """Return DescribeStacks' answer about a stack, None if there is no such stack."""
    try:
        found: dict[str, Any] = formation.describe_stacks(StackName=stack)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == ABSENT:
            return None
        raise
    return found


def outputs_of(stack: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs of a stack that was described, by name."""
    return {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}


def settings_of(environment: str, samconfig: Path = SAMCONFIG) -> dict[str, Any]:
    """Return the parameters of samconfig.toml for `sam deploy --config-env`; raise OpsError."""
    document = tomllib.loads(samconfig.read_text("utf-8"))
    environments = sorted(name for name in document if isinstance(document[name], dict))
    if environment not in environments:
        known = ", ".join(name for name in environments if name != LOCAL)
        raise OpsError(f"ENV: '{environment}' isn't an environment of samconfig.toml: {known}")
    of_commands = document[environment]
    settings: dict[str, Any] = {}
    for command in ("global", "deploy"):
        settings |= of_commands.get(command, {}).get("parameters", {})
    if "stack_name" not in settings:
        raise OpsError(f"samconfig.toml: [{environment}.global.parameters] has no stack_name")
    return settings
