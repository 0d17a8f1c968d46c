"""Closes gaps of the embedded AWS: a function's error has AWS's name, and its process runs on.

Retries of a state machine depend on that name: the exception's class, or Runtime.ExitError if the
process died. The emulator (1.5.33) has one name for all errors. It also ends the process of a
handler that raises, so the next invocation is a cold start. On AWS the runtime reports the error
and waits for the next event in the same process
(https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html; for Python it is awslambdaric).
"""

import threading
from typing import Any

DIED = ("Worker process died", "Worker returned no response")
REPORTS = '{"status": "error", "error": str(e), "trace": traceback.format_exc()}'
# Status "ok" makes the emulator keep the process; afterwards the error is restored.
RAISED = '{"status": "ok", "raised": {"type": type(e).__name__, ' + REPORTS.partition(", ")[2] + "}"


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    name_errors(modules.core("lambda_runtime"), modules.service("lambda_svc"))


def name_errors(lambda_runtime: Any, lambda_svc: Any) -> None:
    """Make the emulator's workers and invocations report a function's error by AWS's name."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    if REPORTS not in script:
        raise RuntimeError("the emulator's worker doesn't report errors as version 1.5.33 does")
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(REPORTS, RAISED)
    running = threading.local()  # .failure: the name of the current invocation's error
    invoke, execute = lambda_runtime.Worker.invoke, lambda_svc._execute_function_warm

    def invoke_and_note(self: Any, *args: Any, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = invoke(self, *args, **options)
        raised = result.pop("raised", None)
        if raised:
            result |= {"status": "error", **raised}
        has_died = result.get("error") in DIED
        running.failure = "Runtime.ExitError" if has_died else result.get("type")
        return result

    def execute_and_name(*args: Any) -> dict[str, Any]:
        running.failure = None
        result: dict[str, Any] = execute(*args)
        if result.get("error") and running.failure:
            result["body"]["errorType"] = running.failure
        return result

    lambda_runtime.Worker.invoke = invoke_and_note
    lambda_svc._execute_function_warm = execute_and_name
