"""IoT policies: check whether a certificate's policies allow an action.

https://docs.aws.amazon.com/iot/latest/developerguide/iot-policies.html
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

VARIABLE = re.compile(r"\$\{([^}]*)\}")
FIXED = {"*": "*", "?": "?", "$": "$"}


class PolicyUnsupported(Exception):
    """A policy has an element that isn't supported here; it allows nothing."""


def allows(
    documents: Iterable[Mapping[str, Any]],
    action: str,
    resource: str,
    variables: Mapping[str, str],
) -> bool:
    """Return whether a statement allows the action on the resource and none denies it.

    `variables`: values by name, without ${}. A missing variable matches nothing.
    """
    return effects(documents, action, resource, variables) == {"Allow"}


def effects(
    documents: Iterable[Mapping[str, Any]],
    action: str,
    resource: str,
    variables: Mapping[str, str],
) -> set[str]:
    """Return the effects of all statements that apply to the action on the resource."""
    return {
        statement["Effect"]
        for document in documents
        for statement in as_list(document["Statement"])
        if applies(statement, action, resource, variables)
    }


def applies(
    statement: Mapping[str, Any], action: str, resource: str, variables: Mapping[str, str]
) -> bool:
    """Return whether a statement applies to this action, resource and connection."""
    for name in ("NotAction", "NotResource", "Principal", "NotPrincipal"):
        if name in statement:
            raise PolicyUnsupported(f"{name} in an IoT policy isn't supported here")
    return (
        any(pattern(each, {}, action) for each in as_list(statement["Action"]))
        and any(pattern(each, variables, resource) for each in as_list(statement["Resource"]))
        and all(
            holds(operator, key, as_list(values), variables)
            for operator, tests in statement.get("Condition", {}).items()
            for key, values in tests.items()
        )
    )


def pattern(text: str, variables: Mapping[str, str], value: str) -> bool:
    """Return whether a value matches a pattern, where * is any text and ? any character."""
    parts = VARIABLE.split(text)
    regex = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            regex += re.escape(part).replace(r"\*", ".*").replace(r"\?", ".")
        elif part in FIXED:
            regex += re.escape(FIXED[part])
        elif part in variables:
            regex += re.escape(variables[part])  # its value isn't a pattern
        else:
            return False
    return re.fullmatch(regex, value, re.DOTALL) is not None


def filled(text: str, variables: Mapping[str, str]) -> str | None:
    """Return a text with its variables replaced; None if one is missing."""
    names = VARIABLE.findall(text)
    if any(name not in variables for name in names):
        return None
    return VARIABLE.sub(lambda match: variables[match[1]], text)


OPERATORS: Mapping[str, Callable[[str, str, Mapping[str, str]], bool]] = {
    "Bool": lambda wanted, value, _variables: wanted.lower() == value.lower(),
    "StringEquals": lambda wanted, value, variables: filled(wanted, variables) == value,
    "StringLike": lambda wanted, value, variables: pattern(wanted, variables, value),
}


def holds(operator: str, key: str, values: Iterable[Any], variables: Mapping[str, str]) -> bool:
    """Return whether one test of a Condition is true; a key without a value fails it."""
    compare = OPERATORS.get(operator)
    if compare is None:
        known = ", ".join(OPERATORS)
        raise PolicyUnsupported(f"Condition {operator} isn't supported here; {known} are")
    if key not in variables:
        return False
    return any(compare(text_of(wanted), variables[key], variables) for wanted in values)


def text_of(value: Any) -> str:
    """Return a value of a condition as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_list(value: Any) -> list[Any]:
    """Return an element that may be a single value or a list as a list."""
    return value if isinstance(value, list) else [value]
