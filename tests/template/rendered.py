"""What CloudFormation makes of the expanded templates: each `Ref`, `Fn::Sub`, `Fn::If` evaluated.

So a policy's resource is the ARN that AWS would compare, and an environment variable the name that
a function would be given. All that is optional is switched on (GIVEN), so that no check leaves it
out. Names that CloudFormation makes up have its form.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tests.template.expanded import REGION, Template

ACCOUNT = "111122223333"
STACK = "telemetry"
SUFFIX = "1A2B3C4D5E6F"  # what CloudFormation adds to a name that it makes up
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::NoValue": None,
}
# Values of parameters whose default switches something off.
GIVEN: dict[Any, Any] = {"": "given", 0: 1, "false": "true"}
NESTED = "AWS::CloudFormation::Stack"


class Identity(NamedTuple):
    """What a type of resource is known by: the property that names it, its ARN, what `Ref` gives.

    A property in another has that one's name before it. {at} is region and account. What `Ref` and
    `Arn` return is on a type's page in CloudFormation's Template Reference.
    """

    named_by: str
    arn: str
    ref: str = "{name}"


SQS_URL = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{{name}}"
IDENTITIES = {
    "AWS::DynamoDB::GlobalTable": Identity("TableName", "arn:aws:dynamodb:{at}:table/{name}"),
    "AWS::Events::EventBus": Identity("Name", "arn:aws:events:{at}:event-bus/{name}"),
    "AWS::Events::Rule": Identity("Name", "arn:aws:events:{at}:rule/{name}"),
    "AWS::Glue::Database": Identity("DatabaseInput.Name", "arn:aws:glue:{at}:database/{name}"),
    "AWS::Glue::Registry": Identity("Name", "arn:aws:glue:{at}:registry/{name}", "{arn}"),
    "AWS::IAM::Role": Identity("RoleName", f"arn:aws:iam::{ACCOUNT}:role/{{name}}"),
    "AWS::IoT::TopicRule": Identity("RuleName", "arn:aws:iot:{at}:rule/{name}"),
    "AWS::KMS::Key": Identity("", "arn:aws:kms:{at}:key/{name}"),
    "AWS::Kinesis::Stream": Identity("Name", "arn:aws:kinesis:{at}:stream/{name}"),
    "AWS::KinesisFirehose::DeliveryStream": Identity(
        "DeliveryStreamName", "arn:aws:firehose:{at}:deliverystream/{name}"
    ),
    "AWS::Lambda::Function": Identity("FunctionName", "arn:aws:lambda:{at}:function:{name}"),
    "AWS::Logs::LogGroup": Identity("LogGroupName", "arn:aws:logs:{at}:log-group:{name}:*"),
    "AWS::S3::Bucket": Identity("BucketName", "arn:aws:s3:::{name}"),
    "AWS::SNS::Topic": Identity("TopicName", "arn:aws:sns:{at}:{name}", "{arn}"),
    "AWS::SQS::Queue": Identity("QueueName", "arn:aws:sqs:{at}:{name}", SQS_URL),
    # Secrets Manager ends the ARN with six characters of its own.
    "AWS::SecretsManager::Secret": Identity(
        "Name", "arn:aws:secretsmanager:{at}:secret:{name}-??????", "{arn}"
    ),
    "AWS::StepFunctions::StateMachine": Identity(
        "StateMachineName", "arn:aws:states:{at}:stateMachine:{name}", "{arn}"
    ),
}


class Resource(NamedTuple):
    """A resource with its properties' values; `arn` is empty for types that IDENTITIES hasn't."""

    stack: str  # the path of its template
    logical_id: str
    type: str
    properties: dict[str, Any]
    name: str
    arn: str
    ref: str


class Stack:
    """A template, deployed under a name with parameters."""

    def __init__(
        self,
        path: str,
        name: str,
        parameters: Mapping[str, Any],
        templates: Mapping[str, Template],
    ) -> None:
        self.path = path
        self._template = templates[path]
        self._templates = templates
        self._values = {**PSEUDO, "AWS::StackName": name, "AWS::StackId": f"stack/{name}"}
        for parameter, definition in self._template.get("Parameters", {}).items():
            default = definition.get("Default", f"no-{parameter}")
            self._values[parameter] = parameters.get(parameter, default)

    def resources(self) -> Iterator[Resource]:
        """Those of this stack and of the nested ones; not those whose condition isn't met."""
        for logical_id, resource in self._template["Resources"].items():
            if "Condition" not in resource or self._holds({"Condition": resource["Condition"]}):
                yield self._resource(logical_id)
                if nested := self._nested(logical_id):
                    yield from nested.resources()

    def _nested(self, logical_id: str) -> "Stack | None":
        """The stack that a resource is, if it is one."""
        resource = self._template["Resources"][logical_id]
        location = resource.get("Properties", {}).get("TemplateURL")
        if resource["Type"] != NESTED or not isinstance(location, str):
            return None
        path = str(PurePosixPath(self.path).parent / location)
        parameters = self.value(resource["Properties"].get("Parameters", {}))
        return Stack(path, self._made_up(logical_id), parameters, self._templates)

    def value(self, expression: Any) -> Any:
        """What an expression comes to. Raises ValueError for a function that isn't known here."""
        if isinstance(expression, list):
            values = [self.value(each) for each in expression]
            return [each for each in values if each is not None]
        if not isinstance(expression, dict):
            return expression
        name, *others = expression or [""]
        if not others and name in FUNCTIONS:
            return FUNCTIONS[name](self, expression[name])
        if not others and name.startswith("Fn::"):
            raise ValueError(f"{self.path}: {name} is not in FUNCTIONS, {__name__}")
        values_by_name = {key: self.value(each) for key, each in expression.items()}
        return {key: each for key, each in values_by_name.items() if each is not None}

    def _resource(self, logical_id: str) -> Resource:
        resource = self._template["Resources"][logical_id]
        name, arn, ref = self._identity(logical_id)
        properties = self.value(resource.get("Properties", {}))
        return Resource(self.path, logical_id, resource["Type"], properties, name, arn, ref)

    def _identity(self, logical_id: str) -> tuple[str, str, str]:
        """The name, the ARN and the `Ref` of a resource."""
        resource = self._template["Resources"][logical_id]
        known = IDENTITIES.get(resource["Type"])
        made_up = self._made_up(logical_id)
        if known is None:
            return made_up, "", made_up
        properties = resource.get("Properties", {})
        *above, last = known.named_by.split(".")
        for each in above:
            properties = properties[each]
        name = self.value(properties.get(last, made_up))
        arn = known.arn.format(at=f"{REGION}:{ACCOUNT}", name=name)
        return name, arn, known.ref.format(name=name, arn=arn)

    def _made_up(self, logical_id: str) -> str:
        """The name that CloudFormation gives to what has none."""
        return f"{self._values['AWS::StackName']}-{logical_id}-{SUFFIX}"

    def _ref(self, name: str) -> Any:
        return self._values[name] if name in self._values else self._identity(name)[2]

    def _attribute(self, target: list[str]) -> Any:
        logical_id, attribute = target
        if nested := self._nested(logical_id):
            output = attribute.removeprefix("Outputs.")
            return nested.value(nested._template["Outputs"][output]["Value"])
        name, arn, _ = self._identity(logical_id)
        if attribute in {"Arn", "TopicArn"}:
            return arn or f"arn:aws:unknown:{REGION}:{ACCOUNT}:{name}"
        if attribute == "StreamArn":  # of a table
            return f"{arn}/stream/2026-11-21T01:30:00.000"
        return name if attribute.endswith("Name") else f"{name}.{attribute}"

    def _substituted(self, argument: Any) -> str:
        text, given = (argument, {}) if isinstance(argument, str) else argument

        def value(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            if name in given:
                return str(self.value(given[name]))
            return str(self._attribute(name.split(".", 1)) if "." in name else self._ref(name))

        return re.sub(r"\$\{(!?)([^}]+)\}", value, text)

    def _joined(self, argument: list[Any]) -> str:
        return str(argument[0]).join(str(each) for each in self.value(argument[1]))

    def _chosen(self, argument: list[Any]) -> Any:
        condition, yes, no = argument
        return self.value(yes if self._holds({"Condition": condition}) else no)

    def _holds(self, condition: Any) -> bool:
        ((name, argument),) = condition.items()
        match name:
            case "Condition":
                return self._holds(self._template["Conditions"][argument])
            case "Fn::Not":
                return not self._holds(argument[0])
            case "Fn::And":
                return all(map(self._holds, argument))
            case "Fn::Or":
                return any(map(self._holds, argument))
            case "Fn::Equals":
                first, second = self.value(argument)
                return str(first) == str(second)
        raise ValueError(f"{self.path}: {name} is no condition that is known here")


FUNCTIONS: dict[str, Callable[[Stack, Any], Any]] = {
    "Ref": Stack._ref,
    "Fn::GetAtt": lambda stack, at: stack._attribute(
        at.split(".", 1) if isinstance(at, str) else at
    ),
    "Fn::Sub": Stack._substituted,
    "Fn::Join": Stack._joined,
    "Fn::If": Stack._chosen,
    "Fn::Select": lambda stack, at: stack.value(at[1])[int(at[0])],
    "Fn::Split": lambda stack, at: str(stack.value(at[1])).split(at[0]),
    "Fn::Base64": lambda stack, at: base64.b64encode(stack.value(at).encode()).decode(),
    "Fn::ToJsonString": lambda stack, at: json.dumps(stack.value(at)),
}


class Deployed(list[Resource]):
    """All resources of a deployment."""

    def of(self, *types: str) -> Iterator[Resource]:
        return (each for each in self if each.type in types)

    def arn(self, service: str, value: str) -> str | None:
        """The ARN of the service's resource that `value` is the name, the `Ref` or the ARN of."""
        for each in self:
            if each.arn.startswith(f"arn:aws:{service}:") and value in each[4:]:
                return each.arn
        return None


def deployed(templates: Mapping[str, Template]) -> Deployed:
    """What a deployment makes; templates that template.yaml doesn't nest are deployed beside it."""
    made = Deployed()
    for path in ["template.yaml", *sorted(templates)]:  # the root first: it nests others
        if path not in {resource.stack for resource in made}:
            parameters = templates[path].get("Parameters", {})
            defaults = {
                name: each["Default"] for name, each in parameters.items() if "Default" in each
            }
            given = {name: GIVEN.get(default, default) for name, default in defaults.items()}
            made += Stack(path, STACK, given, templates).resources()
    return made
