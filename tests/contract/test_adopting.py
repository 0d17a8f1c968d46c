"""A new stack of what a deleted one has left, on the embedded AWS."""

import argparse
import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from ops import adopt
from ops.errors import OpsError
from ops.target import Target
from tests.contract.emulator.stacks import Document, Stacks
from tests.contract.emulator.test_imports import Import

KEEPS = {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"}
IDS = "11111111-2222-3333-4444-555555555555=1"
STATEMENT = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "POLL_SECONDS", 0.02)


def template(name: str) -> Document:
    """A pipeline's in small: a table with its key, a bucket that announces to a queue, a queue."""
    table = {
        "TableName": {"Fn::Sub": "${Name}-table"},
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS"},
        "Replicas": [
            {
                "Region": {"Ref": "AWS::Region"},
                "SSESpecification": {"KMSMasterKeyId": {"Fn::GetAtt": ["Key", "Arn"]}},
            },
            {"Fn::If": ["HasReplica", {"Region": {"Ref": "Replica"}}, {"Ref": "AWS::NoValue"}]},
        ],
    }
    announced = {"Event": "s3:ObjectCreated:*", "Queue": {"Fn::GetAtt": ["Announced", "Arn"]}}
    bucket = {
        "BucketName": {"Fn::Sub": "${Name}-bucket"},
        "NotificationConfiguration": {"QueueConfigurations": [announced]},
    }
    policy = {"Queues": [{"Ref": "Announced"}], "PolicyDocument": {"Statement": [STATEMENT]}}
    return {
        "Transform": "AWS::Serverless-2016-10-31",
        "Parameters": {
            "Name": {"Type": "String", "Default": name},
            "Replica": {"Type": "String", "Default": ""},
            "OtherSchemaIds": {"Type": "String", "Default": ""},
        },
        "Conditions": {"HasReplica": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Replica"}, ""]}]}},
        "Resources": {
            "Key": {"Type": "AWS::KMS::Key", "Properties": {"MultiRegion": True}} | KEEPS,
            "Table": {"Type": "AWS::DynamoDB::GlobalTable", "Properties": table} | KEEPS,
            "Bucket": {
                "Type": "AWS::S3::Bucket",
                "DependsOn": "AnnouncedPolicy",
                "Properties": bucket,
            }
            | KEEPS,
            "Overflow": {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": 180}}
            | KEEPS,
            "Announced": {"Type": "AWS::SQS::Queue"},
            "AnnouncedPolicy": {"Type": "AWS::SQS::QueuePolicy", "Properties": policy},
        },
        "Outputs": {"ReadingSchemaIds": {"Value": IDS}, "KeyId": {"Value": {"Ref": "Key"}}},
    }


class Environment:
    """A stack that comes and goes, and `adopt` as an operator gives it."""

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self.name = f"prod-{uuid.uuid4().hex[:8]}"
        self.template = template(self.name)
        self.target = Target(self.name, None, stacks.client)

    def deploy(self) -> Document:
        """As `sam deploy` does: a new stack, or an update of the one that is there."""
        formation = self.stacks.formation
        action = formation.create_stack
        if adopt.status_of(formation, self.name):
            action = formation.update_stack
        made = action(
            StackName=self.name,
            TemplateBody=json.dumps(self.template),
            Capabilities=["CAPABILITY_AUTO_EXPAND"],
        )
        return self.stacks.ended(made["StackId"])

    def adopt(self, *without: str, env: str = "default") -> str:
        """What it prints, as one text."""
        options = argparse.Namespace(yes=True, without=list(without), env=env)
        told = StringIO()
        assert adopt.adopt(options, self.target, Console(file=told, width=80)) == 0
        return told.getvalue()


@pytest.fixture
def environment(embedded_endpoint: str, aws_environment: None) -> Environment:  # noqa: ARG001
    return Environment(Stacks(embedded_endpoint))


@pytest.fixture
def dynamodb(environment: Environment) -> Iterator[Any]:
    with closing(environment.stacks.client("dynamodb")) as client:
        yield client


def test_a_deployment_goes_on_with_the_resources_that_a_deleted_stack_left(
    environment: Environment, dynamodb: Any
) -> None:
    stacks, table = environment.stacks, f"{environment.name}-table"
    first = environment.deploy()
    made = stacks.resources(first)
    queue = made["Overflow"]
    dynamodb.put_item(TableName=table, Item={"id": {"S": "one"}})
    stacks.client("sqs").send_message(QueueUrl=queue, MessageBody="a reading")
    assert stacks.delete(first)["StackStatus"] == "DELETE_COMPLETE"

    told = environment.adopt()
    adopted = stacks.ended(environment.name)
    assert adopted["StackStatus"] == "IMPORT_COMPLETE"
    kept = {name: made[name] for name in ("Key", "Table", "Bucket", "Overflow")}
    assert stacks.resources(adopted) == kept
    assert "without Bucket.NotificationConfiguration, which needs Announced" in told
    parameters = f"Name={environment.name} OtherSchemaIds={IDS}"
    assert told.splitlines()[-1] == f'make deploy ARGS="--parameter-overrides {parameters}"'

    second = environment.deploy()
    assert second["StackStatus"] == "UPDATE_COMPLETE"
    deployed = stacks.resources(second)
    assert set(deployed) == set(environment.template["Resources"])
    assert kept.items() <= deployed.items()
    assert dynamodb.scan(TableName=table)["Items"] == [{"id": {"S": "one"}}]
    announced = stacks.client("s3").get_bucket_notification_configuration(
        Bucket=f"{environment.name}-bucket"
    )
    (configured,) = announced["QueueConfigurations"]
    assert configured["QueueArn"].split(":")[-1] in deployed["Announced"]
    attributes = ["ApproximateNumberOfMessages"]
    found = stacks.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=attributes)
    assert found["Attributes"]["ApproximateNumberOfMessages"] == "1"

    stacks.delete(second)  # and once more: the import is no special past
    environment.adopt()
    assert environment.deploy()["StackStatus"] == "UPDATE_COMPLETE"
    assert dynamodb.scan(TableName=table)["Count"] == 1


def test_a_plain_deployment_is_refused_and_takes_nothing_and_what_it_leaves_is_passed_over(
    environment: Environment, dynamodb: Any
) -> None:
    table = f"{environment.name}-table"
    environment.stacks.delete(environment.deploy())
    dynamodb.put_item(TableName=table, Item={"id": {"S": "one"}})
    refused = environment.deploy()
    assert refused["StackStatus"] == "ROLLBACK_COMPLETE"
    assert dynamodb.scan(TableName=table)["Count"] == 1
    with pytest.raises(OpsError, match=r"exists, ROLLBACK_COMPLETE: .*delete-stack"):
        environment.adopt()
    environment.stacks.delete(refused)  # now the newest deleted stack, and it has left nothing
    environment.adopt()
    assert environment.deploy()["StackStatus"] == "UPDATE_COMPLETE"


def test_a_finished_import_only_prints_the_next_command(environment: Environment) -> None:
    environment.stacks.delete(environment.deploy())
    command = environment.adopt(env="prod").splitlines()[-1]
    assert command.startswith('make deploy ENV=prod ARGS="--parameter-overrides Name=')
    again = environment.adopt(env="prod")
    assert again.splitlines()[-1] == command
    assert "has left:" not in again


def test_a_stack_that_was_imported_and_deleted_is_imported_again_as_if_it_were_not(
    environment: Environment,
) -> None:
    environment.stacks.delete(environment.deploy())
    command = environment.adopt().splitlines()[-1]
    environment.stacks.delete(environment.stacks.ended(environment.name))
    assert environment.adopt().splitlines()[-1] == command
    assert environment.deploy()["StackStatus"] == "UPDATE_COMPLETE"


def test_a_stack_that_is_there_is_left_alone(environment: Environment) -> None:
    environment.deploy()
    with pytest.raises(OpsError, match=r"exists, CREATE_COMPLETE: adopt makes a new one"):
        environment.adopt()


def test_a_stack_that_was_not_deleted_is_unknown(environment: Environment) -> None:
    with pytest.raises(OpsError, match=r"knows no deleted stack .* after 90 days"):
        environment.adopt()


def test_a_stack_that_has_left_nothing_has_nothing_to_adopt(environment: Environment) -> None:
    environment.template = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
    environment.stacks.delete(environment.deploy())
    with pytest.raises(OpsError, match="was deleted, and nothing of it was retained"):
        environment.adopt()


def test_a_resource_that_is_gone_since_is_named_and_can_be_left_to_the_deployment(
    environment: Environment,
) -> None:
    stacks = environment.stacks
    stack = environment.deploy()
    queue = stacks.resources(stack)["Overflow"]
    stacks.delete(stack)
    stacks.client("sqs").delete_queue(QueueUrl=queue)
    with pytest.raises(OpsError, match=r"Overflow \(.*\) was retained, and is gone .*--without"):
        environment.adopt()
    with pytest.raises(OpsError, match=r"--without Overfull: it isn't among .*Overflow"):
        environment.adopt("Overfull")
    environment.adopt("Overflow")
    adopted = stacks.resources(stacks.ended(environment.name))
    assert set(adopted) == {"Key", "Table", "Bucket"}
    deployed = environment.deploy()
    assert deployed["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources(deployed)["Overflow"]


@pytest.mark.parametrize("gone", ["Table", "Bucket"])
def test_a_table_or_a_bucket_that_is_gone_is_named(
    environment: Environment, dynamodb: Any, gone: str
) -> None:
    environment.stacks.delete(environment.deploy())
    if gone == "Table":
        dynamodb.delete_table(TableName=f"{environment.name}-table")
    else:
        environment.stacks.client("s3").delete_bucket(Bucket=f"{environment.name}-bucket")
    with pytest.raises(OpsError, match=rf"{gone} \({environment.name}.*\) was retained, and is"):
        environment.adopt()


def test_a_key_that_is_to_be_deleted_is_told_of_and_how_it_is_saved(
    environment: Environment,
) -> None:
    stack = environment.deploy()
    key = environment.stacks.resources(stack)["Key"]
    environment.stacks.delete(stack)
    with closing(environment.stacks.client("kms")) as kms:
        kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        with pytest.raises(OpsError, match=rf"{key} is PendingDeletion.*cancel-key-deletion"):
            environment.adopt()
        kms.cancel_key_deletion(KeyId=key)
        with pytest.raises(OpsError, match=rf"{key} is Disabled.*enable-key"):
            environment.adopt()
        kms.enable_key(KeyId=key)
    environment.adopt()


def test_a_refusal_of_cloudformations_is_shown_and_leaves_no_stack(
    environment: Environment,
) -> None:
    stacks = environment.stacks
    stacks.delete(environment.deploy())
    table = environment.template["Resources"]["Table"]["Properties"]
    own = {"TableName": f"{environment.name}-table"}
    other = Import(stacks)
    other.add(
        "Mine",
        "AWS::DynamoDB::GlobalTable",
        table | own | {"Replicas": [{"Region": "us-east-1"}]},
        own,
    )
    other.execute()
    reason = rf"refuses the import: .*already exists in stack .*{other.name}"
    with pytest.raises(OpsError, match=reason):
        environment.adopt()
    assert adopt.status_of(stacks.formation, environment.name) is None
