"""Authorize: each role may call what is its own, and nothing else."""

import base64
import re
from typing import Any

import pytest
from telemetry.domain.token import Grant

from functions.authorize.handler import run
from tests.fakes import MemoryRegistry, MemorySecret

STAGE = "arn:aws:execute-api:eu-west-1:123456789012:a1b2c3/v1"
SECRET = "s" * 43
ADMIN_SECRET = "a" * 43

ROUTES = [
    "POST/devices/pump-1/readings",
    "POST/devices/pump-2/readings",
    "POST/devices/pump-10/readings",
    "POST/readings",
    "POST/tokens",
    "DELETE/tokens/pump-1",
    "GET/devices/pump-1",
    "GET/devices/pump-1/windows",
    "GET/alerts",
    "GET/health",
    "POST/write",
    "POST/api/v2/write",
    "POST/query",
    "GET/query",
    "GET/ping",
    "HEAD/ping",
]
INFLUX = {*("POST/write", "POST/api/v2/write", "POST/query", "GET/query", "GET/ping", "HEAD/ping")}


def is_allowed(policy: dict[str, Any], resource: str) -> bool:
    """IAM's rule: some statement allows it, and none denies it."""
    effects = {
        statement["Effect"]
        for statement in policy["policyDocument"]["Statement"]
        if statement["Action"] == "execute-api:Invoke"
        and any(matches(pattern, resource) for pattern in statement["Resource"])
    }
    return effects == {"Allow"}


def matches(pattern: str, resource: str) -> bool:
    """`*` is any text, slashes too; `?` is any character."""
    parts = (re.escape(part) for part in re.split(r"([*?])", pattern))
    regex = "".join({r"\*": ".*", r"\?": "."}.get(part, part) for part in parts)
    return re.fullmatch(regex, resource, re.DOTALL) is not None


def authorize(header: str, route: str = ROUTES[0]) -> dict[str, Any]:
    registry = MemoryRegistry()
    grants = [
        Grant("pump-1", "device"),
        Grant("plant", "gateway", "plant-7-"),
        Grant("ann", "operator"),
        Grant("boss", "admin"),
        Grant("odd", "role-of-another-version"),
    ]
    registry.create([(grant, SECRET) for grant in grants], "2026-11-21T01:30:00.000Z")
    event = {"type": "TOKEN", "authorizationToken": header, "methodArn": f"{STAGE}/{route}"}
    return run(event, registry, MemorySecret(ADMIN_SECRET))


def routes_of(policy: dict[str, Any]) -> set[str]:
    return {route for route in ROUTES if is_allowed(policy, f"{STAGE}/{route}")}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("pump-1", {"POST/devices/pump-1/readings"} | INFLUX),
        ("plant", {"POST/readings"} | INFLUX),
        ("ann", {route for route in ROUTES if route.startswith("GET/")}),
        (
            "boss",
            {route for route in ROUTES if route.startswith("GET/")}
            | {"POST/tokens", "DELETE/tokens/pump-1"},
        ),
        ("odd", set()),
    ],
)
def test_each_role_may_make_its_own_calls_only(subject: str, expected: set[str]) -> None:
    policy = authorize(f"Bearer {subject}.{SECRET}")
    assert routes_of(policy) == expected
    assert policy["principalId"] == subject


def test_a_token_may_the_same_in_the_forms_of_influxdbs_clients() -> None:
    user = base64.b64encode(f"plant:{SECRET}".encode()).decode()
    policies = [authorize(form) for form in (f"Token plant.{SECRET}", f"Basic {user}")]
    assert policies == [authorize(f"Bearer plant.{SECRET}")] * 2
    wrong = base64.b64encode(f"plant:{'x' * 43}".encode()).decode()
    assert routes_of(authorize(f"Basic {wrong}")) == set()


def test_the_first_admin_has_the_stacks_secret() -> None:
    assert "POST/tokens" in routes_of(authorize(f"Bearer admin.{ADMIN_SECRET}"))
    assert routes_of(authorize(f"Bearer admin.{SECRET}")) == set()
    assert routes_of(authorize(f"Bearer ann.{ADMIN_SECRET}")) == set()


@pytest.mark.parametrize(
    "header",
    [
        f"Bearer pump-1.{'x' * 43}",
        f"Bearer pump-2.{SECRET}",
        f"Bearer pump-1.{SECRET[:-1]}",
        f"Bearer pump-1.{SECRET}\n",
        f"Bearer pump-*.{SECRET}",
        f"Bearer .{SECRET}",
        "Bearer pump-1",
        "Bearer ",
        "",
        "Basic cHVtcC0xOnNlY3JldA==",
        "Bearer " + "x" * 10_000,
    ],
)
def test_a_wrong_or_malformed_token_may_call_nothing(header: str) -> None:
    policy = authorize(header)
    assert routes_of(policy) == set()
    # said aloud, so that API Gateway caches it as an answer for the token
    assert [each["Effect"] for each in policy["policyDocument"]["Statement"]] == ["Deny"]


def test_a_policy_is_of_its_own_api_and_stage_alone() -> None:
    policy = authorize(f"Bearer ann.{SECRET}")
    for other in (STAGE.replace("v1", "v2"), STAGE.replace("a1b2c3", "d4e5f6")):
        assert not is_allowed(policy, f"{other}/GET/alerts")


def test_the_policy_does_not_depend_on_the_called_method() -> None:
    """API Gateway caches it by token and applies it to every later call."""
    policies = [authorize(f"Bearer pump-1.{SECRET}", route) for route in ROUTES]
    assert all(policy == policies[0] for policy in policies)


def test_ingest_is_told_whose_token_it_is() -> None:
    context = authorize(f"Bearer plant.{SECRET}")["context"]
    assert context == {"subject": "plant", "role": "gateway", "prefix": "plant-7-"}


def test_no_policy_holds_a_secret() -> None:
    for subject, secret in (("pump-1", SECRET), ("admin", ADMIN_SECRET)):
        assert secret not in str(authorize(f"Bearer {subject}.{secret}"))
