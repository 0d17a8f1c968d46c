import asyncio
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any
from uuid import UUID

import fastavro
import httpx
import pytest
from telemetry_client.pace import PaceOptions

from local.errors import ApiFailed
from local.fleet.firmware import schema_ids
from local.fleet.ledger import Ledger
from local.fleet.over_https import Posting, PostingOptions
from local.fleet.reading import Reading
from tests.writers import schema

IDS = {1: UUID(int=16), 3: UUID(int=48)}
Answer = Callable[[list[dict[str, Any]]], httpx.Response]


def reading(at_ms: int, device: str = "a") -> Reading:
    return Reading(device, at_ms, {"temperature": 20.0})


class Once:
    """A source with all its readings due at once."""

    left_out = 0

    def __init__(self, readings: list[Reading], remaining: list[Reading] | None = None) -> None:
        self._readings = readings
        self._remaining = remaining or []

    @property
    def devices(self) -> list[str]:
        return sorted({each.device_id for each in self._readings})

    def take_due(self, _now_ms: int, limit: int) -> list[Reading]:
        taken, self._readings = self._readings[:limit], self._readings[limit:]
        return taken

    def take_remaining(self) -> list[Reading]:
        return self._remaining

    def next_due_ms(self) -> int | None:
        return 0 if self._readings else None


