"""The pipeline's HTTP API as operators and admins use it; `local.fleet` posts for devices."""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import httpx

from local.errors import ApiFailed, LocalError

TIMEOUT_SECONDS = 30.0
TOKENS_PER_REQUEST_MAX = 100
WINDOWS_PER_PAGE = 1000
ALERTS_PER_PAGE = 1000

Json = dict[str, Any]


class Api:
    """A connection to the API with one token."""

    def __init__(self, url: str, token: str) -> None:
        """Connect lazily; the environment's proxies aren't asked about loopback."""
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> "Api":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def create_tokens(self, wanted: Iterable[Json]) -> dict[str, str]:
        """Create tokens, each {subject, role, prefix?}; return them by subject."""
        pending = list(wanted)
        created: dict[str, str] = {}
        for start in range(0, len(pending), TOKENS_PER_REQUEST_MAX):
            answer = self._request(
                "POST", "/tokens", {"tokens": pending[start : start + TOKENS_PER_REQUEST_MAX]}
            )
            created |= {token["subject"]: token["token"] for token in answer["tokens"]}
        return created

    def windows(self, device_id: str, start: str, end: str) -> Iterator[Json]:
        """Return the device's windows from `start` to before `end`, page after page."""
        following: str | None = start
        while following is not None:
            query = {"from": following, "to": end, "limit": WINDOWS_PER_PAGE}
            page = self._request("GET", f"/devices/{device_id}/windows", query=query)
            yield from page["windows"]
            following = page["next"]

    def device(self, device_id: str) -> Json:
        """Return the device's latest reading, and the last known value of each metric."""
        return self._request("GET", f"/devices/{device_id}")

    def alerts(self, status: str = "open") -> Iterator[Json]:
        """Return the alerts of that status, page after page."""
        query: dict[str, str | int] = {"status": status, "limit": ALERTS_PER_PAGE}
        while True:
            page = self._request("GET", "/alerts", query=query)
            yield from page["alerts"]
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def accounting(self, start: str, end: str) -> Json:
        """Return what each stage counted in that time, and how many readings met no end yet."""
        return self._request("GET", "/accounting", query={"from": start, "to": end})

    def _request(
        self, method: str, path: str, body: Json | None = None, query: dict[str, Any] | None = None
    ) -> Json:
        try:
            response = self._http.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise LocalError(
                f"{method} {self._http.base_url}{path}: no answer ({error})"
            ) from error
        if response.is_error:
            raise ApiFailed(f"{method} {path}", response.status_code, error_message(response))
        answer: Json = response.json()
        return answer


def error_message(response: httpx.Response) -> str:
    """Return what an error response says, in one line."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or body)[:200]
