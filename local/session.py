"""Brings an instance up step by step: the embedded AWS, the build, the deployment, the tokens."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from emulator import embedded
from emulator.errors import EmulatorError, StepFailed
from local import deployment
from local.api import Api
from local.background import begun
from local.contracts import refuse_stale
from local.errors import LocalError
from local.faults import fault_of, full_disk, too_little_room
from local.instance import Instance, State
from local.sources import changes, digests
from local.tools import TOOLS, tool
from local.view import Steps

DEVICE_OF_EXAMPLES = "device-0001"


Cleaning = Callable[[type[BaseException] | None], None]
"""Cleans the folder of an instance that has ended, after an error of this type."""


@contextmanager
def brought_up(
    instance: Instance,
    steps: Steps,
    parameters: dict[str, str],
    built_by: Instance | None = None,
    clean: Cleaning = lambda _kind: None,
) -> Iterator[embedded.EmbeddedAws]:
    """Bring an instance up; if that or the block raises, end it and call `clean`.

    `clean` isn't called if the instance isn't this call's own: it was up before, or another command
    brings it up. Raise LocalError if the cause is a full disk.

    `built_by`: an instance with the same code. Its build is copied, instead of a new one.
    """
    tools = prepared(steps)
    parameters = deployment.host_parameters() | parameters
    with telling_of_a_full_disk(instance), ExitStack() as block:
        # An error in here is cleaned up before the lock is free again.
        with instance.brought_up_alone(), ExitStack() as failing:
            if instance.is_running():
                raise LocalError(
                    f"instance '{instance.name}' is up already: `watch` shows it, `down` ends it"
                )
            if fault := too_little_room(instance.folder):
                raise LocalError(fault)
            instance.create()
            failing.push(lambda kind, _error, _trace: clean(kind))
            sources = digests()
            build = None if built_by else deployment.build(instance, parameters)
            if build:
                failing.callback(build.end)
            aws = started(instance, steps, tools)
            failing.callback(aws.stop)
            with telling_of_its_end(instance, aws):
                if build:
                    wait_for_build(build, steps, parameters)
                if built_by:
                    deployment.copy_build(built_by, instance)
                deploy(instance, steps, parameters, sources)
            block.enter_context(failing.pop_all())
        yield aws
        block.pop_all()


def prepared(steps: Steps) -> dict[str, Path]:
    """Return the tools' paths by name; raise LocalError if one is missing, or a file is stale."""
    with steps.step("tools", "sam, uv and the embedded AWS found"):
        tools = {name: tool(name, program) for name, program in TOOLS.items()}
    refuse_stale()
    return tools


def started(instance: Instance, steps: Steps, tools: dict[str, Path]) -> embedded.EmbeddedAws:
    """Start the embedded AWS of an instance."""
    began = time.monotonic()
    aws = embedded.start(instance, tools["aws"])
    steps.done("embedded AWS", f"on 127.0.0.1:{aws.port}, IAM enforced", time.monotonic() - began)
    return aws


def wait_for_build(build: deployment.SamRun, steps: Steps, parameters: dict[str, str]) -> None:
    """Wait for the build's end, and print its step."""
    with steps.going_on("build"):
        seconds = build.wait()
    note = f"sam build for {parameters['Runtime']} on {parameters['Architecture']}"
    steps.done("build", note, seconds)


@contextmanager
def telling_of_a_full_disk(instance: Instance) -> Iterator[None]:
    """Turn an error of the block into a LocalError on the disk, if the disk is its cause."""
    try:
        yield
    except (EmulatorError, OSError) as error:
        fault = fault_of(error) if isinstance(error, OSError) else full_disk(instance.folder)
        if fault:
            raise LocalError(fault) from error
        raise


@contextmanager
def telling_of_its_end(instance: Instance, aws: embedded.EmbeddedAws) -> Iterator[None]:
    """Turn an error of the block into a LocalError on the embedded AWS, if that has ended."""
    try:
        yield
    except (EmulatorError, BotoCoreError, ClientError, OSError) as error:
        if aws.process.poll() is None:
            raise
        raise LocalError(
            f"instance '{instance.name}' ended while it was brought up: `down` in another "
            "terminal ends it, or the system, when memory runs out"
        ) from error


