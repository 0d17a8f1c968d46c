"""What AWS would refuse, ignore or delete of the templates, seen without AWS.

Each rule lists what breaks it; a fault that was found once is planted again at the end. The page
that a rule comes from stands beside it.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import botocore.session
import pytest

from tests.template import loaded, texts
from tests.template.expanded import REGION, Template, templates
from tests.template.rendered import GIVEN, Deployed, Resource, Stack, deployed

ROOT = "template.yaml"
Templates = dict[str, Template]
Rule = Callable[[Templates], list[str]]


def resources(of: Templates, *types: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The resources of all templates, by type if any is given."""
    for template in of.values():
        for name, resource in template["Resources"].items():
            if not types or resource["Type"] in types:
                yield name, resource


# API Gateway.


def other_stages(of: Templates) -> list[str]:
    """Stages beside v1: SAM makes one called Stage, which has no limits and no log.

    "Stage" goes with OpenApiVersion: AWS SAM Developer Guide, Globals section, OpenApiVersion.
    """
    stages = [
        str(resource["Properties"]["StageName"])
        for _, resource in resources(of, "AWS::ApiGateway::Stage", "AWS::ApiGateway::Deployment")
        if "StageName" in resource["Properties"]
    ]
    return [f"a stage called {stage}" for stage in stages if stage != "v1"] + (
        [] if stages.count("v1") == 1 else [f"{stages.count('v1')} stages called v1"]
    )


# API Gateway Developer Guide, "Amazon API Gateway important notes": what is written here of a model
# that comes by an import isn't what API Gateway makes of it.
KEPT_BY_AN_IMPORT = {"type", "description", "title", "properties", "required", "enum"}


def lost_in_an_import(of: Templates) -> list[str]:
    """Keywords of request models that an import of the API drops or changes."""
    found = []
    for name, resource in resources(of, "AWS::ApiGateway::RestApi"):
        models = resource["Properties"]["Body"].get("definitions", {})
        for model, schema in models.items():
            lost = sorted(set(schema) - KEPT_BY_AN_IMPORT)
            lost += ["type as a list"] if isinstance(schema.get("type"), list) else []
            found += [f"{name}: the model {model} has {each}" for each in lost]
    return found


def old_tls(of: Templates) -> list[str]:
    """APIs that speak a TLS below 1.2, or whose policy lacks the mode that it needs.

    API Gateway Developer Guide, "Security policies for REST APIs in API Gateway"; the policies'
    names are the API's own.
    """
    model = botocore.session.get_session().get_service_model("apigateway")
    policies: Any = model.shape_for("SecurityPolicy")
    known = [each for each in policies.enum if each.startswith("SecurityPolicy_")]
    found = []
    for name, resource in resources(of, "AWS::ApiGateway::RestApi"):
        policy = resource["Properties"].get("SecurityPolicy", "TLS_1_0")
        named = [each for each in leaves(policy) if re.search("TLS", each) and "_" in each]
        found += [f"{name}: speaks {each}" for each in named if each not in known]
        if "EndpointAccessMode" not in resource["Properties"]:
            found += [f"{name}: {each} needs EndpointAccessMode" for each in named]
    return found


def leaves(expression: Any) -> Iterator[str]:
    """The texts in an expression."""
    if isinstance(expression, dict | list):
        inner = expression.values() if isinstance(expression, dict) else expression
        for each in inner:
            yield from leaves(each)
    else:
        yield str(expression)


# Step Functions.


def repeated_states(of: Templates) -> list[str]:
    """State names that a machine has more than once, its maps' and branches' among them.

    Amazon States Language, "States": a name is unique within the scope of the whole machine.
    """
    found = []
    for name, resource in resources(of, "AWS::StepFunctions::StateMachine"):
        names = list(state_names(definition_of(resource)))
        found += [
            f"{name}: {each} is there twice" for each in sorted(set(names)) if names.count(each) > 1
        ]
    return found


def definition_of(resource: dict[str, Any]) -> Any:
    """A machine's definition; SAM joins its lines to a text."""
    properties = resource["Properties"]
    text = properties.get("DefinitionString")
    if text is None:
        return properties["Definition"]
    return json.loads("\n".join(text["Fn::Join"][1]) if isinstance(text, dict) else text)


def state_names(machine: Any) -> Iterator[str]:
    for name, state in machine.get("States", {}).items():
        yield name
        inner = [state.get("ItemProcessor", {}), state.get("Iterator", {})]
        for each in [*inner, *state.get("Branches", [])]:
            yield from state_names(each)


