"""Closes gaps of the embedded AWS: the types of an import change set, and its refusals.

An import adds existing resources to a stack
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources.html); each type
has its own identifiers
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/resource-import-supported-resources.html).
The emulator (1.5.33) imports few types. This module adds global tables, streams and secrets;
`emulator.gaps.schema_registry` adds Glue's types. The emulator accepts a role and nested stacks in
an import, which AWS refuses. It also accepts a resource whose name differs from the template's; the
next update would replace that resource.
"""

import json
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]
Resource = tuple[str, Document]
"""CloudFormation's: its id and its attributes."""
Adopt = Callable[[str], Resource | None]
"""Return the resource that has an identifier, or None."""

NOT_FOUND = "Resource of type '{type}' with identifier '{value}' was not found."
INVALID = "ValidationError"


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    changesets = modules.service("cloudformation.changesets")
    provisioners = modules.service("cloudformation.provisioners")
    dynamodb, kinesis = modules.service("dynamodb"), modules.service("kinesis")
    secrets = modules.service("secretsmanager")

    def table(name: str) -> Resource | None:
        found = dynamodb._tables.get(name)
        return (name, provisioners._ddb_attrs(found)) if found else None

    def stream(name: str) -> Resource | None:
        found = kinesis._streams.get(name)
        return (name, {"Arn": found["StreamARN"]}) if found else None

    def secret(arn: str) -> Resource | None:
        found = next((each for each in secrets._secrets.values() if each["ARN"] == arn), None)
        return (found["Name"], {"Id": arn, "Arn": arn}) if found else None

    for kind, key, adopt in (
        ("AWS::DynamoDB::GlobalTable", "TableName", table),
        ("AWS::Kinesis::Stream", "Name", stream),
        ("AWS::SecretsManager::Secret", "Id", secret),
    ):
        import_type(modules, kind, key, adopt)
    refuse_as_aws(changesets, modules.service("cloudformation.handlers"))


def import_type(modules: Any, kind: str, key: str, adopt: Adopt) -> None:
    """Make the emulator import resources of a type, by one identifier."""
    changesets = modules.service("cloudformation.changesets")
    provisioners = modules.service("cloudformation.provisioners")

    def problem(value: str) -> str | None:
        return None if adopt(value) else NOT_FOUND.format(type=kind, value=value)

    def bring_in(identifier: dict[str, str]) -> Resource:
        found = adopt(identifier[key])
        if found is None:
            raise ValueError(NOT_FOUND.format(type=kind, value=identifier[key]))
        return found

    changesets._IMPORT_LOOKUPS[kind] = ((key,), problem)
    provisioners._RESOURCE_HANDLERS[kind]["import"] = bring_in


def refuse_as_aws(changesets: Any, handlers: Any) -> None:
    """Make the emulator refuse imports that AWS refuses."""
    create, import_changes = (
        handlers._ACTION_HANDLERS["CreateChangeSet"],
        changesets._import_changes,
    )

    def create_change_set(parameters: Document) -> Response:
        refused = import_refusal(lambda name: handlers._p(parameters, name))
        if refused:
            answer: Response = handlers._error(INVALID, refused)
            return answer
        created: Response = create(parameters)
        return created

    def changes_of_import(
        to_import: list[Document], template: Document, changes: list[Document]
    ) -> Any:
        found = import_changes(to_import, template, changes)
        for entry in to_import:
            refuse_other_names(entry, template["Resources"][entry["LogicalResourceId"]])
        return found

    handlers._ACTION_HANDLERS["CreateChangeSet"] = create_change_set
    changesets._import_changes = changes_of_import


def import_refusal(parameter: Callable[[str], str]) -> str:
    """Return AWS's refusal of an import change set with these parameters; empty if valid."""
    if parameter("ChangeSetType") != "IMPORT":
        return ""
    if parameter("RoleARN"):
        return "As part of the import operation, you cannot modify or add [RoleArn]"
    if parameter("IncludeNestedStacks").lower() == "true":
        return "IncludeNestedStacks is not supported for changeSet type: IMPORT."
    return ""


def refuse_other_names(entry: Document, definition: Document) -> None:
    """Raise ValueError if a resource's name in the template differs from its identifier."""
    properties = definition.get("Properties") or {}
    for key, value in entry["ResourceIdentifier"].items():
        named = properties.get(key)
        if isinstance(named, str) and named != value:
            logical_id = json.dumps(entry["LogicalResourceId"])
            raise ValueError(
                f"Resource {logical_id} is {key} '{value}' in ResourceToImport and '{named}' in "
                "the template"
            )
