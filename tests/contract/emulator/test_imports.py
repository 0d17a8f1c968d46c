"""Import change sets in the embedded CloudFormation: adopted resources, and refusals."""

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.contract.emulator.stacks import Document, Stacks
from tests.contract.emulator.test_existing import ATTRIBUTES, KEY_POLICY

AVRO = json.dumps({"type": "record", "name": "a", "fields": [{"name": "x", "type": "int"}]})


@pytest.fixture
def stacks(embedded_endpoint: str, aws_environment: None) -> Stacks:  # noqa: ARG001
    return Stacks(embedded_endpoint)


class Import:
    """An import change set: resources with their identifiers."""

    def __init__(self, stacks: Stacks, name: str | None = None) -> None:
        self.stacks = stacks
        self.name = name or f"stack-{uuid.uuid4().hex[:8]}"
        self.resources: Document = {}
        self.entries: list[Document] = []

    def add(
        self, logical_id: str, kind: str, properties: Document, identifier: dict[str, str]
    ) -> None:
        definition = {"Type": kind, "DeletionPolicy": "Retain", "Properties": properties}
        self.resources[logical_id] = definition
        entry: Document = {"ResourceType": kind, "LogicalResourceId": logical_id}
        self.entries.append(entry | {"ResourceIdentifier": identifier})

    def create(self, **options: Any) -> Document:
        """Create the change set; return its description."""
        body = {"Resources": self.resources} | options.pop("sections", {})
        request = {"StackName": self.name, "ChangeSetName": "adopt", "ChangeSetType": "IMPORT"}
        made = self.stacks.formation.create_change_set(
            TemplateBody=json.dumps(body), ResourcesToImport=self.entries, **request, **options
        )
        found: Document = self.stacks.formation.describe_change_set(ChangeSetName=made["Id"])
        return found

    def execute(self) -> Document:
        """Create and execute it; return the stack."""
        change_set = self.create()
        assert change_set["Status"] == "CREATE_COMPLETE", change_set["StatusReason"]
        self.stacks.formation.execute_change_set(ChangeSetName=change_set["ChangeSetId"])
        return self.stacks.ended(change_set["StackId"])

    def refused(self, **options: Any) -> str:
        """Return the reason why it isn't created."""
        with pytest.raises(ClientError) as caught:
            self.create(**options)
        return str(caught.value)


