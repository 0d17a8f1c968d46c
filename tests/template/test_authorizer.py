"""The API lets through what `authorize` reads, and answers the rest itself."""

import base64
import re

import pytest
from telemetry.domain.token import parse_bearer

from tests.template.expanded import templates

SECRET = "Az09_-" * 7
USER = base64.b64encode(f"pump-1:{SECRET}".encode()).decode()


def expression() -> str:
    """What API Gateway holds the header Authorization against."""
    body = templates()["template.yaml"]["Resources"]["Api"]["Properties"]["Body"]
    authorizer = body["securityDefinitions"]["BearerToken"]["x-amazon-apigateway-authorizer"]
    found: str = authorizer["identityValidationExpression"]
    return found


@pytest.mark.parametrize(
    ("header", "is_taken"),
    [
        (f"Bearer pump-1.{SECRET}", True),
        (f"bearer pump-1.{SECRET}", True),
        (f"TOKEN   pump-1.{SECRET}", True),
        (f"Basic {USER}", True),
        (f"bAsIc  {USER}", True),
        (f"Digest pump-1.{SECRET}", False),
        (f"Bearer\tpump-1.{SECRET}", False),
        (f"Bearerpump-1.{SECRET}", False),
        (f"pump-1.{SECRET}", False),
    ],
)
def test_the_gateway_and_the_function_take_the_same_headers(header: str, is_taken: bool) -> None:
    assert (re.fullmatch(expression(), header) is not None) == is_taken
    assert (parse_bearer(header) is not None) == is_taken
