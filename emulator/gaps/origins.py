"""Gaps of the embedded AWS, closed: no web page but its own has anything of it.

It listens on loopback, which keeps other machines out and not the pages in this machine's browser:
a page of any site may send requests there, and where the answer allows it, read what comes back
(https://fetch.spec.whatwg.org/#http-cors-protocol). The emulator (1.5.33) allows every origin, and
takes any Host, so that a name which leads to loopback (DNS rebinding) makes it a page's own site.
Here a request from another page is refused, one that names another host is, and no answer allows
another page to read it.

A relay that knows the instance's secret tells as which host it was reached: that is the host which
the request's sender has signed (`emulator.sigv4.relay_proof`).
"""

import hmac
import json
import os
from typing import Any

from emulator.gaps.signatures import POLICY_VIOLATION, App, Document, Receive, Send, answer
from emulator.sigv4 import relay_proof

FORBIDDEN, BAD_REQUEST = 403, 400
RELAYED_HOST, RELAY_PROOF = b"x-relayed-host", b"x-relay-proof"
FROM_PAGES_OF_OTHERS = (b"cross-site", b"same-site")
"""Of Sec-Fetch-Site (https://www.w3.org/TR/fetch-metadata/): another port is the same site."""
TELLS_PAGES = (b"access-control-", b"timing-allow-origin")

Headers = list[tuple[bytes, bytes]]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    port, secret = os.environ["GATEWAY_PORT"], os.environ["AWS_SECRET_ACCESS_KEY"]
    modules.app.app = guarded(modules.app.app, int(port), secret)


class Turned(Exception):
    """A request from elsewhere: the status, and what is said."""

    def __init__(self, status: int, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.status = status


def guarded(app: App, port: int, secret: str) -> App:
    """Return the emulator's application (ASGI), for nobody's pages but its own."""

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
        except Turned as turned:
            await refuse(scope, send, turned)
            return
        await app({**scope, "headers": headers}, receive, telling_no_pages(send))

    return serve


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of a header."""
    return [value for key, value in headers if key.lower() == name]


def check_path(scope: Document) -> None:
    """Raise Turned for a request that is meant for a proxy."""
    if not scope["raw_path"].startswith(b"/"):
        raise Turned(BAD_REQUEST, "the request's target isn't a path: this is no proxy")


def relayed(headers: Headers, secret: str) -> Headers | None:
    """Return the headers as a relay received them; None where no relay was on the way."""
    hosts, proofs = values(headers, RELAYED_HOST), values(headers, RELAY_PROOF)
    if not hosts and not proofs:
        return None
    expected = [relay_proof(secret, host.decode("latin-1")).encode() for host in hosts]
    if len(hosts) != 1 or len(proofs) != 1 or not hmac.compare_digest(expected[0], proofs[0]):
        raise Turned(FORBIDDEN, "a relay that doesn't know the instance's secret isn't believed")
    dropped = (b"host", RELAYED_HOST, RELAY_PROOF)
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    return [(b"host", hosts[0]), *kept]


def check_host(headers: Headers, port: int) -> None:
    """Raise Turned unless Host is loopback, with the instance's port."""
    own = [f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost", "[::1]")]
    hosts = values(headers, b"host")
    if len(hosts) != 1:
        raise Turned(BAD_REQUEST, f"Host is sent {len(hosts)} times: once was expected")
    if hosts[0].lower() not in own:
        named = hosts[0].decode("latin-1")
        raise Turned(FORBIDDEN, f"Host is {named!r}: this is {own[0].decode()}")


def check_origin(headers: Headers, port: int) -> None:
    """Raise Turned for what a page of another origin sends, be it another port of this machine."""
    own = f"http://127.0.0.1:{port}".encode()
    for origin in values(headers, b"origin"):
        if origin != own:
            named = origin.decode("latin-1")
            raise Turned(FORBIDDEN, f"Origin is {named!r}: only pages of {own.decode()} may ask")
    sites = values(headers, b"sec-fetch-site")
    if any(site in FROM_PAGES_OF_OTHERS for site in sites) and not is_visit(headers):
        raise Turned(FORBIDDEN, f"a page of another origin asked: only {own.decode()} may")


def is_visit(headers: Headers) -> bool:
    """Whether a person went there, by a link: that gives the page that had the link nothing."""
    is_navigation = values(headers, b"sec-fetch-mode") == [b"navigate"]
    return is_navigation and values(headers, b"sec-fetch-dest") == [b"document"]


async def refuse(scope: Document, send: Send, turned: Turned) -> None:
    """Answer what isn't taken."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    body = json.dumps({"message": str(turned)}).encode()
    await answer(send, turned.status, {"Content-Type": "application/json"}, body)


def telling_no_pages(send: Send) -> Send:
    """Return what sends an answer without the headers that allow other pages to read it."""

    async def send_without(message: Document) -> None:
        if "headers" in message:
            kept = [
                (name, value)
                for name, value in message["headers"]
                if not name.lower().startswith(TELLS_PAGES)
            ]
            message = {**message, "headers": kept}
        await send(message)

    return send_without
