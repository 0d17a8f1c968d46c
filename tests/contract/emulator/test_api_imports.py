"""The embedded API Gateway's import of a description: models, and answers to errors."""

import json
import time
import uuid
from typing import Any

import boto3
import httpx
import pytest

from emulator.gaps import api_imports
from tests.waiting import Patience

Document = dict[str, Any]
READY_SECONDS_MAX = 10
REFUSAL = '{"message": "no reading: $context.error.validationErrorString"}'


def description(schema: Document, validates: bool = True, **others: Document) -> Document:
    """An API whose POST /readings has a model."""
    validator = {"validateRequestBody": validates, "validateRequestParameters": False}
    operation = {
        "x-amazon-apigateway-request-validator": "body",
        "parameters": [{"in": "body", "name": "m", "schema": {"$ref": "#/definitions/reading"}}],
        "x-amazon-apigateway-integration": {"type": "mock"},
    }
    answer = {"responseTemplates": {"application/json": REFUSAL}}
    return {
        "swagger": "2.0",
        "info": {"title": f"api-{uuid.uuid4()}", "version": "1"},
        "definitions": {"reading": schema, **others},
        "x-amazon-apigateway-request-validators": {"body": validator},
        "x-amazon-apigateway-gateway-responses": {"BAD_REQUEST_BODY": answer},
        "paths": {"/readings": {"post": operation}},
    }


class Deployed:
    """A stack with an API."""

    def __init__(self, endpoint: str, body: Document, **resources: Document) -> None:
        api = {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": body}}
        reference = {"RestApiId": {"Ref": "Api"}}
        made = {"Type": "AWS::ApiGateway::Deployment", "Properties": reference}
        stage = reference | {"StageName": "v1", "DeploymentId": {"Ref": "Made"}}
        staged = {"Type": "AWS::ApiGateway::Stage", "Properties": stage}
        resources |= {"Api": api, "Made": made, "Staged": staged}
        template = {"Resources": resources, "Outputs": {"Id": {"Value": {"Ref": "Api"}}}}
        self.formation = boto3.client("cloudformation", endpoint_url=endpoint)
        name = f"stack-{uuid.uuid4()}"
        self.formation.create_stack(StackName=name, TemplateBody=json.dumps(template))
        patience = Patience(READY_SECONDS_MAX)
        while True:
            self.stack: Any = self.formation.describe_stacks(StackName=name)["Stacks"][0]
            if not self.stack["StackStatus"].endswith("_IN_PROGRESS"):
                break
            assert not patience.is_over()
            time.sleep(0.02)
        outputs = {each["OutputKey"]: each["OutputValue"] for each in self.stack.get("Outputs", [])}
        self.api_id = outputs.get("Id", "")
        self.url = f"{endpoint}/_aws/execute-api/{self.api_id}/v1/readings"

    def post(self, body: Any) -> httpx.Response:
        with httpx.Client(trust_env=False) as client:
            return client.post(self.url, json=body)

    def reasons(self) -> str:
        events = self.formation.describe_stack_events(StackName=self.stack["StackId"])
        return str([event.get("ResourceStatusReason") for event in events["StackEvents"]])


def test_a_body_is_validated_by_the_imported_model(
    embedded_endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    schema = {
        "type": "object",
        "required": ["place"],
        "properties": {"place": {"$ref": "#/definitions/place"}, "value": {"minimum": 0}},
    }
    place = {"type": "string", "enum": ["roof", "cellar"], "example": "roof"}
    api = Deployed(embedded_endpoint, description(schema, place=place))
    assert api.post({"place": "roof", "value": 1}).status_code == httpx.codes.OK
    refused: list[Any] = [{}, {"place": "attic"}, {"place": "roof", "value": -1}, [], "roof"]
    for wrong in refused:
        answer = api.post(wrong)
        assert answer.status_code == httpx.codes.BAD_REQUEST
        assert answer.json()["message"].startswith("no reading: ")
    models = boto3.client("apigateway", endpoint_url=embedded_endpoint)
    kept = models.get_model(restApiId=api.api_id, modelName="place")["schema"]
    assert "example" not in str(kept)


def test_an_api_whose_validation_an_import_would_change_is_not_created(
    embedded_endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    schema = {"type": ["object", "array"], "minItems": 1, "items": {"$ref": "#/definitions/one"}}
    one = {"properties": {"pattern": {"pattern": "a+"}}}
    api = Deployed(embedded_endpoint, description(schema, one=one))
    assert api.stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert (
        "POST /readings validates its body by the model 'reading', and an import into API Gateway "
        "loses or changes keywords of it: minItems, pattern, type (a list)."
    ) in api.reasons()


def test_a_model_that_validates_nothing_is_imported_without_the_lost_keywords(
    embedded_endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    schema = {"type": ["object", "array"], "minItems": 1, "title": "one or more"}
    api = Deployed(embedded_endpoint, description(schema, validates=False))
    assert api.post("anything").status_code == httpx.codes.OK
    gateway = boto3.client("apigateway", endpoint_url=embedded_endpoint)
    kept: Any = gateway.get_model(restApiId=api.api_id, modelName="reading")["schema"]
    assert "one or more" in str(kept)
    assert "minItems" not in str(kept)


def test_a_model_of_its_own_is_not_imported_and_keeps_every_keyword(
    embedded_endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    properties = {"RestApiId": {"Ref": "Api"}, "ContentType": "application/json", "Name": "Own"}
    model = {
        "Type": "AWS::ApiGateway::Model",
        "Properties": properties | {"Schema": {"type": "array", "minItems": 1}},
    }
    api = Deployed(embedded_endpoint, description({"type": "object"}), Own=model)
    gateway = boto3.client("apigateway", endpoint_url=embedded_endpoint)
    assert "minItems" in str(gateway.get_model(restApiId=api.api_id, modelName="Own")["schema"])


@pytest.mark.parametrize("keyword", api_imports.LOST)
def test_every_keyword_that_an_import_loses_is_found_at_any_depth(keyword: str) -> None:
    nested = {"items": [{"properties": {"name": {keyword: 1}}}]}
    with pytest.raises(ValueError, match=keyword):
        api_imports.refuse_lost(description(nested))
    api_imports.refuse_lost(description({"properties": {keyword: {"type": "string"}}}))


def test_an_openapi_3_description_is_read_in_the_same_way() -> None:
    later = description({})
    later["components"] = {"schemas": {"reading": {"minItems": 1}}}
    del later["definitions"]
    operation = later["paths"]["/readings"]["post"]
    del operation["parameters"]
    reference = {"$ref": "#/components/schemas/reading"}
    operation["requestBody"] = {"content": {"application/json": {"schema": reference}}}
    with pytest.raises(ValueError, match="minItems"):
        api_imports.refuse_lost(later)


def test_models_that_refer_to_each_other_are_searched_once() -> None:
    other = {"properties": {"back": {"$ref": "#/definitions/reading"}}}
    schema = {"properties": {"other": {"$ref": "#/definitions/other"}}}
    api_imports.refuse_lost(description(schema, other=other))


def test_a_models_name_is_alphanumeric() -> None:
    with pytest.raises(ValueError, match="alphanumeric: a-b"):
        api_imports.refuse_lost({"definitions": {"a-b": {}}})
