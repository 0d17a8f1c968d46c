"""The embedded API Gateway decompresses bodies and validates them by their type's model."""

import gzip
import json
import zlib
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from telemetry.domain import formats

from emulator.gaps import api_gateway
from tests.template import everywhere

REFUSED = api_gateway.UNSUPPORTED


def answer_of(called: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        called.send(None)
    return ended.value.value


class Gateway(SimpleNamespace):
    """The emulator's functions; each returns its argument."""

    def __init__(self) -> None:
        async def execute(_request: Any, *rest: Any) -> Any:
            return rest

        super().__init__(
            _execute_in_scope=execute,
            _check_request_validation=lambda method, *_: method["requestModels"],
            _media_type_matches=lambda media_type, binary: media_type in binary,
            _header_ci=lambda headers, name: headers.get(name, ""),
        )
        api_gateway.take_bodies_as_aws(self)

    def handed_on(self, body: bytes, coding: str) -> Any:
        """Return the body that an integration gets, or the error."""
        headers = {"content-encoding": coding}
        called = self._execute_in_scope({}, "api", "v1", "POST", "/", headers, body, {})
        answer = answer_of(called)
        return answer if answer[0] in (413, 415) else answer[5]

    def models(self, **headers: str) -> Any:
        """Return the models that validate a request."""
        method = {"requestModels": {"application/json": "Readings"}}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._check_request_validation(method, "api", {}, named, b"", {})


@pytest.mark.parametrize(
    ("body", "coding", "wanted"),
    [
        (b"plain", "", b"plain"),
        (b"plain", "identity", b"plain"),
        (gzip.compress(b"x"), "GZIP", b"x"),
        (zlib.compress(b"x"), "deflate", b"x"),
        (zlib.compress(b"x", wbits=-15), "deflate", b"x"),
        (b"", "gzip", b""),
        (b"not packed", "gzip", REFUSED),
        (gzip.compress(b"x" * 100)[:-9], "gzip", REFUSED),
        (
            gzip.compress(b"x") + gzip.compress(b"y"),
            "gzip",
            REFUSED,
        ),  # otherwise y would be lost silently
        (gzip.compress(bytes(10 * 1024 * 1024 + 1)), "gzip", REFUSED),
        (b"x", "br", REFUSED),
        (bytes(10 * 1024 * 1024), "", bytes(10 * 1024 * 1024)),
        (bytes(10 * 1024 * 1024 + 1), "", api_gateway.TOO_LARGE),
    ],
    ids=[
        "plain",
        "identity",
        "gzip",
        "deflate",
        "deflate without header",
        "none",
        "unpacked",
        "cut",
        "two",
        "large",
        "unknown",
        "at the limit",
        "over the limit",
    ],
)
def test_a_body_is_decompressed_by_its_header_or_refused(
    body: bytes, coding: str, wanted: Any
) -> None:
    assert Gateway().handed_on(body, coding) == wanted


def test_a_model_applies_to_requests_of_its_own_content_type() -> None:
    gateway = Gateway()
    models = {"application/json": "Readings"}
    assert gateway.models() == models
    assert gateway.models(content_type="Application/JSON; charset=utf-8") == models
    assert gateway.models(content_type="application/x-ndjson") == {}
    assert gateway.models(content_type="application/avro") == {}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("x" * (6 * 1024 * 1024 - 12), "answered"),  # and {"body": ""}
        ("x" * (6 * 1024 * 1024 - 11), api_gateway.TOO_LONG),
        ('"' * (3 * 1024 * 1024), api_gateway.TOO_LONG),  # a quote is two characters of a JSON text
    ],
    ids=["at the limit", "over it", "escaped"],
)
def test_an_event_above_lambdas_limit_is_refused(body: str, answer: Any) -> None:
    async def call(*_call: Any, **_scope: Any) -> Any:
        return "answered"

    async def invoke(event: Any) -> Any:
        return await gateway._call_lambda_raw("function", event, account_id=None)

    gateway = SimpleNamespace(_call_lambda_raw=call, _invoke_lambda_proxy_v1=invoke)
    api_gateway.refuse_long_events(gateway)
    assert answer_of(gateway._invoke_lambda_proxy_v1({"body": body})) == answer


def test_the_slashes_of_binary_types_may_be_escaped() -> None:
    gateway = Gateway()
    assert gateway._media_type_matches("avro/binary", ["image/png", "avro~1binary"])
    assert gateway._media_type_matches("image/png", ["image/png", "avro~1binary"])
    assert not gateway._media_type_matches("image/jpeg", ["image/png", "avro~1binary"])


def test_the_template_lists_every_binary_type_that_ingest_reads() -> None:
    (api,) = everywhere("AWS::Serverless::Api").values()
    listed = {each.replace("~1", "/") for each in api["BinaryMediaTypes"]}
    binary = {
        name
        for name, decoder in formats.MEDIA_TYPES.items()
        if decoder in (formats._avro, formats._protobuf)
    }
    assert json.dumps(sorted(listed)) == json.dumps(sorted(binary))
