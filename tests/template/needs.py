"""Who acts in a role's name, and what they need for it: the functions' code, and AWS's services."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.template.calls import CALLS, Asks
from tests.template.code import Fault, Sources, Use, uses
from tests.template.expanded import REGION
from tests.template.policies import covers, fits, overlap, resource_formats
from tests.template.rendered import ACCOUNT, Deployed, Resource


class Need(NamedTuple):
    """One of the actions, on all of one of the resources, or on a part of it."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]
    why: str
    in_part: bool = False  # the code doesn't tell on which part

    def __str__(self) -> str:
        return f"{' or '.join(self.actions)} on {' or '.join(self.resources)}; {self.why}"


class Role(NamedTuple):
    """What is needed of the role that has this ARN, by whom."""

    arn: str
    who: str
    needs: list[Need]


# Which of a service's own calls a feature takes. The page of each lists the permissions.

# Lambda Developer Guide: "Sending Lambda function logs to CloudWatch Logs" (CreateLogGroup isn't
# needed where the group is there), "Visualize Lambda function invocations using AWS X-Ray"
# https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html
# https://docs.aws.amazon.com/lambda/latest/dg/services-xray.html
LOGS = ("logs:CreateLogStream", "logs:PutLogEvents")
TRACES = ("xray:PutTraceSegments", "xray:PutTelemetryRecords")
# What an event source mapping reads with, by the source's service. SubscribeToShard, which the page
# on Kinesis names too, is for a consumer of enhanced fan-out; there is none.
# https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-create.html
# https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-eventsourcemapping.html
# https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
READS = {
    "kinesis": (
        "kinesis:DescribeStream",
        "kinesis:DescribeStreamSummary",
        "kinesis:GetRecords",
        "kinesis:GetShardIterator",
        "kinesis:ListShards",
    ),
    "dynamodb": (
        "dynamodb:DescribeStream",
        "dynamodb:GetRecords",
        "dynamodb:GetShardIterator",
        "dynamodb:ListStreams",
    ),
    "sqs": ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),
}
# What a destination is written with, and where in a bucket: aws/lambda/<mapping>/<shard>/…
# https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html
# https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
WRITES = {
    "s3": ("s3:PutObject", "s3:ListBucket"),
    "sqs": ("sqs:SendMessage",),
    "sns": ("sns:Publish",),
}
IN_BUCKET = "aws/lambda/*"
# Step Functions Developer Guide, "IAM policies for using Distributed Map states". The children of a
# map have the ARN of a labelled execution (Service Authorization Reference, Step Functions).
# https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html
# https://docs.aws.amazon.com/step-functions/latest/dg/lambda-iam.html
MAP = ("states:DescribeExecution", "states:StopExecution")
# Firehose Developer Guide, "Grant Firehose access to an Amazon S3 destination"
# https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html#using-iam-s3
FIREHOSE_READS = (
    "kinesis:DescribeStream",
    "kinesis:GetShardIterator",
    "kinesis:GetRecords",
    "kinesis:ListShards",
)
FIREHOSE_WRITES = (
    "s3:AbortMultipartUpload",
    "s3:GetBucketLocation",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:PutObject",
)
# AWS IoT Core Developer Guide, "AWS IoT rule actions": each action's page names its permission.
# Beside it the property that names the resource. Lambda asks the function's own policy, not a role.
# https://docs.aws.amazon.com/iot/latest/developerguide/iot-rule-actions.html
RULE_ACTIONS = {
    "Kinesis": ("kinesis:PutRecord", "StreamName"),
    "Sqs": ("sqs:SendMessage", "QueueUrl"),
}
# What a provisioning template's resources take, of all that AWS's managed policy for it has:
# https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AWSIoTThingsRegistration.html
THINGS = (
    "iot:CreateThing",
    "iot:DescribeThing",
    "iot:ListThingPrincipals",
    "iot:AttachThingPrincipal",
)
CERTIFICATES = ("iot:DescribeCertificate", "iot:UpdateCertificate", "iot:AttachThingPrincipal")
PROVISIONED = {
    "AWS::IoT::Thing": [(each, "thing/*") for each in THINGS],
    "AWS::IoT::Certificate": [(each, "cert/*") for each in CERTIFICATES],
    "AWS::IoT::Policy": [("iot:AttachPolicy", "cert/*")],
}
# API Gateway Developer Guide, "Set up CloudWatch API logging": a managed policy, and nothing else.
# https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-logging.html
MANAGED = {
    "AWS::ApiGateway::Account": "service-role/AmazonAPIGatewayPushToCloudWatchLogs",
}


