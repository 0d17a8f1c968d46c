"""API Gateway proxy requests and responses; the one place where errors become HTTP."""

import base64
import json
import re
from typing import Any

from telemetry.domain.decoders.compression import unpacked, within_limit
from telemetry.domain.decoders.text import json_value
from telemetry.domain.formats import Body
from telemetry.domain.reading import FIELDS, shown
from telemetry.domain.times import LATEST_MS, from_iso, other_unit, to_iso, unit_hint
from telemetry.domain.token import SUBJECT
from telemetry.errors import Rejected, TooLarge, Unavailable, Undecodable, Unsupported

RETRY_AFTER_SECONDS = 5
DIGITS = re.compile("[0-9]{1,20}")  # only ASCII digits; `isdecimal` takes other scripts' digits


def read_body(event: dict[str, Any]) -> Body:
    """Return the request's body and its headers; raise Rejected, or TooLarge over 1 MiB."""
    body = event.get("body") or ""
    try:
        data = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    except ValueError as error:  # a broken base64, a lone surrogate
        raise Rejected(f"is not UTF-8: {error}", field="body") from None
    within_limit(data)
    return Body(data, header(event, "content-type"), header(event, "content-encoding"))


def read_json(event: dict[str, Any]) -> Any:
    """Return the request's body as JSON, whatever its Content-Type; raise Rejected or TooLarge."""
    body = read_body(event)
    return json_value(unpacked(body.data, body.content_encoding))


def header(event: dict[str, Any], name: str) -> str | None:
    """Return a request's header in any case, or None; `name` is in lower case."""
    for given, value in (event.get("headers") or {}).items():
        if given.lower() == name:
            return str(value)
    return None


def path_parameter(event: dict[str, Any], name: str) -> str | None:
    """Return a parameter of the path, None if the route doesn't have it."""
    value: str | None = (event.get("pathParameters") or {}).get(name)
    return value


def path_name(event: dict[str, Any], name: str) -> str:
    """Return a path parameter that names a device or a token's subject; raise Rejected if invalid.

    It is checked because DynamoDB refuses a key that is empty or longer than 2,048 bytes ("Quotas
    and limits in Amazon DynamoDB"). Nothing is stored under an invalid name.
    """
    value = path_parameter(event, name) or ""
    if not SUBJECT.fullmatch(value):
        reason = f"does not match {FIELDS['device_id']['pattern']}"
        raise Rejected(reason, field=name, value=value)
    return value


def query_parameter(event: dict[str, Any], name: str) -> str | None:
    """Return a parameter of the query, None if it is missing; raise Rejected if it is repeated."""
    several = (event.get("multiValueQueryStringParameters") or {}).get(name) or []
    if len(several) > 1:
        raise Rejected(f"is given {len(several)} times", field=name, value=several)
    value: str | None = (event.get("queryStringParameters") or {}).get(name)
    return value


def number(event: dict[str, Any], name: str, default: int, largest: int) -> int:
    """Return a query parameter as a number from 1 to `largest`, or the default; raise Rejected."""
    text = query_parameter(event, name)
    if text is None:
        return default
    if not (DIGITS.fullmatch(text) and 1 <= int(text) <= largest):
        raise Rejected(f"is not a number from 1 to {largest}", field=name, value=text)
    return int(text)


def instant(event: dict[str, Any], name: str, default_ms: int) -> int:
    """Return a query parameter as epoch ms, or the default; raise Rejected if invalid."""
    text = query_parameter(event, name)
    if text is None:
        return default_ms
    is_number = bool(DIGITS.fullmatch(text))
    try:
        at_ms = int(text) if is_number else from_iso(text)
    except (ValueError, OverflowError):
        at_ms = -1
    if not 0 <= at_ms <= LATEST_MS:
        reason = "is neither an ISO 8601 time with an offset (2026-11-21T01:30:00Z) nor epoch ms"
        if " " in text:
            reason += "; in an address, + is written %2B"
        raise Rejected(reason + unit_hint(max(at_ms, 0)), field=name, value=text)
    if is_number and other_unit(at_ms):
        raise Rejected(f"is {to_iso(at_ms)}{unit_hint(at_ms)}", field=name, value=text)
    return at_ms


def granted(event: dict[str, Any]) -> dict[str, str]:
    """Return the caller's subject, role and prefix, from `authorize`."""
    return event["requestContext"].get("authorizer") or {}


def respond(status: int, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a proxy response; `body` becomes JSON."""
    return {
        "statusCode": status,
        "headers": {"Content-Type": "application/json", **(headers or {})},
        "body": json.dumps(body),
    }


def refuse(error: Rejected | Unavailable) -> dict[str, Any]:
    """Return the response to an error: the field, the value, and what would be right."""
    if isinstance(error, Unavailable):
        return respond(503, {"message": str(error)}, {"Retry-After": str(RETRY_AFTER_SECONDS)})
    body: dict[str, Any] = {"message": str(error)}
    if error.field:
        body |= {"field": error.field, "value": shown(error.value), "reason": error.reason}
    if isinstance(error, Undecodable) and error.index is not None:
        body["index"] = error.index
    return respond(_status(error), body)


def _status(error: Rejected) -> int:
    if isinstance(error, TooLarge):
        return 413
    return 415 if isinstance(error, Unsupported) else 400
