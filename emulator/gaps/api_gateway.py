"""Closes gaps of the embedded AWS: API Gateway's decompression, validation and limits of bodies.

On AWS a body with a Content-Encoding is decompressed before validation, and refused with 415 if its
encoding isn't the header's
(https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-make-request-with-compressed-payload.html).
A model applies only to requests of its own content type; others aren't validated
(https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-method-request-validation.html).
The emulator (1.5.33) passes compressed bodies on as broken text, and applies the model of
application/json to every type. It doesn't unescape the slashes that CloudFormation escapes in
BinaryMediaTypes
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-apigateway-restapi.html).
On AWS a body over 10 MB gets a 413, and an event over Lambda's 6 MB gets a different 413
(https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html,
https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html; users report the answers:
koki-develop/lgtm-generator issue 10). The emulator accepts both.
"""

import json
import zlib
from typing import Any

# zlib's window bits, tried in turn. AWS doesn't document whether its deflate is only RFC 9110's, a
# zlib stream, or also the raw deflate that some clients send.
WINDOW_BITS = {"gzip": (31,), "deflate": (15, -15)}
BODY_BYTES_MAX = 10 * 1024 * 1024  # API Gateway's quota of a payload
DEFAULT_TYPE = "application/json"
EVENT_BYTES_MAX = 6 * 1024 * 1024  # Lambda's quota of an invocation's payload
TOO_LARGE = (
    413,
    {"Content-Type": "text/plain"},
    f"HTTP content length exceeded {BODY_BYTES_MAX} bytes.".encode(),
)
TOO_LONG = 413, {"Content-Type": DEFAULT_TYPE}, b'{"message": "Request Too Long"}'
UNSUPPORTED = 415, {"Content-Type": DEFAULT_TYPE}, b'{"message": "Unsupported Media Type"}'


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    take_bodies_as_aws(modules.service("apigateway_v1"))
    refuse_long_events(modules.service("apigateway_v1"))


def take_bodies_as_aws(apigateway: Any) -> None:
    """Make `ministack.services.apigateway_v1` decompress, validate and limit bodies as AWS does."""
    execute, validate = apigateway._execute_in_scope, apigateway._check_request_validation
    match = apigateway._media_type_matches

    async def execute_unpacked(
        request: Any, api_id: str, stage: str, method: str, path: str, headers: Any, body: bytes,
        *rest: Any,
    ) -> Any:  # fmt: skip
        if len(body) > BODY_BYTES_MAX:
            return TOO_LARGE
        try:
            body = unpacked(body, apigateway._header_ci(headers, "content-encoding"))
        except ValueError:
            return UNSUPPORTED
        return await execute(request, api_id, stage, method, path, headers, body, *rest)

    def validate_own_type(
        method: Any, api_id: str, request: Any, headers: Any, body: bytes, query: Any
    ) -> Any:
        given = apigateway._header_ci(headers, "content-type") or DEFAULT_TYPE
        if given.partition(";")[0].strip().lower() not in (method.get("requestModels") or {}):
            method = {**method, "requestModels": {}}
        return validate(method, api_id, request, headers, body, query)

    def matches(media_type: str | None, binary: list[str]) -> bool:
        found: bool = match(media_type, [each.replace("~1", "/") for each in binary])
        return found

    apigateway._media_type_matches = matches
    apigateway._execute_in_scope = execute_unpacked
    apigateway._check_request_validation = validate_own_type


class EventTooLong(Exception):
    """The event is larger than Lambda allows."""


def refuse_long_events(apigateway: Any) -> None:
    """Make `ministack.services.apigateway_v1` answer 413 if the event is too large for Lambda."""
    call, invoke = apigateway._call_lambda_raw, apigateway._invoke_lambda_proxy_v1

    async def call_unless_long(function: Any, event: Any, **scope: Any) -> Any:
        if len(json.dumps(event).encode()) > EVENT_BYTES_MAX:
            raise EventTooLong
        return await call(function, event, **scope)

    async def invoke_or_refuse(*args: Any, **options: Any) -> Any:
        try:
            return await invoke(*args, **options)
        except EventTooLong:
            return TOO_LONG

    apigateway._call_lambda_raw = call_unless_long
    apigateway._invoke_lambda_proxy_v1 = invoke_or_refuse


def unpacked(body: bytes, coding: str) -> bytes:
    """Return a decompressed body; raise ValueError if AWS would answer 415."""
    coding = coding.strip().lower()
    if not body or coding in ("", "identity"):
        return body
    if coding not in WINDOW_BITS:
        raise ValueError(coding)
    for bits in WINDOW_BITS[coding]:
        stream = zlib.decompressobj(bits)
        try:
            whole = stream.decompress(body, BODY_BYTES_MAX)
        except zlib.error:
            continue
        if stream.eof and not stream.unused_data:
            return whole
    raise ValueError("another coding, cut short, too large, or followed by more bytes")
