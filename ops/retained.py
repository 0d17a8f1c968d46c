"""The template with which CloudFormation imports the resources that a deleted stack has left.

An import may have the imported resources and nothing else: no outputs, no tags, no new or changed
resource ("Import AWS resources into a CloudFormation stack", CloudFormation User Guide,
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources.html). So the
deleted stack's parameters and conditions are evaluated, and the template has neither.
CloudFormation doesn't compare the template with the real resources: the next deployment changes
only properties that differ between the two templates.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ops.errors import OpsError

Template = Mapping[str, Any]

IDENTIFIERS = {
    "AWS::DynamoDB::GlobalTable": "TableName",
    "AWS::KMS::Key": "KeyId",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SQS::Queue": "QueueUrl",
}
"""The property by which an import names a resource: its type's primaryIdentifier in the registry
(GetTemplateSummary returns it, too). For these types, `Ref` returns the same: the physical id."""
DELETION_POLICY = "Retain"
"""The policy of imported resources until the next deployment. RetainExceptOnCreate would let
CloudFormation delete resources that a failed operation created, and AWS doesn't document whether an
import counts as a creation."""
OTHER_IDS, IDS = "OtherSchemaIds", "ReadingSchemaIds"
SUBSTITUTED = re.compile(r"\$\{(!?)([^}]+)\}")
NO_VALUE = object()


@dataclass(frozen=True)
class Retained:
    """A resource that its stack has left; `attributes` are those for Fn::GetAtt."""

    type: str
    physical_id: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Deleted:
    """A deleted stack: its template after the transforms, and the resources that it has left.

    `arn` is its id: arn:aws:cloudformation:eu-west-1:111122223333:stack/telemetry/….
    """

    arn: str
    template: Template
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]
    retained: Mapping[str, Retained]


@dataclass(frozen=True)
class Import:
    """The arguments of CreateChangeSet, and the left out properties: `Bucket.Notification…`."""

    template: dict[str, Any]
    resources: list[dict[str, Any]]
    left_out: dict[str, str]
    """By property, the missing resource that it needs; the next deployment adds the property."""


class Gone(Exception):
    """A reference to a resource that isn't imported; its name is the only argument."""


def import_of(deleted: Deleted) -> Import:
    """Return the import of all resources that a stack has left; raise OpsError if impossible."""
    scope, resources, left_out = Scope(deleted), {}, {}
    for logical_id, retained in deleted.retained.items():
        if retained.type not in IDENTIFIERS:
            known = ", ".join(sorted(IDENTIFIERS))
            raise OpsError(
                f"{logical_id}: adopt doesn't know how an import names a {retained.type}, "
                f"only {known}; --without {logical_id} leaves it out"
            )
        definition = deleted.template["Resources"][logical_id]
        properties = {}
        for name, expression in definition.get("Properties", {}).items():
            try:
                value = scope.value(expression, f"{logical_id}.{name}")
            except Gone as error:
                left_out[f"{logical_id}.{name}"] = str(error)
                continue
            if value is not NO_VALUE:
                properties[name] = value
        resources[logical_id] = {
            "Type": retained.type,
            "DeletionPolicy": DELETION_POLICY,
            "UpdateReplacePolicy": definition.get("UpdateReplacePolicy", DELETION_POLICY),
            "Properties": properties,
        }
    template = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}
    named = [
        {
            "ResourceType": retained.type,
            "LogicalResourceId": logical_id,
            "ResourceIdentifier": {IDENTIFIERS[retained.type]: retained.physical_id},
        }
        for logical_id, retained in deleted.retained.items()
    ]
    return Import(template, named, left_out)


