"""Reads the permissions of a deployed stack's roles."""

from typing import Any

from local import deployment
from tests.pipeline.deployed import Pipeline


def stack_roles(pipeline: Pipeline) -> list[str]:
    """Return the names of the stack's roles."""
    return [
        found["PhysicalResourceId"]
        for found in deployment.stack_resources(pipeline.state)
        if found["ResourceType"] == "AWS::IAM::Role"
    ]


def role_statements(iam: Any, role: str) -> list[dict[str, Any]]:
    """Return the statements of a role's inline policies."""
    statements: list[dict[str, Any]] = []
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document: Any = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        found = document["Statement"]
        statements += found if isinstance(found, list) else [found]
    return statements


def as_list(value: str | list[str]) -> list[str]:
    """Return a policy element as a list; it may be a single text."""
    return [value] if isinstance(value, str) else value
