"""A foreign site, and all that a page of such a site can try on an embedded AWS."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from playwright.sync_api import Frame, Page

from tests.waiting import Patience

REBOUND = "rebound.example"
"""A name that leads to loopback."""

TRY_ALL = """
async ({base, secret, api, link}) => {
    const read = {"X-Amz-Target": "secretsmanager.GetSecretValue",
                  "Content-Type": "application/x-amz-json-1.1"};
    const body = JSON.stringify({SecretId: secret});
    const day = new Date().toISOString().replace(/[-:]|[.][0-9]+/g, "");
    const query = (service, key) => "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="
        + encodeURIComponent(`${key}/${day.slice(0, 8)}/us-east-1/${service}/aws4_request`)
        + `&X-Amz-Date=${day}&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature=00`;
    const secrets = (key) => `/?${query("secretsmanager", key)}`;
    const own = JSON.stringify({FunctionName: "from-a-web-page", Runtime: "python3.11",
        Role: "arn:aws:iam::000000000000:role/any", Handler: "x.h", Code: {ZipFile: "UEsFBg=="}});
    const lambda = `/2015-03-31/functions?${query("lambda", "test")}`;
    const attempts = {
        "secret": ["/", {method: "POST", headers: read, body}],
        "secret by test": [secrets("test"), {method: "POST", headers: read, body}],
        "secret by twelve digits": [secrets("000000000000"), {method: "POST", headers: read, body}],
        "secret by a simple request": [secrets("test"), {method: "POST", body,
            headers: {"Content-Type": "text/plain"}}],
        "functions": [`/2015-03-31/functions/?${query("lambda", "test")}`, {}],
        "a function": [lambda, {method: "POST", body: own}],
        "a function, unseen": [lambda, {method: "POST", body: own, mode: "no-cors"}],
        "health": ["/_ministack/health", {}],
        "buckets": [`/?${query("s3", "test")}`, {}],
        "the API": [api + "/health", {}],
        "the API with a token": [api + "/alerts", {headers: {Authorization: "Bearer a"}}],
        "a link that leaked": [link, {}],
    };
    const got = {};
    const attempt = async (name, path, options) => {
        try {
            const answer = await fetch(path.startsWith("http") ? path : base + path, options);
            got[name] = answer.type === "opaque" ? "opaque" : await answer.text();
        } catch (error) {
            got[name] = "refused";
        }
    };
    for (const [name, request] of Object.entries(attempts)) await attempt(name, ...request);
    const loaded = (element, attribute, path) => new Promise((done) => {
        element.onload = () => done("loaded");
        element.onerror = () => done("refused");
        element[attribute] = path;
        document.documentElement.append(element);
    });
    got["a script"] = await loaded(document.createElement("script"), "src", link);
    got["an image"] = await loaded(document.createElement("img"), "src", link);
    got["a web socket"] = await new Promise((done) => {
        const socket = new WebSocket(base.replace("http", "ws") + api);
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
    });
    const form = Object.assign(document.createElement("form"), {
        method: "POST", action: base + lambda, enctype: "text/plain", target: "sink"});
    const field = Object.assign(document.createElement("input"), {name: own, value: ""});
    const sink = Object.assign(document.createElement("iframe"), {name: "sink"});
    form.append(field);
    document.documentElement.append(sink, form);
    const answered = new Promise((done) => { sink.onload = done; });
    form.submit();
    await answered;
    navigator.sendBeacon(base + lambda, own);
    await attempt("a reset", "/_ministack/reset", {method: "POST", mode: "no-cors"});
    return got;
}
"""
"""Each attempt by name, with what the page got: `refused`, `opaque`, or what it could read."""


class Blank(BaseHTTPRequestHandler):
    """Answers with an empty page."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>elsewhere</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class ForeignSite:
    """A site on a loopback port of its own."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
        self.port = self._server.server_port

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def sandboxed(page: Page) -> Frame:
    """A frame in a page whose origin is `null`."""
    page.set_content("<iframe sandbox='allow-scripts allow-forms' srcdoc='<p>'></iframe>")
    patience = Patience(10)
    while len(page.frames) < 2 and not patience.is_over():
        page.wait_for_timeout(20)
    return page.frames[1]
