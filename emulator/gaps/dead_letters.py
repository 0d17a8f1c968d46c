"""A gap of the embedded AWS, closed: a function's dead letter queue gets the event itself.

On AWS an event whose asynchronous invocations have all failed goes to the function's dead letter
queue, or topic, as it came; message attributes say what was wrong
(https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html). The emulator
(1.5.33) sends what a destination for failures gets: a document with the event in it.
"""

import json
from typing import Any

Document = dict[str, Any]
ERROR_CHARACTERS_MAX = 1024
OK, THROTTLED = 200, 429
"""What an invocation answered: a function that failed has run."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    lambda_svc = modules.service("lambda_svc")
    tell_request_ids(lambda_svc)
    send_events_themselves(lambda_svc, modules.service("sqs"), modules.service("sns"))


def tell_request_ids(lambda_svc: Any) -> None:
    """Make the result of an invocation in `ministack.services.lambda_svc` have its request id."""
    own_dispatch = lambda_svc._execute_function_dispatch

    def dispatch(
        function: Document, config: Document, event: Any, request_id: str, started: float
    ) -> Document:
        result: Document = own_dispatch(function, config, event, request_id, started)
        return result | {"request_id": request_id}

    lambda_svc._execute_function_dispatch = dispatch


def send_events_themselves(lambda_svc: Any, sqs: Any, sns: Any) -> None:
    """Make the same module send to a function's dead letter queue or topic what AWS does."""
    own_route = lambda_svc._route_async_failure

    def route(target_arn: str, name: str, event: Any, result: Document) -> None:
        function = lambda_svc._functions.get(name) or {"config": {}}
        dead_letters = function["config"].get("DeadLetterConfig") or {}
        if target_arn != dead_letters.get("TargetArn"):
            own_route(target_arn, name, event, result)
            return
        queue = sqs._queue_by_arn(target_arn)
        known = {"request_id": lambda_svc.new_uuid()} | result
        message, attributes = json.dumps(event), attributes_of(known)
        if queue is None:
            id_ = lambda_svc.new_uuid()
            sns._fanout(target_arn, id_, message, "", message_attributes=attributes)
            return
        request = {"MessageBody": message, "MessageAttributes": attributes}
        sqs._act_send_message(request, queue["url"])

    lambda_svc._route_async_failure = route


def attributes_of(result: Document) -> Document:
    """Return the attributes that tell what was wrong with the last invocation."""
    body = result.get("body")
    error = body.get("errorMessage") or body.get("message") if isinstance(body, dict) else body
    texts = {
        "RequestID": ("String", result["request_id"]),
        "ErrorCode": ("Number", THROTTLED if result.get("throttle") else OK),
        "ErrorMessage": ("String", str(error or "")[:ERROR_CHARACTERS_MAX]),
    }
    return {
        name: {"DataType": kind, "StringValue": str(value)} for name, (kind, value) in texts.items()
    }
