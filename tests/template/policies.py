"""IAM policies, and AWS's own data on them: which actions there are, and what resources they take.

The data is AWS's Service Authorization Reference, as policy_sentry keeps it; `page` tells its page.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from policy_sentry.shared.iam_data import get_service_prefix_data

from tests.template.rendered import Deployed, Resource

# Names that may have the / or : that in other ARNs begins the next part.
LONG_NAMES = {"${ObjectName}", "${TopicName}", "${TopicFilter}", "${LogGroupName}", "${SecretId}"}
LONG_NAMES |= {"${StreamLabel}", "${ClientId}"}


class Statement(NamedTuple):
    """A statement of a policy, which the resource has in a property."""

    resource: Resource
    of_property: str
    effect: str
    actions: list[str]
    resources: list[str]
    principals: dict[str, list[str]]
    conditions: dict[str, dict[str, Any]]
    unknown: set[str]  # elements that this class doesn't have

    @property
    def is_trust(self) -> bool:
        return self.of_property == "AssumeRolePolicyDocument"

    def equal(self, key: str) -> list[str]:
        """The values that a condition key must be equal to; none where that isn't asked."""
        for operator in ("StringEquals", "ArnEquals", "StringLike", "ArnLike"):
            for name, value in self.conditions.get(operator, {}).items():
                if name.lower() == key.lower():
                    return as_list(value)
        return []


ELEMENTS = {"Sid", "Effect", "Action", "Resource", "Principal", "Condition"}


def statements_of(resource: Resource) -> Iterator[Statement]:
    """Every statement of every policy in a resource's properties."""
    for name, value in resource.properties.items():
        for document in documents(value):
            for each in as_list(document["Statement"]):
                principal = each.get("Principal", {})
                principals = {"AWS": principal} if principal == "*" else principal
                yield Statement(
                    resource,
                    name,
                    each["Effect"],
                    as_list(each.get("Action", [])),
                    as_list(each.get("Resource", [])),
                    {kind: as_list(names) for kind, names in principals.items()},
                    each.get("Condition", {}),
                    each.keys() - ELEMENTS,
                )


def documents(value: Any) -> Iterator[dict[str, Any]]:
    """The policy documents in a property's value."""
    if isinstance(value, dict) and "Statement" in value:
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from documents(each)


def granted(deployed: Deployed, role_arn: str) -> Iterator[tuple[str, str]]:
    """Each action and resource that a role's own policies allow, whatever the condition."""
    for role in deployed.of("AWS::IAM::Role"):
        if role.arn == role_arn:
            for statement in statements_of(role):
                if statement.effect == "Allow" and not statement.is_trust:
                    for action in statement.actions:
                        yield from ((action, resource) for resource in statement.resources)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# AWS's data.


def actions(pattern: str) -> list[str]:
    """The actions that a pattern of a policy stands for, as AWS writes them; none: a mistake."""
    service, _, name = pattern.partition(":")
    known = get_service_prefix_data(service).get("privileges", {})
    return [f"{service}:{each}" for each in known if overlap(name.lower(), each.lower())]


@cache
def resource_formats(action: str) -> list[str]:
    """The forms of ARNs that an action takes; none where it takes only `*`."""
    service, name = action.split(":")
    data = get_service_prefix_data(service)
    types = data["privileges"][name]["resource_types"]
    return [data["resources"][each]["arn"] for each in types if each]


def fits(action: str, resource: str) -> bool:
    """Whether a resource, which may have wildcards, can be one that the action takes."""
    return any(overlap(resource, each) for each in resource_formats(action))


def page(action: str) -> str:
    """The page of the Service Authorization Reference that tells of an action."""
    url: str = get_service_prefix_data(action.partition(":")[0])["service_authorization_url"]
    return url


# Wildcards.

TOKEN = re.compile(r"\$\{[^}]+\}|.", re.DOTALL)


@cache
def overlap(one: str, other: str) -> bool:
    """Whether there is a text that both patterns match.

    `*` is any text and `?` a character, as in policies. `${…}` is a name of AWS's formats of ARNs,
    which ends at the next / or : if it isn't of LONG_NAMES; or, with a colon, a policy's variable.
    """
    return _overlap(tuple(TOKEN.findall(one)), tuple(TOKEN.findall(other)))


@cache
def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if one and _is_text(one[0]):
        ends = _overlap(one[1:], other)
        return ends or (bool(other) and _takes(one[0], other[0]) and _overlap(one, other[1:]))
    if other and _is_text(other[0]):
        return _overlap(other, one)
    if not one or not other:
        return not one and not other
    return (one[0] == other[0] or "?" in (one[0], other[0])) and _overlap(one[1:], other[1:])


def _is_text(token: str) -> bool:
    return token == "*" or len(token) > 1


def _takes(text: str, token: str) -> bool:
    """Whether a token for texts can go over another token."""
    is_short_name = len(text) > 1 and ":" not in text and text not in LONG_NAMES
    return not (is_short_name and token in {"/", ":"})


def covers(pattern: str, resource: str) -> bool:
    """Whether a pattern matches all that a resource, which may have wildcards, matches."""
    expression = re.escape(pattern).replace(r"\*", ".*")
    return re.fullmatch(expression, resource, re.DOTALL) is not None
