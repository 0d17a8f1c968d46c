"""`replay`: what operators ask for becomes a request, and how far it is is told until it ends."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ops import replay
from ops.cli import parser
from ops.errors import OpsError
from ops.target import Target
from tests.fakes import refuse

SPAN = ["--from", "2026-11-21T10:00:00Z", "--to", "2026-11-21T12:00:00+01:00"]
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OUTPUTS = {
    "ReplayMachineArn": "replays",
    "RebuildMachineArn": "rebuilds",
    "ArchiveBucket": "bucket",
}


class States:
    """Step Functions: an execution whose maps' children end one after the other, a look each."""

    def __init__(self, maps: dict[str, list[int]], failure: dict[str, str] | None = None) -> None:
        self.outputs = {
            f"{label}-{index}": (f"machine/{label}:run", output)
            for label, outputs in maps.items()
            for index, output in enumerate(outputs)
        }
        self.failure = failure
        self.ended = 0
        self.pages = 0  # of lists of what has succeeded
        self.described: list[str] = []  # those that have succeeded
        self.errors = 0  # of the next looks
        self.started: list[tuple[str, Any]] = []
        self.stopped: list[str] = []

    def start_execution(self, *, stateMachineArn: str, input: str) -> dict[str, Any]:  # noqa: A002, N803
        self.started.append((stateMachineArn, json.loads(input)))
        return {"executionArn": "execution"}

    def stop_execution(self, *, executionArn: str) -> None:  # noqa: N803
        self.stopped.append(executionArn)

    def children(self) -> list[str]:
        return list(self.outputs)[: self.ended]

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:  # noqa: N803
        if executionArn == "execution":
            if self.errors:
                self.errors -= 1
                refuse("ThrottlingException", "DescribeExecution")
            is_over = self.ended == len(self.outputs)
            self.ended = min(self.ended + 1, len(self.outputs))
            status = "FAILED" if self.failure else "SUCCEEDED"
            return {"status": status if is_over else "RUNNING", "error": "the map's own"}
        if executionArn == "failed":
            return {"status": "FAILED", **(self.failure or {})}
        self.described.append(executionArn)
        return {"status": "SUCCEEDED", "output": str(self.outputs[executionArn][1])}

    def list_map_runs(self, *, executionArn: str) -> dict[str, Any]:  # noqa: N803
        assert executionArn == "execution"
        begun = dict.fromkeys(self.outputs[child][0] for child in self.children())
        runs = [{"mapRunArn": run, "startDate": index} for index, run in enumerate(begun)]
        return {"mapRuns": runs[::-1]}

    def describe_map_run(self, *, mapRunArn: str) -> dict[str, Any]:  # noqa: N803
        total = sum(run == mapRunArn for run, _ in self.outputs.values())
        return {"itemCounts": {"succeeded": len(self.of(mapRunArn)), "total": total}}

    def of(self, run: str) -> list[str]:
        return [child for child in self.children() if self.outputs[child][0] == run]

    def get_execution_history(self, *, executionArn: str, **newest_first: Any) -> Any:  # noqa: N803
        assert newest_first["reverseOrder"]
        answer = json.dumps({"done": self.outputs[executionArn][1] - 1, "token": ["key", 1]})
        last = {"id": 2, "taskSucceededEventDetails": {"output": answer}}
        first = {"id": 1, "taskSucceededEventDetails": {"output": '{"done": 0}'}}
        return {"events": [{"id": 3, "type": "ChoiceStateEntered"}, last, first]}

    def get_paginator(self, _operation: str) -> Any:
        def paginate(*, mapRunArn: str, statusFilter: str) -> Iterator[dict[str, Any]]:  # noqa: N803
            found = self.of(mapRunArn)[::-1]  # the newest first
            if statusFilter == "RUNNING":
                running = list(self.outputs)[self.ended : self.ended + 1]
                found = [child for child in running if self.outputs[child][0] == mapRunArn]
            if statusFilter == "FAILED":
                found = ["failed"] if self.failure and self.failure["of"] in mapRunArn else []
            for child in found:
                self.pages += statusFilter == "SUCCEEDED"
                yield {"executions": [{"executionArn": child}]}

        return SimpleNamespace(paginate=paginate)


