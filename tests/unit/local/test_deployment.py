import json
import os
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from emulator import embedded
from emulator.errors import StepFailed
from emulator.sigv4 import Key
from local import deployment
from local.errors import LocalError, NoAnswer
from local.instance import Instance, State, locked, named


@pytest.mark.parametrize(
    ("system", "architecture", "platform"),
    [
        ("linux", "x86_64", "x86_64-manylinux2014"),
        ("linux", "arm64", "aarch64-manylinux2014"),
        ("darwin", "arm64", "aarch64-apple-darwin"),
        ("darwin", "x86_64", "x86_64-apple-darwin"),
    ],
)
def test_the_layer_is_built_for_this_kind_of_machine(
    system: str, architecture: str, platform: str
) -> None:
    assert deployment.layer_platform(system, architecture) == platform


def test_a_processor_that_lambda_lacks_is_named() -> None:
    assert deployment.host_architecture("AMD64") == "x86_64"
    assert deployment.host_architecture("aarch64") == "arm64"
    with pytest.raises(LocalError, match="riscv64, isn't x86-64 or ARM64"):
        deployment.host_architecture("riscv64")


def test_a_tool_can_not_reach_the_real_aws_by_a_persons_variables(tmp_path: Path) -> None:
    persons = {
        "AWS_PROFILE": "work",
        "AWS_ACCESS_KEY_ID": "theirs",
        "AWS_SESSION_TOKEN": "theirs",
        "AWS_ENDPOINT_URL_S3": "https://elsewhere",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "SAM_CLI_TELEMETRY": "1",
        "NO_PROXY": "intranet",
        "PATH": "/bin",
    }
    seen = deployment.tool_environment(tmp_path, "http://127.0.0.1:1", persons)
    assert seen["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert seen["AWS_ACCESS_KEY_ID"] == "none"
    assert seen["SAM_CLI_TELEMETRY"] == "0"
    assert seen["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert seen["AWS_SHARED_CREDENTIALS_FILE"] == "/dev/null"
    left = {"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"}
    assert not (left | {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"}) & seen.keys()


def test_the_functions_see_neither_a_persons_credentials_nor_their_packages(tmp_path: Path) -> None:
    instance = Instance("a", tmp_path)
    persons = {"AWS_PROFILE": "work", "PYTHONPATH": "src", "HOME": "/h", "PATH": "/bin"}
    seen = embedded.environment(instance, 4000, Key("key", "secret"), persons)
    assert not {"AWS_PROFILE", "PYTHONPATH"} & seen.keys()
    assert seen["GATEWAY_PORT"] == "4000"
    assert seen["BIND_HOST"] == "127.0.0.1"
    assert seen["AUTH"] == "true"
    assert seen["IOT_MTLS_ENABLED"] == "0"
    assert Path(seen["TMPDIR"]).is_relative_to(tmp_path)


def test_the_api_is_found_where_the_embedded_aws_serves_it() -> None:
    output = "https://a1b2c3.execute-api.us-east-1.amazonaws.com/v1"
    expected = "http://127.0.0.1:4000/_aws/execute-api/a1b2c3/v1"
    assert deployment.local_api_url(output, 4000) == expected
    with pytest.raises(LocalError, match=r"ApiUrl is 'https://example\.com'"):
        deployment.local_api_url("https://example.com", 4000)


def test_a_built_template_says_the_same_as_json(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    table = "{Type: A::Table, Properties: {B: [1, '2', true], C: *x}}"
    template.write_text(f"Resources:\n  One: &x {{Type: A::Key}}\n  Two: {table}\n", "utf-8")
    deployment.write_as_json(template)
    key = '{"Type": "A::Key"}'
    properties = f'{{"B": [1, "2", true], "C": {key}}}'
    table = f'{{"Type": "A::Table", "Properties": {properties}}}'
    assert template.read_text() == f'{{"Resources": {{"One": {key}, "Two": {table}}}}}'


def test_a_built_layer_is_an_archive_of_its_files_at_each_deployment(tmp_path: Path) -> None:
    template, layer = tmp_path / "template.yaml", tmp_path / "Layer"
    (layer / "python").mkdir(parents=True)
    (layer / "python" / "a.py").write_text("1")
    properties = "{ContentUri: Layer}"
    template.write_text(
        f"Resources: {{L: {{Type: 'AWS::Serverless::LayerVersion', Properties: {properties}}}}}"
    )
    for _ in range(2):
        deployment.write_as_json(template)
        found = json.loads(template.read_text())["Resources"]["L"]["Properties"]["ContentUri"]
        with zipfile.ZipFile(tmp_path / found) as archive:
            assert archive.read("python/a.py") == b"1"


def test_a_failed_deployment_names_the_failed_resources_and_reasons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = datetime(2026, 11, 27, tzinfo=UTC)

    def event(minute: int, name: str, status: str, reason: str = "") -> dict[str, Any]:
        at = began + timedelta(minutes=minute)
        told = {"LogicalResourceId": name, "ResourceStatus": status, "Timestamp": at}
        return told | ({"ResourceStatusReason": reason} if reason else {})

    newest_first = [
        [event(4, "telemetry", "ROLLBACK_COMPLETE", "Rollback complete")],
        [event(3, "Alerts", "CREATE_FAILED", "Resource creation cancelled")],
        [event(2, "Watch", "CREATE_FAILED", "no such type"), event(1, "Key", "CREATE_COMPLETE")],
        [event(-1, "Key", "CREATE_FAILED", "at the deployment before")],
    ]
    stack = SimpleNamespace(
        paginate=lambda **_of: ({"StackEvents": events} for events in newest_first)
    )
    client = SimpleNamespace(get_paginator=lambda _name: stack)
    monkeypatch.setattr(deployment, "client", lambda _state, _service: client)
    assert deployment.failures(State(), began) == [
        "Watch: CREATE_FAILED: no such type",
        "Alerts: CREATE_FAILED: Resource creation cancelled",
    ]


def test_only_the_owner_can_read_the_state_and_it_survives_a_round_trip(tmp_path: Path) -> None:
    instance = named("one", tmp_path)
    instance.create()
    state = State(pid=1, port=2, tokens={"admin": "admin.secret"}, is_deployed=True)
    instance.save(state)
    assert instance.load() == state
    assert (instance.folder / "state.json").stat().st_mode & 0o777 == 0o600
    assert instance.folder.stat().st_mode & 0o777 == 0o700


def test_commands_that_change_the_state_at_once_keep_each_others_changes(tmp_path: Path) -> None:
    instance = named("one", tmp_path)
    instance.create()
    instance.save(State())
    together = Barrier(8)

    def add(number: int) -> None:
        together.wait()
        with instance.changing() as state:
            time.sleep(0.005)  # in which the others would read the same state
            state.tokens[f"device-{number}"] = "secret"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert len(instance.load().tokens) == 8


def test_a_command_without_its_instance_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"no instance 'main' is up: .* `python -m local up`"):
        named("main", tmp_path).deployed()
    instance = named("two", tmp_path)
    instance.create()
    instance.save(State())
    with pytest.raises(LocalError, match=r"'two' has ended: .* `python -m local up --name two`"):
        instance.deployed()


def test_a_name_that_can_not_be_a_folder_is_refused(tmp_path: Path) -> None:
    for name in ("../etc", "", "A", "a b"):
        with pytest.raises(LocalError, match="isn't a name"):
            named(name, tmp_path)


def test_a_failed_step_keeps_the_last_lines_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    log.write_text("\n".join(f"line {number}" for number in range(40)) + "\n\n", "utf-8")
    failed = StepFailed("`sam build` failed with code 1", log)
    assert failed.tail == [f"line {number}" for number in range(28, 40)]


def test_only_one_command_brings_an_instance_up(tmp_path: Path) -> None:
    instance = Instance("main", tmp_path / ".local" / "main")
    with instance.brought_up_alone():
        with (
            pytest.raises(LocalError, match="'main' is being brought up by another command"),
            instance.brought_up_alone(),
        ):
            pass
        with Instance("other", tmp_path / ".local" / "other").brought_up_alone():
            pass
    with instance.brought_up_alone():
        pass
    assert list((tmp_path / ".local").iterdir()) == []


def test_a_lock_on_a_removed_file_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as is_locked:
        assert is_locked
        path.unlink()
        with locked(path) as is_locked_too:
            assert is_locked_too, "the file that has the name now"


def test_equal_files_make_an_equal_layer_whenever_they_were_written(tmp_path: Path) -> None:
    contents: list[bytes] = []
    for name in ("one", "two"):
        folder = tmp_path / name / "layer"
        folder.mkdir(parents=True)
        (folder / "module.py").write_text("x = 1\n")
        os.utime(folder / "module.py", (1, len(contents) * 1_000_000_000))
        contents.append(deployment.archived(folder).read_bytes())
    assert contents[0] == contents[1]


def test_the_next_build_replaces_the_deployed_one(tmp_path: Path) -> None:
    instance = Instance("main", tmp_path)
    for folder in (deployment.BUILD, deployment.NEXT_BUILD):
        template = deployment.built_template(instance, folder)
        template.parent.mkdir(parents=True)
        template.write_text(folder)
    deployment.take_build(instance)
    assert deployment.built_template(instance).read_text() == deployment.NEXT_BUILD
    assert not (tmp_path / deployment.NEXT_BUILD).exists()


class Lambdas:
    """Answers calls of a function, one answer after another, and repeats the last one."""

    def __init__(self, *errors: str | None) -> None:
        self.errors = list(errors)
        self.calls = 0

    def invoke(self, **_request: Any) -> dict[str, Any]:
        self.calls += 1
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        answer: dict[str, Any] = {"Payload": BytesIO(f'{{"errorType": "{error}"}}'.encode())}
        return answer | ({"FunctionError": "Unhandled"} if error else {})


def test_a_function_that_is_too_slow_at_its_first_call_is_called_again() -> None:
    lambdas = Lambdas(
        "Task timed out after 30.00 seconds", "Task timed out after 30.00 seconds", None
    )
    deployment.start_function(lambdas, "aggregate")
    assert lambdas.calls == 3


def test_a_function_that_refuses_an_event_without_records_has_started() -> None:
    deployment.start_function(Lambdas("UnexpectedEvent"), "aggregate")


def test_a_function_that_does_not_start_is_reported() -> None:
    with pytest.raises(LocalError, match=r"aggregate doesn't start: .*ImportModuleError"):
        deployment.start_function(Lambdas("Runtime.ImportModuleError"), "aggregate")


def test_a_function_that_never_starts_in_time_means_a_slow_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deployment, "FIRST_CALL_SECONDS_MAX", 0.0)
    with pytest.raises(NoAnswer, match="aggregate doesn't start in 0 s"):
        deployment.start_function(Lambdas("Task timed out after 30.00 seconds"), "aggregate")
