"""The rules of IAM. Each lists what breaks it: by logical id, a role or what has the role."""

from collections.abc import Iterator

from tests.template.calls import CALLS
from tests.template.code import Sources
from tests.template.needs import MANAGED, Role, is_met, roles
from tests.template.policies import (
    Statement,
    actions,
    covers,
    fits,
    granted,
    page,
    resource_formats,
    statements_of,
)
from tests.template.rendered import ACCOUNT, Deployed


def statements(stack: Deployed) -> Iterator[Statement]:
    for resource in stack:
        yield from statements_of(resource)


# Policies by themselves.


def unknown(stack: Deployed) -> list[str]:
    """Elements and actions that aren't there, or that this file can't judge."""
    found = []
    for each in statements(stack):
        where = each.resource.logical_id
        found += [f"{where}: {element} isn't understood here" for element in sorted(each.unknown)]
        if each.effect == "Deny" and each.resource.type == "AWS::IAM::Role":
            found.append(f"{where}: a Deny isn't understood here")
        found += [
            f"{where}: {action} is no action" for action in each.actions if not actions(action)
        ]
    return found


def misdirected(stack: Deployed) -> list[str]:
    """Resources that an action doesn't take; of a wildcard's actions, none."""
    return [
        f"{each.resource.logical_id}: {pattern} doesn't take {resource} ({page(pattern)})"
        for each in statements(stack)
        for resource in each.resources
        if resource != "*"
        for pattern in each.actions
        if (known := actions(pattern)) and not any(fits(action, resource) for action in known)
    ]


# A key's policy is for that key: KMS Developer Guide, "Key policies in AWS KMS"
# https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html
OF_ITSELF = {"AWS::KMS::Key"}


def too_wide(stack: Deployed) -> list[str]:
    """Where everything is allowed that an action takes, though it takes something."""
    return [
        f"{each.resource.logical_id}: {action} is allowed on *"
        for each in statements(stack)
        if each.effect == "Allow" and "*" in each.resources and each.resource.type not in OF_ITSELF
        for pattern in each.actions
        for action in actions(pattern)
        if resource_formats(action)
    ]


# Who is trusted, and the condition keys of which one must name this account: those that the service
# documents. None where it documents none.
TRUSTED: dict[str, tuple[set[str], str]] = {
    "iot.amazonaws.com": (
        {"aws:SourceAccount"},
        "https://docs.aws.amazon.com/iot/latest/developerguide/cross-service-confused-deputy-prevention.html",
    ),
    "states.amazonaws.com": (
        {"aws:SourceAccount"},
        "https://docs.aws.amazon.com/step-functions/latest/dg/procedure-create-iam-role.html",
    ),
    # Its guide shows neither today; it showed the external id, which AWS's own solutions ask for.
    "firehose.amazonaws.com": (
        {"aws:SourceAccount", "sts:ExternalId"},
        "https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html#firehose-assume-role",
    ),
    "s3.amazonaws.com": (
        {"aws:SourceAccount"},
        "https://docs.aws.amazon.com/AmazonS3/latest/userguide/grant-destinations-permissions-to-s3.html",
    ),
    # Both show a trust policy without a condition. A function's role is of its own account.
    "lambda.amazonaws.com": (
        set(),
        "https://docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html",
    ),
    "apigateway.amazonaws.com": (
        set(),
        "https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-logging.html",
    ),
}
ROOT_OF_ACCOUNT = f"arn:aws:iam::{ACCOUNT}:root"
# Everyone, if a condition names this account: KMS Developer Guide, "kms:CallerAccount"
# https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html
EVERYONE_OF_ACCOUNT = "kms:CallerAccount"


def too_trusting(stack: Deployed) -> list[str]:
    """Principals that aren't listed, or that may act for another account."""
    found = []
    for each in statements(stack):
        where = each.resource.logical_id
        for kind, names in each.principals.items() if each.effect == "Allow" else ():
            for name in names:
                if kind == "AWS" and name == ROOT_OF_ACCOUNT:
                    continue
                if kind == "AWS" and name == "*" and each.equal(EVERYONE_OF_ACCOUNT) == [ACCOUNT]:
                    continue
                if kind != "Service" or name not in TRUSTED:
                    found.append(f"{where}: trusts {name}, which is not listed")
                    continue
                keys, url = TRUSTED[name]
                if keys and not any(each.equal(key) == [ACCOUNT] for key in keys):
                    needed = " or ".join(sorted(keys))
                    found.append(f"{where}: trusts {name} without {needed} ({url})")
    return found


# Without its source named, any account's resource of a service may call. "Granting Lambda function
# access to AWS services"
# https://docs.aws.amazon.com/lambda/latest/dg/permissions-function-services.html
def callable_by_others(stack: Deployed) -> list[str]:
    """Functions that a service may call for another account."""
    return [
        f"{each.logical_id}: {each.properties['Principal']} may invoke for any account"
        for each in stack.of("AWS::Lambda::Permission")
        if f":{ACCOUNT}:" not in each.properties.get("SourceArn", "")
        and each.properties.get("SourceAccount") != ACCOUNT
    ]


# Policies and what is done in their name.


def by_role(stack: Deployed, code: Sources) -> dict[str, list[Role]]:
    """Who has which role, by its ARN."""
    found: dict[str, list[Role]] = {}
    for role in roles(stack, code):
        found.setdefault(role.arn, []).append(role)
    return found


def missing(stack: Deployed, code: Sources) -> list[str]:
    """What is needed of a role that it doesn't allow."""
    found = set()
    for arn, users in by_role(stack, code).items():
        allowed = list(granted(stack, arn))
        for user in users:
            unmet = [need for need in user.needs if not is_met(need, allowed)]
            found |= {f"{user.who}: may not {need}" for need in unmet}
    return sorted(found)


def superfluous(stack: Deployed, code: Sources) -> list[str]:
    """What a role allows that nobody needs, or on more than anybody needs it on."""
    users = by_role(stack, code)
    found = []
    for role in stack.of("AWS::IAM::Role"):
        needs = [need for user in users.get(role.arn, []) for need in user.needs]
        if role.arn not in users:
            found.append(f"{role.logical_id}: nobody that needs.py knows has this role")
        for pattern, resource in granted(stack, role.arn):
            for action in actions(pattern):
                at = [each for need in needs if action in need.actions for each in need.resources]
                if not any(covers(each, resource) for each in at):
                    asked = f", only on {' and '.join(dict.fromkeys(at))}" if at else ""
                    found.append(f"{role.logical_id}: {action} on {resource} isn't needed{asked}")
    return found


def other_policies(stack: Deployed) -> list[str]:
    """Managed policies, but for those that AWS asks for."""
    wanted = {
        each.properties["CloudWatchRoleArn"]: [f"arn:aws:iam::aws:policy/{MANAGED[each.type]}"]
        for each in stack.of(*MANAGED)
    }
    return [
        f"{role.logical_id}: has the managed policies {attached}, not {wanted.get(role.arn, [])}"
        for role in stack.of("AWS::IAM::Role")
        if (attached := role.properties.get("ManagedPolicyArns", [])) != wanted.get(role.arn, [])
    ]


def unused_calls(stack: Deployed, code: Sources) -> list[str]:
    """Rows of CALLS for calls that nothing makes."""
    made = " ".join(
        need.why for each in by_role(stack, code).values() for role in each for need in role.needs
    )
    return [call for call in CALLS if f"calls {call} " not in f"{made} "]
