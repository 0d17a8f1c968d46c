"""Lambda's asynchronous invocations: events that wait, come late or twice, and are given up.

Waits and attempts are those of AWS's guide; attempts and destination are the template's:
https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html
Lambda never says that it gives up sending to a destination that is away, so here it doesn't.
"""

import asyncio
import functools
import json
from typing import Any, NamedTuple

from emulator.mappings.model import Answer
from emulator.mappings.ports import NotInvoked
from tests.simulation.functions import Lambda
from tests.simulation.services import Services
from tests.template import everywhere

Json = dict[str, Any]
RETRY_SECONDS = 60.0
"""The pause before the first retry; the second pause is twice as long."""
THROTTLED_SECONDS = (1.0, 300.0)
LATE_SECONDS = (1.0, 60.0)
AGAIN_SECONDS = 1.0
QUEUES = {"OverflowQueue.Arn": "overflow"}


class Asynchronous(NamedTuple):
    """A function's EventInvokeConfig: attempts after the first, and where failures go."""

    retries: int
    destination: str | None


@functools.cache
def asynchronous(function: str) -> Asynchronous:
    """Return the template's settings of a function's asynchronous invocations."""
    functions = everywhere("AWS::Serverless::Function")
    config = functions[f"{function.title()}Function"].get("EventInvokeConfig", {})
    on_failure = config.get("DestinationConfig", {}).get("OnFailure")
    destination = QUEUES[on_failure["Destination"]] if on_failure else None
    return Asynchronous(config.get("MaximumRetryAttempts", 2), destination)


class Events:
    """The queue of asynchronous events of one region."""

    def __init__(self, services: Services, functions: Lambda) -> None:
        self._services = services
        self._conditions = services.conditions
        self._functions = functions
        self.waiting = 0
        """Events that haven't come to their end."""

    def accept(self, function: str, event: Json) -> None:
        """Queue an event, for the function to run later."""
        self.waiting += 1
        self._conditions.begin(self._deliver(function, event))
        if self._conditions.happens("event_twice"):
            self.waiting += 1
            self._conditions.begin(self._deliver(function, event))

    async def _deliver(self, function: str, event: Json) -> None:
        try:
            if self._conditions.happens("event_late"):
                await asyncio.sleep(self._conditions.chance.uniform(*LATE_SECONDS))
            retries, destination = asynchronous(function)
            answer = await self._attempt(function, event)
            for attempt in range(1, retries + 1):
                if answer is None or answer.function_error is None:
                    return
                await asyncio.sleep(RETRY_SECONDS * attempt)
                answer = await self._attempt(function, event)
            if answer is not None and answer.function_error is not None and destination:
                self._conditions.hits["event given up"] += 1
                await self._tell(destination, record(function, event, answer, retries + 1))
        finally:
            self.waiting -= 1

    async def _attempt(self, function: str, event: Json) -> Answer | None:
        """Run the function, after any number of throttles; None once the region is lost."""
        wait_seconds, most = THROTTLED_SECONDS
        while not self._services.is_lost:
            if self._conditions.happens("event_fails"):
                return Answer({"errorType": "Runtime.InitError"}, "Unhandled", "request-0")
            try:
                return await self._functions.invoke(function, event)
            except NotInvoked:
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(wait_seconds * 2, most)
        return None

    async def _tell(self, destination: str, document: Json) -> None:
        conditions, services = self._conditions, self._services
        conditions.history.note(services.name, "an event is given up, to", destination)
        while conditions.is_out("sqs", services.name) or conditions.happens("send_fails"):
            await asyncio.sleep(AGAIN_SECONDS)
        if not services.is_lost:
            services.queues[destination].send(json.dumps(document))


def record(function: str, event: Json, answer: Answer, attempts: int) -> Json:
    """Return the record that a destination gets about an event that was given up.

    https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    """
    return {
        "version": "1.0",
        "timestamp": "2026-11-21T01:30:00.000Z",
        "requestContext": {
            "requestId": answer.request_id,
            "functionArn": f"arn:aws:lambda:eu-west-1:123456789012:function:{function}:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": attempts,
        },
        "requestPayload": event,
        "responseContext": {
            "statusCode": 200,
            "executedVersion": "$LATEST",
            "functionError": answer.function_error,
        },
        "responsePayload": answer.payload,
    }
