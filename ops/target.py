"""A deployed stack: how to reach it, and what it is made of."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ops.errors import OpsError

SAMCONFIG = Path(__file__).parent.parent / "samconfig.toml"
Connect = Callable[[str], Any]
ANSWER_SECONDS_MAX = 300
"""How long to wait for an answer: longer than any function that operators invoke may run."""


@dataclass(frozen=True)
class Target:
    """A stack that commands act on; `connect` makes a boto3 client of a service in its region."""

    stack: str
    outputs: Mapping[str, str]
    connect: Connect

    def output(self, name: str) -> str:
        """Return an output of the stack; raise OpsError if this version of it has none such."""
        try:
            return self.outputs[name]
        except KeyError:
            reason = f"stack {self.stack} has no output {name}: deploy this version of the template"
            raise OpsError(reason) from None


def on_aws(environment: str, samconfig: Path = SAMCONFIG) -> Target:
    """Return the stack that an environment of samconfig.toml names, with your AWS credentials.

    Its region and profile are the file's where it has them, else those of the AWS configuration.
    """
    settings = settings_of(environment, samconfig)
    try:
        session = boto3.Session(
            region_name=settings.get("region"), profile_name=settings.get("profile")
        )
        found = session.client("cloudformation").describe_stacks(StackName=settings["stack_name"])
    except (BotoCoreError, ClientError) as error:
        reason = f"stack {settings['stack_name']} (environment {environment}): {error}"
        raise OpsError(reason) from None
    listed = found["Stacks"][0].get("Outputs", [])
    outputs = {each["OutputKey"]: each["OutputValue"] for each in listed}

    config = Config(read_timeout=ANSWER_SECONDS_MAX, retries={"mode": "standard"})

    def connect(service: str) -> Any:
        return session.client(service, config=config)  # type: ignore[call-overload]

    return Target(settings["stack_name"], outputs, connect)


def settings_of(environment: str, samconfig: Path = SAMCONFIG) -> dict[str, Any]:
    """Return what `sam deploy --config-env` takes from samconfig.toml; raise OpsError."""
    document = tomllib.loads(samconfig.read_text("utf-8"))
    environments = sorted(name for name in document if isinstance(document[name], dict))
    if environment not in environments:
        known = ", ".join(environments)
        raise OpsError(f"ENV: '{environment}' isn't an environment of samconfig.toml: {known}")
    of_commands = document[environment]
    settings: dict[str, Any] = {}
    for command in ("global", "deploy"):
        settings |= of_commands.get(command, {}).get("parameters", {})
    if "stack_name" not in settings:
        raise OpsError(f"samconfig.toml: [{environment}.global.parameters] has no stack_name")
    return settings
