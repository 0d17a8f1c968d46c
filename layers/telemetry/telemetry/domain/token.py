"""Tokens, `subject.secret`, and the calls that their roles allow; only the hash is stored."""

import base64
import hashlib
import hmac
import re
from typing import NamedTuple

from telemetry.domain.reading import FIELDS
from telemetry.errors import Rejected

ROLES = ("device", "gateway", "operator", "admin")
SUBJECT = re.compile(FIELDS["device_id"]["pattern"].removeprefix("^").removesuffix("$"))
# MQTT client ids of devices that have no name yet begin with this (stacks/provisioning.yaml,
# ClaimPolicy). Any of them could take over the connection of a device with such a name.
CLAIM_PREFIX = "claim-"
# Bearer is ours. Clients of InfluxDB 2 send Token, clients of InfluxDB 1 a user and a password. A
# scheme's case doesn't matter, and one or more spaces follow it (RFC 9110, section 11).
# template.yaml has the same expression for API Gateway, written without (?i): its documentation
# doesn't say whether it knows such flags.
BEARER = re.compile(r"(?i:Bearer|Token) +([A-Za-z0-9_-]{1,128})\.([A-Za-z0-9_-]{20,128})")
BASIC = re.compile(r"(?i:Basic) +([A-Za-z0-9+/]{28,344}={0,2})")
USER = re.compile(rb"([A-Za-z0-9_-]{1,128}):([A-Za-z0-9_-]{20,128})")
# The calls of InfluxDB's clients: writes, and the questions that they ask before their first write.
INFLUX_WRITES = ["POST/write", "POST/api/v2/write"]
INFLUX_QUESTIONS = ["POST/query", "GET/query", "GET/ping", "HEAD/ping"]
INFLUX_METHODS = [*INFLUX_WRITES, *INFLUX_QUESTIONS]


class Grant(NamedTuple):
    """A token's subject and role. A gateway writes for devices whose id starts with `prefix`."""

    subject: str
    role: str
    prefix: str = ""


def parse_grant(raw: object) -> Grant:
    """Return the grant that a request to create a token asks for; raise Rejected if invalid."""
    if not isinstance(raw, dict):
        raise Rejected("is not a JSON object with subject and role", value=raw)
    unknown = sorted(raw.keys() - {"subject", "role", "prefix"})
    if unknown:
        raise Rejected("is not one of subject, role, prefix", field=unknown[0])
    subject, role, prefix = raw.get("subject"), raw.get("role"), raw.get("prefix", "")
    if not isinstance(subject, str) or not SUBJECT.fullmatch(subject):
        raise Rejected(f"does not match {SUBJECT.pattern}", field="subject", value=subject)
    if role not in ROLES:
        raise Rejected(f"is not one of {', '.join(ROLES)}", field="role", value=role)
    if role == "device" and subject.startswith(CLAIM_PREFIX):
        reason = f"begins with {CLAIM_PREFIX}, as client ids of devices without a name do"
        raise Rejected(reason, field="subject", value=subject)
    if not isinstance(prefix, str) or (prefix and not SUBJECT.fullmatch(prefix)):
        reason = f"is neither empty (every device) nor matches {SUBJECT.pattern}"
        raise Rejected(reason, field="prefix", value=prefix)
    if role == "gateway" and "prefix" not in raw:
        reason = 'is missing: the beginning of its devices\' ids, or "" for every device'
        raise Rejected(reason, field="prefix")
    if role != "gateway" and "prefix" in raw:
        raise Rejected("is for gateways only", field="prefix", value=prefix)
    return Grant(subject, str(role), prefix)


def parse_bearer(header: str) -> tuple[str, str] | None:
    """Return (subject, secret) of an Authorization header, or None if it has no token."""
    match = BEARER.fullmatch(header)
    if match:
        return match[1], match[2]
    basic = BASIC.fullmatch(header)
    try:
        user = USER.fullmatch(base64.b64decode(basic[1], validate=True)) if basic else None
    except ValueError:  # no whole number of bytes
        return None
    return (user[1].decode(), user[2].decode()) if user else None


def hashed(secret: str) -> str:
    """Return the hash to store for a secret; one round of SHA-256 is enough for 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same(secret: str, stored_hash: str) -> bool:
    """Return whether the secret has the stored hash, in constant time."""
    return hmac.compare_digest(hashed(secret), stored_hash)


def allowed(grant: Grant) -> list[str]:
    """Return the API methods that a grant may call, as `METHOD/path` with `*` for anything."""
    match grant.role:
        case "device":
            return [f"POST/devices/{grant.subject}/readings", *INFLUX_METHODS]
        case "gateway":
            return ["POST/readings", *INFLUX_METHODS]
        case "operator":
            return ["GET/*"]
        case "admin":
            return ["GET/*", "POST/tokens", "DELETE/tokens/*"]
        case _:
            return []