def deploy(
    instance: Instance, steps: Steps, parameters: dict[str, str], sources: dict[str, str]
) -> None:
    """Deploy the build, start its functions, create the first tokens, and save the state."""
    with steps.step("deploy", "sam deploy of template.yaml"):
        state = deploy_stack(instance, parameters)
    note = "functions started; tokens of admin, operator, gateway, device"
    with steps.step("first calls", note):
        calls = begun(lambda: deployment.start_functions(state))
        state.tokens |= first_tokens(instance, state)
        calls.result()
    state.is_deployed, state.parameters, state.sources = True, parameters, sources
    instance.save(state)


def deploy_changes(instance: Instance, steps: Steps, parameters: dict[str, str]) -> list[str]:
    """Deploy changes to an instance that is up; return the names of changed files and parameters.

    It is an update of the stack, as on AWS, so data stays. If it fails, CloudFormation rolls it
    back, and StepFailed is raised.
    """
    prepared(steps)
    with telling_of_a_full_disk(instance), instance.brought_up_alone():
        state, sources = instance.deployed(), digests()
        parameters = state.parameters | deployment.host_parameters() | parameters
        changed = changes(state.sources, sources) + changes(state.parameters, parameters)
        if not changed:
            return []
        shutil.rmtree(instance.folder / deployment.NEXT_BUILD, ignore_errors=True)
        build = deployment.build(instance, parameters, deployment.NEXT_BUILD)
        try:
            wait_for_build(build, steps, parameters)
        finally:
            build.end()
        with steps.step("deploy", "sam deploy: an update of the stack, its data stays"):
            try:
                deploy_stack(instance, parameters, deployment.NEXT_BUILD)
            except StepFailed as error:
                error.args = (f"{error}: {deployment.standing(state)}",)
                raise
        deployment.take_build(instance)
        with instance.changing() as state:
            state.parameters, state.sources = parameters, sources
        with steps.step("first calls", "functions started"):
            deployment.start_functions(state)
        return changed


def deploy_stack(
    instance: Instance, parameters: dict[str, str], folder: str = deployment.BUILD
) -> State:
    """Create or update the stack; return the state with its new outputs.

    Raise StepFailed if it fails, with CloudFormation's reasons for the resources that failed: the
    end of the log is about the others.
    """
    state, since = instance.load(), datetime.now(UTC)
    try:
        deployment.deploy(instance, parameters, folder).wait()
    except StepFailed as error:
        error.tail = deployment.failures(state, since) or error.tail
        raise
    with instance.changing() as state:
        state.outputs = deployment.read_outputs(state)
        state.api_url = deployment.local_api_url(state.outputs["ApiUrl"], state.port)
    return state


def first_tokens(instance: Instance, state: State) -> dict[str, str]:
    """Create a token of each role; return the tokens by subject, with the admin's."""
    wanted: list[dict[str, str]] = [
        {"subject": "operator", "role": "operator"},
        {"subject": "gateway", "role": "gateway", "prefix": ""},
        {"subject": DEVICE_OF_EXAMPLES, "role": "device"},
    ]
    admin = deployment.admin_token(state)
    with Api(state.api_url, admin, is_there=instance.is_running) as api:
        return {"admin": admin, **api.create_tokens(wanted)}


def issue_device_tokens(instance: Instance, devices: Iterable[str]) -> State:
    """Create tokens for devices that have none yet; return the state with all tokens."""
    state = instance.load()
    wanted = set(devices)
    if wanted <= state.tokens.keys():
        return state
    with instance.changing() as state, Api(state.api_url, state.tokens["admin"]) as api:
        missing = sorted(wanted - state.tokens.keys())
        state.tokens |= api.create_tokens(
            {"subject": device, "role": "device"} for device in missing
        )
    return state


def raise_on_terminate() -> None:
    """Make SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, so that this process cleans up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)  # not earlier: see `__main__`
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGHUP, interrupt)
