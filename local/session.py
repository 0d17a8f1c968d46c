"""Brings an instance up step by step: the embedded AWS, the build, the deployment, the tokens."""

import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from emulator import embedded
from emulator.errors import EmulatorError, StepFailed
from local import deployment
from local.api import Api
from local.contracts import refuse_stale
from local.errors import LocalError
from local.faults import fault_of, full_disk, too_little_room
from local.instance import Instance, State, state_of
from local.sources import changes, digests
from local.tools import TOOLS, tool
from local.view import Steps

DEVICE_OF_EXAMPLES = "device-0001"


@contextmanager
def brought_up(
    instance: Instance,
    steps: Steps,
    parameters: dict[str, str],
    built_by: Instance | None = None,
) -> Iterator[embedded.EmbeddedAws]:
    """Bring an instance up; end it when that, or the block, ends by an error.

    Of an instance that didn't come up its logs are left. Raise LocalError for a disk that is full,
    whatever failed by it.

    `built_by`: another one that is up, of the same code; nothing is built again then.
    """
    tools = prepared(steps)
    parameters = deployment.host_parameters() | parameters
    with telling_of_a_full_disk(instance), ExitStack() as failing:
        with instance.brought_up_alone():
            if instance.is_running():
                raise LocalError(
                    f"instance '{instance.name}' is up already: `watch` shows it, `down` ends it"
                )
            if fault := too_little_room(instance.folder):
                raise LocalError(fault)
            instance.create()
            sources = digests()
            build = None if built_by else deployment.build(instance, parameters)
            if build:
                failing.callback(build.end)
            aws = started(instance, steps, tools)
            failing.callback(aws.stop)
            if build:
                wait_for_build(build, steps, parameters)
            if built_by:
                deployment.copy_build(built_by, instance)
            deploy(instance, steps, parameters, sources)
        yield aws
        failing.pop_all()


def prepared(steps: Steps) -> dict[str, Path]:
    """Return the tools, by name; raise LocalError if one is missing, or a file is stale."""
    with steps.step("tools", "sam, uv and the embedded AWS found"):
        tools = {name: tool(name, program) for name, program in TOOLS.items()}
    refuse_stale()
    return tools


def started(instance: Instance, steps: Steps, tools: dict[str, Path]) -> embedded.EmbeddedAws:
    """Start the embedded AWS of an instance."""
    began = time.monotonic()
    aws = embedded.start(instance, tools["aws"])
    instance.save(state_of(aws))
    steps.done("embedded AWS", f"on 127.0.0.1:{aws.port}, IAM enforced", time.monotonic() - began)
    return aws


def wait_for_build(build: deployment.SamRun, steps: Steps, parameters: dict[str, str]) -> None:
    """Show the build's end, once it has come."""
    with steps.going_on("build"):
        seconds = build.wait()
    note = f"sam build for {parameters['Runtime']} on {parameters['Architecture']}"
    steps.done("build", note, seconds)


@contextmanager
def telling_of_a_full_disk(instance: Instance) -> Iterator[None]:
    """Turn an error into the fault of the disk that it comes of, if the logs tell of one."""
    try:
        yield
    except (EmulatorError, OSError) as error:
        fault = fault_of(error) if isinstance(error, OSError) else full_disk(instance.folder)
        if fault:
            raise LocalError(fault) from error
        raise


def deploy(
    instance: Instance, steps: Steps, parameters: dict[str, str], sources: dict[str, str]
) -> None:
    """Deploy what was built, and make it ready for devices and operators."""
    with steps.step("deploy", "sam deploy of template.yaml"):
        state = deploy_stack(instance, parameters)
    note = "functions started; tokens of admin, operator, gateway, device"
    with steps.step("first calls", note), ExitStack() as closing:
        pool = ThreadPoolExecutor(1)
        closing.callback(pool.shutdown, wait=False)  # Ctrl-C needn't wait for a call's answer
        calls = pool.submit(deployment.start_functions, state)
        state.tokens |= first_tokens(instance, state)
        calls.result()
    state.is_deployed, state.parameters, state.sources = True, parameters, sources
    instance.save(state)


def redeployed(instance: Instance, steps: Steps, parameters: dict[str, str]) -> list[str]:
    """Deploy to an instance that is up what has changed since; return the names of what has.

    Its data stays: it is an update of the stack, as on AWS. Where that fails, CloudFormation goes
    back to what was deployed before, and StepFailed is raised.
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
    """Deploy what was built, once more if it is there; return the state with what it is now.

    Raise StepFailed when it fails, with what CloudFormation says of the resources that failed: the
    log ends with how all the others went.
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
    """Create a token of each role; return them by subject."""
    wanted: list[dict[str, str]] = [
        {"subject": "operator", "role": "operator"},
        {"subject": "gateway", "role": "gateway", "prefix": ""},
        {"subject": DEVICE_OF_EXAMPLES, "role": "device"},
    ]
    admin = deployment.admin_token(state)
    with Api(state.api_url, admin, is_there=instance.is_running) as api:
        return {"admin": admin, **api.create_tokens(wanted)}


def issue_device_tokens(instance: Instance, devices: Iterable[str]) -> State:
    """Create the tokens of devices that have none yet; return the state with all of them."""
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
    """Make Ctrl-C and a request to terminate end this process by KeyboardInterrupt: cleaning up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)  # not before: `__main__` says why
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGHUP, interrupt)
