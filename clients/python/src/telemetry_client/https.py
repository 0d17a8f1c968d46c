"""HTTPS transport: `POST /devices/{device_id}/readings` over a kept-alive connection."""

import http.client
import ssl
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from telemetry_client.answers import Answer, Remedy, Verdict, judge
from telemetry_client.errors import Invalid
from telemetry_client.formats import Body, Format, Json
from telemetry_client.reading import Queued
from telemetry_client.transport import ANSWER_BYTES_MAX, check_host

# The errors of a kept-alive connection that the server has closed meanwhile
STALE = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
DEFAULT_PORTS = {"http": 80, "https": 443}


class Https:
    """Posts to the pipeline's API."""

    max_bytes = 786_432  # the API takes 1 MiB

    def __init__(
        self,
        url: str,
        token: str,
        *,
        body_format: Format | None = None,
        timeout_s: float = 30.0,
        ca_file: str | Path | None = None,
        client_certificate: tuple[str, str] | None = None,
        proxy: str | None = "environment",
    ) -> None:
        """Take the API's `url`, with its stage, and the device's `token`; raise Invalid.

        `proxy`: an http:// URL, None for no proxy, or `environment` (HTTPS_PROXY, NO_PROXY).
        `client_certificate`: the files of a certificate and its key.
        """
        self._url = checked_url("url", url)
        if "@" in self._url.netloc:
            raise Invalid("url", "…@…", "has a name or password, which the API doesn't take")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise Invalid("token", "…", "is not a token as POST /tokens gives it")
        if not timeout_s > 0:
            raise Invalid("timeout_s", timeout_s, "is not above 0")
        self._token = token
        self._format = body_format or Json()
        self._timeout_s = timeout_s
        self._proxy = proxy_of(self._url, proxy)
        self._tls: ssl.SSLContext | None = None
        if self._url.scheme == "https":
            self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
            if client_certificate:
                self._tls.load_cert_chain(*client_certificate)
        self._connection: http.client.HTTPConnection | None = None

    def deliver(self, device_id: str, readings: Sequence[Queued]) -> Verdict:
        """Post the readings; if the API can't read the format, use plain JSON from then on."""
        body = self._format.encode(device_id, readings)
        answer, problem = self._ask(f"/devices/{device_id}/readings", body)
        verdict = judge(answer, len(readings), is_plain=body.is_plain, now_s=time.time())
        if verdict.remedy is Remedy.PLAINER:
            self._format = Json()
        if problem is not None:
            return Verdict(again=verdict.again, remedy=verdict.remedy, problem=problem)
        return verdict

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def _ask(self, path: str, body: Body) -> tuple[Answer | None, str | None]:
        """Return the answer or a problem; try again at once if a kept connection had ended."""
        was_kept = self._connection is not None
        try:
            return self._request(path, body), None
        except STALE as error:
            self.close()
            if not was_kept:
                return None, f"no answer: {error!r}"
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return None, f"no answer: {error!r}"
        return self._ask(path, body)

    def _request(self, path: str, body: Body) -> Answer:
        deadline = time.monotonic() + self._timeout_s
        connection = self._connection = self._connection or self._connect()
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": body.content_type,
            "Accept": "application/json",
            "User-Agent": "telemetry-client",
        }
        if body.content_encoding:
            headers["Content-Encoding"] = body.content_encoding
        if self._proxy and not self._tls:
            headers |= proxy_headers(self._proxy)
        connection.request("POST", self._target(path), body.data, headers)
        response = connection.getresponse()
        data = b""
        while chunk := response.read1(65_536):
            data += chunk
            if len(data) > ANSWER_BYTES_MAX:
                raise http.client.HTTPException(f"an answer over {ANSWER_BYTES_MAX} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no whole answer in {self._timeout_s} s")
        response.close()
        return Answer(response.status, data, response.getheader("Retry-After"))

    def _connect(self) -> http.client.HTTPConnection:
        through = self._proxy or self._url
        host, port = through.hostname or "", through.port or DEFAULT_PORTS[through.scheme]
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        connection = http.client.HTTPSConnection(
            host, port, timeout=self._timeout_s, context=self._tls
        )
        if self._proxy:
            to_port = self._url.port or DEFAULT_PORTS["https"]
            connection.set_tunnel(self._url.hostname or "", to_port, proxy_headers(self._proxy))
        return connection

    def _target(self, path: str) -> str:
        """Return the request's target: a path, or the whole URL for a proxy without a tunnel."""
        target = self._url.path.rstrip("/") + path
        if self._proxy and not self._tls:
            return f"{self._url.scheme}://{self._url.netloc}{target}"
        return target


def checked_url(field: str, url: str) -> SplitResult:
    """Return an http or https URL, parsed; raise Invalid, also for a query or a fragment."""
    reason = "is not an address such as https://api.example.com/prod"
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in DEFAULT_PORTS and parts.port != 0
        check_host(field, parts.hostname or "")
    except ValueError:
        raise Invalid(field, url, reason) from None
    is_plain = parts.path.isascii() and parts.path.isprintable() and " " not in parts.path
    if not is_right or not is_plain or parts.query or parts.fragment:
        raise Invalid(field, url, reason)
    return parts


def proxy_of(url: SplitResult, proxy: str | None) -> SplitResult | None:
    """Return the proxy of requests to `url`, or None; raise Invalid for a wrong one."""
    if proxy == "environment":
        proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    if not proxy:
        return None
    parts = checked_url("proxy", proxy)
    if parts.scheme != "http":
        raise Invalid("proxy", proxy, "is not an http:// address")
    return parts


def proxy_headers(proxy: SplitResult) -> dict[str, str]:
    """Return the headers that authenticate with a proxy."""
    if proxy.username is None:
        return {}
    name = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(name.encode()).decode()}"}