# CloudWatch: alarms watch metrics that are there. A metric is its namespace, its name and exactly
# its dimensions (CloudWatch User Guide, "Metrics concepts": each combination is another metric).

LAMBDA = "https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html"
SQS = (
    "https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/"
    "sqs-available-cloudwatch-metrics.html"
)
FIREHOSE = "https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html"
IOT = "https://docs.aws.amazon.com/iot/latest/developerguide/metrics_dimensions.html"
OURS = "layers/telemetry/telemetry/aws/observe.py: Powertools adds the dimension `service`"
METRICS: dict[tuple[str, str], tuple[set[str], str]] = {
    ("AWS/Lambda", "Errors"): ({"FunctionName"}, LAMBDA),
    ("AWS/Lambda", "Throttles"): ({"FunctionName"}, LAMBDA),
    ("AWS/Lambda", "IteratorAge"): ({"FunctionName"}, LAMBDA),
    ("AWS/Lambda", "DestinationDeliveryFailures"): ({"FunctionName"}, LAMBDA),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): ({"QueueName"}, SQS),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"): ({"QueueName"}, SQS),
    ("AWS/Firehose", "DeliveryToS3.DataFreshness"): ({"DeliveryStreamName"}, FIREHOSE),
    ("AWS/IoT", "RuleMessageThrottled"): ({"RuleName"}, IOT),
    ("AWS/IoT", "ParseError"): ({"RuleName"}, IOT),
    ("AWS/IoT", "ErrorActionFailure"): ({"RuleName", "ActionType"}, IOT),
    ("Telemetry/telemetry", "RecordsQuarantined"): ({"service"}, OURS),
    ("Telemetry/telemetry", "ReadingsQuarantined"): ({"service"}, OURS),
    ("Telemetry/telemetry", "ReadingsUnaccounted"): ({"service"}, OURS),
    ("Telemetry/telemetry", "EpisodesUnreadable"): ({"service"}, OURS),
}
QUERY = re.compile(
    r'SELECT \w+\((?P<metric>\w+)\) FROM "(?P<space>[^"]+)" WHERE (?P<by>\w+) = \'[^\']+\''
)


def blind_alarms(of: Templates) -> list[str]:
    """Alarms on metrics that AWS doesn't have, by the dimensions that they name."""
    found = []
    for alarm in deployed(of).of("AWS::CloudWatch::Alarm"):
        properties = alarm.properties
        if "Metrics" in properties:
            found += blind_query(alarm.logical_id, properties["Metrics"])
            continue
        known = METRICS.get((properties["Namespace"], properties["MetricName"]))
        named = {each["Name"] for each in properties["Dimensions"]}
        if known is None:
            found.append(f"{alarm.logical_id}: {properties['MetricName']} isn't in METRICS")
        elif named != known[0]:
            has = f"has {sorted(known[0])}, not {sorted(named)}"
            found.append(f"{alarm.logical_id}: {properties['MetricName']} {has} ({known[1]})")
    return found


def blind_query(name: str, metrics: list[dict[str, Any]]) -> list[str]:
    """What is wrong with an alarm's query; it may name any of a metric's dimensions."""
    (metric,) = metrics
    query = QUERY.fullmatch(metric["Expression"])
    if query is None:
        return [f"{name}: {metric['Expression']} isn't understood"]
    known = METRICS.get((query["space"], query["metric"]), (set(), ""))[0]
    return [] if query["by"] in known else [f"{name}: {query['metric']} has no {query['by']}"]


# What is kept when the stack goes.

KEEPS = "RetainExceptOnCreate"
# What belongs to the account: CloudFormation doesn't set it back, and would delete the role that it
# names (aws/aws-cdk issue 6194). Neither has a name that is in the way of a second try.
ACCOUNTS_OWN = {"ApiAccount", "ApiLogsRole"}
# A policy isn't encrypted, and a role isn't data: these may point at what goes.
DATA = ("AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::Kinesis::Stream", "AWS::SQS::Queue")


