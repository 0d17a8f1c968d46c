"""What a deleted stack has left, as a template by which CloudFormation imports it.

An import may contain the imported resources and nothing else: no outputs, no tags, nothing that is
made or changed ("Import AWS resources into a CloudFormation stack", CloudFormation User Guide,
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/import-resources.html). So the
deleted stack's parameters and conditions are put in, and the template has neither. CloudFormation
compares it with no reality: the next deployment changes what differs between the two templates.
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
"""By which property an import names a resource: its type's primaryIdentifier in the registry
(GetTemplateSummary tells it, too). Of these types, it is also what `Ref` gives: the physical id."""
DELETION_POLICY = "Retain"
"""Of what is imported, until the next deployment: RetainExceptOnCreate lets CloudFormation delete
what an operation that fails has made, and no page says that an import makes nothing."""
OTHER_IDS, IDS = "OtherSchemaIds", "ReadingSchemaIds"
SUBSTITUTED = re.compile(r"\$\{(!?)([^}]+)\}")
NO_VALUE = object()


@dataclass(frozen=True)
class Retained:
    """A resource that its stack has left; `attributes` is what Fn::GetAtt gives."""

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
    """What CreateChangeSet takes, and the properties that are left out: `Bucket.Notification…`."""

    template: dict[str, Any]
    resources: list[dict[str, Any]]
    left_out: dict[str, str]
    """What each property refers to that is gone; the next deployment puts it back."""


class Gone(Exception):
    """A reference to what isn't imported; its name is the only argument."""


def import_of(deleted: Deleted) -> Import:
    """Return the import of all that a stack has left; raise OpsError where it can't be made."""
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
    """Return the parameters with which the next deployment changes nothing by accident.

    They are the deleted stack's; and the schema versions' ids by which devices write go on to be
    understood: Glue gives the next registry's versions others. SAM takes no empty value; of this
    template each is a default.
    """
    parameters = dict(deleted.parameters)
    if OTHER_IDS in parameters and IDS in deleted.outputs:
        parameters[OTHER_IDS] = deleted.outputs[IDS]
    return {name: value for name, value in sorted(parameters.items()) if value}


class Scope:
    """What names mean in a deleted stack's template."""

    def __init__(self, deleted: Deleted) -> None:
        """Of a stack, whose id says where it was."""
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
        """Return what an expression comes to; NO_VALUE where it is nothing.

        Raises Gone for a reference to what isn't there, OpsError for a function that isn't known
        here; `at` says where that is.
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
