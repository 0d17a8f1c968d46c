import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from local.api import Api
from local.errors import ApiFailed, NoAnswer

OPERATOR = {"subject": "operator", "role": "operator"}
Answer = Callable[[httpx.Request], httpx.Response]


def lost(_request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("timed out")


def answering(status: int, **body: Any) -> Answer:
    return lambda _request: httpx.Response(status, json=body)


class Server:
    """Gives one answer after another, and repeats the last one."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(request)


class Registry:
    """Creates tokens as the pipeline does; the answers of the first calls are lost."""

    def __init__(self, lost_answers: int) -> None:
        self.lost_answers = lost_answers
        self.secrets: dict[str, str] = {}
        self.made = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        answer = self.answer(request)
        if self.lost_answers:
            self.lost_answers -= 1
            raise httpx.ReadTimeout("timed out")
        return answer

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            secret = self.secrets.pop(request.url.path.rpartition("/")[2], None)
            return httpx.Response(200 if secret else 404, json={})
        wanted = [each["subject"] for each in json.loads(request.content)["tokens"]]
        taken = [subject for subject in wanted if subject in self.secrets]
        if taken:
            return httpx.Response(409, json={"message": "there is one", "subjects": taken})
        for subject in wanted:
            self.made += 1
            self.secrets[subject] = f"{subject}.{self.made}"
        tokens = [{"subject": subject, "token": self.secrets[subject]} for subject in wanted]
        return httpx.Response(201, json={"tokens": tokens})


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.api.PAUSE_SECONDS", 0.0)


def api(server: Answer, **options: Any) -> Api:
    return Api("http://api/v1", "a.secret", transport=httpx.MockTransport(server), **options)


TROUBLES = {"lost": lost, "502": answering(502, message="x"), "429": answering(429)}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_read_is_repeated_until_it_is_answered(trouble: Answer) -> None:
    server = Server(trouble, trouble, answering(200, alerts=[], next=None))
    with api(server) as asked:
        assert list(asked.alerts()) == []
    assert server.asked == ["GET /v1/alerts"] * 3
    assert asked.repeats == 2


def test_a_refused_read_is_not_repeated() -> None:
    server = Server(answering(403, message="no"))
    with api(server) as asked, pytest.raises(ApiFailed, match="GET /devices/a answered 403: no"):
        asked.device("a")
    assert len(server.asked) == 1


def test_the_error_names_the_call_when_patience_is_over_or_the_instance_has_ended() -> None:
    for options in ({"patience_seconds": 0}, {"is_there": lambda: False}):
        server = Server(lost)
        with api(server, **options) as asked, pytest.raises(NoAnswer) as raised:
            asked.device("a")
        assert str(raised.value) == "GET http://api/v1/devices/a: no answer (timed out)"
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("name", "segment"),
    [("a/b", "a%2Fb"), ("a?b", "a%3Fb"), ("..", "%2E%2E"), ("ü#%", "%C3%BC%23%25")],
)
def test_an_id_is_one_segment_of_the_path_whatever_it_has(name: str, segment: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode().partition("?")[0])
        return httpx.Response(200, json={"windows": [], "next": None})

    with api(answer) as connection:
        connection.device(name)
        list(connection.windows(name, "1", "2"))
    assert asked == [f"/v1/devices/{segment}", f"/v1/devices/{segment}/windows"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_call_that_keeps_timing_out_has_no_answer(status: int) -> None:
    said = f"answered {status}: late; tried [0-9]+ times in 0 s"
    with api(answering(status, message="late"), patience_seconds=0.05) as asked:
        with pytest.raises(NoAnswer, match=f"GET /alerts {said}"):
            list(asked.alerts())
        with pytest.raises(NoAnswer, match=f"POST /tokens {said}"):
            asked.create_tokens([OPERATOR])


@pytest.mark.parametrize("lost_answers", [0, 1, 3])
def test_tokens_whose_answer_was_lost_are_revoked_and_created_anew(lost_answers: int) -> None:
    registry = Registry(lost_answers)
    with api(registry) as asked:
        created = asked.create_tokens([OPERATOR, {"subject": "pump", "role": "device"}])
    assert created == registry.secrets
    assert created.keys() == {"operator", "pump"}


def test_a_token_that_somebody_else_has_made_is_not_revoked() -> None:
    registry = Registry(0)
    registry.secrets["operator"] = "operator.of-another"
    with api(registry) as asked, pytest.raises(ApiFailed, match="409"):
        asked.create_tokens([OPERATOR])
    assert registry.secrets == {"operator": "operator.of-another"}
