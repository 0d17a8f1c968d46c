"""A gap of the embedded AWS, closed: the error of a function is named by its class.

On AWS an invocation that raised answers with the exception's class as errorType, and one whose
process died with Runtime.ExitError; who invokes tells by it what a retry can mend. The emulator
(1.5.33) calls all of them Runtime.HandlerError. Imported in its process by `local.launcher`.
"""

import re
from typing import Any

UNNAMED = "Runtime.HandlerError"
DIED = "Runtime.ExitError"
TRACEBACK = "Traceback (most recent call last):\n"
RAISED = re.compile(r"^(?:\w+\.)*(\w+)(?::|$)", re.MULTILINE)


def name_errors(lambda_svc: Any) -> None:
    """Make the emulator's module `ministack.services.lambda_svc` name what functions raise."""
    execute = lambda_svc._execute_function_warm

    def naming(func: dict[str, Any], event: Any, request_id: str) -> dict[str, Any]:
        result: dict[str, Any] = execute(func, event, request_id)
        body = result.get("body")
        if result.get("error") and isinstance(body, dict) and body.get("errorType") == UNNAMED:
            result["body"] = body | {"errorType": error_type(result.get("log", ""))}
        return result

    lambda_svc._execute_function_warm = naming


def error_type(log: str) -> str:
    """Return the class that the log's last traceback ends with; without one the process died."""
    _, found, trace = log.rpartition(TRACEBACK)
    raised = RAISED.search(trace) if found else None
    return raised[1] if raised else DIED