def kept_after_a_failed_first_deployment(of: Templates) -> list[str]:
    """Resources that a roll-back leaves behind, so that the second try finds them there.

    CloudFormation User Guide, DeletionPolicy attribute, RetainExceptOnCreate.
    """
    found = []
    for name, resource in resources(of):
        policy, replaced = (
            resource.get(each) for each in ("DeletionPolicy", "UpdateReplacePolicy")
        )
        if policy == "Retain" and name not in ACCOUNTS_OWN:
            found.append(f"{name}: DeletionPolicy is Retain; {KEEPS} lets a first try roll back")
        if name in ACCOUNTS_OWN and policy != "Retain":
            found.append(f"{name}: DeletionPolicy is {policy}; the account's role is others', too")
        if policy == KEEPS and replaced != "Retain":
            found.append(
                f"{name}: UpdateReplacePolicy is {replaced}; Retain keeps it in a replacement"
            )
    return found


def unreadable_when_kept(of: Templates) -> list[str]:
    """Retained data that needs a resource which goes with the stack: its key.

    DynamoDB API Reference, ArchivalSummary: a table whose key is out of reach is archived.
    """
    kept = {name for name, each in resources(of) if each.get("DeletionPolicy") == KEEPS}
    keys = {name for name, _ in resources(of, "AWS::KMS::Key")}
    return [
        f"{name}: is kept, and {key} isn't"
        for name, resource in resources(of, *DATA)
        if name in kept
        for key in sorted(keys - kept)
        if key in referred(resource["Properties"])
    ]


def lost_with_the_stack(of: Templates) -> list[str]:
    """Tables, buckets and keys that a deletion of the stack deletes."""
    types = ("AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::KMS::Key")
    return [
        f"{name}: goes with the stack"
        for name, resource in resources(of, *types)
        if resource.get("DeletionPolicy") != KEEPS
    ]


def out_of_reach_of_an_import(of: Templates) -> list[str]:
    """Data in nested stacks, into which CloudFormation can't import what a deleted one has left.

    CloudFormation API Reference, CreateChangeSet: IncludeNestedStacks isn't for IMPORT.
    """
    types = ("AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::KMS::Key")
    return [
        f"{path}: {name} belongs in {ROOT}"
        for path, template in of.items()
        if path != ROOT
        for name, resource in template["Resources"].items()
        if resource["Type"] in types
    ]


# Which properties name a resource: its type's primaryIdentifier in CloudFormation's registry, and
# the names that are unique in an account.
NAMES = {
    "AWS::ApiGateway::Account": set(),
    "AWS::IAM::Role": {"RoleName"},
    "AWS::IoT::Policy": {"PolicyName"},
    "AWS::S3::BucketPolicy": {"Bucket"},
}


def in_the_way_of_the_next(of: Templates) -> list[str]:
    """What a nested stack leaves under a name by which the next deployment can't make it again.

    CloudFormation makes nothing that is there, not even a bucket's policy ("The bucket policy
    already exists on bucket …": aws-cloudformation/cloudformation-coverage-roadmap, issue 1068),
    and imports nothing into a nested stack.
    """
    return [
        f"{path}: {name} is kept, and {resource['Type']} isn't made twice"
        for path, template in of.items()
        if path != ROOT
        for name, resource in template["Resources"].items()
        if resource.get("DeletionPolicy") == KEEPS
        if resource["Type"] not in NAMES or NAMES[resource["Type"]] & set(resource["Properties"])
    ]


def referred(value: Any) -> set[str]:
    """The logical ids that an expression refers to."""
    if isinstance(value, list):
        return set().union(*map(referred, value))
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(referred, value.values()))
    if "Ref" in value:
        found.add(str(value["Ref"]))
    if "Fn::GetAtt" in value:
        at = value["Fn::GetAtt"]
        found.add(str(at.split(".")[0] if isinstance(at, str) else at[0]))
    if "Fn::Sub" in value:
        text = value["Fn::Sub"] if isinstance(value["Fn::Sub"], str) else value["Fn::Sub"][0]
        found |= set(re.findall(r"\$\{([\w]+)", text))
    return found


def ahead_of_the_archive(of: Templates) -> list[str]:
    """What puts on the stream before the archive reads it: Firehose begins with what comes then.

    Data Firehose Developer Guide, "Configure source settings for Amazon Kinesis Data Streams".
    """
    producers = ("IngestFunction", "DrainFunction", "ReadingRule")
    depends = {name: within(of, name).get("DependsOn", []) for name in producers}
    return [
        f"{name}: doesn't wait for Archive" for name, on in depends.items() if "Archive" not in on
    ]


# Names.

