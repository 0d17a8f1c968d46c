"""IAM, held against AWS's own data: the policies, and what code and AWS's services need of them.

The last tests bring faults back, on copies of the templates and of the source, and see them found.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.template.code import Fault, Sources, sources
from tests.template.expanded import REGION, Template, templates
from tests.template.iam import (
    by_role,
    callable_by_others,
    misdirected,
    missing,
    other_policies,
    superfluous,
    too_trusting,
    too_wide,
    unknown,
    unused_calls,
)
from tests.template.needs import is_met
from tests.template.policies import granted
from tests.template.rendered import ACCOUNT, Deployed, deployed

# What is right though a rule finds it: the beginning of each fault, and the reason.
LABELLED = "a map's children have such ARNs: the same page's resource type `labelled execution`"
KNOWN = {
    "misdirected": {
        # AWS's page names certificates, or nothing. But:
        "ProvisioningRole: iot:AttachThingPrincipal doesn't take": "AWSDeepLensServiceRolePolicy,"
        " AWS's own, has it on things and on certificates",
        "ReplayMachineRole: states:DescribeExecution doesn't take": LABELLED,
        "ReplayMachineRole: states:StopExecution doesn't take": LABELLED,
        "RebuildMachineRole: states:DescribeExecution doesn't take": LABELLED,
        "RebuildMachineRole: states:StopExecution doesn't take": LABELLED,
    },
    "too_wide": {
        "IngestRole: glue:GetSchemaVersion is": "by a version's id Glue checks none: calls.py",
        "DrainRole: glue:GetSchemaVersion is": "the same",
    },
}


@pytest.fixture(scope="module")
def stack() -> Deployed:
    return deployed(templates())


@pytest.fixture(scope="module")
def code() -> Sources:
    return sources()


def unexcused(rule: str, faults: list[str]) -> list[str]:
    """A rule's faults that aren't listed, and those that are listed and aren't there any more."""
    listed = list(KNOWN.get(rule, {}))
    gone = [each for each in listed if not any(fault.startswith(each) for fault in faults)]
    left = [each for each in faults if not each.startswith(tuple(listed))]
    return left + [f"is listed, and is no fault: {each}" for each in gone]


def test_every_action_of_a_policy_is_one_of_awss(stack: Deployed) -> None:
    assert unexcused("unknown", unknown(stack)) == []


def test_every_resource_of_a_policy_is_one_that_its_actions_take(stack: Deployed) -> None:
    assert unexcused("misdirected", misdirected(stack)) == []


def test_all_resources_are_allowed_only_where_an_action_takes_none(stack: Deployed) -> None:
    assert unexcused("too_wide", too_wide(stack)) == []


def test_only_listed_services_are_trusted_and_only_for_this_account(stack: Deployed) -> None:
    assert unexcused("too_trusting", too_trusting(stack)) == []


def test_no_function_can_be_invoked_for_another_account(stack: Deployed) -> None:
    assert unexcused("callable_by_others", callable_by_others(stack)) == []


def test_every_call_and_every_service_has_its_permission(stack: Deployed, code: Sources) -> None:
    assert unexcused("missing", missing(stack, code)) == []


def test_no_role_allows_what_nobody_needs(stack: Deployed, code: Sources) -> None:
    assert unexcused("superfluous", superfluous(stack, code)) == []


def test_managed_policies_are_only_where_aws_asks_for_them(stack: Deployed) -> None:
    assert unexcused("other_policies", other_policies(stack)) == []


def test_the_table_of_calls_has_no_call_that_nothing_makes(stack: Deployed, code: Sources) -> None:
    assert unused_calls(stack, code) == []


# The faults, brought back.

Properties = dict[str, Any]
Change = Callable[[Properties], Any]