def next_parameters(deleted: Deleted) -> dict[str, str]:
    """Return the parameters for the next deployment, so that it changes nothing by accident.

    They are the deleted stack's parameters. They also have the ids of its schema versions, with
    which devices write, because versions in the new registry get other ids. Empty values are left
    out: SAM doesn't take them, and in this template they are defaults.
    """
    parameters = dict(deleted.parameters)
    if OTHER_IDS in parameters and IDS in deleted.outputs:
        parameters[OTHER_IDS] = deleted.outputs[IDS]
    return {name: value for name, value in sorted(parameters.items()) if value}


class Scope:
    """The values of names in a deleted stack's template."""

    def __init__(self, deleted: Deleted) -> None:
        """Take region, account and name from the stack's id."""
        _, partition, _, region, account, path = deleted.arn.split(":", 5)
        self._values: dict[str, Any] = {
            **deleted.parameters,
            "AWS::AccountId": account,
            "AWS::NoValue": NO_VALUE,
            "AWS::Partition": partition,
            "AWS::Region": region,
            "AWS::StackName": path.split("/")[1],
            "AWS::URLSuffix": "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com",
        }
        self._values |= {name: each.physical_id for name, each in deleted.retained.items()}
        self._retained = deleted.retained
        self._conditions = deleted.template.get("Conditions", {})

    def value(self, expression: Any, at: str) -> Any:
        """Return the value of an expression, NO_VALUE for AWS::NoValue.

        Raise Gone for a reference to a missing resource, OpsError for an unknown function; `at` is
        the expression's place, for the message.
        """
        if isinstance(expression, list):
            return [each for each in self._values_of(expression, at) if each is not NO_VALUE]
        if not isinstance(expression, Mapping):
            return expression
        name, *others = expression or [""]
        if not others and (name == "Ref" or name.startswith("Fn::")):
            return self._called(name, expression[name], at)
        values = zip(expression, self._values_of(expression.values(), at), strict=True)
        return {key: value for key, value in values if value is not NO_VALUE}

    def _values_of(self, expressions: Iterable[Any], at: str) -> Iterator[Any]:
        return (self.value(each, at) for each in expressions)

    def _called(self, function: str, argument: Any, at: str) -> Any:
        match function:
            case "Ref":
                return self._ref(argument)
            case "Fn::GetAtt":
                return self._attribute(argument, at)
            case "Fn::Sub":
                return self._substituted(argument, at)
            case "Fn::If":
                condition, yes, no = argument
                return self.value(yes if self._holds({"Condition": condition}, at) else no, at)
        raise OpsError(f"{at}: adopt doesn't know {function}")

    def _ref(self, name: str) -> Any:
        if name not in self._values:
            raise Gone(name)
        return self._values[name]

    def _attribute(self, argument: str | list[str], at: str) -> str:
        logical_id, name = argument.split(".", 1) if isinstance(argument, str) else argument
        if logical_id not in self._retained:
            raise Gone(logical_id)
        attributes = self._retained[logical_id].attributes
        if name not in attributes:
            raise OpsError(f"{at}: adopt doesn't know {logical_id}.{name}")
        return attributes[name]

    def _substituted(self, argument: str | list[Any], at: str) -> str:
        text, given = (argument, {}) if isinstance(argument, str) else argument

        def value(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            if name in given:
                return text_of(self.value(given[name], at))
            return text_of(self._attribute(name, at) if "." in name else self._ref(name))

        return SUBSTITUTED.sub(value, text)

    def _holds(self, condition: Template, at: str) -> bool:
        ((name, argument),) = condition.items()
        match name:
            case "Condition":
                return self._holds(self._conditions[argument], at)
            case "Fn::Not":
                return not self._holds(argument[0], at)
            case "Fn::And":
                return all(self._holds(each, at) for each in argument)
            case "Fn::Or":
                return any(self._holds(each, at) for each in argument)
            case "Fn::Equals":
                first, second = (text_of(self.value(each, at)) for each in argument)
                return first == second
        raise OpsError(f"{at}: adopt doesn't know the condition {name}")


def text_of(value: Any) -> str:
    """Return a value as CloudFormation writes it into a text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
