"""The embedded CloudFormation's answers about a deleted stack."""

import uuid

import pytest
from botocore.exceptions import ClientError

from tests.contract.emulator.stacks import Document, Stacks


@pytest.fixture
def stacks(embedded_endpoint: str, aws_environment: None) -> Stacks:  # noqa: ARG001
    return Stacks(embedded_endpoint)


def queues() -> Document:
    """Return the resources of a stack: a retained queue and one that is deleted."""
    queue = {"Type": "AWS::SQS::Queue"}
    return {"Kept": queue | {"DeletionPolicy": "RetainExceptOnCreate"}, "Other": queue}


def statuses(stacks: Stacks, stack: Document) -> dict[str, str]:
    listed = stacks.formation.list_stack_resources(StackName=stack["StackId"])
    return {
        each["LogicalResourceId"]: each["ResourceStatus"]
        for each in listed["StackResourceSummaries"]
    }


def test_a_deleted_stack_lists_its_resources_statuses_by_its_id(stacks: Stacks) -> None:
    stack = stacks.create(queues())
    outputs = {"Url": {"Value": {"Ref": "Kept"}}}
    stacks.update(stack, queues(), Outputs=outputs)
    before = stacks.resources(stack)
    deleted = stacks.delete(stack)
    assert deleted["StackStatus"] == "DELETE_COMPLETE"
    assert deleted["Outputs"][0]["OutputValue"] == before["Kept"]
    assert statuses(stacks, stack) == {"Kept": "DELETE_SKIPPED", "Other": "DELETE_COMPLETE"}
    assert stacks.resources(stack) == before
    described = stacks.formation.describe_stack_resources(StackName=stack["StackId"])
    assert len(described["StackResources"]) == 2
    template = stacks.formation.get_template(StackName=stack["StackId"])["TemplateBody"]
    assert template == {"Resources": queues(), "Outputs": outputs}


def test_a_deleted_stacks_name_is_free_and_does_not_find_it(stacks: Stacks) -> None:
    first = stacks.create(queues())
    name = first["StackName"]
    stacks.delete(first)
    for look in (
        stacks.formation.describe_stacks,
        stacks.formation.list_stack_resources,
        stacks.formation.get_template,
    ):
        with pytest.raises(ClientError, match="does not exist"):
            look(StackName=name)
    second = stacks.create({"Third": {"Type": "AWS::SQS::Queue"}}, name=name)
    assert second["StackStatus"] == "CREATE_COMPLETE"
    listed = {
        each["StackId"]: each
        for each in stacks.formation.list_stacks()["StackSummaries"]
        if each["StackName"] == name
    }
    assert set(listed) == {first["StackId"], second["StackId"]}
    assert listed[first["StackId"]]["DeletionTime"] >= first["CreationTime"]
    assert "DeletionTime" not in listed[second["StackId"]]
    assert statuses(stacks, first)["Kept"] == "DELETE_SKIPPED"
    assert statuses(stacks, second) == {"Third": "CREATE_COMPLETE"}


def test_a_deletion_that_succeeds_at_its_second_try_lists_the_first_ones_deletions(
    stacks: Stacks,
) -> None:
    bucket, s3 = f"full-{uuid.uuid4().hex[:8]}", stacks.client("s3")
    full = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": bucket}}
    stack = stacks.create(queues() | {"Bucket": full})
    s3.put_object(Bucket=bucket, Key="key", Body=b"")
    assert stacks.delete(stack)["StackStatus"] == "DELETE_FAILED"
    s3.delete_object(Bucket=bucket, Key="key")
    assert stacks.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    expected = {"Kept": "DELETE_SKIPPED", "Other": "DELETE_COMPLETE", "Bucket": "DELETE_COMPLETE"}
    assert statuses(stacks, stack) == expected
