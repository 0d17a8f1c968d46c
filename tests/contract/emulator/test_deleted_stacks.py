"""What the embedded AWS knows of deleted stacks, and how what they left comes into another."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import ClientError

from emulator import embedded
from local.instance import unused
from local.tools import tool
from tests.contract.emulator.account import Account, Document

KEEPS = "RetainExceptOnCreate"
GAPS = ("deleted_stacks", "imports", "existing")


@pytest.fixture(scope="module")
def bare_endpoint() -> Iterator[str]:
    """Address of an embedded AWS whose gaps of this kind are open."""
    instance = unused("contract")
    instance.create()
    try:
        aws = embedded.start(instance, tool("aws", "python"), with_mappings=False, without=GAPS)
        try:
            yield f"http://127.0.0.1:{aws.port}"
        finally:
            aws.stop()
    finally:
        instance.remove()


@pytest.fixture
def bare(bare_endpoint: str, aws_environment: None) -> Account:  # noqa: ARG001
    return Account(bare_endpoint)


def table(name: str, **attributes: Any) -> Document:
    properties = {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "Replicas": [{"Region": "us-east-1"}],
    }
    return {"Type": "AWS::DynamoDB::GlobalTable", "Properties": properties} | attributes


def kept_and_not(account: Account) -> Document:
    """A stack with a table that it leaves, and a queue that it doesn't."""
    resources = {
        "Table": table(account.named("kept"), DeletionPolicy=KEEPS),
        "Queue": account.queue("not-kept"),
    }
    outputs = {"Url": {"Value": {"Ref": "Queue"}}}
    return {"Resources": resources, "Outputs": outputs}


