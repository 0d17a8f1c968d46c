"""What the roles of a deployed stack allow."""

from typing import Any

from local import deployment
from tests.pipeline.deployed import Pipeline


def stack_roles(pipeline: Pipeline) -> list[str]:
    """The names of the stack's roles."""
    return [
        found["PhysicalResourceId"]
        for found in deployment.stack_resources(pipeline.state)
        if found["ResourceType"] == "AWS::IAM::Role"
    ]


def role_statements(iam: Any, role: str) -> list[dict[str, Any]]:
    """The statements of a role's inline policies."""
    statements: list[dict[str, Any]] = []
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document: Any = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
        found = document["Statement"]
        statements += found if isinstance(found, list) else [found]
    return statements


def as_list(value: str | list[str]) -> list[str]:
    """A policy element, which may be one text or several, as a list."""
    return [value] if isinstance(value, str) else value
