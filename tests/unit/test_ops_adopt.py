"""What an operator sees of an import, and is asked before it."""

import argparse
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from ops import adopt
from ops.errors import OpsError
from ops.retained import Deleted, Import, Retained
from ops.target import Target

KEY = Retained("AWS::KMS::Key", "mrk-1", {})
ARN = "arn:aws:cloudformation:eu-west-1:111122223333:stack/telemetry/0a1b"


class Formation:
    """A stack that goes through these statuses; the last one stays."""

    def __init__(self, *statuses: str, events: list[dict[str, str]] | None = None) -> None:
        self.statuses: Iterator[str] = iter(statuses)
        self.last = ""
        self.pages = {
            "list_stack_resources": [
                {"StackResourceSummaries": [{"ResourceStatus": "IMPORT_COMPLETE"}]},
                {"StackResourceSummaries": [{"ResourceStatus": "IMPORT_IN_PROGRESS"}]},
            ],
            "describe_stack_events": [{"StackEvents": events or []}],
        }

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803 - boto3's
        assert StackName == "telemetry"
        self.last = next(self.statuses, self.last)
        return {"Stacks": [{"StackStatus": self.last}]}

    def get_paginator(self, operation: str) -> Any:
        pages = self.pages[operation]
        return argparse.Namespace(paginate=lambda StackName: pages)  # noqa: N803, ARG005


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adopt, "POLL_SECONDS", 0)
    monkeypatch.setattr(adopt, "LINE_SECONDS", 0)


def followed(formation: Formation) -> str:
    told = StringIO()
    adopt.follow(formation, "telemetry", 2, Console(file=told))
    return told.getvalue()


def test_an_import_is_followed_to_its_end() -> None:
    formation = Formation("REVIEW_IN_PROGRESS", "IMPORT_IN_PROGRESS", "IMPORT_COMPLETE")
    assert followed(formation).splitlines()[0] == "1 of 2 imported"
    assert formation.last == "IMPORT_COMPLETE"


def test_an_import_that_is_rolled_back_says_why_by_its_first_failure() -> None:
    events = [
        {"LogicalResourceId": "telemetry", "ResourceStatus": "IMPORT_ROLLBACK_COMPLETE"},
        {
            "LogicalResourceId": "Table",
            "ResourceStatus": "IMPORT_FAILED",
            "ResourceStatusReason": "because of Key",
        },
        {
            "LogicalResourceId": "Key",
            "ResourceStatus": "IMPORT_FAILED",
            "ResourceStatusReason": "no such key",
        },
    ]
    formation = Formation("IMPORT_ROLLBACK_IN_PROGRESS", "IMPORT_ROLLBACK_COMPLETE", events=events)
    reason = "IMPORT_ROLLBACK_COMPLETE: Key: no such key.*delete-stack --stack-name telemetry"
    with pytest.raises(OpsError, match=reason):
        followed(formation)


def test_an_import_that_is_no_more_waited_for_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    told = StringIO()
    with pytest.raises(KeyboardInterrupt):
        adopt.follow(Formation("IMPORT_IN_PROGRESS"), "telemetry", 2, Console(file=told))
    assert "the import goes on; run this again" in told.getvalue()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("UPDATE_COMPLETE", "adopt makes a new one"),
        ("DELETE_IN_PROGRESS", "adopt once it is deleted"),
        ("REVIEW_IN_PROGRESS", "delete-stack --stack-name telemetry` removes it"),
    ],
)
def test_a_stack_that_is_there_is_named_with_what_can_be_done(status: str, reason: str) -> None:
    options = argparse.Namespace(yes=True, without=[], env="default")
    target = Target("telemetry", {}, lambda _service: Formation(status))
    with pytest.raises(OpsError, match=f"telemetry exists, {status}: .*{reason}"):
        adopt.adopt(options, target, Console(file=StringIO()))


def test_what_is_imported_and_what_is_left_out_is_told_before_anything_is_asked() -> None:
    told = StringIO()
    deleted = Deleted(ARN, {}, {}, {}, {"Key": KEY})
    made = Import({}, [], {"Bucket.NotificationConfiguration": "Queue"})
    adopt.tell("telemetry", deleted, made, Console(file=told))
    lines = told.getvalue().splitlines()
    assert lines[0] == f"{ARN} has left:"
    assert lines[1].split() == ["Key", "AWS::KMS::Key", "mrk-1"]
    assert "without Bucket.NotificationConfiguration, which needs Queue" in lines[2]
    assert lines[3].endswith("a new stack telemetry; nothing is made, changed or deleted.")


@pytest.mark.parametrize(
    ("answer", "is_yes"), [("y", True), ("YES ", True), ("", False), ("n", False), ("yo", False)]
)
def test_only_a_yes_is_a_yes(answer: str, is_yes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_prompt: answer)
    assert adopt.confirmed(Console(file=StringIO())) is is_yes


def test_where_nobody_can_answer_the_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    with pytest.raises(OpsError, match="give --yes"):
        adopt.confirmed(Console(file=StringIO()))


@pytest.mark.parametrize(
    ("environment", "parameters", "command"),
    [
        ("default", {}, "make deploy"),
        (
            "default",
            {"A": "1", "B": "x=1,y=2"},
            'make deploy ARGS="--parameter-overrides A=1 B=x=1,y=2"',
        ),
        ("prod", {"A": "1"}, 'make deploy ENV=prod ARGS="--parameter-overrides A=1"'),
    ],
)
def test_the_next_command_is_a_line_to_be_copied(
    environment: str, parameters: dict[str, str], command: str
) -> None:
    assert adopt.next_command(environment, parameters) == command
