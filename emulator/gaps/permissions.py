"""Closes gaps of the embedded AWS: actions have AWS's names, and services need permissions.

Some operations need the action of another operation, or several actions
(https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html):
a PartiQL statement needs the action of its kind on its table
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ql-iam.html), a batch of messages
needs the action of a single message
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-batch-api-actions.html),
and a write or delete with If-Match also needs a read
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html). The emulator
(1.5.33) checks the operation's own name there, and has its own names for Lambda's actions. It lets
state machines and mappings act without their roles' permissions
(https://docs.aws.amazon.com/step-functions/latest/dg/iam-policies-eg-dist-map.html,
https://docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html).
"""

import json
import re
import threading
from collections.abc import Callable
from typing import Any

ALLOWED_AS = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sns:PublishBatch": "sns:Publish",
    "lambda:Invoke": "lambda:InvokeFunction",
    "lambda:InvokeWithResponseStream": "lambda:InvokeFunction",
    "lambda:GetLayerVersionByArn": "lambda:GetLayerVersion",
}
"""Operations that need the action of another operation."""
STATEMENTS = {
    "dynamodb:ExecuteStatement": "",
    "dynamodb:BatchExecuteStatement": "Statements",
    "dynamodb:ExecuteTransaction": "TransactStatements",
}
"""The member of a request that has its statements; empty if the request is one statement."""
NAME = r'(?:"([^"]+)"|([\w-]+))'
STATEMENT = re.compile(
    rf"\s*(?:(?P<verb>INSERT)\s+INTO\s+|(?P<update>UPDATE)\s+|(?P<delete>DELETE)\s+FROM\s+"
    rf"|(?P<select>SELECT|EXISTS)\b.*?\bFROM\s+){NAME}(?:\s*\.\s*{NAME})?",
    re.IGNORECASE | re.DOTALL,
)
CONDITIONAL = {"s3:PutObject": "if-match", "s3:DeleteObject": "if-match"}
READING: dict[str, tuple[tuple[str, ...], ...]] = {
    "kinesis": (
        ("kinesis:GetRecords",), ("kinesis:GetShardIterator",), ("kinesis:ListShards",),
        ("kinesis:DescribeStream", "kinesis:DescribeStreamSummary"),
    ),
    "dynamodb": (
        ("dynamodb:GetRecords",), ("dynamodb:GetShardIterator",), ("dynamodb:DescribeStream",),
    ),
    "sqs": (("sqs:ReceiveMessage",), ("sqs:DeleteMessage",), ("sqs:GetQueueAttributes",)),
}  # fmt: skip
"""The actions that a mapping needs on its source: one of each group. AWS's refusal also names
ListStreams, but roles made by frameworks lack it (Serverless Framework, serverless/serverless), and
it can't be limited to a DynamoDB resource."""
CANNOT_ACCESS = (
    "Cannot access stream {arn}. Please ensure the role can perform the GetRecords, "
    "GetShardIterator, DescribeStream, ListShards, and ListStreams Actions on your stream in IAM."
)
CANNOT_CALL = "The function execution role does not have permissions to call {call} on SQS"
INVALID, BAD_REQUEST = "InvalidParameterValueException", 400
MAPPING = "AWS::Lambda::EventSourceMapping"
DENIED = "States.Permissions"
"""See https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html."""
INVOKE = "lambda:InvokeFunction"

Document = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]
Allows = Callable[[str, str, str], bool]
"""Return whether a role is allowed an action: the role's ARN, the action, the resource."""


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    evaluator = modules.core("iam_evaluator")
    name_as_aws(modules.core("iam_actions"))

    def allows(role: str, action: str, resource: str) -> bool:
        return role_allows(evaluator, role, action, resource)

    enforce_machine_roles(modules.service("stepfunctions"), allows)
    enforce_mapping_roles(
        modules.service("lambda_svc"), modules.service("cloudformation.provisioners"), allows
    )


def role_allows(evaluator: Any, role: str, action: str, resource: str) -> bool:
    """Return whether a role's policies allow an action, by `ministack.core.iam_evaluator`."""
    account = role.split(":")[4]
    asked = evaluator.EvalContext(role, "AssumedRole", account, action, resource, "")
    policies = evaluator._gather_role_policies(role.rpartition("/")[2], account)
    return bool(evaluator.evaluate(asked, policies).decision == "Allow")


def name_as_aws(iam_actions: Any) -> None:
    """Make `ministack.core.iam_actions` check actions by AWS's names."""
    action_of, items = iam_actions.extract_iam_action, iam_actions.dynamodb_transaction_checks
    s3_checks = iam_actions.s3_additional_checks
    iam_actions._BOTOCORE_SERVICE_MAP["lambda"] = ["lambda"]

    def renamed_action(*request: Any) -> str | None:
        action: str | None = action_of(*request)
        return ALLOWED_AS.get(action, action) if action else None

    def lambda_operation(method: str, path: str) -> str | None:
        found: str | None = iam_actions._match_rest_action("lambda", method, path, {})
        return found

    def item_checks(action: str, body: bytes, region: str, account: str) -> list[tuple[str, str]]:
        if action not in STATEMENTS:
            transacted: list[tuple[str, str]] = items(action, body, region, account)
            return transacted
        return [
            (needed, iam_actions._dynamodb_table_arn(table, region, account) + index)
            for needed, table, index in statement_checks(action, body)
        ]

    def checks_of_s3(method: str, path: str, headers: Any, *request: Any) -> list[tuple[str, str]]:
        checks: list[tuple[str, str]] = s3_checks(method, path, headers, *request)
        action = f"s3:{iam_actions._s3_action(method, path, request[-1])}"
        if headers.get(CONDITIONAL.get(action, "")):
            checks.append(("s3:GetObject", f"arn:aws:s3:::{path.lstrip('/')}"))
        return checks

    iam_actions.extract_iam_action = renamed_action
    iam_actions._lambda_action = lambda_operation
    iam_actions.dynamodb_transaction_checks = item_checks
    iam_actions.s3_additional_checks = checks_of_s3