def left_behind(stacks: Stacks) -> Import:
    """Return an import of existing resources, one of each type."""
    name, wanted = f"left-{uuid.uuid4().hex[:8]}", Import(stacks)
    table = ATTRIBUTES | {"TableName": name, "Replicas": [{"Region": "us-east-1"}]}
    stacks.client("dynamodb").create_table(TableName=name, **ATTRIBUTES)
    stacks.client("dynamodb").put_item(TableName=name, Item={"id": {"S": "a"}})
    wanted.add("Table", "AWS::DynamoDB::GlobalTable", table, {"TableName": name})
    stacks.client("s3").create_bucket(Bucket=name)
    wanted.add("Bucket", "AWS::S3::Bucket", {"BucketName": name}, {"BucketName": name})
    key = stacks.client("kms").create_key()["KeyMetadata"]["KeyId"]
    wanted.add("Key", "AWS::KMS::Key", {"KeyPolicy": KEY_POLICY}, {"KeyId": key})
    stacks.client("kinesis").create_stream(StreamName=name, ShardCount=1)
    wanted.add("Stream", "AWS::Kinesis::Stream", {"Name": name, "ShardCount": 1}, {"Name": name})
    made = stacks.client("secretsmanager").create_secret(Name=name, SecretString="s")
    wanted.add("Secret", "AWS::SecretsManager::Secret", {"Name": name}, {"Id": made["ARN"]})
    url = stacks.client("sqs").create_queue(QueueName=name)["QueueUrl"]
    wanted.add("Queue", "AWS::SQS::Queue", {"QueueName": name}, {"QueueUrl": url})
    stacks.client("logs").create_log_group(logGroupName=name)
    wanted.add("Log", "AWS::Logs::LogGroup", {"LogGroupName": name}, {"LogGroupName": name})
    statement = {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    stacks.client("iot").create_policy(policyName=name, policyDocument=json.dumps(document))
    policy = {"PolicyName": name, "PolicyDocument": document}
    wanted.add("Policy", "AWS::IoT::Policy", policy, {"Id": name})
    add_schemas(stacks, wanted, name)
    return wanted


def add_schemas(stacks: Stacks, wanted: Import, name: str) -> None:
    """A registry with a schema of two versions."""
    glue = stacks.client("glue")
    registry = glue.create_registry(RegistryName=name)["RegistryArn"]
    wanted.add("Registry", "AWS::Glue::Registry", {"Name": name}, {"Arn": registry})
    settings = {"DataFormat": "AVRO", "Compatibility": "NONE", "SchemaDefinition": AVRO}
    schema = glue.create_schema(
        RegistryId={"RegistryArn": registry}, SchemaName="reading", **settings
    )["SchemaArn"]
    own = {"Name": "reading", "Registry": {"Arn": registry}} | settings
    wanted.add("Schema", "AWS::Glue::Schema", own, {"Arn": schema})
    second = AVRO.replace("int", "long")
    version = glue.register_schema_version(
        SchemaId={"SchemaArn": schema}, SchemaDefinition=second
    )["SchemaVersionId"]  # fmt: skip
    own = {"Schema": {"SchemaArn": schema}, "SchemaDefinition": second}
    wanted.add("Version", "AWS::Glue::SchemaVersion", own, {"VersionId": version})


def test_a_stack_is_made_of_existing_resources_and_an_update_adds_the_rest(
    stacks: Stacks,
) -> None:
    wanted = left_behind(stacks)
    stack = wanted.execute()
    assert stack["StackStatus"] == "IMPORT_COMPLETE"
    assert stacks.resources(stack).keys() == wanted.resources.keys()
    table = wanted.resources["Table"]["Properties"]["TableName"]
    rest = {"New": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": f"{table}-new"}}}
    outputs = {"Arn": {"Value": {"Fn::GetAtt": ["Table", "Arn"]}}}
    outputs |= {"First": {"Value": {"Fn::GetAtt": ["Schema", "InitialSchemaVersionId"]}}}
    updated = stacks.update(stack, wanted.resources | rest, Outputs=outputs)
    assert updated["StackStatus"] == "UPDATE_COMPLETE"
    shown = {each["OutputKey"]: each["OutputValue"] for each in updated["Outputs"]}
    assert shown["Arn"].endswith(f":table/{table}")
    assert stacks.client("glue").get_schema_version(SchemaVersionId=shown["First"])
    assert stacks.client("dynamodb").scan(TableName=table)["Count"] == 1, "nothing was replaced"
    assert stacks.delete(stack)["StackStatus"] == "DELETE_COMPLETE"
    assert stacks.client("dynamodb").scan(TableName=table)["Count"] == 1


def imports_of_one(stacks: Stacks) -> Import:
    """Return an import of an existing table."""
    name, wanted = f"left-{uuid.uuid4().hex[:8]}", Import(stacks)
    stacks.client("dynamodb").create_table(TableName=name, **ATTRIBUTES)
    table = ATTRIBUTES | {"TableName": name, "Replicas": [{"Region": "us-east-1"}]}
    wanted.add("Table", "AWS::DynamoDB::GlobalTable", table, {"TableName": name})
    return wanted


@pytest.mark.parametrize(
    ("kind", "identifier"),
    [
        ("AWS::DynamoDB::GlobalTable", {"TableName": "absent"}),
        ("AWS::Kinesis::Stream", {"Name": "absent"}),
        ("AWS::SecretsManager::Secret", {"Id": "absent"}),
        ("AWS::Glue::Registry", {"Arn": "arn:aws:glue:us-east-1:000000000000:registry/absent"}),
        ("AWS::Glue::Schema", {"Arn": "arn:aws:glue:us-east-1:000000000000:schema/absent/a"}),
        ("AWS::Glue::SchemaVersion", {"VersionId": "3fa85f64-5717-4562-b3fc-2c963f66afa6"}),
    ],
)
def test_a_missing_resource_is_not_imported(
    stacks: Stacks, kind: str, identifier: dict[str, str]
) -> None:
    wanted = Import(stacks)
    wanted.add("Absent", kind, {}, identifier)
    found = wanted.create()
    assert found["Status"] == "FAILED"
    assert next(iter(identifier.values())) in found["StatusReason"]


def test_each_imported_resource_has_a_deletion_policy(stacks: Stacks) -> None:
    wanted = imports_of_one(stacks)
    del wanted.resources["Table"]["DeletionPolicy"]
    assert "[Table] must have DeletionPolicy attribute" in wanted.refused()


def test_an_import_has_no_other_changes(stacks: Stacks) -> None:
    wanted = imports_of_one(stacks)
    wanted.resources["Other"] = {"Type": "AWS::SQS::Queue", "Properties": {}}
    assert "[Other] is missing from ResourceToImport list" in wanted.refused()


def test_an_import_into_a_stack_changes_none_of_its_resources(stacks: Stacks) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": 30}}
    stack = stacks.create({"Queue": queue})
    wanted = imports_of_one(stacks)
    wanted.name = stack["StackName"]
    changed = {"Type": "AWS::SQS::Queue", "Properties": {"VisibilityTimeout": 60}}
    wanted.resources["Queue"] = changed
    assert "You have modified resources [Queue]" in wanted.refused()
    wanted.resources["Queue"] = queue
    assert wanted.execute()["StackStatus"] == "IMPORT_COMPLETE"
    assert stacks.resources(stack).keys() == {"Queue", "Table"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sections": {"Outputs": {"A": {"Value": "a"}}}}, "cannot modify or add [Outputs]"),
        ({"Tags": [{"Key": "a", "Value": "b"}]}, "cannot modify or add [Tags]"),
        ({"RoleARN": "arn:aws:iam::000000000000:role/any"}, "cannot modify or add [RoleArn]"),
        ({"IncludeNestedStacks": True}, "IncludeNestedStacks is not supported"),
    ],
)
def test_an_import_has_no_outputs_tags_role_or_nested_stacks(
    stacks: Stacks, options: Document, told: str
) -> None:
    assert told in imports_of_one(stacks).refused(**options)


def test_an_identifier_is_its_types_own_and_the_templates_name(stacks: Stacks) -> None:
    wanted = imports_of_one(stacks)
    wanted.entries[0]["ResourceIdentifier"] = {"Name": "table"}
    assert "Invalid resource identifier" in wanted.refused()
    wanted.entries[0]["ResourceIdentifier"] = {"TableName": "other"}
    assert "'other' in ResourceToImport" in wanted.refused()


def test_a_stacks_resource_is_not_imported_into_another_stack(stacks: Stacks) -> None:
    wanted = imports_of_one(stacks)
    wanted.execute()
    again = Import(stacks)
    again.resources, again.entries = wanted.resources, wanted.entries
    found = again.create()
    assert found["Status"] == "FAILED"
    assert "already exists in stack" in found["StatusReason"]
