"""A stack creates no resource under an existing name, and deletes only unprotected ones."""

import json
import uuid
from typing import Any

import pytest

from emulator.gaps import existing
from tests.contract.emulator.stacks import Document, Stacks

ACCOUNT = "000000000000"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Principal": {"Service": "lambda.amazonaws.com"},
        }
    ],
}
KEY_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}],
}
ATTRIBUTES = {
    "BillingMode": "PAY_PER_REQUEST",
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
}
MACHINE = json.dumps({"StartAt": "A", "States": {"A": {"Type": "Succeed"}}})
ROLE = f"arn:aws:iam::{ACCOUNT}:role/any"
OTHERS: dict[str, Document] = {
    "AWS::CloudWatch::Alarm": {
        "Namespace": "Own",
        "MetricName": "Age",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanThreshold",
    },
    "AWS::DynamoDB::GlobalTable": ATTRIBUTES | {"Replicas": [{"Region": "us-east-1"}]},
    "AWS::DynamoDB::Table": ATTRIBUTES,
    "AWS::IAM::Role": {"AssumeRolePolicyDocument": TRUST},
    "AWS::IoT::TopicRule": {"TopicRulePayload": {"Sql": "SELECT * FROM 'a'", "Actions": []}},
    "AWS::Kinesis::Stream": {"ShardCount": 1},
    "AWS::KMS::Alias": {"TargetKeyId": {"Ref": "Key"}},
    "AWS::Lambda::Function": {
        "Code": {"ZipFile": "def handler(*_): ..."},
        "Handler": "index.handler",
        "Runtime": "python3.11",
        "Role": ROLE,
    },
    "AWS::S3::BucketPolicy": {
        "PolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}],
        }
    },
    "AWS::SecretsManager::Secret": {"SecretString": "s"},
    "AWS::StepFunctions::StateMachine": {"RoleArn": ROLE, "DefinitionString": MACHINE},
}
"""The properties that a resource of each type needs besides its name."""


@pytest.fixture
def stacks(embedded_endpoint: str, aws_environment: None) -> Stacks:  # noqa: ARG001
    return Stacks(embedded_endpoint)


def named(kind: str, key: str) -> tuple[str, Document]:
    """Return a new name, and a resource with that name."""
    name = f"own{uuid.uuid4().hex[:8]}"
    name = f"alias/{name}" if kind == "AWS::KMS::Alias" else name
    properties = OTHERS.get(kind, {}) | {key: name}
    return name, {"Type": kind, "Properties": properties}


