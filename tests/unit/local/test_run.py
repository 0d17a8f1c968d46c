"""The check at a run's end, with an API and pending work of the test's own."""

import asyncio
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from rich.console import Console

from local.api import Api
from local.fleet.over_https import PostingOptions
from local.fleet.reading import Reading
from local.instance import Instance, State
from local.trial import run
from local.trial.monitor import Snapshot
from local.trial.report import Report, Verdict, print_verdict
from local.trial.run import Exercise, Plan
from local.trial.watch import PlainLines
from local.view import Steps

MINUTE = "2026-11-27T10:00:00Z"
MINUTE_MS = 1_795_773_600_000
VALUE = 21.5
Answer = Callable[[httpx.Request], httpx.Response]

pytestmark = pytest.mark.usefixtures("loop_sockets")


class Silent:
    """A source whose devices have sent all their readings."""

    left_out = 0

    def __init__(self) -> None:
        self.devices = ["pump-1"]

    def take_due(self, _now_ms: int, _limit: int) -> list[Reading]:
        return []

    def take_remaining(self) -> list[Reading]:
        return []

    def next_due_ms(self) -> int | None:
        return None


class Still:
    """A pipeline that has processed everything, or leaves work undone."""

    left: dict[str, int] = {}  # noqa: RUF012 - a test replaces it
    timed_out: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, _instance: Instance) -> None:
        pass

    def waiting(self) -> dict[str, int]:
        return self.left

    def out_of_time(self) -> dict[str, int]:
        return self.timed_out


def monitor(seen: Snapshot) -> Callable[..., Any]:
    """Return a monitor that has seen these counts."""
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    return lambda *_arguments: SimpleNamespace(
        **dict.fromkeys(("start", "stop", "abandon"), nothing),
        latest=seen,
        alerts=[],
        first_alert_at=None,
        problem=None,
    )


@pytest.fixture
def loop_sockets(socket_enabled: None) -> None:
    """An event loop needs a pair of sockets of its own."""


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Return a function that checks a run: pump-1's reading was accepted, `api` answers."""
    monkeypatch.setattr(run, "Pending", Still)
    monkeypatch.setattr(run, "RECHECK_SECONDS", 0.01)
    monkeypatch.setattr(run, "PLAIN_LINE_SECONDS", 0.01)
    monkeypatch.setattr(run, "STILL_SECONDS", 0.05)
    monkeypatch.setattr(PlainLines, "print", lambda *_, **__: None)
    ids = {"ReadingSchemaIds": "1b4e28ba-2fa1-11d2-883f-0016d3cca427=1"}
    tokens = {"operator": "operator.secret"}
    instance = Instance("a", tmp_path)
    instance.save(State(api_url="http://api/v1", outputs=ids, tokens=tokens))

    def check(api: Answer, is_alone: bool = False, quarantined: int = 0) -> Report:
        mocked = partial(Api, patience_seconds=0.0, transport=httpx.MockTransport(api))
        monkeypatch.setattr(
            run, "Api", lambda url, token, is_there: mocked(url, token, is_there=is_there)
        )
        seen = Snapshot(0.0, settled=1, quarantined=quarantined)
        monkeypatch.setattr(run, "Monitor", monitor(seen))

        async def start() -> Report:
            steps = Steps(Console(file=StringIO()))
            exercise = Exercise(instance, steps, PostingOptions())
            exercise.ledger.accept([Reading("pump-1", MINUTE_MS, {"temperature": VALUE})])
            plan = Plan(is_alone=is_alone, patience_seconds=0.02)
            return await exercise.run(Silent(), plan, lambda: None)

        return asyncio.run(start())

    return check


def right(request: httpx.Request) -> httpx.Response:
    """Answer as the pipeline does that has stored the reading."""
    if request.url.path.endswith("/windows"):
        names = ("mean", "min", "max", "last")
        statistics = dict.fromkeys(names, VALUE) | {"count": 1, "stddev": 0.0}
        window = {"minute": MINUTE, "count": 1, "metrics": {"temperature": statistics}}
        return httpx.Response(200, json={"windows": [window], "next": None})
    if request.url.path.endswith("/accounting"):
        aggregate = dict.fromkeys(("foreign", "duplicate", "quarantined"), 0) | {"stored": 1}
        stages = {"ingest": {"accepted": 1}, "aggregate": aggregate}
        return httpx.Response(200, json={"stages": stages, "unaccounted": 0})
    return httpx.Response(200, json={"alerts": [], "next": None})


def told(report: Report) -> str:
    console = Console(file=StringIO(), width=200)
    print_verdict(report, console)
    return cast("StringIO", console.file).getvalue()


def test_a_check_whose_answers_are_right_is_right(checked: Callable[..., Report]) -> None:
    report = checked(right)
    assert (report.verdict, report.windows_checked) == (Verdict.RIGHT, 1)
    assert checked(right, is_alone=True).verdict is Verdict.RIGHT


@pytest.mark.parametrize("status", [429, 502, 504])
@pytest.mark.parametrize("late", ["windows", "alerts", "accounting"])
def test_a_check_whose_calls_keep_timing_out_can_not_tell_and_says_why(
    late: str, status: int, checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith(late):
            return httpx.Response(status, json={"message": "timed out"})
        return right(request)

    monkeypatch.setattr(Still, "timed_out", {"query": 3})
    report = checked(answer, is_alone=True)
    assert report.verdict is Verdict.UNKNOWN
    text = told(report)
    assert "? couldn't tell" in text
    assert "1 reading accepted from 1 device in" in text
    assert f"{late} answered {status}: timed out" in text
    assert "functions timed out (aws.log): query 3" in text


def test_a_bad_record_of_another_device_is_a_note_and_not_a_fault(
    checked: Callable[..., Report],
) -> None:
    beside = checked(right, quarantined=1)
    assert beside.verdict is Verdict.RIGHT
    assert "1 reading in quarantine" in told(beside)
    assert checked(right, is_alone=True, quarantined=1).verdict is Verdict.WRONG
