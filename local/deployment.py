"""Deploys the real template to an instance, with the real SAM CLI.

The functions run in this machine's interpreter, so the layer is built for it, and the template's
`Runtime` and `Architecture` are overridden. The archive's buffer is short. Nothing else differs
from a deployment to AWS.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from emulator.embedded import end_group
from emulator.errors import StepFailed, StepTimedOut
from local.background import begun
from local.errors import LocalError, NoAnswer
from local.instance import ROOT, Instance, State
from local.tools import tool

SAM_SECONDS_MAX = 900.0
"""Ends a command that hangs. An idle machine needs 20 s, one with eight busy loops 150 s."""
CLOUDFORMATION_POLL_SECONDS = 0.2
CONTAINER_PYTHON = "3.13"  # the template's own
STREAM_FUNCTIONS = ("aggregate", "alert")
FIRST_CALL_SECONDS_MAX = 180.0
OUT_OF_TIME = "Task timed out"
REFUSED = '"UnexpectedEvent"'
ARCHIVE_BUFFER_SECONDS = 2
BUILD, NEXT_BUILD = "build", "build-next"
"""Folders of an instance: of the deployed build, and of the next one."""
NO_ENDPOINT = "http://127.0.0.1:9"
NO_STATE = State(access_key="none", secret_key="none")  # noqa: S106 - no instance has this key
CLIENTS_LOCK = Lock()
UNDATED = (1980, 1, 1, 0, 0, 0)  # the first date of the ZIP format
API_URL_PATTERN = re.compile(r"https://(?P<api>[^./]+)\.execute-api\.[^/]+/(?P<stage>[^/]+)/?")
UNCHANGED = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
"""Statuses of an unchanged stack: the update didn't begin, or was rolled back."""
NESTED_STACK = "AWS::CloudFormation::Stack"
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}


def host_parameters() -> dict[str, str]:
    """Return the template parameters for functions that run in this machine's interpreter.

    The archive buffers for seconds, not minutes, because a person waits for it here.
    """
    return {
        "Runtime": f"python{host_python()}",
        "Architecture": host_architecture(),
        "ArchiveBufferSeconds": str(ARCHIVE_BUFFER_SECONDS),
    }


def host_python() -> str:
    """Return this interpreter's version as Lambda names runtimes: 3.13."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def host_architecture(machine: str | None = None) -> str:
    """Return this machine's processor as Lambda names it; raise LocalError if Lambda lacks it."""
    machine = machine or platform.machine()
    architecture = ARCHITECTURES.get(machine.lower())
    if architecture is None:
        raise LocalError(
            f"this machine's processor, {machine}, isn't x86-64 or ARM64: Lambda has only these"
        )
    return architecture


def layer_platform(system: str = sys.platform, architecture: str | None = None) -> str:
    """Return the platform of the layer's wheels, as uv names it."""
    processor = {"x86_64": "x86_64", "arm64": "aarch64"}[architecture or host_architecture()]
    return f"{processor}-apple-darwin" if system == "darwin" else f"{processor}-manylinux2014"


def tool_environment(
    folder: Path, endpoint: str, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the environment for a tool that can reach the embedded AWS and no other AWS.

    A person's variables for AWS (profile, keys, endpoints of single services) are left out. The
    keys are those of the instance in `folder`; before it has any, keys that no instance accepts.
    PYTHONDONTWRITEBYTECODE is left out, too: many containers set it, and sam would compile its
    imports at each start.
    """
    own = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(("AWS_", "SAM_", "__SAM", "PYTHONDONTWRITEBYTECODE"))
    }
    without_proxy = ",".join(
        filter(None, [own.get("NO_PROXY") or own.get("no_proxy"), "127.0.0.1,localhost"])
    )
    return (
        own
        | aws_environment(state_in(folder), endpoint)
        | {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": without_proxy,
            "no_proxy": without_proxy,
            "PATH": os.pathsep.join([str(ROOT / ".tools/uv/bin"), own.get("PATH", os.defpath)]),
            "TMPDIR": str(folder / "tmp"),
            "SAM_CLI_TELEMETRY": "0",
            "SAM_CLI_POLL_DELAY": str(CLOUDFORMATION_POLL_SECONDS),
            "__SAM_CLI_APP_DIR": str(folder / "sam"),
            "LAYER_PYTHON": host_python(),
            "LAYER_PLATFORM": layer_platform(),
        }
    )


def state_in(folder: Path) -> State:
    """Return the state of the instance in this folder, or NO_STATE if it has none."""
    try:
        return Instance(folder.name, folder).load()
    except LocalError:
        return NO_STATE


def aws_environment(state: State, endpoint: str) -> dict[str, str]:
    """Return the variables that point an AWS SDK or CLI at the embedded AWS, as its root user."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": state.access_key,
        "AWS_SECRET_ACCESS_KEY": state.secret_key,
        "AWS_REGION": state.region,
        "AWS_DEFAULT_REGION": state.region,
    }


