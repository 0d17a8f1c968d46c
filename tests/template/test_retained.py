"""What `python -m ops adopt` would import, had this template's stack been deleted."""

import json
from typing import Any

import pytest
from cfnlint.api import lint
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from ops.retained import IDENTIFIERS, Deleted, Import, Retained, import_of
from tests.template import TEMPLATE
from tests.template.expanded import REGION, Template, templates
from tests.template.rendered import ACCOUNT, GIVEN, STACK, Resource, Stack

ROOT = "template.yaml"
ARN = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK}/0a1b2c3d"


def parameters_of(template: Template, is_all_on: bool) -> dict[str, str]:
    """The defaults, or values that switch on all that is optional."""
    defaults = {name: each["Default"] for name, each in template["Parameters"].items()}
    if is_all_on:
        defaults = {name: GIVEN.get(each, each) for name, each in defaults.items()}
        defaults["ReplicaRegion"] = "us-west-2"
    return {name: str(value) for name, value in defaults.items()}


def rendered(parameters: dict[str, str]) -> dict[str, Resource]:
    """The retained resources of the root, rendered by the tests' own means."""
    template = templates()[ROOT]
    stack = Stack(ROOT, STACK, parameters, templates())
    return {
        each.logical_id: each
        for each in stack.resources()
        if each.stack == ROOT
        and template["Resources"][each.logical_id].get("DeletionPolicy") == "RetainExceptOnCreate"
    }


def imported(parameters: dict[str, str], kept: dict[str, Resource]) -> Import:
    retained = {
        name: Retained(each.type, each.ref, {"Arn": each.arn}) for name, each in kept.items()
    }
    return import_of(Deleted(ARN, templates()[ROOT], parameters, {}, retained))


@pytest.fixture(params=[False, True], ids=["defaults", "all on"])
def parameters(request: pytest.FixtureRequest) -> dict[str, str]:
    return parameters_of(templates()[ROOT], request.param)


def test_all_data_and_its_key_are_imported_as_they_were_deployed(
    parameters: dict[str, str],
) -> None:
    kept = rendered(parameters)
    tables = {"DevicesTable", "WindowsTable", "AlertsTable"}
    assert set(kept) == tables | {"Key", "FailuresBucket", "ArchiveBucket", "OverflowQueue"}
    assert {each.type for each in kept.values()} == set(IDENTIFIERS)
    made = imported(parameters, kept)
    for name, each in kept.items():
        expected = dict(each.properties)
        if name == "FailuresBucket":
            del expected["NotificationConfiguration"]
        assert made.template["Resources"][name]["Properties"] == expected
    assert made.left_out == {"FailuresBucket.NotificationConfiguration": "FailuresQueue"}


def test_an_import_is_what_cloudformation_takes(parameters: dict[str, str]) -> None:
    made = imported(parameters, rendered(parameters))
    text = json.dumps(made.template)
    assert "Fn::" not in text
    assert '"Ref"' not in text
    # CloudFormation API Reference, CreateChangeSet, TemplateBody
    assert len(text) <= 51_200
    problems: list[Any] = lint(text, regions=[REGION])
    assert [f"{each.rule.id} {each.message}" for each in problems] == []


def test_each_is_named_by_what_cloudformation_knows_it_by() -> None:
    for kind, name in IDENTIFIERS.items():
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(REGION, kind).schema
        assert schema["primaryIdentifier"] == [f"/properties/{name}"]


# By type, the command that removes it, or the name by which docs/operations.md tells of it.
REMOVED_BY = {
    "AWS::ApiGateway::Account": "get-account",
    "AWS::DynamoDB::GlobalTable": "delete-table",
    "AWS::IAM::Role": "ApiLogsRole",
    "AWS::IoT::Policy": "delete-policy",
    "AWS::KMS::Key": "schedule-key-deletion",
    "AWS::S3::Bucket": "delete-bucket",
    "AWS::SQS::Queue": "delete-queue",
}


def test_the_document_tells_how_each_thing_that_stays_is_removed() -> None:
    told = (TEMPLATE.parent / "docs/operations.md").read_text("utf-8")
    kept = {
        resource["Type"]
        for template in templates().values()
        for resource in template["Resources"].values()
        if resource.get("DeletionPolicy", "Delete") != "Delete"
    }
    assert {kind for kind in kept if REMOVED_BY.get(kind, kind) not in told} == set()
    assert kept == set(REMOVED_BY)
