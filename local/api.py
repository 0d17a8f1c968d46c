"""The pipeline's HTTP API as operators and admins use it; `local.fleet` posts for devices.

Requests that may be repeated are repeated until they are answered: a busy machine is slow, not
wrong. Reads change nothing. A token is created only if its subject has none, so of two requests one
succeeds and the other gets 409. If the answer of the successful one was lost, nobody knows the
token: it is revoked and created anew.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPMethod, HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from local.errors import ApiFailed, NoAnswer

TIMEOUT_SECONDS = 30.0
"""Timeout of one request. API Gateway answers within 29 s, even if its function doesn't."""
PATIENCE_SECONDS = 180.0
"""How long a request is repeated."""
PAUSE_SECONDS = 0.5
PASSING = {HTTPStatus.TOO_MANY_REQUESTS, *(code for code in HTTPStatus if code >= 500)}
"""Statuses for which a retry may succeed: throttled, or a function failed or timed out."""
TOKENS_PER_REQUEST_MAX = 100
WINDOWS_PER_PAGE = 1000
ALERTS_PER_PAGE = 1000

Json = dict[str, Any]


class Api:
    """A connection to the API with one token."""

    def __init__(
        self,
        url: str,
        token: str,
        patience_seconds: float = PATIENCE_SECONDS,
        is_there: Callable[[], bool] = lambda: True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare a connection; it opens with the first request and uses no proxy.

        Requests that may be repeated are repeated for `patience_seconds`, as long as `is_there`
        returns true: the API may still answer.
        """
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            transport=transport,
        )
        self._patience_seconds = patience_seconds
        self._is_there = is_there
        self.repeats = 0
        """The number of repeated requests."""

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
        """Create tokens, each given as {subject, role, prefix?}; return them by subject."""
        pending = list(wanted)
        created: dict[str, str] = {}
        for start in range(0, len(pending), TOKENS_PER_REQUEST_MAX):
            answer = self._create(pending[start : start + TOKENS_PER_REQUEST_MAX])
            created |= {token["subject"]: token["token"] for token in answer["tokens"]}
        return created

    def _create(self, wanted: list[Json]) -> Json:
        """Create tokens; first revoke those that an unanswered attempt of this call created."""
        lost = False

        def create() -> Json:
            nonlocal lost
            try:
                return self._once(HTTPMethod.POST, "tokens", {"tokens": wanted})
            except ApiFailed as failed:
                if failed.status == HTTPStatus.CONFLICT and lost:
                    for each in wanted:
                        self._revoke(each["subject"])
                    return create()
                lost |= failed.status in PASSING
                raise
            except NoAnswer:
                lost = True
                raise

        return self._until_answered(create)

    def _revoke(self, subject: str) -> None:
        """Revoke a token; it may be gone already."""
        try:
            self._once(HTTPMethod.DELETE, f"tokens/{quoted(subject)}")
        except ApiFailed as failed:
            if failed.status != HTTPStatus.NOT_FOUND:
                raise

    def windows(self, device_id: str, start: str, end: str) -> Iterator[Json]:
        """Return the device's windows from `start` to before `end`, page after page."""
        following: str | None = start
        while following is not None:
            query = {"from": following, "to": end, "limit": WINDOWS_PER_PAGE}
            page = self._read(f"devices/{quoted(device_id)}/windows", query)
            yield from page["windows"]
            following = page["next"]

    def device(self, device_id: str) -> Json:
        """Return the device's latest reading, and the last known value of each metric."""
        return self._read(f"devices/{quoted(device_id)}")

    def alerts(self, status: str = "open") -> Iterator[Json]:
        """Return the alerts with that status, page after page."""
        query: dict[str, str | int] = {"status": status, "limit": ALERTS_PER_PAGE}
        while True:
            page = self._read("alerts", query)
            yield from page["alerts"]
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def accounting(self, start: str, end: str) -> Json:
        """Return the counts of each stage in that time, and the number of unaccounted readings."""
        return self._read("accounting", {"from": start, "to": end})

    def _read(self, path: str, query: dict[str, Any] | None = None) -> Json:
        """Send a GET; repeat it until it is answered."""
        return self._until_answered(lambda: self._once(HTTPMethod.GET, path, query=query))

    def _until_answered(self, ask: Callable[[], Json]) -> Json:
        """Call `ask` until it is answered; raise NoAnswer once patience is over.

        A status in PASSING is no answer: the function, or the API, had too little time for one.
        Raise ApiFailed for any other status.
        """
        started, tries = time.monotonic(), 1
        while True:
            try:
                return ask()
            except (NoAnswer, ApiFailed) as error:
                if isinstance(error, ApiFailed) and error.status not in PASSING:
                    raise
                waited = time.monotonic() - started
                if waited >= self._patience_seconds or not self._is_there():
                    tried = f"; tried {tries} times in {waited:.0f} s" if tries > 1 else ""
                    raise NoAnswer(f"{error}{tried}") from error
            tries += 1
            self.repeats += 1
            time.sleep(PAUSE_SECONDS)

    def _once(
        self,
        method: HTTPMethod,
        path: str,
        body: Json | None = None,
        query: dict[str, Any] | None = None,
    ) -> Json:
        try:
            response = self._http.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise NoAnswer(f"{method} {self._http.base_url}{path}: no answer ({error})") from error
        if response.is_error:
            raise ApiFailed(f"{method} /{path}", response.status_code, error_message(response))
        answer: Json = response.json()
        return answer


def quoted(name: str) -> str:
    """Return a name as one segment of a path, whatever characters a person gave it."""
    return quote(name, safe="").replace(".", "%2E")  # httpx takes `..` for the folder above


def error_message(response: httpx.Response) -> str:
    """Return the message of an error response, in one line."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or body)[:200]
