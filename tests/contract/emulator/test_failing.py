"""Failures of functions: the error that Lambda's runtime reports, and the process afterwards."""

import io
import json
import uuid
import zipfile
from typing import Any

import pytest

from tests.contract.emulator.test_permissions import Account

CODE = """
import os
calls = 0
def handler(event, _):
    global calls
    calls += 1
    if event == "die":
        os._exit(1)
    raise LookupError(calls)
"""


@pytest.fixture
def function(embedded_endpoint: str, aws_environment: None) -> Any:  # noqa: ARG001
    """Invoke the test's own function with an event; return its error's type and message."""
    account, code = Account(embedded_endpoint), io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("index.py", CODE)
    lambdas = account.root("lambda")
    name = f"failing-{uuid.uuid4()}"
    lambdas.create_function(
        FunctionName=name,
        Runtime="python3.13",
        Role=account.role("lambda"),
        Handler="index.handler",
        Code={"ZipFile": code.getvalue()},
    )

    def invoke(event: str) -> tuple[str, str]:
        answer = lambdas.invoke(FunctionName=name, Payload=json.dumps(event))
        assert answer["FunctionError"] == "Unhandled"
        error = json.load(answer["Payload"])
        return error["errorType"], error["errorMessage"]

    return invoke


def test_a_process_goes_on_after_an_exception_and_is_replaced_after_its_death(
    function: Any,
) -> None:
    assert function("raise") == ("LookupError", "1")
    assert function("raise") == ("LookupError", "2")
    assert function("die")[0] == "Runtime.ExitError"
    assert function("raise") == ("LookupError", "1")