def changed(logical_id: str, change: Change) -> Deployed:
    """The deployment, with a change of one resource's properties."""
    copied: dict[str, Template] = copy.deepcopy(templates())
    resources = [each["Resources"] for each in copied.values() if logical_id in each["Resources"]]
    change(resources[0][logical_id]["Properties"])
    return deployed(copied)


def policy(properties: Properties) -> list[dict[str, Any]]:
    """The statements of a role's only policy, or of a queue's, a key's or IoT's."""
    holder = properties["Policies"][0] if "Policies" in properties else properties
    document = holder.get("PolicyDocument") or holder["KeyPolicy"]
    statements: list[dict[str, Any]] = document["Statement"]
    return statements


def allowing(action: str, resource: Any) -> Change:
    """Adds a statement."""
    added = {"Effect": "Allow", "Action": action, "Resource": resource}
    return lambda properties: policy(properties).append(added)


def setting(**elements: Any) -> Change:
    """Sets elements of the last statement."""
    return lambda properties: policy(properties)[-1].update(elements)


def trusting(**elements: Any) -> Change:
    """Sets elements of the trust policy's only statement."""
    return lambda properties: properties["AssumeRolePolicyDocument"]["Statement"][0].update(
        elements
    )


AT = f"{REGION}:{ACCOUNT}"
BUCKET = f"arn:aws:s3:::telemetry-failures-{ACCOUNT}-{REGION}"
TABLE = f"arn:aws:dynamodb:{AT}:table/telemetry-alerts"
OTHERS = {"StringEquals": {"aws:SourceAccount": "000000000000"}}
EC2 = {"Service": "ec2.amazonaws.com"}
NO_TRUST = "trusts iot.amazonaws.com without aws:SourceAccount"
FAULTS: dict[str, tuple[Callable[[Deployed], list[str]], str, Change, str]] = {
    "no such action": (
        unknown,
        "AlertRole",
        allowing("s3:GetObjects", BUCKET),
        "s3:GetObjects is no action",
    ),
    "a wildcard for nothing": (
        unknown,
        "AlertRole",
        allowing("s3:Fetch*", BUCKET),
        "s3:Fetch* is no action",
    ),
    "no such service": (
        unknown,
        "AlertRole",
        allowing("s4:GetObject", BUCKET),
        "s4:GetObject is no",
    ),
    "what isn't judged": (unknown, "AlertRole", setting(NotAction="s3:*"), "NotAction isn't"),
    "a bucket for its objects": (
        misdirected,
        "AlertRole",
        allowing("s3:PutObject", BUCKET),
        "s3:PutObject doesn't take arn:",
    ),
    "a table for its stream": (
        misdirected,
        "AlertRole",
        allowing("dynamodb:GetRecords", TABLE),
        "GetRecords doesn't take arn:",
    ),
    "a resource for none": (
        misdirected,
        "AlertRole",
        allowing("xray:PutTraceSegments", TABLE),
        "Segments doesn't take arn:",
    ),
    "a topic for its filter": (
        misdirected,
        "ClaimPolicy",
        setting(Action="iot:Publish"),
        "iot:Publish doesn't take arn:",
    ),
    "everything": (
        too_wide,
        "AlertRole",
        allowing("dynamodb:GetItem", "*"),
        "GetItem is allowed on *",
    ),
    "everything, by IoT": (
        too_wide,
        "DevicePolicy",
        allowing("iot:Publish", "*"),
        "iot:Publish is allowed on *",
    ),
    "another service": (
        too_trusting,
        "AlertRole",
        trusting(Principal=EC2),
        "trusts ec2.amazonaws.com",
    ),
    "everyone": (too_trusting, "AlertRole", trusting(Principal="*"), "AlertRole: trusts *"),
    "every account": (too_trusting, "MessageRuleRole", trusting(Condition={}), NO_TRUST),
    "another account": (too_trusting, "MessageRuleRole", trusting(Condition=OTHERS), NO_TRUST),
    "every account's bucket": (
        too_trusting,
        "FailuresQueuePolicy",
        setting(Condition={}),
        "trusts s3.amazonaws.com without",
    ),
    "every account's key": (too_trusting, "Key", setting(Condition={}), "Key: trusts *"),
    "every account's rule": (
        callable_by_others,
        "BatchRulePermission",
        lambda its: its.update(SourceAccount="000000000000", SourceArn="*"),
        "iot.amazonaws.com may invoke for any account",
    ),
    "a managed policy": (
        other_policies,
        "AlertRole",
        lambda its: its.update(ManagedPolicyArns=["arn:x"]),
        "['arn:x']",
    ),
}