KEY = {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": KEY_POLICY}}
KINDS = [(kind, known[0]) for kind, known in (existing.BY_NAME | existing.BY_ARN).items()]


@pytest.mark.parametrize(("kind", "key"), [*KINDS, ("AWS::S3::Bucket", "BucketName")])
def test_a_stack_cannot_use_an_existing_name(stacks: Stacks, kind: str, key: str) -> None:
    name, resource = named(kind, key)
    options: Any = {"Capabilities": ["CAPABILITY_NAMED_IAM"], "DisableValidation": True}
    first = stacks.create({"Key": KEY, "Own": resource}, **options)
    assert first["StackStatus"] == "CREATE_COMPLETE"
    second = stacks.create({"Key": KEY, "Own": resource}, **options)
    assert second["StackStatus"] == "ROLLBACK_COMPLETE"
    assert name in stacks.reasons(second)
    assert "already exists" in stacks.reasons(second)
    assert stacks.resources(first)["Own"]
    assert stacks.delete(first)["StackStatus"] == "DELETE_COMPLETE"


def test_an_existing_resource_keeps_its_content(stacks: Stacks) -> None:
    name, resource = named("AWS::DynamoDB::GlobalTable", "TableName")
    kept = resource | {"DeletionPolicy": "Retain"}
    stacks.delete(stacks.create({"Table": kept}))
    dynamodb = stacks.client("dynamodb")
    dynamodb.put_item(TableName=name, Item={"id": {"S": "a"}})
    assert stacks.create({"Table": kept})["StackStatus"] == "ROLLBACK_COMPLETE"
    assert dynamodb.scan(TableName=name)["Count"] == 1


def test_a_buckets_policy_can_be_changed_by_the_stack_that_made_it(stacks: Stacks) -> None:
    bucket, resource = named("AWS::S3::BucketPolicy", "Bucket")
    stacks.client("s3").create_bucket(Bucket=bucket)
    stack = stacks.create({"Policy": resource})
    document = {"Version": "2012-10-17", "Statement": []}
    changed = {"Type": resource["Type"], "Properties": {"Bucket": bucket}}
    changed["Properties"]["PolicyDocument"] = document
    assert stacks.update(stack, {"Policy": changed})["StackStatus"] == "UPDATE_COMPLETE"
    found = stacks.client("s3").get_bucket_policy(Bucket=bucket)["Policy"]
    assert json.loads(found) == document
    other = stacks.create({"Policy": resource})
    assert f"The bucket policy already exists on bucket {bucket}." in stacks.reasons(other)


def failing(*depends_on: str) -> Document:
    properties = {"QueueName": "{{resolve:ssm:absent}}"}
    return {"Type": "AWS::SQS::Queue", "DependsOn": list(depends_on), "Properties": properties}


def queues(policies: dict[str, str]) -> tuple[Document, dict[str, str]]:
    """Return queues with one deletion policy each, and their names by policy."""
    resources, names = {}, {}
    for logical_id, policy in policies.items():
        names[logical_id], resource = named("AWS::SQS::Queue", "QueueName")
        resources[logical_id] = resource | {"DeletionPolicy": policy}
    return resources, names


def there(stacks: Stacks, names: dict[str, str]) -> list[str]:
    """Return the ones of these queues that exist."""
    sqs = stacks.client("sqs")
    return [
        logical_id
        for logical_id, name in names.items()
        if sqs.list_queues(QueueNamePrefix=name).get("QueueUrls")
    ]


POLICIES = {"Gone": "Delete", "Kept": "Retain", "Late": "RetainExceptOnCreate"}


def test_a_rollback_leaves_retained_resources_except_new_ones_with_retain_except_on_create(
    stacks: Stacks,
) -> None:
    resources, names = queues(POLICIES)
    stack = stacks.create(resources | {"Bad": failing(*POLICIES)})
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert there(stacks, names) == ["Kept"]
    again = stacks.create(resources)
    assert again["StackStatus"] == "ROLLBACK_COMPLETE", "what was left has the name"


def test_an_updates_rollback_retains_new_resources_by_the_same_rule(stacks: Stacks) -> None:
    first, _ = queues({"Own": "Retain"})
    resources, names = queues(POLICIES)
    stack = stacks.create(first)
    updated = stacks.update(stack, first | resources | {"Bad": failing(*POLICIES)})
    assert updated["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert there(stacks, names) == ["Kept"]


def test_a_deleted_stack_leaves_retained_resources_with_either_policy(
    stacks: Stacks,
) -> None:
    resources, names = queues(POLICIES)
    stacks.delete(stacks.create(resources))
    assert there(stacks, names) == ["Kept", "Late"]


def test_a_bucket_with_objects_is_not_deleted_with_its_stack(stacks: Stacks) -> None:
    name, resource = named("AWS::S3::Bucket", "BucketName")
    stack = stacks.create({"Bucket": resource})
    s3 = stacks.client("s3")
    s3.put_object(Bucket=name, Key="key", Body=b"")
    assert stacks.delete(stack)["StackStatus"] == "DELETE_FAILED"
    assert "is not empty" in stacks.reasons(stack)
    s3.delete_object(Bucket=name, Key="key")
    assert stacks.delete(stack)["StackStatus"] == "DELETE_COMPLETE"


@pytest.mark.parametrize("kind", ["AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"])
def test_a_protected_table_is_not_deleted_with_its_stack(stacks: Stacks, kind: str) -> None:
    name, resource = named(kind, "TableName")
    protection: Document = {"DeletionProtectionEnabled": True}
    if kind.endswith("GlobalTable"):
        protection = {"Replicas": [{"Region": "us-east-1"} | protection]}
    protected = {"Type": kind, "Properties": resource["Properties"] | protection}
    stack = stacks.create({"Table": protected})
    shown = stacks.client("dynamodb").describe_table(TableName=name)["Table"]
    assert shown["DeletionProtectionEnabled"]
    assert stacks.delete(stack)["StackStatus"] == "DELETE_FAILED"
    assert "protected against deletion" in stacks.reasons(stack)
    dynamodb = stacks.client("dynamodb")
    dynamodb.update_table(TableName=name, DeletionProtectionEnabled=False)
    assert stacks.delete(stack)["StackStatus"] == "DELETE_COMPLETE"


def test_an_update_turns_a_global_tables_protection_on_and_off(stacks: Stacks) -> None:
    name, resource = named("AWS::DynamoDB::GlobalTable", "TableName")
    stack = stacks.create({"Table": resource})
    for is_wanted in (True, False):
        replica = {"Region": "us-east-1", "DeletionProtectionEnabled": is_wanted}
        properties = resource["Properties"] | {"Replicas": [replica]}
        stacks.update(stack, {"Table": resource | {"Properties": properties}})
        shown = stacks.client("dynamodb").describe_table(TableName=name)["Table"]
        assert shown["DeletionProtectionEnabled"] == is_wanted