class Pipeline:
    """An API that gives one answer after another, and repeats the last one."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(json.loads(request.content))

    @property
    def sizes(self) -> list[int]:
        return [len(json.loads(request.content)) for request in self.requests]


def accept(readings: list[dict[str, Any]]) -> httpx.Response:
    return httpx.Response(202, json={"accepted": len(readings), "rejected": [], "trace_id": "1-a"})


def fail(status: int, **answer: Any) -> Answer:
    return lambda _readings: httpx.Response(status, json={"message": "no", **answer})


def lose(_readings: list[dict[str, Any]]) -> httpx.Response:
    raise httpx.ReadTimeout("no answer")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.fleet.over_https.PACE", PaceOptions(first_s=0.0, most_s=0.0))


def post(pipeline: Pipeline, source: Once, **options: Any) -> Ledger:
    """Post all readings; by default each device for itself."""
    ledger = Ledger()

    async def run() -> None:
        transport = httpx.MockTransport(pipeline)
        chosen = PostingOptions(**{"is_gateway": True, "connections": 1, **options})
        tokens = {"gateway": "gateway.secret", "a": "a.secret", "b": "b.secret"}
        posting = Posting("http://api", tokens, ledger, chosen, transport)
        await posting.run(source, asyncio.Event(), lambda: 0)
        if posting.failure:
            raise posting.failure

    asyncio.run(run())
    return ledger


@pytest.fixture
def loop_sockets(socket_enabled: None) -> None:
    """An event loop needs a pair of sockets of its own."""


pytestmark = pytest.mark.usefixtures("loop_sockets")


def test_a_gateway_posts_batches_of_all_devices_with_its_token() -> None:
    pipeline = Pipeline(accept)
    ledger = post(pipeline, Once([reading(at, "ab"[at % 2]) for at in range(25)]), batch=10)
    assert pipeline.sizes == [10, 10, 5]
    assert {request.url.path for request in pipeline.requests} == {"/readings"}
    assert pipeline.requests[0].headers["Authorization"] == "Bearer gateway.secret"
    assert ledger.distinct() == ledger.counts.accepted == 25


def test_a_device_that_posts_for_itself_uses_its_own_path_and_token() -> None:
    pipeline = Pipeline(accept)
    post(pipeline, Once([reading(0, "a"), reading(0, "b")]), is_gateway=False)
    sent = {request.url.path: request.headers["Authorization"] for request in pipeline.requests}
    assert sent == {
        "/devices/a/readings": "Bearer a.secret",
        "/devices/b/readings": "Bearer b.secret",
    }


def test_remaining_readings_are_posted_at_the_end() -> None:
    pipeline = Pipeline(accept)
    ledger = post(pipeline, Once([reading(0)], remaining=[reading(1), reading(0)]))
    assert ledger.counts.accepted == 3
    assert ledger.distinct() == 2


TROUBLES = {"503": fail(503), "429": fail(429), "500": fail(500), "timeout": lose}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_a_batch_is_sent_again_until_it_is_taken(trouble: Answer) -> None:
    pipeline = Pipeline(trouble, trouble, accept)
    ledger = post(pipeline, Once([reading(at) for at in range(4)]))
    assert pipeline.sizes == [4, 4, 4]
    assert ledger.counts.accepted == 4
    assert ledger.counts.resent == 8
    assert ledger.counts.posted == 12


def test_after_a_503_only_readings_that_were_not_taken_are_sent_again() -> None:
    pipeline = Pipeline(fail(503, accepted=2, not_taken=[1, 3], rejected=[]), accept)
    ledger = post(pipeline, Once([reading(at) for at in range(4)]))
    again = [each["recorded_at"] for each in json.loads(pipeline.requests[1].content)]
    assert again == [1, 3]
    assert ledger.counts.accepted == 4
    assert ledger.counts.resent == 2


def test_a_requested_pause_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    async def note(_event: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("local.fleet.over_https.wait_until", note)
    refuse = httpx.Response(503, json={"message": "later"}, headers={"Retry-After": "7"})
    post(Pipeline(lambda _readings: refuse, accept), Once([reading(0)]))
    assert pauses == [7.0]


def test_a_rejected_reading_is_recorded_with_its_reason_and_not_sent_again() -> None:
    rejected = [{"index": 1, "field": "temperature", "value": 412.0, "reason": "above 150"}]

    def answer(readings: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(202, json={"accepted": len(readings) - 1, "rejected": rejected})

    pipeline = Pipeline(answer)
    ledger = post(pipeline, Once([reading(0), reading(1), reading(2)]))
    assert ledger.readings("a").keys() == {0, 2}
    assert ledger.counts.rejected == 1
    assert dict(ledger.reasons) == {"temperature: above 150": 1}
    assert len(pipeline.requests) == 1


def test_a_batch_whose_readings_are_all_rejected_is_recorded_too() -> None:
    rejected = [{"index": 0, "field": "recorded_at", "value": 0, "reason": "too old"}]
    ledger = post(Pipeline(fail(400, accepted=0, rejected=rejected)), Once([reading(0)]))
    assert ledger.counts.rejected == 1
    assert ledger.devices == []


@pytest.mark.parametrize("status", [401, 403, 413])
def test_an_answer_that_no_retry_changes_ends_the_posts(status: int) -> None:
    pipeline = Pipeline(fail(status))
    with pytest.raises(ApiFailed, match=rf"POST /readings answered {status}: no"):
        post(pipeline, Once([reading(at) for at in range(2000)]), batch=10)
    assert len(pipeline.requests) == 1


def test_readings_without_an_answer_at_the_end_are_counted_as_unanswered() -> None:
    ledger = Ledger()

    async def run() -> None:
        transport = httpx.MockTransport(Pipeline(lose))
        posting = Posting("http://api", {"gateway": "t"}, ledger, PostingOptions(), transport)
        posting.give_up()
        await posting.run(Once([reading(0), reading(1)]), asyncio.Event(), lambda: 0)

    asyncio.run(run())
    assert ledger.counts.unanswered == 2
    assert ledger.counts.accepted == 0


def test_devices_of_one_gateway_write_json_and_avro_by_their_own_version_of_the_schema() -> None:
    bodies: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append((request.headers["Content-Type"], request.content))
        return httpx.Response(202, json={"accepted": 1, "rejected": [], "trace_id": "1-a"})

    async def run() -> None:
        posting = Posting(
            "http://api",
            {"gateway": "t"},
            ledger,
            PostingOptions(),
            httpx.MockTransport(answer),
            schema_ids=schema_ids(f"{IDS[1]}=1,{IDS[3]}=3"),
        )
        await posting.run(Once(measured), asyncio.Event(), lambda: 0)

    ledger = Ledger()
    metrics = {"temperature": 20.5, "humidity": 40.0}
    measured = [
        Reading("a", 1, metrics),
        Reading("b", 2, metrics, 1),
        Reading("c", 3, metrics | {"battery": 3.5}, 3),
    ]
    asyncio.run(run())
    assert ledger.counts.accepted == 3
    by_type = sorted(bodies, key=lambda body: (body[0] == "application/json", body[1]))
    (_, first), (_, second), (kind, plain) = by_type
    assert (kind, json.loads(plain)) == ("application/json", [measured[0].body()])
    for body, version, expected in ((first, 1, measured[1]), (second, 3, measured[2])):
        assert body[:18] == b"\x03\x00" + IDS[version].bytes
        written: Any = fastavro.schemaless_reader(BytesIO(body[18:]), schema(version), None)
        written["recorded_at"] = round(written["recorded_at"].timestamp() * 1000)
        present = {name: value for name, value in written.items() if value is not None}
        assert present == expected.body()


def test_a_reading_taken_without_a_metric_is_recorded_without_it() -> None:
    refusal = {"index": 0, "device_id": "a", "field": "humidity", "value": 101.0}
    refusal["reason"] = "101.0 is above 100.0 %RH"

    def answer(_readings: list[dict[str, Any]]) -> httpx.Response:
        return httpx.Response(202, json={"accepted": 2, "rejected": [], "partly": [refusal]})

    mixed = Reading("a", 0, {"temperature": 20.0, "humidity": 101.0})
    ledger = post(Pipeline(answer), Once([mixed, reading(1)]))
    assert ledger.readings("a") == {0: {"temperature": 20.0}, 1: {"temperature": 20.0}}
    assert (ledger.counts.accepted, ledger.counts.metrics_refused) == (2, 1)
    assert ledger.reasons == {"humidity: 101.0 is above 100.0 %RH": 1}
