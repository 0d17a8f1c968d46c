"""What mends the embedded AWS, in itself; through its APIs it is held in the contract tier."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from local import authorization, error_types, mapping_api

ALERTS, DEVICES = (
    f"arn:aws:dynamodb:eu-central-1:123456789012:table/{name}/stream/2026"
    for name in ("alerts", "devices")
)


def resource_of(service: str, request: Any) -> str:
    """The resource on which a permission for a request is checked."""
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


@pytest.mark.parametrize("filters", ["x", ["x"], {"Pattern": "{}"}, [1]])
def test_filters_that_are_no_list_of_objects_are_refused_by_name_and_value(filters: Any) -> None:
    with pytest.raises(mapping_api.Refused, match=r"FilterCriteria\.Filters is"):
        mapping_api.check_filters({"Filters": filters})


def test_a_destination_that_is_no_object_is_refused_by_name_and_value() -> None:
    with pytest.raises(mapping_api.Refused, match=r"OnFailure is a queue: an object"):
        mapping_api.checked_destination({"OnFailure": "a queue"})


RAISED = """{"message": "logged before"}
Traceback (most recent call last):
  File "items.py", line 7, in write
    raise KeyError("version")
KeyError: 'version'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "handler.py", line 3, in handler
    return run(event)
           ^^^^^^^^^^
telemetry.errors.Unavailable: none of 3 records
could be processed
"""


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (RAISED, "Unavailable"),
        (RAISED.partition("\n\n")[0], "KeyError"),
        ("", "Runtime.ExitError"),
        ("logged, then killed", "Runtime.ExitError"),
    ],
)
def test_a_functions_error_is_named_by_its_class_and_a_death_as_one(
    log: str, expected: str
) -> None:
    body = {"errorMessage": "m", "errorType": "Runtime.HandlerError"}
    answer = {"body": body, "error": True, "log": log}
    lambda_svc = SimpleNamespace(_execute_function_warm=lambda *_: answer)
    error_types.name_errors(lambda_svc)
    named = lambda_svc._execute_function_warm({}, {}, "")["body"]
    assert named == {"errorMessage": "m", "errorType": expected}


@pytest.mark.parametrize(
    "answer",
    [
        {"body": {"batchItemFailures": []}, "log": "Traceback (most recent call last):\nE: e"},
        {"body": {"errorType": "Sandbox.Timedout"}, "error": True, "log": ""},
    ],
)
def test_other_answers_of_functions_are_left_alone(answer: dict[str, Any]) -> None:
    lambda_svc = SimpleNamespace(_execute_function_warm=lambda *_: dict(answer))
    error_types.name_errors(lambda_svc)
    assert lambda_svc._execute_function_warm({}, {}, "") == answer