class S3:
    """The archive bucket: when objects were written, by prefix."""

    def __init__(self, written: dict[str, datetime]) -> None:
        self.written = written

    def get_paginator(self, _operation: str) -> Any:
        def paginate(*, Bucket: str, Prefix: str) -> list[dict[str, Any]]:  # noqa: N803
            assert Bucket == "bucket"
            at = self.written.get(Prefix)
            return [{"Contents": [{"LastModified": at}]} if at else {}]

        return SimpleNamespace(paginate=paginate)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(replay, "LOOK_AGAIN_SECONDS", [0.0] * 5)


def operate(states: States, *words: str) -> tuple[int, str]:
    """A command's exit code, and what it told."""
    clients = {"stepfunctions": states, "s3": S3({})}
    target = Target("telemetry", OUTPUTS, lambda service: clients[service])
    options = parser().parse_args(["replay", *words])
    told = StringIO()
    return options.does(options, target, Console(file=told, width=200)), told.getvalue()


def test_a_span_becomes_a_request_in_utc() -> None:
    states = States({"Hours": [3, 4]})
    code, told = operate(states, *SPAN, "--device", "pump-1", "--event-time", "--rate", "50")
    request = {
        "from": "2026-11-21T10:00:00Z",
        "to": "2026-11-21T11:00:00Z",
        "device": "pump-1",
        "by": "recorded",
        "readings_per_second": 50,
    }
    assert states.started == [("replays", request)]
    assert code == 0
    assert "2 of 2 hours; 7 readings sent" in told


def test_a_rebuild_tells_what_each_of_its_maps_did() -> None:
    states = States({"Fill": [10, 20], "Check": [0, 0], "Clean": [5]})
    code, told = operate(states, "--rebuild", "--missing", "keep", "--anew")
    assert states.started == [("rebuilds", {"missing": "keep", "anew": True, "give_up": False})]
    assert code == 0
    expected = "30 readings in the new generation, 0 differences, 5 old windows deleted"
    assert expected in told


def test_what_goes_on_counts_as_far_as_it_is() -> None:
    states = States({"Hours": [30, 40]})
    progress = replay.Progress(states, "execution")
    said = [progress.text()]
    while progress.look() == "RUNNING":
        said.append(progress.text().partition(": ")[2])
    assert said[1:] == [
        "1 of 2 hours; 69 readings sent",  # 30, and 39 of the other's 40
        "2 of 2 hours; 70 readings sent",
    ]


def test_what_was_seen_before_is_not_listed_again_at_each_look() -> None:
    # ListExecutions answers a few times a second; a month has 720 hours
    states = States({"Hours": [2] * 720})
    _, told = operate(states, *SPAN)
    assert "720 of 720 hours; 1,440 readings sent" in told
    assert states.pages < 2 * 720 + 10
    assert len(states.described) == 720  # each once


def test_where_aws_is_asked_too_often_it_is_asked_again() -> None:
    states = States({"Hours": [3]})
    states.errors = 4
    assert operate(states, *SPAN)[0] == 0


def test_an_execution_that_can_not_be_looked_at_is_told_to_go_on() -> None:
    states = States({"Hours": [3]})
    states.errors = 1_000
    with pytest.raises(OpsError, match=r"may go on: execution: .*ThrottlingException"):
        operate(states, *SPAN)
    assert states.stopped == []


