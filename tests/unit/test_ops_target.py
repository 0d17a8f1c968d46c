from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops.errors import OpsError
from ops.target import Target, described, outputs_of, settings_of

SAMCONFIG = """
version = 0.1
[prod.global.parameters]
stack_name = "telemetry-prod"
[prod.deploy.parameters]
region = "eu-west-1"
[broken.deploy.parameters]
region = "eu-west-1"
"""


@pytest.fixture
def samconfig(tmp_path: Path) -> Path:
    path = tmp_path / "samconfig.toml"
    path.write_text(SAMCONFIG)
    return path


def test_an_environment_has_the_stack_and_the_region_that_sam_deploys_to(samconfig: Path) -> None:
    expected = {"stack_name": "telemetry-prod", "region": "eu-west-1"}
    assert settings_of("prod", samconfig) == expected


def test_an_environment_that_is_not_there_is_named_with_those_that_are(samconfig: Path) -> None:
    with pytest.raises(OpsError, match=r"'staging' isn't an environment.*: broken, prod"):
        settings_of("staging", samconfig)


def test_an_environment_without_a_stack_says_where_its_name_goes(samconfig: Path) -> None:
    with pytest.raises(OpsError, match=r"\[broken\.global\.parameters\] has no stack_name"):
        settings_of("broken", samconfig)


def test_an_output_that_the_stack_lacks_asks_for_a_deployment() -> None:
    with pytest.raises(OpsError, match="stack telemetry has no output ArchiveBucket"):
        Target("telemetry", {}, lambda service: service).output("ArchiveBucket")


def test_a_stack_that_is_not_there_asks_for_a_deployment() -> None:
    with pytest.raises(OpsError, match="there is no stack telemetry: `make deploy` makes it"):
        Target("telemetry", None, lambda service: service).output("ArchiveBucket")


def formation(answer: Any) -> Any:
    """CloudFormation, that answers so to DescribeStacks, or raises it."""

    def describe_stacks(**_options: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return {"Stacks": [answer]}

    return SimpleNamespace(describe_stacks=describe_stacks)


def test_a_stack_is_described_and_one_that_is_not_there_is_none() -> None:
    stack = {"Outputs": [{"OutputKey": "KeyId", "OutputValue": "mrk-1"}]}
    assert described(formation(stack), "telemetry") == stack
    assert outputs_of(stack) == {"KeyId": "mrk-1"}
    assert outputs_of({}) == {}
    absent = ClientError({"Error": {"Code": "ValidationError"}}, "DescribeStacks")
    assert described(formation(absent), "telemetry") is None


def test_another_error_is_no_absence() -> None:
    denied = ClientError({"Error": {"Code": "AccessDenied"}}, "DescribeStacks")
    with pytest.raises(ClientError, match="AccessDenied"):
        described(formation(denied), "telemetry")
