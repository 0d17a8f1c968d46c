"""Closes a gap of the embedded AWS: a function's dead letter queue gets the event itself.

On AWS an event whose asynchronous invocations have all failed goes unchanged to the function's dead
letter queue or topic; message attributes describe the error
(https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html). The emulator
(1.5.33) sends a failure destination's document instead, which contains the event.
"""

import json
from typing import Any

Document = dict[str, Any]
ERROR_CHARACTERS_MAX = 1024
OK, THROTTLED = 200, 429
"""Status codes of invocations; a function that ran and failed has OK."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    lambda_svc = modules.service("lambda_svc")
    tell_request_ids(lambda_svc)
    send_events_themselves(lambda_svc, modules.service("sqs"), modules.service("sns"))


def tell_request_ids(lambda_svc: Any) -> None:
    """Add the request id to an invocation's result in `ministack.services.lambda_svc`."""
    own_dispatch = lambda_svc._execute_function_dispatch

    def dispatch(
        function: Document, config: Document, event: Any, request_id: str, started: float
    ) -> Document:
        result: Document = own_dispatch(function, config, event, request_id, started)
        return result | {"request_id": request_id}

    lambda_svc._execute_function_dispatch = dispatch


def send_events_themselves(lambda_svc: Any, sqs: Any, sns: Any) -> None:
    """Make `ministack.services.lambda_svc` send the event to the dead letter queue or topic."""
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
    """Return the message attributes that describe the last invocation's error."""
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
