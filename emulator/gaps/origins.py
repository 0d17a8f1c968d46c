"""Closes gaps of the embedded AWS: web pages of other origins can't use it.

It listens on loopback. That keeps other machines out, but not pages in this machine's browser: a
page of any site can send requests to loopback, and read the answer if the answer allows it
(https://fetch.spec.whatwg.org/#http-cors-protocol). The emulator (1.5.33) allows every origin and
any Host. So a page whose host name resolves to loopback (DNS rebinding) has the same origin. Here a
request from another page is refused, so is one with another Host, and no answer allows another page
to read it.

A relay that knows the instance's secret sends the host under which it was called. That is the host
in the sender's signature (`emulator.sigv4.relay_proof`).
"""

import hmac
import json
import os
from typing import Any

from emulator.gaps.signatures import POLICY_VIOLATION, App, Document, Receive, Send, answer
from emulator.sigv4 import relay_proof

FORBIDDEN, BAD_REQUEST = 403, 400
RELAYED_HOST, RELAY_PROOF = b"x-relayed-host", b"x-relay-proof"
OTHER_PAGES = (b"cross-site", b"same-site")
"""Values of Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata/); the same site includes other
ports."""
CORS_HEADERS = (b"access-control-", b"timing-allow-origin")

Headers = list[tuple[bytes, bytes]]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    port, secret = os.environ["GATEWAY_PORT"], os.environ["AWS_SECRET_ACCESS_KEY"]
    modules.app.app = guarded(modules.app.app, int(port), secret)


class RequestRefused(Exception):
    """A request is refused, with this HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status and the message."""
        super().__init__(message)
        self.status = status


def guarded(app: App, port: int, secret: str) -> App:
    """Return the emulator's ASGI application, closed to pages of other origins."""

    async def serve(scope: Document, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        try:
            check_path(scope)
            headers = relayed(scope["headers"], secret)
            if headers is None:
                headers = scope["headers"]
                check_host(headers, port)
            check_origin(headers, port)
        except RequestRefused as refusal:
            await refuse(scope, send, refusal)
            return
        await app({**scope, "headers": headers}, receive, without_cors_headers(send))

    return serve


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of a header."""
    return [value for key, value in headers if key.lower() == name]


def check_path(scope: Document) -> None:
    """Raise RequestRefused for a request to a proxy, whose target isn't a path."""
    if not scope["raw_path"].startswith(b"/"):
        raise RequestRefused(BAD_REQUEST, "the request's target isn't a path; this isn't a proxy")


def relayed(headers: Headers, secret: str) -> Headers | None:
    """Return the headers as a relay received them; None if the request came without a relay."""
    hosts, proofs = values(headers, RELAYED_HOST), values(headers, RELAY_PROOF)
    if not hosts and not proofs:
        return None
    expected = [relay_proof(secret, host.decode("latin-1")).encode() for host in hosts]
    if len(hosts) != 1 or len(proofs) != 1 or not hmac.compare_digest(expected[0], proofs[0]):
        raise RequestRefused(
            FORBIDDEN, "a relay that doesn't know the instance's secret isn't believed"
        )
    dropped = (b"host", RELAYED_HOST, RELAY_PROOF)
    others = [(name, value) for name, value in headers if name.lower() not in dropped]
    return [(b"host", hosts[0]), *others]


def check_host(headers: Headers, port: int) -> None:
    """Raise RequestRefused unless Host is loopback, with the instance's port."""
    own = [f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost", "[::1]")]
    hosts = values(headers, b"host")
    if len(hosts) != 1:
        raise RequestRefused(BAD_REQUEST, f"Host is sent {len(hosts)} times: once was expected")
    if hosts[0].lower() not in own:
        named = hosts[0].decode("latin-1")
        raise RequestRefused(FORBIDDEN, f"Host is {named!r}: this is {own[0].decode()}")


def check_origin(headers: Headers, port: int) -> None:
    """Raise RequestRefused if a page of another origin sent it, or of another port."""
    own = f"http://127.0.0.1:{port}".encode()
    for origin in values(headers, b"origin"):
        if origin != own:
            named = origin.decode("latin-1")
            raise RequestRefused(
                FORBIDDEN, f"Origin is {named!r}: only pages of {own.decode()} may send it"
            )
    sites = values(headers, b"sec-fetch-site")
    if any(site in OTHER_PAGES for site in sites) and not is_visit(headers):
        message = f"the request is from another origin; only pages of {own.decode()} may send it"
        raise RequestRefused(FORBIDDEN, message)


def is_visit(headers: Headers) -> bool:
    """Return whether the request opens a page by a link; the linking page can't read it."""
    is_navigation = values(headers, b"sec-fetch-mode") == [b"navigate"]
    return is_navigation and values(headers, b"sec-fetch-dest") == [b"document"]


async def refuse(scope: Document, send: Send, refusal: RequestRefused) -> None:
    """Send the answer to a refused request."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    body = json.dumps({"message": str(refusal)}).encode()
    await answer(send, refusal.status, {"Content-Type": "application/json"}, body)


def without_cors_headers(send: Send) -> Send:
    """Return `send` without the headers that allow other pages to read an answer."""

    async def send_without(message: Document) -> None:
        if "headers" in message:
            others = [
                (name, value)
                for name, value in message["headers"]
                if not name.lower().startswith(CORS_HEADERS)
            ]
            message = {**message, "headers": others}
        await send(message)

    return send_without
