"""`make deploy ENV=…`, `make remove ENV=…`: which stack they change; what stops them early."""

import os
import subprocess
from pathlib import Path

import pytest

from ops import environment
from ops.environment import described, main
from ops.errors import OpsError
from ops.target import on_aws, settings_of

ROOT = Path(__file__).parents[2]
ACCOUNT = "123456789012"


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No AWS of whoever runs the tests, and none by an instance's role."""
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(environment, "account_of", lambda _session: ACCOUNT)


def recipe(*arguments: str) -> list[str]:
    """The commands that make would give."""
    line = ["make", "--dry-run", "--no-print-directory", *arguments]
    answer = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    return answer.stdout.splitlines()


@pytest.mark.parametrize("command", ["deploy", "remove"])
@pytest.mark.parametrize(("given", "name"), [([], "default"), (["ENV=staging"], "staging")])
def test_make_says_which_stack_and_then_changes_that_environment(
    command: str, given: list[str], name: str
) -> None:
    lines = recipe(command, *given)
    said = f'-m ops.environment {command} --env "{name}"'
    of_sam = "delete" if command == "remove" else "deploy"
    changes = f" sam {of_sam} --config-env {name}"
    places = [
        next(place for place, line in enumerate(lines) if text in line) for text in (said, changes)
    ]
    builds = [place for place, line in enumerate(lines) if " sam build" in line]
    assert places == sorted(places)
    assert all(places[0] < place < places[1] for place in builds)
    assert bool(builds) == (command == "deploy")


def test_make_checks_what_derives_before_it_builds() -> None:
    lines = recipe("build")
    (checks,) = [place for place, line in enumerate(lines) if "-m contract --check" in line]
    (builds,) = [place for place, line in enumerate(lines) if " sam build" in line]
    assert checks < builds


def test_two_environments_can_be_in_one_account_and_region() -> None:
    first, second = settings_of("default"), settings_of("staging")
    for setting in ("stack_name", "s3_prefix"):
        assert first[setting] != second[setting]
    assert "parameter_overrides" not in first
    parameters = dict(each.split("=") for each in second["parameter_overrides"].split())
    assert parameters == {"Name": second["stack_name"], "ManageApiLogging": "false"}
    assert {**first, **second}.keys() == second.keys()
    assert second["confirm_changeset"]


def test_an_environment_that_is_not_there_ends_it_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["deploy", "--env", "stagin"]) == 1
    told = "ENV: 'stagin' isn't an environment of samconfig.toml: default, staging\n"
    assert capsys.readouterr().err == told


def test_make_ends_with_that_before_it_builds() -> None:
    line = ["make", "--no-print-directory", "deploy", "ENV=stagin"]
    answer = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "'stagin' isn't an environment" in answer.stderr
    assert "Building" not in answer.stdout + answer.stderr


def test_the_environment_of_this_machine_is_not_deployed_to_aws(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["deploy", "--env", "local"]) == 1
    assert "ENV: local is of `python -m local`" in capsys.readouterr().err


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:40973"),
        ("AWS_ENDPOINT_URL", "http://[::1]:4566"),
        ("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://localhost:4566"),
    ],
)
def test_variables_of_a_local_instance_deploy_nothing_else_to_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["deploy", "--env", "staging", "--region", "a-b-1"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"{name}: '{value}' is on this machine, and environment staging is on")
    assert "unset AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID" in told
    with pytest.raises(OpsError, match="is on this machine"):
        on_aws("staging")
    assert main(["deploy", "--env", "local", "--region", "a-b-1"]) == (name != "AWS_ENDPOINT_URL")


@pytest.mark.usefixtures("credentials")
def test_another_address_of_aws_is_no_local_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AWS_ENDPOINT_URL_S3", "https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com"
    )
    assert main(["deploy", "--env", "staging", "--region", "a-b-1"]) == 0


def test_missing_credentials_and_region_are_said_at_once_with_what_gives_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["deploy", "--env", "default"]) == 1
    credentials, region = capsys.readouterr().err.splitlines()
    assert credentials.startswith("no AWS credentials: ")
    assert "AWS_PROFILE" in credentials
    assert region.startswith("no AWS region: ")
    assert "AWS_DEFAULT_REGION" in region
    assert "aws configure" in credentials
    assert "aws configure" in region


def test_a_profile_that_is_not_there_is_said() -> None:
    with pytest.raises(OpsError, match=r"config profile \(nobody\) could not be found"):
        described("default", ["--profile", "nobody"])


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("default", "--region eu-west-1", "telemetry (environment default) in eu-west-1"),
        ("staging", "--region a-b-1", "telemetry-staging (environment staging) in a-b-1"),
        (
            "default",
            "--region=a-b-1 --stack-name other --parameter-overrides A=1 B=2",
            "other (environment default) in a-b-1",
        ),
        (
            "default",
            "--region a-b-1 --config-env staging",
            "telemetry-staging (environment staging) in a-b-1",
        ),
    ],
)
def test_it_is_said_which_stack_region_and_account_are_meant(
    name: str, options: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "--env", name, *options.split()]) == 0
    assert capsys.readouterr().out == f"deploys stack {expected}, account {ACCOUNT}\n"
