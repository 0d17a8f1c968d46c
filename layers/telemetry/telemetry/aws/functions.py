"""The pipeline's functions, invoked as their event source mappings would."""

import json
from typing import Any, Literal, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

Outcome = Literal["done", "later", "never"]
# Errors that don't depend on the records: the function asks for a retry, or can't even start.
# https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
NOT_THEIRS = {
    "Unavailable",
    "SettingMissing",
    "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound",
    "Runtime.UserCodeSyntaxError",
}


class Verdict(NamedTuple):
    """The outcome for the records that were sent.

    `done`: all are processed. `later`: a retry may succeed. `never`: the function can't take them.
    """

    outcome: Outcome
    why: str = ""


def judge(error: str | None, payload: bytes) -> Verdict:
    """Return the verdict on an answer: `error` is its FunctionError, `payload` its content.

    The records come back if the function raises Unavailable or names them in a partial response.
    They also come back if it can't start, or if its answer isn't a batch response, because that
    doesn't depend on the records. Every other error is caused by the records.
    """
    try:
        answer = json.loads(payload or b"null")
    except ValueError:
        answer = payload.decode("utf-8", "replace")
    document = answer if isinstance(answer, dict) else {}
    if error:
        kind = document.get("errorType") or error
        why = f"{kind}: {document.get('errorMessage', '')}"
        return Verdict("later" if kind in NOT_THEIRS else "never", why)
    if answer is not None and not isinstance(answer, dict):
        return Verdict("later", f"the answer is no batch response: {str(answer)[:100]}")
    if document.get("batchItemFailures"):
        return Verdict("later", "the function asks for it again")
    return Verdict("done")


class Functions:
    """Invokes functions of one pipeline, by their stage."""

    def __init__(self, aws_lambda: Any, pipeline: str) -> None:
        self._lambda = aws_lambda
        self._pipeline = pipeline

    def invoke(self, stage: str, event: str) -> Verdict:
        """Send an event, as JSON, and return the verdict on its records."""
        name = f"{self._pipeline}-{stage}"
        try:
            answer = self._lambda.invoke(FunctionName=name, Payload=event.encode())
            return judge(answer.get("FunctionError"), answer["Payload"].read())
        except (ClientError, BotoCoreError) as error:  # throttled, gone, out of reach
            return Verdict("later", str(error))
