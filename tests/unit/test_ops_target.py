from pathlib import Path

import pytest

from ops.errors import OpsError
from ops.target import Target, settings_of

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
