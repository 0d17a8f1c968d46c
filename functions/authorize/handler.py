"""Authorize stage: tell API Gateway what the bearer of a token may call."""

import functools
import os
from typing import Any

from telemetry.aws import events
from telemetry.aws.clients import client
from telemetry.aws.observe import observed
from telemetry.aws.registry import ADMIN, AdminSecret, Registry
from telemetry.domain.token import Grant, allowed, parse_bearer
from telemetry.settings import AuthorizeSettings


def run(event: dict[str, Any], registry: Registry, admin_secret: AdminSecret) -> dict[str, Any]:
    """Return the IAM policy for a token: all its calls, since API Gateway caches it by token.

    An unknown token gets a policy that denies everything, and so a 403. (If this raised
    "Unauthorized", the answer would be a 401, but an error of this function sets off an alarm.)
    """
    grant = _find(event["authorizationToken"], registry, admin_secret)
    # arn:aws:execute-api:region:account:api/stage/METHOD/path…
    stage_arn = "/".join(event["methodArn"].split("/")[:2])
    if grant is None:
        return _policy("nobody", "Deny", [f"{stage_arn}/*"], {})
    resources = [f"{stage_arn}/{method}" for method in allowed(grant)]
    return _policy(grant.subject, "Allow", resources, grant._asdict())


def _find(header: str, registry: Registry, admin_secret: AdminSecret) -> Grant | None:
    bearer = parse_bearer(header)
    if bearer is None:
        return None
    subject, secret = bearer
    if subject == ADMIN and admin_secret.matches(secret):
        return Grant(ADMIN, "admin")
    return registry.find(subject, secret)


def _policy(
    principal: str, effect: str, resources: list[str], context: dict[str, str]
) -> dict[str, Any]:
    statement = {"Action": "execute-api:Invoke", "Effect": effect, "Resource": resources}
    return {
        "principalId": principal,
        "policyDocument": {"Version": "2012-10-17", "Statement": [statement]},
        "context": context,
    }


@functools.cache
def wired() -> tuple[Registry, AdminSecret]:
    settings = AuthorizeSettings.read(os.environ)
    return (
        Registry(client("dynamodb"), settings.devices_table),
        AdminSecret(client("secretsmanager"), settings.admin_secret_arn),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """API Gateway's TOKEN authorizer event in, a policy out."""
    events.expect("authorize", event, events.AUTHORIZATION)
    return run(event, *wired())
