"""A gap of the embedded AWS, closed: who stops an execution stops the children of its maps too.

On AWS a stopped execution's distributed maps are aborted, with all that runs in them. The emulator
(1.5.33) lets them go on to their ends.
"""

from typing import Any

STOPPED = "States.Runtime"


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    stop_children(modules.service("stepfunctions"))


def stop_children(stepfunctions: Any) -> None:
    """Make a task of a map's child fail once the execution that began the map was stopped."""
    execute_task = stepfunctions._execute_task

    def execute_unless_stopped(state: Any, given: Any, execution: dict[str, Any], ctx: Any) -> Any:
        run = stepfunctions._map_runs.get(execution.get("mapRunArn"))
        parent = stepfunctions._executions.get(run["executionArn"]) if run else None
        if parent is not None and parent["status"] == "ABORTED":
            raise stepfunctions._ExecutionError(STOPPED, "the execution was stopped")
        return execute_task(state, given, execution, ctx)

    stepfunctions._execute_task = execute_unless_stopped
