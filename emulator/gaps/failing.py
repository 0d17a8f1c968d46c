"""A gap of the embedded AWS, closed: a function's error has the name that AWS gives it.

Retries of a state machine go by that name: the exception's class, or Runtime.ExitError where the
process died. The emulator (1.5.33) has one name for all.
"""

import threading
from typing import Any

DIED = ("Worker process died", "Worker returned no response")
REPORTS = '{"status": "error", "error": str(e), "trace": traceback.format_exc()}'
NAMES = REPORTS.replace("str(e),", 'str(e), "type": type(e).__name__,')


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    name_errors(modules.core("lambda_runtime"), modules.service("lambda_svc"))


def name_errors(lambda_runtime: Any, lambda_svc: Any) -> None:
    """Make what the emulator runs functions in tell how they failed."""
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    if REPORTS not in script:
        raise RuntimeError("the emulator's worker reports errors otherwise than 1.5.33's does")
    lambda_runtime._PYTHON_WORKER_SCRIPT = script.replace(REPORTS, NAMES)
    running = threading.local()  # .failure: the name of the error of the invocation at work
    invoke, execute = lambda_runtime.Worker.invoke, lambda_svc._execute_function_warm

    def invoke_and_note(self: Any, *args: Any, **options: Any) -> dict[str, Any]:
        result: dict[str, Any] = invoke(self, *args, **options)
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
