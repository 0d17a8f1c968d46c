"""Redrive, as operators have it: until nothing is left, or nothing moves."""

import argparse
import io
import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from ops import redrive
from ops.errors import OpsError
from ops.target import Target
from tests.fakes import Client


class Reporting(Client):
    """The function's reports, one an invocation; the last one again and again."""

    def __init__(self, *reports: Any) -> None:
        self.reports = list(reports)
        self.events: list[Any] = []

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        self.check("Invoke")
        assert FunctionName == "telemetry-redrive"
        self.events.append(json.loads(Payload))
        found = self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]
        error = {"FunctionError": "Unhandled"} if "errorType" in found else {}
        return {"Payload": io.BytesIO(json.dumps(found).encode()), **error}


def report(**counts: Any) -> dict[str, Any]:
    names = ("objects", "records", "succeeded", "quarantined", "left", "dead_letters")
    return {**dict.fromkeys(names, 0), "more": False, "why": {}, "kept": [], **counts}


def run(function: Reporting) -> tuple[int, str]:
    outputs = {"RedriveFunctionName": "telemetry-redrive"}
    target = Target("telemetry", outputs, lambda _service: function)
    told = StringIO()
    code = redrive.redrive(argparse.Namespace(), target, Console(file=told, width=200))
    return code, told.getvalue()


def test_it_goes_on_until_nothing_is_left_and_tells_the_sum() -> None:
    function = Reporting(
        report(records=6, succeeded=2, left=4),
        report(records=4, succeeded=3, quarantined=1, dead_letters=5, why={"KeyError": 1}),
    )
    code, told = run(function)
    assert code == 0
    assert len(function.events) == 2
    first, second, *rest = told.splitlines()
    assert first.startswith("records: 2 succeeded, 0 quarantined, 4 left; notices sent again: 0")
    assert second.startswith("records: 5 succeeded, 1 quarantined, 0 left; notices sent again: 5")
    assert rest == ["  1× KeyError", "✓ nothing is left"]


def test_it_stops_where_nothing_moves_and_says_why() -> None:
    function = Reporting(
        report(records=3, succeeded=1, left=2),
        report(records=2, left=2, why={"Unavailable: none of 1 records": 2}),
    )
    code, told = run(function)
    assert (code, len(function.events)) == (1, 2)
    assert "  2× Unavailable: none of 1 records\n✗ the rest doesn't move" in told


def test_all_have_their_turn_before_a_pass_is_one_in_which_nothing_moved() -> None:
    function = Reporting(
        report(records=2, left=2, more=True, kept=["a"], why={"Unavailable": 2}),
        report(records=3, left=3, more=True, kept=["b"], why={"Unavailable": 3}),
        report(records=1, succeeded=1),
        report(records=5, left=5, kept=["a", "b"], why={"Unavailable": 5}),
    )
    code, told = run(function)
    assert code == 1
    assert [event["skip"] for event in function.events] == [[], ["a"], ["a", "b"], []]
    assert "records: 1 succeeded, 0 quarantined, 5 left" in told.splitlines()[2]
    assert "  5× Unavailable" in told


def test_the_reasons_of_all_of_a_pass_are_told() -> None:
    function = Reporting(
        report(records=2, left=2, more=True, kept=["a"], why={"Unavailable": 2}),
        report(records=3, left=3, kept=["b"], why={"Unavailable": 3}),
    )
    code, told = run(function)
    assert (code, len(function.events)) == (1, 2)
    assert "  5× Unavailable" in told


def test_time_that_is_up_with_nothing_done_is_no_endless_loop() -> None:
    function = Reporting(report(more=True))
    assert (run(function)[0], len(function.events)) == (1, 1)


def test_an_error_of_the_function_is_told_with_what_to_do() -> None:
    function = Reporting({"errorType": "Unavailable", "errorMessage": "no list"})
    with pytest.raises(OpsError, match=r"telemetry-redrive failed: Unavailable: no list. .*again"):
        run(function)
    function.down = True
    with pytest.raises(OpsError, match=r"telemetry-redrive: .*ServiceUnavailable"):
        run(function)
