"""Glue Schema Registry after `sam deploy`, and `ingest`'s use of it."""

import json
import time
from typing import Any
from uuid import UUID

import boto3
import pytest
from botocore.exceptions import ClientError
from telemetry.aws.schemas import Schemas, known_ids
from telemetry.domain.schema import versions
from telemetry.errors import Rejected

from tests.pipeline.deployed import Pipeline

READING = {"RegistryName": "telemetry", "SchemaName": "reading"}
METRIC = {"name": "lux", "number": 99, "type": ["null", "double"], "default": None}


def ingest_environment(pipeline: Pipeline) -> dict[str, str]:
    name = f"{pipeline.state.stack}-ingest"
    configured = pipeline.aws("lambda").get_function_configuration(FunctionName=name)
    variables: dict[str, str] = configured["Environment"]["Variables"]
    return variables


def as_ingest(pipeline: Pipeline) -> Any:
    """A Glue client with the permissions of ingest's role."""
    name = f"{pipeline.state.stack}-ingest"
    role = pipeline.aws("lambda").get_function_configuration(FunctionName=name)["Role"]
    assumed = pipeline.aws("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    return boto3.client(
        "glue",
        region_name=pipeline.state.region,
        endpoint_url=f"http://127.0.0.1:{pipeline.state.port}",
        aws_access_key_id=assumed["AccessKeyId"],
        aws_secret_access_key=assumed["SecretAccessKey"],
        aws_session_token=assumed["SessionToken"],
    )


def definition(*fields: dict[str, Any]) -> str:
    """Return a further version of the newest reading schema."""
    newest = versions("reading")[-1]
    return json.dumps({**newest, "version": 99, "fields": [*newest["fields"], *fields]})


@pytest.mark.parametrize(("contract", "count"), [("reading", 3), ("window", 2), ("alert", 3)])
def test_a_deployment_registers_every_version_of_a_contract(
    pipeline: Pipeline, contract: str, count: int
) -> None:
    glue = pipeline.aws("glue")
    schema_id = {"RegistryName": pipeline.state.stack, "SchemaName": contract}
    schema = glue.get_schema(SchemaId=schema_id)
    assert (schema["Compatibility"], schema["DataFormat"]) == ("BACKWARD", "AVRO")
    found = [
        glue.get_schema_version(SchemaId=schema_id, SchemaVersionNumber={"VersionNumber": number})
        for number in range(1, count + 1)
    ]
    assert [json.loads(each["SchemaDefinition"]) for each in found] == list(versions(contract))


def test_ingest_has_the_ids_of_the_versions_in_order(pipeline: Pipeline) -> None:
    environment, glue = ingest_environment(pipeline), pipeline.aws("glue")
    assert environment["REGISTRY_NAME"] == pipeline.state.stack
    ids = environment["READING_SCHEMA_IDS"].split(",")
    found = [glue.get_schema_version(SchemaVersionId=each)["VersionNumber"] for each in ids]
    assert found == [1, 2, 3]
    known = known_ids(environment["READING_SCHEMA_IDS"])
    assert [known[UUID(each)]["version"] for each in ids] == [1, 2, 3]
    assert known_ids(pipeline.outputs["ReadingSchemaIds"]) == known


def test_a_version_registered_by_hand_is_fetched_by_its_id_with_ingests_permissions(
    pipeline: Pipeline,
) -> None:
    text, glue = definition(METRIC), pipeline.aws("glue")
    registered = glue.register_schema_version(SchemaId=READING, SchemaDefinition=text)
    assert registered["Status"] == "AVAILABLE"
    known = known_ids(ingest_environment(pipeline)["READING_SCHEMA_IDS"])
    role = as_ingest(pipeline)
    schemas = Schemas(lambda: role, pipeline.state.stack, known, time.monotonic)
    assert schemas.writer(UUID(registered["SchemaVersionId"])) == json.loads(text)
    assert schemas.writer(next(iter(known))) == versions("reading")[0]
    window = glue.get_schema_version(
        SchemaId=READING | {"SchemaName": "window"}, SchemaVersionNumber={"LatestVersion": True}
    )
    with pytest.raises(Rejected, match="is of another schema, telemetry/window"):
        schemas.writer(UUID(window["SchemaVersionId"]))
    with pytest.raises(ClientError, match="glue:RegisterSchemaVersion"):
        role.register_schema_version(SchemaId=READING, SchemaDefinition=text)
    role.close()


def test_a_version_that_cannot_read_the_others_fails(pipeline: Pipeline) -> None:
    needed = {"name": "lux", "number": 99, "type": "double"}
    glue = pipeline.aws("glue")
    latest = glue.get_schema(SchemaId=READING)["LatestSchemaVersion"]
    answer = glue.register_schema_version(SchemaId=READING, SchemaDefinition=definition(needed))
    assert answer["Status"] == "FAILURE"
    assert glue.get_schema(SchemaId=READING)["LatestSchemaVersion"] == latest


STACK = """
Resources:
  Registry: {Type: 'AWS::Glue::Registry', Properties: {Name: spare, Description: %s}}
  First:
    Type: AWS::Glue::Schema
    Properties:
      Registry: {Arn: !GetAtt Registry.Arn}
      Name: thing
      DataFormat: AVRO
      Compatibility: BACKWARD
      SchemaDefinition: '{"type": "record", "name": "Thing", "fields": []}'
"""
SECOND = """
  Second:
    Type: AWS::Glue::SchemaVersion
    Properties:
      Schema: {SchemaArn: !GetAtt First.Arn}
      SchemaDefinition: '{"type": "record", "name": "Thing", "fields": [%s]}'
"""
BAD = '{"name": "a", "type": "int"}'
GOOD = BAD.replace("}", ', "default": 0}')


def test_a_stack_creates_changes_and_deletes_schemas(pipeline: Pipeline) -> None:
    cloudformation, glue = pipeline.aws("cloudformation"), pipeline.aws("glue")
    schema = {"RegistryName": "spare", "SchemaName": "thing"}

    def have(template: str) -> str:
        """Update the stack; return its final status."""
        cloudformation.update_stack(StackName="spare", TemplateBody=template)
        while True:
            (stack,) = cloudformation.describe_stacks(StackName="spare")["Stacks"]
            if not stack["StackStatus"].endswith("_IN_PROGRESS"):
                return str(stack["StackStatus"])
            time.sleep(0.1)

    cloudformation.create_stack(StackName="spare", TemplateBody=STACK % "one")
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="spare", WaiterConfig={"Delay": 1}
    )
    assert have(STACK % "two" + SECOND % GOOD) == "UPDATE_COMPLETE"
    assert glue.get_schema(SchemaId=schema)["LatestSchemaVersion"] == 2
    described = glue.get_registry(RegistryId={"RegistryName": "spare"})
    assert described["Description"] == "two"
    assert have(STACK % "two") == "UPDATE_COMPLETE"  # takes the second version away
    with pytest.raises(ClientError, match="EntityNotFound"):
        glue.get_schema_version(SchemaId=schema, SchemaVersionNumber={"VersionNumber": 2})
    assert have(STACK % "two" + SECOND % BAD) == "UPDATE_ROLLBACK_COMPLETE"
    cloudformation.delete_stack(StackName="spare")
    cloudformation.get_waiter("stack_delete_complete").wait(
        StackName="spare", WaiterConfig={"Delay": 1}
    )
    names = [each["RegistryName"] for each in glue.list_registries()["Registries"]]
    assert names == [pipeline.state.stack]