def policy_of(bucket: str) -> Document:
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": f"arn:aws:s3:::{bucket}/*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    document = {"Version": "2012-10-17", "Statement": [statement]}
    properties = {"Bucket": bucket, "PolicyDocument": document}
    return {"Type": "AWS::S3::BucketPolicy", "Properties": properties}


def statuses(account: Account, stack_id: str) -> dict[str, str]:
    listed = account.formation.list_stack_resources(StackName=stack_id)["StackResourceSummaries"]
    return {each["LogicalResourceId"]: each["ResourceStatus"] for each in listed}


def test_a_deleted_stack_tells_by_its_id_what_became_of_each_of_its_resources(
    account: Account,
) -> None:
    template = kept_and_not(account)
    stack = account.create(template)
    deleted = account.delete(stack)
    assert deleted["StackStatus"] == "DELETE_COMPLETE"
    assert deleted["Outputs"][0]["OutputKey"] == "Url"
    expected = {"Table": "DELETE_SKIPPED", "Queue": "DELETE_COMPLETE"}
    assert statuses(account, stack["StackId"]) == expected
    described = account.formation.describe_stack_resources(StackName=stack["StackId"])
    physical = {
        e["LogicalResourceId"]: e["PhysicalResourceId"] for e in described["StackResources"]
    }
    assert physical["Table"] == account.named("kept")
    found = account.formation.get_template(StackName=stack["StackId"])["TemplateBody"]
    assert found == template


def test_a_deleted_stacks_name_is_free_and_names_it_no_more(account: Account) -> None:
    first = account.create(kept_and_not(account))
    account.delete(first)
    name = first["StackName"]
    for look in (
        account.formation.describe_stacks,
        account.formation.list_stack_resources,
        account.formation.get_template,
    ):
        with pytest.raises(ClientError, match="does not exist"):
            look(StackName=name)
    again = account.formation.create_stack(
        StackName=name, TemplateBody=json.dumps({"Resources": {"Queue": account.queue("second")}})
    )
    assert account.ended(again["StackId"])["StackStatus"] == "CREATE_COMPLETE"
    listed = account.formation.list_stacks()["StackSummaries"]
    mine = {s["StackId"]: s["StackStatus"] for s in listed if s["StackName"] == name}
    assert mine == {first["StackId"]: "DELETE_COMPLETE", again["StackId"]: "CREATE_COMPLETE"}
    times = {s["StackId"]: s.get("DeletionTime") for s in listed if s["StackName"] == name}
    assert times[first["StackId"]] >= first["CreationTime"]
    assert statuses(account, first["StackId"])["Table"] == "DELETE_SKIPPED"
    assert statuses(account, again["StackId"]) == {"Queue": "CREATE_COMPLETE"}


def test_a_deletion_that_succeeds_at_its_second_try_tells_what_the_first_deleted(
    account: Account,
) -> None:
    name = account.named("held")
    statement = {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    properties = {"PolicyName": name, "PolicyDocument": document}
    held = {"Type": "AWS::IoT::Policy", "Properties": properties}
    stack = account.create({"Resources": {"Queue": account.queue("gone"), "Held": held}})
    with closing(account.client("iot")) as iot:
        group = iot.create_thing_group(thingGroupName=name)["thingGroupArn"]
        iot.attach_policy(policyName=name, target=group)
        assert account.delete(stack)["StackStatus"] == "DELETE_FAILED"
        iot.detach_policy(policyName=name, target=group)
    assert account.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    expected = {"Queue": "DELETE_COMPLETE", "Held": "DELETE_COMPLETE"}
    assert statuses(account, stack["StackId"]) == expected


def imported(account: Account, template: Document, name: str, **options: Any) -> Document:
    """Import a table into a new stack; the stack once that has ended."""
    identifier = {"TableName": account.named("kept")}
    resource = {"ResourceType": "AWS::DynamoDB::GlobalTable", "LogicalResourceId": "Table"}
    created = account.formation.create_change_set(
        StackName=name,
        ChangeSetName="import",
        ChangeSetType="IMPORT",
        TemplateBody=json.dumps(template),
        ResourcesToImport=[resource | {"ResourceIdentifier": identifier}],
        **options,
    )
    account.formation.execute_change_set(ChangeSetName=created["Id"])
    return account.ended(created["StackId"])


def test_a_table_that_was_left_is_imported_with_its_items_and_updated(account: Account) -> None:
    first = account.create(kept_and_not(account))
    with closing(account.client("dynamodb")) as dynamodb:
        item = {"id": {"S": "one"}}
        dynamodb.put_item(TableName=account.named("kept"), Item=item)
        account.delete(first)
        alone = {"Resources": {"Table": kept_and_not(account)["Resources"]["Table"]}}
        second = imported(account, alone, first["StackName"])
        assert second["StackStatus"] == "IMPORT_COMPLETE"
        whole = kept_and_not(account)
        assert account.update(second, whole)["StackStatus"] == "UPDATE_COMPLETE"
        assert account.resources(second) == {"Table", "Queue"}
        assert dynamodb.scan(TableName=account.named("kept"))["Items"] == [item]


def test_an_import_takes_no_role(account: Account) -> None:
    alone = {"Resources": {"Table": table("any", DeletionPolicy="Retain")}}
    role = "arn:aws:iam::000000000000:role/deployer"
    with pytest.raises(ClientError, match=r"cannot modify or add \[RoleArn\]"):
        imported(account, alone, account.named("new"), RoleARN=role)


def test_nothing_is_made_in_the_place_of_a_table_or_a_policy_that_is_there(
    account: Account,
) -> None:
    kept = account.create(kept_and_not(account))
    with closing(account.client("dynamodb")) as dynamodb:
        dynamodb.put_item(TableName=account.named("kept"), Item={"id": {"S": "one"}})
        account.delete(kept)
        second = account.create({"Resources": {"Table": table(account.named("kept"))}})
        assert second["StackStatus"] == "ROLLBACK_COMPLETE"
        reason = account.event(second, "Table", "ResourceStatusReason")
        assert reason.endswith("already exists.")
        assert dynamodb.scan(TableName=account.named("kept"))["Count"] == 1

    account.s3.put_bucket_policy(
        Bucket=account.bucket,
        Policy=json.dumps(policy_of(account.bucket)["Properties"]["PolicyDocument"]),
    )
    third = account.create({"Resources": {"Policy": policy_of(account.bucket)}})
    reason = account.event(third, "Policy", "ResourceStatusReason")
    assert reason == f"The bucket policy already exists on bucket {account.bucket}."
    assert account.s3.get_bucket_policy(Bucket=account.bucket)["Policy"]


def test_a_policy_that_the_stack_has_made_is_updated(account: Account) -> None:
    stack = account.create({"Resources": {"Policy": policy_of(account.bucket)}})
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    other = policy_of(account.bucket)
    other["Properties"]["PolicyDocument"]["Statement"][0]["Sid"] = "OnlyOverTls"
    assert account.update(stack, {"Resources": {"Policy": other}})["StackStatus"] == (
        "UPDATE_COMPLETE"
    )


def test_without_the_gaps_closed_the_emulator_forgets_and_overwrites(bare: Account) -> None:
    first = bare.create(kept_and_not(bare))
    with closing(bare.client("dynamodb")) as dynamodb:
        dynamodb.put_item(TableName=bare.named("kept"), Item={"id": {"S": "one"}})
        bare.delete(first)
        assert statuses(bare, first["StackName"]) == {}
        second = bare.create({"Resources": {"Table": table(bare.named("kept"))}})
        assert second["StackStatus"] == "CREATE_COMPLETE"
        assert dynamodb.scan(TableName=bare.named("kept"))["Count"] == 0
    bare.s3.put_bucket_policy(
        Bucket=bare.bucket,
        Policy=json.dumps(policy_of(bare.bucket)["Properties"]["PolicyDocument"]),
    )
    third = bare.create({"Resources": {"Policy": policy_of(bare.bucket)}})
    assert third["StackStatus"] == "CREATE_COMPLETE"


def test_without_the_gaps_closed_the_emulator_imports_no_global_table(bare: Account) -> None:
    template = {"Resources": {"Table": table(bare.named("kept"), DeletionPolicy="Retain")}}
    with pytest.raises(ClientError, match="UNAVAILABLE"):
        imported(bare, template, bare.named("new"), RoleARN="arn:aws:iam::000000000000:role/any")
