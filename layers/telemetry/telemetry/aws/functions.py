"""The pipeline's functions, invoked as their event source mappings would."""

import json
from typing import Any, Literal, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

Outcome = Literal["done", "later", "never"]
# Errors that say nothing of the records: the function asks for a retry, or can't even start.
# https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html
NOT_THEIRS = {
    "Unavailable",
    "SettingMissing",
    "Runtime.ImportModuleError",
    "Runtime.HandlerNotFound",
    "Runtime.UserCodeSyntaxError",
}


class Verdict(NamedTuple):
    """What an answer says of the records that were sent.

    `done`: all are processed. `later`: a retry can mend it. `never`: the function can't take them.
    """

    outcome: Outcome
    why: str = ""


def judge(error: str | None, payload: bytes) -> Verdict:
    """The verdict on an answer: `error` is its FunctionError, `payload` what the function gave.

    What the function itself calls Unavailable comes back, and so does what a partial response
    names; a function that can't start, or an answer that isn't one, says nothing of the records.
    Every other error is theirs.
    """
    try:
        answer = json.loads(payload or b"null")
    except ValueError:
        answer = payload.decode("utf-8", "replace")
    told = answer if isinstance(answer, dict) else {}
    if error:
        kind = told.get("errorType") or error
        why = f"{kind}: {told.get('errorMessage', '')}"
        return Verdict("later" if kind in NOT_THEIRS else "never", why)
    if answer is not None and not isinstance(answer, dict):
        return Verdict("later", f"the answer is no batch response: {str(answer)[:100]}")
    if told.get("batchItemFailures"):
        return Verdict("later", "the function asks for it again")
    return Verdict("done")


class Functions:
    """Invokes functions of one pipeline: `stage` is a function's name there."""

    def __init__(self, aws_lambda: Any, pipeline: str) -> None:
        self._lambda = aws_lambda
        self._pipeline = pipeline

    def invoke(self, stage: str, event: str) -> Verdict:
        """Send an event, as JSON, and wait for what becomes of its records."""
        name = f"{self._pipeline}-{stage}"
        try:
            answer = self._lambda.invoke(FunctionName=name, Payload=event.encode())
            return judge(answer.get("FunctionError"), answer["Payload"].read())
        except (ClientError, BotoCoreError) as error:  # throttled, gone, out of reach
            return Verdict("later", str(error))