@pytest.mark.parametrize(
    ("rule", "logical_id", "change", "fault"), FAULTS.values(), ids=FAULTS.keys()
)
def test_a_fault_of_a_policy_is_found(
    rule: Callable[[Deployed], list[str]], logical_id: str, change: Change, fault: str
) -> None:
    found = unexcused(rule.__name__, rule(changed(logical_id, change)))
    assert any(fault in each for each in found), found


def test_a_policy_may_deny_a_service_to_everyone(stack: Deployed) -> None:
    queues = f"arn:aws:sqs:{AT}:*"
    denial = {"Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": queues}
    denying = changed("FailuresQueuePolicy", lambda its: policy(its).append(denial))
    for rule in (unknown, misdirected, too_wide, too_trusting):
        assert rule(denying) == rule(stack)


# `redrive` has several queues and invokes several functions. Its code doesn't say which call is for
# which (`code.py`), so a permission on one of them will do.
UNSEEN = {
    ("RedriveRole", "lambda:InvokeFunction"),
    ("RedriveRole", "sqs:ChangeMessageVisibility"),
    ("RedriveRole", "sqs:DeleteMessage"),
    ("RedriveRole", "sqs:ReceiveMessage"),
}


def test_any_permission_that_is_taken_away_is_missed(stack: Deployed, code: Sources) -> None:
    unmissed = set()
    names = {role.arn: role.logical_id for role in stack.of("AWS::IAM::Role")}
    for arn, users in by_role(stack, code).items():
        grants = list(granted(stack, arn))
        met = [need for user in users for need in user.needs if is_met(need, grants)]
        for grant in grants:
            others = [each for each in grants if each != grant]
            if all(is_met(need, others) for need in met):
                unmissed.add((names[arn], grant[0]))
    assert unmissed == UNSEEN


OBJECTS = f"{BUCKET}/aws/lambda/*"


@pytest.mark.parametrize(
    ("logical_id", "change", "fault"),
    [
        ("AlertRole", allowing("s3:GetObject", OBJECTS), "AlertRole: s3:GetObject on"),
        ("AlertRole", allowing("dynamodb:GetItem", "*"), "AlertRole: dynamodb:GetItem on *"),
        ("SweepFunction", lambda its: its.pop("TracingConfig"), "SweepRole: xray:PutTraceSegments"),
        (
            "SweepFunction",
            lambda its: its.update(Role="arn:x"),
            "SweepRole: nobody that needs.py knows",
        ),
        (
            "AlertFunctionBreaches",
            lambda its: its.pop("DestinationConfig"),
            "AlertRole: s3:ListBucket",
        ),
    ],
)
def test_a_permission_too_many_is_found(
    code: Sources, logical_id: str, change: Change, fault: str
) -> None:
    found = unexcused("superfluous", superfluous(changed(logical_id, change), code))
    assert any(each.startswith(fault) for each in found), found


def rewritten(module: str, old: str, new: str) -> Sources:
    """The source, with a change of one module."""
    source = sources()[module]
    assert old in source
    return {**sources(), module: source.replace(old, new)}