def client(state: State, service: str, answer_seconds_max: float = 30) -> Any:
    """Return a boto3 client of the embedded AWS; variables of the environment don't matter."""
    retries: Any = {"mode": "standard", "max_attempts": 3}
    config = Config(proxies={}, retries=retries, read_timeout=answer_seconds_max)
    with CLIENTS_LOCK:  # threads may share a client, but can't make clients at the same time
        return session(state.region, state.access_key, state.secret_key).client(  # type: ignore[call-overload]
            service, endpoint_url=f"http://127.0.0.1:{state.port}", config=config
        )


@cache
def session(region: str, access_key: str, secret_key: str) -> boto3.Session:
    """Return the session of all clients: each new one reads boto3's data of AWS, 0.1 s of CPU."""
    return boto3.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
    )


class SamRun:
    """A running SAM CLI command; its output goes to the step's log."""

    def __init__(
        self,
        instance: Instance,
        endpoint: str,
        arguments: list[str],
        log: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start the command in a session of its own, so that its children end with it."""
        self.command = arguments[0]
        self.log = instance.log(log or self.command)
        self.started = time.monotonic()
        forget_version_check(instance.folder / "sam")
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [tool("sam", "sam"), *arguments],
                cwd=ROOT,
                env=tool_environment(instance.folder, endpoint) | dict(variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> float:
        """Wait for its end; return its seconds. Raise StepFailed if it failed, or took too long."""
        try:
            code = self._process.wait(SAM_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise StepTimedOut(
                f"`sam {self.command}` took longer than {SAM_SECONDS_MAX:.0f} s", self.log
            ) from None
        finally:
            self.end()
        if code:
            raise StepFailed(f"`sam {self.command}` failed with code {code}", self.log)
        return time.monotonic() - self.started

    def end(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            end_group(self._process.pid)
            self._process.wait()


def build(instance: Instance, parameters: Mapping[str, str], folder: str = BUILD) -> SamRun:
    """Start `sam build` into a folder of the instance; it needs no AWS."""
    arguments = ["build", "--build-dir", str(built_template(instance, folder).parent)]
    return SamRun(instance, NO_ENDPOINT, [*arguments, *overrides(parameters)])


def copy_build(source: Instance, target: Instance) -> None:
    """Copy the build of one instance to another."""
    shutil.copytree(built_template(source).parent, built_template(target).parent)


def container_parameters() -> dict[str, str]:
    """Return the template parameters for functions that run in a container on this machine."""
    return {"Runtime": f"python{CONTAINER_PYTHON}", "Architecture": host_architecture()}


def build_for_container(instance: Instance) -> SamRun:
    """Start `sam build` for `sam local invoke`: this machine's processor, Lambda's interpreter."""
    arguments = ["build", "--build-dir", str(instance.folder / "invoke")]
    variables = {"LAYER_PYTHON": CONTAINER_PYTHON, "LAYER_PLATFORM": layer_platform("linux")}
    arguments += overrides(container_parameters())
    return SamRun(instance, NO_ENDPOINT, arguments, "invoke", variables)


def deploy(instance: Instance, parameters: Mapping[str, str], folder: str = BUILD) -> SamRun:
    """Start `sam deploy` of a build."""
    state = instance.load()
    template = built_template(instance, folder)
    write_as_json(template)
    arguments = ["deploy", "--config-file", str(ROOT / "samconfig.toml"), "--config-env", "local"]
    arguments += ["--template-file", str(template), "--no-progressbar"]
    arguments += ["--stack-name", state.stack, "--region", state.region]
    named = {"Name": state.stack} | dict(parameters)
    return SamRun(instance, instance.endpoint, [*arguments, *overrides(named)])


def built_template(instance: Instance, folder: str = BUILD) -> Path:
    """Return the path of the template that `sam build` writes."""
    return instance.folder / folder / "template" / "template.yaml"


def take_build(instance: Instance) -> None:
    """Replace the deployed build by the next one, which has just been deployed."""
    shutil.rmtree(instance.folder / BUILD, ignore_errors=True)
    (instance.folder / NEXT_BUILD).rename(instance.folder / BUILD)


def write_as_json(template: Path) -> None:
    """Rewrite a built template and its nested ones as JSON, which is YAML too; archive its layers.

    This saves most of the SAM CLI's time. It reads each template seven times, 0.3 s each as YAML,
    and makes an archive of each layer at each deployment.
    """
    for each in (template, *template.parent.glob("*/template.yaml")):
        document = yaml.load(each.read_text("utf-8"), yaml.CSafeLoader)
        for resource in document["Resources"].values():
            if resource["Type"] == "AWS::Serverless::LayerVersion":
                content = each.parent / resource["Properties"]["ContentUri"]
                resource["Properties"]["ContentUri"] = archived(content).name
        each.write_text(json.dumps(document), "utf-8")


def archived(content: Path) -> Path:
    """Replace a folder by its archive, hardly compressed, since it stays on this machine.

    Equal files make an equal archive. Otherwise each redeployment would make a new layer.
    """
    if content.is_file():  # an earlier deployment made the archive
        return content
    archive = content.with_name(f"{content.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for each in sorted(path for path in content.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(each.relative_to(content).as_posix(), UNDATED)
            entry.external_attr = each.stat().st_mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, each.read_bytes(), compresslevel=1)
    shutil.rmtree(content)
    return archive


def overrides(parameters: Mapping[str, str]) -> list[str]:
    """Return the option that sets template parameters."""
    return ["--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())]


def forget_version_check(folder: Path) -> None:
    """Keep the SAM CLI from asking the network for a newer version of itself."""
    folder.mkdir(exist_ok=True)
    (folder / "metadata.json").write_text(
        json.dumps({"lastVersionCheck": time.time(), "telemetryEnabled": False})
    )


def read_outputs(state: State) -> dict[str, str]:
    """Return the stack's outputs by name."""
    stacks = client(state, "cloudformation").describe_stacks(StackName=state.stack)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}