def roles(deployed: Deployed, sources: Sources) -> Iterator[Role]:
    """Everything that has a role, with what it needs. Raises Fault where that isn't known."""
    for function in deployed.of("AWS::Lambda::Function"):
        needs = [*of_code(function, deployed, sources), *of_lambda(function, deployed)]
        yield Role(function.properties["Role"], function.logical_id, needs)
    for machine in deployed.of("AWS::StepFunctions::StateMachine"):
        yield Role(machine.properties["RoleArn"], machine.logical_id, list(of_machine(machine)))
    for each in deployed.of("AWS::KinesisFirehose::DeliveryStream"):
        destination = each.properties["ExtendedS3DestinationConfiguration"]
        yield Role(destination["RoleARN"], each.logical_id, list(of_delivery(each, deployed)))
    for rule in deployed.of("AWS::IoT::TopicRule"):
        yield from of_rule(rule, deployed)
    for template in deployed.of("AWS::IoT::ProvisioningTemplate"):
        role = template.properties["ProvisioningRoleArn"]
        yield Role(role, template.logical_id, list(of_provisioning(template)))
    for account in deployed.of("AWS::ApiGateway::Account"):
        yield Role(account.properties["CloudWatchRoleArn"], account.logical_id, [])


def alone(actions: Iterable[str], resource: str, why: str) -> Iterator[Need]:
    """Each action on a resource, or on what it takes of it: GetObject takes a bucket's objects."""
    for action in actions:
        taken = resource if fits(action, resource) else f"{resource}/*"
        yield Need((action,), (taken if resource_formats(action) else "*",), why)


# The functions' code.


def of_code(function: Resource, deployed: Deployed, sources: Sources) -> Iterator[Need]:
    """What a function's own calls need. Raises Fault for a call that CALLS doesn't have."""
    handler = function.properties["Code"]["S3Key"].replace("/", ".") + ".handler"
    environment = function.properties["Environment"]["Variables"]
    instances: dict[str, dict[str, list[Need]]] = {}  # by class and resource
    for use in dict.fromkeys(uses(handler, sources)):
        resources = [resource_of(use.service, each, environment, deployed) for each in use.settings]
        for asked in asked_by(use):
            why = f"{use.where} calls {use.service}.{use.method}"
            at = [on(asked, each, use.folder) for each in resources]
            yield Need((asked.action,), tuple(at), why, in_part=True)
            for resource, each in zip(resources, at, strict=True):
                needs = instances.setdefault(use.where, {}).setdefault(resource, [])
                why = f"{use.where} is given {resource}"
                needs.append(Need((asked.action,), (each,), why, in_part=True))
    # where a class has several resources, each is there for some of its calls
    for by_resource in (each for each in instances.values() if len(each) > 1):
        for needs in by_resource.values():
            actions = tuple(each.actions[0] for each in needs)
            resources_of_all = tuple(each.resources[0] for each in needs)
            yield Need(actions, resources_of_all, needs[0].why, in_part=True)


def asked_by(use: Use) -> list[Asks]:
    """What a call asks for. Raises Fault where that isn't known."""
    call = f"{use.service}.{use.method}"
    if call not in CALLS:
        raise Fault(
            f"{use.where} calls {call}: say in tests/template/calls.py what that asks of IAM"
        )
    asked = [
        each
        for each in CALLS[call]
        if (not each.when or each.when in use.words)
        and (not each.unless or each.unless not in use.words)
    ]
    if not asked:
        raise Fault(f"{use.where} calls {call} with none of the words of tests/template/calls.py")
    return asked


def on(asked: Asks, resource: str, folder: str) -> str:
    """What a permission must be for, where the code names a resource (`*`: it names none)."""
    if asked.anywhere or resource == "*" or not resource_formats(asked.action):
        return "*"
    if asked.below:
        return resource + asked.below
    return resource if fits(asked.action, resource) else f"{resource}/{folder}*"


def resource_of(
    service: str, settings: frozenset[str], environment: Mapping[str, Any], deployed: Deployed
) -> str:
    """The ARN of the service's resource that one of the settings names; `*` where none does."""
    values = [str(environment.get(each.upper(), "")) for each in settings]
    return next(filter(None, (deployed.arn(service, value) for value in values)), "*")


# AWS's services.


