"""Register stage: create and revoke the tokens of devices, gateways and operators."""

import functools
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

from telemetry.aws import events, http
from telemetry.aws.clients import client
from telemetry.aws.observe import log, observed
from telemetry.aws.registry import ADMIN, Registry
from telemetry.domain.times import to_iso
from telemetry.domain.token import Grant, parse_grant
from telemetry.errors import Rejected
from telemetry.settings import RegisterSettings

MAX_TOKENS = 100  # in a request, and in a DynamoDB transaction


def run(
    event: dict[str, Any], now_ms: int, new_secret: Callable[[], str], registry: Registry
) -> dict[str, Any]:
    """Create one token or several, all or none (POST), or revoke one (DELETE)."""
    try:
        if event["httpMethod"] == "DELETE":
            return _revoke(http.path_name(event, "subject"), registry)
        return _create(event, now_ms, new_secret, registry)
    except Rejected as error:
        return http.refuse(error)


def _create(
    event: dict[str, Any], now_ms: int, new_secret: Callable[[], str], registry: Registry
) -> dict[str, Any]:
    body = http.read_json(event)
    several = isinstance(body, dict) and "tokens" in body
    documents = body["tokens"] if several else [body]
    if not isinstance(documents, list) or not 1 <= len(documents) <= MAX_TOKENS:
        raise Rejected(f"is not a list of 1 to {MAX_TOKENS} grants", field="tokens")
    grants = [parse_grant(document) for document in documents]
    _check_subjects(grants)
    issued = [(grant, new_secret()) for grant in grants]
    existing = registry.create(issued, to_iso(now_ms))
    if existing:
        message = f"There is a token for {', '.join(existing)} already; DELETE /tokens/{{subject}}"
        return http.respond(409, {"message": message, "subjects": existing})
    log.info("tokens created", extra={"subjects": [grant.subject for grant in grants]})
    tokens = [
        {"subject": grant.subject, "role": grant.role, "token": f"{grant.subject}.{secret}"}
        for grant, secret in issued
    ]
    return http.respond(201, {"tokens": tokens} if several else tokens[0])


def _check_subjects(grants: list[Grant]) -> None:
    """Raise Rejected for a repeated subject, and for the stack's own admin."""
    subjects = [grant.subject for grant in grants]
    for subject in subjects:
        if subject == ADMIN:
            raise Rejected("is the stack's own admin", field="subject", value=subject)
        if subjects.count(subject) > 1:
            raise Rejected("is there twice", field="subject", value=subject)


def _revoke(subject: str, registry: Registry) -> dict[str, Any]:
    if not registry.remove(subject):
        return http.respond(404, {"message": f"There is no token for {subject}."})
    log.info("token revoked", extra={"subject": subject})
    return http.respond(200, {"subject": subject, "revoked": True})


@functools.cache
def wired() -> tuple[Registry]:
    settings = RegisterSettings.read(os.environ)
    return (Registry(client("dynamodb"), settings.devices_table),)


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """API Gateway's proxy event in, its response out."""
    events.expect("register", event, events.routes("/tokens", "/tokens/{subject}"))
    return run(event, int(time.time() * 1000), lambda: secrets.token_urlsafe(32), *wired())
