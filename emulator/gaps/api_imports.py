"""Closes a gap of the embedded AWS: the import of an API's models, validators and responses.

The Body of an AWS::ApiGateway::RestApi is imported, and SAM puts models there. The emulator
(1.5.33) imports only routes and authorizers. So its methods validate nothing and answer errors with
API Gateway's defaults. Here models, request validators and gateway responses are imported, too
(https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-swagger-extensions-request-validators.html,
https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-swagger-extensions-gateway-responses.html).

An import loses or changes some keywords of a schema ("Amazon API Gateway important notes",
https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-known-issues.html; a list
as `type` by aws/serverless-application-model #2374 and hashicorp/terraform-provider-aws #27344,
minProperties and maxProperties by aws/serverless-application-model's discussion 2708). It isn't
known what AWS does with a body then; it may refuse every one. So an import fails here if a body is
validated by a model that needs such a keyword.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

LOST = (
    "additionalProperties", "allOf", "anyOf", "exclusiveMinimum", "maxItems", "maxProperties",
    "minItems", "minProperties", "oneOf", "pattern",
)  # fmt: skip
UNSUPPORTED_FORMATS = ("int32", "int64", "decimal")
NOTES = ("discriminator", "example", "readOnly")
"""Keywords that an import drops and that validation doesn't need."""
VALIDATOR = "x-amazon-apigateway-request-validator"
GATEWAY_RESPONSES = "x-amazon-apigateway-gateway-responses"
REFERENCES = ("#/definitions/", "#/components/schemas/")
METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
JSON = "application/json"

Document = dict[str, Any]


class Operation(NamedTuple):
    """A method of an API's description."""

    path: str
    method: str
    definition: Document


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    import_models(modules.service("apigateway_v1"))


def import_models(apigateway: Any) -> None:
    """Make `ministack.services.apigateway_v1` import models, validators and responses."""
    import_routes = apigateway._import_rest_api

    def import_rest_api(description: Document, given: Document | None = None) -> str:
        refuse_lost(description)
        api_id: str = import_routes(description, given)
        for name, schema in models(description).items():
            model = {"name": name, "schema": imported(schema, api_id)}
            apigateway._create_model(api_id, model)
        for kind, response in (description.get(GATEWAY_RESPONSES) or {}).items():
            apigateway._put_gateway_response(api_id, kind, response)
        validate_bodies(apigateway, api_id, description)
        return api_id

    apigateway._import_rest_api = import_rest_api


def validate_bodies(apigateway: Any, api_id: str, description: Document) -> None:
    """Make the methods of an imported API validate bodies by its description."""
    numbers = {}
    for name, settings in validators(description).items():
        apigateway._create_request_validator(api_id, settings | {"name": name})
        numbers[name] = list(apigateway._request_validators[api_id])[-1]
    resources = {each["path"]: each for each in apigateway._resources[api_id].values()}
    for operation in operations(description):
        method = resources[operation.path]["resourceMethods"][operation.method.upper()]
        method["requestModels"] = body_models(operation, description)
        method["requestValidatorId"] = numbers.get(validator_of(operation, description))


def refuse_lost(description: Document) -> None:
    """Raise ValueError if an import loses a keyword that a body's validation needs.

    The same for an invalid name of a model.
    """
    known = models(description)
    for name in known:
        if not name.isalnum():
            raise ValueError(f"Model name must be alphanumeric: {name}")
    for operation in operations(description):
        settings = validators(description).get(validator_of(operation, description), {})
        if not settings.get("validateRequestBody"):
            continue
        for name in body_models(operation, description).values():
            lost = sorted(set(lost_keywords({"$ref": REFERENCES[0] + name}, known)))
            if lost:
                route = f"{operation.method.upper()} {operation.path}"
                raise ValueError(
                    f"{route} validates its body by the model '{name}', and an import into API "
                    f"Gateway loses or changes keywords of it: {', '.join(lost)}. Validate the "
                    "body in the integration, or by an AWS::ApiGateway::Model, which isn't imported"
                )


def models(description: Document) -> dict[str, Document]:
    """Return the models of a description, by name."""
    later: Document = description.get("components") or {}
    return description.get("definitions") or later.get("schemas") or {}


def validators(description: Document) -> dict[str, Document]:
    """Return the request validators of a description, by name."""
    found: dict[str, Document] = description.get(f"{VALIDATOR}s") or {}
    return found


def validator_of(operation: Operation, description: Document) -> str:
    """Return the name of a method's validator; empty if it has none."""
    return operation.definition.get(VALIDATOR) or description.get(VALIDATOR) or ""


def operations(description: Document) -> Iterator[Operation]:
    """Return all methods of a description."""
    for path, item in (description.get("paths") or {}).items():
        for method, definition in item.items():
            if method.lower() in METHODS and isinstance(definition, dict):
                yield Operation(path, method, definition)


def body_models(operation: Operation, description: Document) -> dict[str, str]:
    """Return the names of the models that validate a method's bodies, by content type."""
    definition = operation.definition
    content = (definition.get("requestBody") or {}).get("content") or {}
    schemas = {kind: media.get("schema") or {} for kind, media in content.items()}
    for parameter in definition.get("parameters") or []:
        if parameter.get("in") == "body":
            for kind in definition.get("consumes") or description.get("consumes") or [JSON]:
                schemas[kind] = parameter.get("schema") or {}
    named = {kind: referred(schema.get("$ref")) for kind, schema in schemas.items()}
    return {kind: name for kind, name in named.items() if name}


def referred(reference: Any) -> str | None:
    """Return the model's name in a reference; None if it isn't a reference to a model."""
    for start in REFERENCES:
        if isinstance(reference, str) and reference.startswith(start):
            return reference.removeprefix(start)
    return None


def lost_keywords(
    schema: Any, known: dict[str, Document], seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Return the keywords of a schema that validation needs and an import loses."""
    if not isinstance(schema, dict):
        return
    name = referred(schema.get("$ref"))
    if name and name not in seen:
        yield from lost_keywords(known.get(name), known, seen | {name})
    yield from (keyword for keyword in LOST if keyword in schema)
    if isinstance(schema.get("type"), list):
        yield "type (a list)"
    if schema.get("format") in UNSUPPORTED_FORMATS:
        yield f"format {schema['format']}"
    items = schema.get("items")
    properties = (schema.get("properties") or {}).values()
    for nested in (*properties, *(items if isinstance(items, list) else [items])):
        yield from lost_keywords(nested, known, seen)


def imported(schema: Any, api_id: str) -> Any:
    """Return a schema after an import: without lost keywords, its references made to models."""
    if not isinstance(schema, dict):
        return schema
    result = {
        key: copy.deepcopy(value) for key, value in schema.items() if key not in (*LOST, *NOTES)
    }
    name = referred(result.get("$ref"))
    if name:
        result["$ref"] = f"https://apigateway.amazonaws.com/restapis/{api_id}/models/{name}"
    if isinstance(result.get("type"), list):
        del result["type"]
    if isinstance(result.get("properties"), dict):
        nested = result["properties"].items()
        result["properties"] = {key: imported(value, api_id) for key, value in nested}
    items = result.get("items")
    if isinstance(items, list):
        result["items"] = [imported(each, api_id) for each in items]
    elif items is not None:
        result["items"] = imported(items, api_id)
    return result