def test_what_can_not_be_started_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    states = States({"Hours": [3]})
    denied = lambda **_: refuse("AccessDeniedException", "StartExecution")  # noqa: E731
    monkeypatch.setattr(states, "start_execution", denied)
    with pytest.raises(OpsError, match=r"replays isn't started: .*AccessDeniedException"):
        operate(states, *SPAN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --from and --to, or --rebuild"),
        (SPAN[:2], "give --from and --to"),
        (
            [*SPAN[:2], "--to", "2026-11-21T10:00:00Z"],
            "--from: .* isn't before --to, 2026-11-21T10",
        ),
        (["--from", "2999-01-01T00:00:00Z", "--to", "2999-01-02T00:00:00Z"], "is in the future"),
        ([*SPAN, "--rate", "0"], "--rate: 0 isn't"),
        ([*SPAN, "--missing", "keep"], "--missing is for --rebuild"),
        ([*SPAN, "--anew"], "--anew is for --rebuild"),
        ([*SPAN, "--give-up"], "--give-up is for --rebuild"),
        (["--rebuild", "--device", "pump-1"], "--device: --rebuild makes all windows"),
        (["--rebuild", "--event-time"], "--event-time: --rebuild makes all windows"),
        (["--rebuild", *SPAN], "--from: --rebuild makes all windows"),
        (["--rebuild", "--rate", "50"], "--rate: --rebuild makes all windows"),
    ],
)
def test_what_can_not_be_asked_for_is_named_before_anything_starts(
    words: list[str], message: str
) -> None:
    states = States({"Hours": [1]})
    with pytest.raises(OpsError, match=message):
        operate(states, *words)
    assert states.started == []


@pytest.mark.parametrize(
    "text", ["10:00", "2026-11-21T10:00:00", "yesterday", "0001-01-01T00:00:00+01:00"]
)
def test_a_time_that_is_none_is_shown_how_to_write(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["replay", "--from", text])
    assert f"'{text}' isn't a time with its offset: write it like" in capsys.readouterr().err


def test_a_failure_is_told_by_the_child_that_failed() -> None:
    failure = {
        "of": "Check",
        "error": "Rejected",
        "cause": json.dumps({"errorMessage": "missing: lacks readings of 3 windows"}),
    }
    states = States({"Fill": [10], "Check": [0]}, failure)
    with pytest.raises(OpsError, match="ended, failed: Rejected: missing: lacks readings of 3"):
        operate(states, "--rebuild")


def test_a_failure_of_the_machine_itself_is_told_too() -> None:
    failure = {"of": "none of its children", "cause": "not JSON"}
    with pytest.raises(OpsError, match="ended, failed: the map's own: "):
        operate(States({"Hours": [1]}, failure), *SPAN)


def test_ctrl_c_stops_the_execution_and_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ops.replay.time.sleep", interrupt)
    states = States({"Hours": [3, 4]})
    with pytest.raises(KeyboardInterrupt):
        operate(states, *SPAN)
    assert states.stopped == ["execution"]


@pytest.mark.parametrize("hours", [0, 1, 47])
def test_the_newest_of_the_archive_is_found_hours_back(hours: int) -> None:
    at = NOW - timedelta(hours=hours)
    s3 = S3({f"readings/{at:day=%Y-%m-%d/hour=%H}/": at})
    target = Target("telemetry", OUTPUTS, lambda _service: s3)
    assert replay.archived_until(target, NOW) == at
    told = StringIO()
    replay.tell_archived(target, NOW, NOW, Console(file=told))
    assert ("the archive has readings up to" in told.getvalue()) == (hours > 0)
    till_later = StringIO()  # what hasn't come yet isn't missing in the archive
    replay.tell_archived(target, NOW + timedelta(hours=1), NOW, Console(file=till_later))
    assert till_later.getvalue() == told.getvalue()


def test_an_archive_without_anything_new_says_so() -> None:
    target = Target("telemetry", OUTPUTS, lambda _service: S3({}))
    told = StringIO()
    replay.tell_archived(target, NOW, NOW, Console(file=told))
    assert "nothing has been archived in the last 48 hours" in told.getvalue()