def of_lambda(function: Resource, deployed: Deployed) -> Iterator[Need]:
    """What Lambda needs in a function's name: for logs, traces, sources and destinations."""
    usual = f"/aws/lambda/{function.name}"
    group = function.properties.get("LoggingConfig", {}).get("LogGroup", usual)
    yield from alone(LOGS, deployed.arn("logs", group) or group, "Lambda writes logs")
    if function.properties.get("TracingConfig", {}).get("Mode") == "Active":
        yield from alone(TRACES, "*", "Lambda sends traces")
    for each in deployed.of("AWS::Lambda::EventSourceMapping", "AWS::Lambda::EventInvokeConfig"):
        if each.properties["FunctionName"] not in {function.name, function.arn}:
            continue
        if source := each.properties.get("EventSourceArn"):
            yield from alone(READS[source.split(":")[2]], source, f"{each.logical_id} reads")
        for event in each.properties.get("DestinationConfig", {}).values():
            arn = event["Destination"]
            for need in alone(WRITES[arn.split(":")[2]], arn, f"{each.logical_id} gives up"):
                at = f"{arn}/{IN_BUCKET}" if need.resources == (f"{arn}/*",) else need.resources[0]
                yield need._replace(resources=(at,))


def of_machine(machine: Resource) -> Iterator[Need]:
    """What a state machine's states need."""
    text = machine.properties["DefinitionString"]
    for name, value in machine.properties.get("DefinitionSubstitutions", {}).items():
        text = text.replace(f"${{{name}}}", value)
    execution = machine.arn.replace(":stateMachine:", ":execution:")
    for state in states(json.loads(text)):
        if state["Type"] == "Task":
            if ":lambda:" not in state["Resource"]:
                raise Fault(
                    f"{machine.logical_id}: what {state['Resource']} needs is not in {__name__}"
                )
            yield Need(("lambda:InvokeFunction",), (state["Resource"],), "a task")
        processor = state.get("ItemProcessor", {}).get("ProcessorConfig", {})
        if processor.get("Mode") == "DISTRIBUTED":
            yield Need(("states:StartExecution",), (machine.arn,), "a distributed map")
            for each in (f"{execution}:*", f"{execution}/*"):
                yield from (Need((action,), (each,), "a distributed map") for action in MAP)


def states(definition: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All states of a machine, however deep."""
    for state in definition["States"].values():
        yield state
        for inner in (
            state.get("ItemProcessor"),
            state.get("Iterator"),
            *state.get("Branches", []),
        ):
            if inner:
                yield from states(inner)


def of_delivery(stream: Resource, deployed: Deployed) -> Iterator[Need]:
    """What Firehose needs, from Kinesis into a bucket."""
    source = stream.properties["KinesisStreamSourceConfiguration"]
    destination = stream.properties["ExtendedS3DestinationConfiguration"]
    yield from alone(FIREHOSE_READS, source["KinesisStreamARN"], "Firehose reads")
    yield from alone(FIREHOSE_WRITES, destination["BucketARN"], "Firehose writes")
    group = destination["CloudWatchLoggingOptions"]["LogGroupName"]
    yield from alone(["logs:PutLogEvents"], deployed.arn("logs", group) or group, "Firehose logs")


def of_rule(rule: Resource, deployed: Deployed) -> Iterator[Role]:
    """What an IoT rule's actions need. Raises Fault for one that isn't in RULE_ACTIONS."""
    payload = rule.properties["TopicRulePayload"]
    for action in [*payload["Actions"], payload.get("ErrorAction", {})]:
        for kind, properties in action.items():
            if kind == "Lambda":
                continue
            if kind not in RULE_ACTIONS:
                raise Fault(
                    f"{rule.logical_id}: what {kind} needs is not in RULE_ACTIONS, {__name__}"
                )
            permission, named_by = RULE_ACTIONS[kind]
            service = permission.partition(":")[0]
            arn = deployed.arn(service, properties[named_by]) or properties[named_by]
            yield Role(
                properties["RoleArn"],
                rule.logical_id,
                [Need((permission,), (arn,), f"{kind} action")],
            )


def of_provisioning(template: Resource) -> Iterator[Need]:
    """What IoT needs to make what a provisioning template has."""
    for name, each in json.loads(template.properties["TemplateBody"])["Resources"].items():
        for action, resource in PROVISIONED[each["Type"]]:
            arn = f"arn:aws:iot:{REGION}:{ACCOUNT}:{resource}"
            yield Need((action,), (arn,), f"provisioning of {name}")


def is_met(need: Need, allowed: Iterable[tuple[str, str]]) -> bool:
    """Whether what a role allows (actions and resources) is enough."""
    is_enough = overlap if need.in_part else covers
    return any(
        covers(pattern.lower(), action.lower()) and is_enough(resource, wanted)
        for pattern, resource in allowed
        for action in need.actions
        for wanted in need.resources
    )