LONGEST_REGION = "ap-southeast-7"
# By each service's API reference.
NAME_LIMITS = {
    "AWS::S3::Bucket": (63, r"[a-z0-9][a-z0-9.-]*[a-z0-9]"),
    "AWS::Lambda::Function": (64, r"[a-zA-Z0-9-_]+"),
    "AWS::KinesisFirehose::DeliveryStream": (64, r"[a-zA-Z0-9_.-]+"),
    "AWS::StepFunctions::StateMachine": (80, r"[a-zA-Z0-9-_]+"),
    "AWS::Kinesis::Stream": (128, r"[a-zA-Z0-9_.-]+"),
    "AWS::DynamoDB::GlobalTable": (255, r"[a-zA-Z0-9_.-]+"),
    "AWS::Glue::Registry": (255, r"[a-zA-Z0-9-_$#.]+"),
    "AWS::Events::EventBus": (256, r"[/.\-_A-Za-z0-9]+"),
    "AWS::SecretsManager::Secret": (512, r"[a-zA-Z0-9/_+=.@-]+"),
    "AWS::Logs::LogGroup": (512, r"[.\-_/#A-Za-z0-9]+"),
}


def unfit_names(of: Templates) -> list[str]:
    """Names that the longest pipeline's name would make too long, or of wrong characters."""
    pattern = of[ROOT]["Parameters"]["Name"]["AllowedPattern"]
    longest = "a" * next(n for n in range(200, 0, -1) if re.fullmatch(pattern, "a" * n))
    found = []
    for each in named(of, longest):
        limit, allowed = NAME_LIMITS.get(each.type, (0, ""))
        name = each.name.replace(REGION, LONGEST_REGION)
        if limit and (len(name) > limit or not re.fullmatch(allowed, name)):
            found.append(f"{each.logical_id}: {name} has {len(name)} characters, {limit} at most")
    return found


def named(of: Templates, name: str) -> Iterator[Resource]:
    """The resources of a pipeline of that name."""
    parameters = of[ROOT]["Parameters"].items()
    defaults = {key: each["Default"] for key, each in parameters if "Default" in each}
    given = {key: GIVEN.get(default, default) for key, default in defaults.items()}
    return Stack(ROOT, name, given | {"Name": name}, of).resources()


def names_of_a_nested_stacks_own(of: Templates) -> list[str]:
    """Where a nested stack names something after itself: its name is one that AWS makes up."""
    return [
        f"{path}: refers to AWS::StackName"
        for path, template in of.items()
        if path != ROOT and "AWS::StackName" in json.dumps(template)
    ]


# Lambda: a mapping, its queue and its function in the relations that AWS states.

API_SECONDS = 29  # API Gateway's integration timeout, by its quotas
QUEUE_TIMES, RECEIVES_MIN = 6, 5  # Lambda Developer Guide, "Configuring an Amazon SQS queue"
TABLE_STREAM_SECONDS = 24 * 3600  # DynamoDB Developer Guide, change data capture


class Mapped(NamedTuple):
    """A mapping with the function and the source that it names."""

    name: str
    mapping: dict[str, Any]
    function: Resource
    source: Resource


def mapped(made: Deployed) -> Iterator[Mapped]:
    for each in made.of("AWS::Lambda::EventSourceMapping"):
        name, arn = each.properties["FunctionName"], each.properties["EventSourceArn"]
        (function,) = [
            one for one in made.of("AWS::Lambda::Function") if name in (one.ref, one.arn)
        ]
        (source,) = [one for one in made if one.arn and arn.partition("/stream/")[0] == one.arn]
        yield Mapped(each.logical_id, each.properties, function, source)


def unfit_mappings(of: Templates) -> list[str]:
    """Mappings whose batches would come again while they are at work, or expire in a retry."""
    found = []
    for each in mapped(deployed(of)):
        rule = queue_faults if each.source.type == "AWS::SQS::Queue" else stream_faults
        found += [f"{each.name}: {fault}" for fault in rule(each)]
    return found


def queue_faults(each: Mapped) -> Iterator[str]:
    timeout = int(each.function.properties["Timeout"])
    window = int(each.mapping.get("MaximumBatchingWindowInSeconds", 0))
    visible_after = int(each.source.properties.get("VisibilityTimeout", 30))
    least = QUEUE_TIMES * timeout + window
    if visible_after < least:
        yield f"VisibilityTimeout is {visible_after}; {least}, six times the function's, is right"
    receives = each.source.properties.get("RedrivePolicy", {}).get("maxReceiveCount", RECEIVES_MIN)
    if int(receives) < RECEIVES_MIN:
        yield f"maxReceiveCount is {receives}; at least {RECEIVES_MIN} is asked for"
    at_once = each.mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 2)
    if not 2 <= int(at_once) <= 1000:
        yield f"MaximumConcurrency is {at_once}; 2 to 1000 is allowed"
    if int(each.mapping["BatchSize"]) > 10 and not window:
        yield "more than 10 messages a batch need a batching window"