def standing(state: State) -> str:
    """Return a text on the stack after a failed update: unchanged, or stuck in a status."""
    stacks = client(state, "cloudformation").describe_stacks(StackName=state.stack)["Stacks"]
    status = stacks[0]["StackStatus"]
    if status in UNCHANGED:
        return "the instance is as it was before"
    return f"the stack is {status}; `down` and `up` make the instance anew, without its data"


def failures(state: State, since: datetime) -> list[str]:
    """Return the failures of resources since then, with CloudFormation's reasons, oldest first."""
    pages = client(state, "cloudformation").get_paginator("describe_stack_events")
    try:
        events = [
            each
            for page in pages.paginate(StackName=state.stack)
            for each in page["StackEvents"]
            if each["ResourceStatus"].endswith("_FAILED") and each["Timestamp"] >= since
        ]
    except ClientError:  # there is no stack yet
        return []
    return [
        f"{each['LogicalResourceId']}: {each['ResourceStatus']}: {each['ResourceStatusReason']}"
        for each in reversed(events)
        if each.get("ResourceStatusReason")
    ]


def local_api_url(output: str, port: int) -> str:
    """Return the API's URL at the embedded AWS, from its URL on AWS."""
    match = API_URL_PATTERN.fullmatch(output)
    if match is None:
        raise LocalError(
            f"the stack's output ApiUrl is '{output}': an execute-api address was expected"
        )
    return f"http://127.0.0.1:{port}/_aws/execute-api/{match['api']}/{match['stage']}"


def stack_resources(state: State) -> Iterator[dict[str, Any]]:
    """Return the summaries of the resources of the stack and of its nested stacks."""
    pages = client(state, "cloudformation").get_paginator("list_stack_resources")
    stacks = [state.stack]
    while stacks:
        for page in pages.paginate(StackName=stacks.pop()):
            for resource in page["StackResourceSummaries"]:
                yield resource
                if resource["ResourceType"] == NESTED_STACK:
                    stacks.append(resource["PhysicalResourceId"])


def start_functions(state: State) -> None:
    """Start the functions that read the stream before the first reading, by calls without records.

    Such a call has no effect, so it is repeated if it times out. A function that refuses the event
    has started, too. Raise LocalError if one doesn't start.
    """
    lambdas = client(state, "lambda")
    calls = [
        begun(partial(start_function, lambdas, f"{state.stack}-{name}"))
        for name in STREAM_FUNCTIONS
    ]
    for call in calls:
        call.result()


def start_function(lambdas: Any, name: str) -> None:
    """Call a function without records until it answers; raise LocalError if it doesn't."""
    deadline = time.monotonic() + FIRST_CALL_SECONDS_MAX
    while True:
        answer = lambdas.invoke(FunctionName=name, Payload=json.dumps({"Records": []}))
        payload = answer["Payload"].read().decode()
        if "FunctionError" not in answer or REFUSED in payload:
            return
        if OUT_OF_TIME not in payload:
            raise LocalError(f"{name} doesn't start: {payload}")
        if time.monotonic() > deadline:
            raise NoAnswer(f"{name} doesn't start in {FIRST_CALL_SECONDS_MAX:.0f} s: {payload}")


def admin_token(state: State) -> str:
    """Return the token of the first admin; the stack generated its secret."""
    secret = client(state, "secretsmanager").get_secret_value(
        SecretId=state.outputs["AdminSecretArn"]
    )
    return f"admin.{secret['SecretString']}"
