"""Closes gaps of the embedded AWS: invalid state machines are refused, and a stop stops maps.

Step Functions refuses a definition that the States Language doesn't allow
(https://docs.aws.amazon.com/step-functions/latest/apireference/API_CreateStateMachine.html,
InvalidDefinition). The emulator (1.5.33) accepts any definition; from CloudFormation it doesn't
even parse it. On AWS a stopped execution's distributed maps are aborted with all their child
executions. The emulator lets them run to their end.
"""

from collections.abc import Callable
from typing import Any

from emulator import states_language

STOPPED = "States.Runtime"
BAD_REQUEST = 400

Document = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    step_functions = modules.service("stepfunctions")
    refuse_as_aws(step_functions, modules.service("cloudformation.provisioners"))
    stop_children(step_functions)


def refuse_as_aws(step_functions: Any, provisioners: Any) -> None:
    """Make the emulator check each definition against the States Language."""
    own_refusal = step_functions._validate_definition_jsonata
    definition_of = provisioners._sfn_definition

    def refusal(definition: Any) -> str | None:
        text = definition if isinstance(definition, str) else ""
        found: str | None = states_language.refusal(text) or own_refusal(definition)
        return found

    def checked_definition(properties: Document) -> str:
        definition: str = definition_of(properties)
        refused = refusal(definition)
        if refused:
            error = provisioners._sdk_error(refused, "Sfn", BAD_REQUEST)
            raise provisioners._sfn_handler_error(error)
        return definition

    step_functions._validate_definition_jsonata = refusal
    step_functions._validate_state_machine_definition = validating(step_functions.json_response)
    provisioners._sfn_definition = checked_definition


def validating(json_response: Callable[[Document], Response]) -> Callable[[Document], Response]:
    """Return the operation ValidateStateMachineDefinition."""

    def validate(request: Document) -> Response:
        found = states_language.problems(request.get("definition") or "")
        diagnostics = [problem._asdict() | {"severity": "ERROR"} for problem in found]
        result = "FAIL" if found else "OK"
        return json_response({"result": result, "diagnostics": diagnostics, "truncated": False})

    return validate


def stop_children(stepfunctions: Any) -> None:
    """Make a task of a map's child fail once the map's parent execution was stopped."""
    execute_task = stepfunctions._execute_task

    def execute_unless_stopped(state: Any, given: Any, execution: dict[str, Any], ctx: Any) -> Any:
        run = stepfunctions._map_runs.get(execution.get("mapRunArn"))
        parent = stepfunctions._executions.get(run["executionArn"]) if run else None
        if parent is not None and parent["status"] == "ABORTED":
            raise stepfunctions._ExecutionError(STOPPED, "the execution was stopped")
        return execute_task(state, given, execution, ctx)

    stepfunctions._execute_task = execute_unless_stopped
