"""Units of the changes to the embedded AWS; the contract tier tests them through its APIs."""

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.gaps import authorization, failing, mapping_api, states

ALERTS, DEVICES = (
    f"arn:aws:dynamodb:eu-central-1:123456789012:table/{name}/stream/2026"
    for name in ("alerts", "devices")
)


def resource_of(service: str, request: Any) -> str:
    """Return the resource on which a request's permission is checked."""
    iam_actions = SimpleNamespace(extract_resource_arn=lambda *_: "*")
    decode = {"iterator of alerts": {"arn": ALERTS}}.get
    streams = SimpleNamespace(_decode_iterator=decode)
    authorization.know_table_streams(iam_actions, streams)
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    found: str = iam_actions.extract_resource_arn(service, "POST", "/", {}, body, {}, "", "")
    return found


@pytest.mark.parametrize(
    ("request_", "stream"),
    [
        ({"StreamArn": ALERTS}, ALERTS),
        ({"ShardIterator": "iterator of alerts"}, ALERTS),
        ({"ShardIterator": "iterator of alerts", "StreamArn": DEVICES}, ALERTS),
        ({"Limit": 1}, "*"),
        ([], "*"),
        (b"not JSON", "*"),
    ],
)
def test_a_permission_on_a_tables_stream_is_checked_on_the_stream_that_is_read(
    request_: Any, stream: str
) -> None:
    assert resource_of("dynamodbstreams", request_) == stream


def test_other_services_requests_are_left_alone() -> None:
    assert resource_of("dynamodb", {"StreamArn": ALERTS}) == "*"


def test_a_request_on_loopback_counts_as_one_over_tls() -> None:
    evaluator = SimpleNamespace(_resolve_condition_key=lambda key, _context: f"{key} as it was")
    authorization.stand_for_tls(evaluator)
    assert evaluator._resolve_condition_key("aws:SecureTransport", None) == "true"
    assert evaluator._resolve_condition_key("aws:SourceIp", None) == "aws:SourceIp as it was"


@pytest.mark.parametrize(("status", "runs"), [("RUNNING", True), ("ABORTED", False)])
def test_stopping_an_execution_stops_its_maps(status: str, runs: bool) -> None:
    done: list[str] = []
    step_functions = SimpleNamespace(
        _execute_task=lambda state, *_: done.append(state),
        _executions={"parent": {"status": status}},
        _map_runs={"run": {"executionArn": "parent"}},
        _ExecutionError=type("_ExecutionError", (Exception,), {}),
    )
    states.stop_children(step_functions)
    step_functions._execute_task("of the parent", {}, {}, {})  # the parent notices the stop itself
    with nullcontext() if runs else pytest.raises(step_functions._ExecutionError):
        step_functions._execute_task("of a child", {}, {"mapRunArn": "run"}, {})
    assert done == ["of the parent", *["of a child"] * runs]


@pytest.mark.parametrize(
    ("result", "name"),
    [
        ({"status": "error", "error": "gone", "type": "Unavailable"}, "Unavailable"),
        ({"status": "error", "error": "Worker process died"}, "Runtime.ExitError"),
        ({"status": "error", "error": "Task timed out after 3.00 seconds"}, "Sandbox.Timedout"),
    ],
)
def test_a_functions_error_has_the_name_that_aws_gives_it(result: Any, name: str) -> None:
    worker = type("Worker", (), {"invoke": lambda *_, **__: result})
    runtime = SimpleNamespace(_PYTHON_WORKER_SCRIPT=failing.REPORTS, Worker=worker)

    def execute(*_event: Any) -> dict[str, Any]:
        worker().invoke("event", trace_id="1")
        return {"error": True, "body": {"errorType": "Sandbox.Timedout", "errorMessage": ""}}

    service = SimpleNamespace(_execute_function_warm=execute)
    failing.name_errors(runtime, service)
    assert service._execute_function_warm("function")["body"]["errorType"] == name
    assert '"type": type(e).__name__' in runtime._PYTHON_WORKER_SCRIPT


def test_another_version_of_the_emulator_fails_instead_of_being_changed() -> None:
    with pytest.raises(RuntimeError, match=r"as version 1\.5\.33 does"):
        failing.name_errors(SimpleNamespace(_PYTHON_WORKER_SCRIPT="run()"), None)


@pytest.mark.parametrize("filters", ["x", ["x"], {"Pattern": "{}"}, [1]])
def test_filters_that_are_not_a_list_of_objects_are_refused_by_name_and_value(filters: Any) -> None:
    with pytest.raises(mapping_api.Refused, match=r"FilterCriteria\.Filters is"):
        mapping_api.check_filters({"Filters": filters})


def test_a_destination_that_is_not_an_object_is_refused_by_name_and_value() -> None:
    with pytest.raises(mapping_api.Refused, match=r"OnFailure is a queue: an object"):
        mapping_api.checked_destination({"OnFailure": "a queue"})