@pytest.mark.parametrize(
    ("rule", "module", "old", "new", "fault"),
    [
        (missing, "registry", ".get_item(", ".scan(", "AuthorizeFunction: may not dynamodb:Scan"),
        (missing, "items", "UPDATE", "DELETE", "SweepFunction: may not dynamodb:PartiQLDelete"),
        (missing, "queue", ".send_message_batch(", ".delete_message(", "may not sqs:DeleteMessage"),
        (
            missing,
            "archive_bucket",
            "get_object(",
            "put_object(",
            "ReplayFunction: may not s3:PutObject",
        ),
        (missing, "quarantine", '"quarantine/"', '"held/"', f"{BUCKET}/held/*"),
        (superfluous, "registry", ".delete_item(", ".put_item(", "dynamodb:DeleteItem on"),
        (superfluous, "registry", '"Put":', '"Update":', "RegisterRole: dynamodb:PutItem on"),
    ],
)
def test_a_call_that_changes_changes_what_its_role_must_allow(
    stack: Deployed,
    rule: Callable[[Deployed, Sources], list[str]],
    module: str,
    old: str,
    new: str,
    fault: str,
) -> None:
    found = unexcused(rule.__name__, rule(stack, rewritten(f"telemetry.aws.{module}", old, new)))
    assert any(fault in each for each in found), found


@pytest.mark.parametrize(
    ("role", "whole", "narrowed"),
    [
        ("AlertRole", "/aws/lambda/*", "/aws/lambda/x*"),
        ("ArchiveRole", ":s3:::${Bucket}/*", ":s3:::${Bucket}/readings/*"),
    ],
)
def test_a_permission_on_less_than_is_needed_is_missed(
    role: str, whole: str, narrowed: str, code: Sources
) -> None:
    def narrow(properties: Properties) -> None:
        text = json.dumps(properties).replace(whole, narrowed)
        assert text != json.dumps(properties)
        properties.update(json.loads(text))

    assert unexcused("missing", missing(changed(role, narrow), code)) != []


def test_a_function_that_works_on_another_table_must_be_allowed_to(stack: Deployed) -> None:
    swapped = ("WindowReader(dynamodb, settings.windows", "WindowReader(dynamodb, settings.alerts")
    found = unexcused("missing", missing(stack, rewritten("functions.query.handler", *swapped)))
    assert [each.partition(";")[0] for each in found] == [
        f"QueryFunction: may not dynamodb:GetItem on {TABLE}",
        f"QueryFunction: may not dynamodb:Query on {TABLE}",
    ]


REGISTRY, REGISTER = "telemetry.aws.registry", "functions.register.handler"
CALL = "answer = self._dynamodb"


@pytest.mark.parametrize(
    ("module", "old", "new", "told"),
    [
        (
            REGISTRY,
            ".get_item(",
            ".describe_table(",
            "describe_table: say in tests/template/calls.py",
        ),
        (
            REGISTRY,
            CALL,
            "answer = other(self._dynamodb)",
            "does not just call a method of _dynamodb",
        ),
        (REGISTRY, "self._table = table", "self._t = f(dynamodb)", "does not just keep dynamodb"),
        (REGISTRY, "self._dynamodb = dynamodb", "pass", "does not just keep dynamodb"),
        (REGISTRY, "class Registry", "import boto3\n\nclass Registry", "registry imports boto3"),
        (REGISTRY, "ADMIN =", 'S3 = client("s3")\nADMIN =', "is made outside of a function"),
        (REGISTER, "import client", "import client as make", "imports `client` under another name"),
        (REGISTER, "settings =", 's3 = client("s3"); settings =', "gives to no class"),
        (REGISTER, ", settings.devices_table", ', "devices"', "no setting says what"),
        (REGISTER, '"dynamodb"', "service", "a service that isn't written there"),
    ],
)
def test_code_that_can_not_be_followed_is_told_of(
    stack: Deployed, module: str, old: str, new: str, told: str
) -> None:
    with pytest.raises(Fault, match=told):
        missing(stack, rewritten(module, old, new))