def statement_checks(action: str, body: bytes) -> list[tuple[str, str, str]]:
    """Return what each statement of a request needs: (action, table, `/index/…` or empty)."""
    try:
        request, member = json.loads(body or b"{}"), STATEMENTS[action]
        statements = request[member] if member else [request]
        found = [STATEMENT.match(each["Statement"]) for each in statements]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
    return [checked_statement(match) for match in found if match]


def checked_statement(match: "re.Match[str]") -> tuple[str, str, str]:
    """Return what a statement needs: (action, table, `/index/…` or empty)."""
    verbs = {"verb": "Insert", "update": "Update", "delete": "Delete", "select": "Select"}
    verb = next(name for group, name in verbs.items() if match[group])
    table, index = (match[place] or match[place + 1] for place in (5, 7))
    return f"dynamodb:PartiQL{verb}", table, f"/index/{index}" if index else ""


def enforce_machine_roles(step_functions: Any, allows: Allows) -> None:
    """Make the emulator's state machines need their roles' permissions for tasks and maps."""
    running = threading.local()  # .execution: the execution whose task runs in this thread
    execute_task, run_map = step_functions._execute_task, step_functions._run_distributed_map

    def check(execution: Document | None, action: str, resource: str) -> None:
        machine_arn = execution["stateMachineArn"].partition("/")[0] if execution else ""
        machine = step_functions._state_machines.get(machine_arn)
        if machine is not None and not allows(machine["roleArn"], action, resource):
            message = f"{machine['roleArn']} is not authorized to perform: {action} on {resource}"
            raise step_functions._ExecutionError(DENIED, message)

    def noting_task(state: Any, given: Any, execution: Any, ctx: Any) -> Any:
        running.execution = execution
        return execute_task(state, given, execution, ctx)

    def checked_map(
        state: Any, raw: Any, effective: Any, iterator: Any, execution: Any, ctx: Any
    ) -> Any:
        machine_arn = execution["stateMachineArn"].partition("/")[0]
        check(execution, "states:StartExecution", machine_arn)
        return run_map(state, raw, effective, iterator, execution, ctx)

    def checking(invoke: Callable[..., Any]) -> Callable[..., Any]:
        def invoke_allowed(resource: str, given: Any, *rest: Any) -> Any:
            function = function_of(resource, given)
            if function:
                check(getattr(running, "execution", None), INVOKE, function)
            return invoke(resource, given, *rest)

        return invoke_allowed

    step_functions._execute_task = noting_task
    step_functions._run_distributed_map = checked_map
    for name in ("_invoke_resource", "_invoke_resource_with_timeout", "_invoke_with_callback"):
        setattr(step_functions, name, checking(getattr(step_functions, name)))


def function_of(resource: str, given: Any) -> str:
    """Return the ARN of the function that a task invokes; empty if there is none."""
    if resource.startswith("arn:aws:lambda:"):
        return resource
    if ":states:::lambda:invoke" in resource and isinstance(given, dict):
        named = str(given.get("FunctionName", ""))
        return named if named.startswith("arn:") else ""
    return ""


def enforce_mapping_roles(lambda_svc: Any, provisioners: Any, allows: Allows) -> None:
    """Make a mapping need the permissions of its function's role, by API and CloudFormation."""
    create = lambda_svc._create_esm
    handlers = provisioners._RESOURCE_HANDLERS[MAPPING]
    create_resource = handlers["create"]

    def refusal(data: Document) -> str:
        name, qualifier, error = lambda_svc._resolve_existing_esm_function(
            data.get("FunctionName", "")
        )
        if error:
            return ""  # the emulator itself refuses it
        function, config = lambda_svc._get_func_record_for_qualifier(name, qualifier)
        role = (config or (function or {}).get("config") or {}).get("Role", "")
        return cannot_read(allows, role, str(data.get("EventSourceArn", ""))) if role else ""

    def create_allowed(data: Document) -> Response:
        refused = refusal(data)
        if refused:
            answer: Response = lambda_svc.error_response_json(
                INVALID, refused, BAD_REQUEST, {"Type": "User"}
            )
            return answer
        created: Response = create(data)
        return created

    def create_allowed_resource(logical_id: str, properties: Document, stack: str) -> Any:
        refused = refusal(properties)
        if refused:
            raise ValueError(f"{INVALID}: {refused}")
        return create_resource(logical_id, properties, stack)

    lambda_svc._create_esm = create_allowed
    handlers["create"] = provisioners._lambda_esm_create = create_allowed_resource


def cannot_read(allows: Allows, role: str, source: str) -> str:
    """Return Lambda's refusal of a role that can't read a mapping's source; empty if it can."""
    parts = source.split(":")
    service = parts[2] if len(parts) > 2 else ""
    for actions in READING.get(service, ()):
        if not any(allows(role, action, source) for action in actions):
            if service == "sqs":
                return CANNOT_CALL.format(call=actions[0].partition(":")[2])
            return CANNOT_ACCESS.format(arn=source)
    return ""