def stream_faults(each: Mapped) -> Iterator[str]:
    hours = each.source.properties.get("RetentionPeriodHours")
    kept = int(hours) * 3600 if hours else TABLE_STREAM_SECONDS
    tried = int(each.mapping.get("MaximumRecordAgeInSeconds", -1))
    if not 60 <= tried < kept:
        yield f"MaximumRecordAgeInSeconds is {tried}; records are kept for {kept}"
    if "DestinationConfig" not in each.mapping:
        yield "what it gives up on goes nowhere"
    if each.mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
        yield "one bad record fails its whole batch"


def slow_answers(of: Templates) -> list[str]:
    """Functions behind the API that may run for longer than API Gateway waits."""
    made = deployed(of)
    behind = {
        each.properties["FunctionName"]
        for each in made.of("AWS::Lambda::Permission")
        if each.properties["Principal"] == "apigateway.amazonaws.com"
    }
    return [
        f"{each.logical_id}: may take {each.properties['Timeout']} s"
        for each in made.of("AWS::Lambda::Function")
        if behind & {each.ref, each.arn} and int(each.properties["Timeout"]) >= API_SECONDS
    ]


# Buckets.


def open_to_plain_http(of: Templates) -> list[str]:
    """Buckets without a policy that refuses requests without TLS.

    S3 User Guide, "Security best practices": enforce encryption of data in transit.
    """
    made = deployed(of)
    closed = {
        policy.properties["Bucket"]
        for policy in made.of("AWS::S3::BucketPolicy")
        for statement in policy.properties["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    }
    buckets = made.of("AWS::S3::Bucket")
    return [f"{each.logical_id}: takes plain HTTP" for each in buckets if each.name not in closed]


RULES: tuple[Rule, ...] = (
    other_stages,
    lost_in_an_import,
    old_tls,
    repeated_states,
    blind_alarms,
    kept_after_a_failed_first_deployment,
    unreadable_when_kept,
    lost_with_the_stack,
    out_of_reach_of_an_import,
    ahead_of_the_archive,
    in_the_way_of_the_next,
    unfit_names,
    names_of_a_nested_stacks_own,
    unfit_mappings,
    slow_answers,
    open_to_plain_http,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_nothing_in_the_templates_breaks_a_rule_of_awss(rule: Rule) -> None:
    assert rule(templates()) == []


def test_a_template_is_small_enough_to_be_deployed() -> None:
    # CloudFormation User Guide, quotas: 500 resources, 200 parameters and outputs, 1 MB from S3
    for text in texts():
        template = loaded(text)
        assert len(template["Resources"]) <= 500
        assert len(template.get("Parameters", {})) <= 200
        assert len(template.get("Outputs", {})) <= 200
    assert all(len(json.dumps(each)) < 1_000_000 for each in templates().values())


# Each rule sees the fault for which it is there.

Edit = Callable[[Templates], object]


def within(of: Templates, name: str) -> dict[str, Any]:
    """A resource, wherever it is."""
    return next(resource for each, resource in resources(of) if each == name)


def setting(name: str, **changes: Any) -> Edit:
    """Other properties of a resource; None takes one away."""

    def edit(of: Templates) -> None:
        properties = within(of, name)["Properties"]
        properties.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del properties[key]

    return edit


def marked(name: str, **changes: Any) -> Edit:
    """Other attributes of a resource, such as its DeletionPolicy."""

    def edit(of: Templates) -> None:
        within(of, name).update(changes)

    return edit


def renamed_state(of: Templates) -> None:
    machine = within(of, "RebuildMachine")["Properties"]
    text = json.dumps(machine["DefinitionString"]).replace("CheckSegment", "FillPart")
    machine["DefinitionString"] = json.loads(text)


def second_stage(of: Templates) -> None:
    (deployment,) = [each for _, each in resources(of, "AWS::ApiGateway::Deployment")]
    deployment["Properties"]["StageName"] = "Stage"


def listed_type(of: Templates) -> None:
    body = within(of, "Api")["Properties"]["Body"]
    body["definitions"] = {"Readings": {"type": ["object", "array"], "minItems": 1}}


def moved_table(of: Templates) -> None:
    of["stacks/archive.yaml"]["Resources"]["AlertsTable"] = of[ROOT]["Resources"]["AlertsTable"]


def longer_name(of: Templates) -> None:
    of[ROOT]["Parameters"]["Name"]["AllowedPattern"] = "[a-z]{1,27}"


def own_name(of: Templates) -> None:
    within(of, "ArchiveStream")["Properties"]["DeliveryStreamName"] = {"Ref": "AWS::StackName"}


def no_policy(of: Templates) -> None:
    del of["stacks/access.yaml"]["Resources"]["ArchiveBucketPolicy"]


BY_RULE_ALONE = {"Dimensions": [{"Name": "RuleName", "Value": "a"}], "Namespace": "AWS/IoT"}


@pytest.mark.parametrize(
    ("rule", "edit", "said"),
    [
        (other_stages, second_stage, "a stage called Stage"),
        (lost_in_an_import, listed_type, "Api: the model Readings has minItems"),
        (lost_in_an_import, listed_type, "Api: the model Readings has type as a list"),
        (old_tls, setting("Api", SecurityPolicy=None), "Api: speaks TLS_1_0"),
        (old_tls, setting("Api", SecurityPolicy="SecurityPolicy_TLS13_1_3_2025_90"), "2025_90"),
        (old_tls, setting("Api", EndpointAccessMode=None), "needs EndpointAccessMode"),
        (repeated_states, renamed_state, "RebuildMachine: FillPart is there twice"),
        (
            blind_alarms,
            setting("BatchRuleThrottledAlarm", MetricName="ErrorActionFailure", **BY_RULE_ALONE),
            "ErrorActionFailure has ['ActionType', 'RuleName'], not ['RuleName']",
        ),
        (blind_alarms, setting("IngestLostAlarm", MetricName="Lost"), "Lost isn't in METRICS"),
        (
            kept_after_a_failed_first_deployment,
            marked("AlertsTable", DeletionPolicy="Retain"),
            "AlertsTable: DeletionPolicy is Retain",
        ),
        (
            kept_after_a_failed_first_deployment,
            marked("AlertsTable", UpdateReplacePolicy="Delete"),
            "AlertsTable: UpdateReplacePolicy is Delete",
        ),
        (
            kept_after_a_failed_first_deployment,
            marked("ApiLogsRole", DeletionPolicy="RetainExceptOnCreate"),
            "the account's role is others', too",
        ),
        (unreadable_when_kept, marked("Key", DeletionPolicy="Delete"), "is kept, and Key isn't"),
        (
            lost_with_the_stack,
            marked("WindowsTable", DeletionPolicy="Delete"),
            "WindowsTable: goes with the stack",
        ),
        (out_of_reach_of_an_import, moved_table, "AlertsTable belongs in template.yaml"),
        (
            in_the_way_of_the_next,
            marked("ArchiveBucketPolicy", DeletionPolicy=KEEPS),
            "access.yaml: ArchiveBucketPolicy is kept",
        ),
        (
            in_the_way_of_the_next,
            setting("DevicePolicy", PolicyName="device"),
            "provisioning.yaml: DevicePolicy is kept",
        ),
        (
            ahead_of_the_archive,
            marked("DrainFunction", DependsOn=[]),
            "DrainFunction: doesn't wait",
        ),
        (unfit_names, longer_name, "64 characters, 63 at most"),
        (names_of_a_nested_stacks_own, own_name, "archive.yaml: refers to AWS::StackName"),
        (unfit_mappings, setting("OverflowQueue", VisibilityTimeout=60), "VisibilityTimeout is 60"),
        (
            unfit_mappings,
            setting("DispatchFunctionChanges", MaximumRecordAgeInSeconds=90_000),
            "records are kept for 86400",
        ),
        (unfit_mappings, setting("AlertFunctionBreaches", DestinationConfig=None), "goes nowhere"),
        (slow_answers, setting("QueryFunction", Timeout=30), "QueryFunction: may take 30 s"),
        (open_to_plain_http, no_policy, "ArchiveBucket: takes plain HTTP"),
    ],
)
def test_each_rule_sees_its_fault(rule: Rule, edit: Edit, said: str) -> None:
    faulty = copy.deepcopy(templates())
    edit(faulty)
    assert any(said in each for each in rule(faulty)), rule(faulty)
