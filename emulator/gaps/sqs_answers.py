"""A gap of the embedded AWS, closed: a batch in which nothing failed has no list of failures.

So AWS answers SendMessageBatch (recorded), in SQS's JSON protocol. The emulator (1.5.33) has an
empty list there, which lets a program work that won't on AWS.
"""

from typing import Any

Document = dict[str, Any]


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    leave_out_no_failures(modules.service("sqs"))


def leave_out_no_failures(sqs: Any) -> None:
    """Make `ministack.services.sqs` leave an empty `Failed` out of its answers in JSON."""
    own_answer = sqs._json_ok

    def answer(found: Document, status: int = 200) -> Any:
        shown = {name: value for name, value in found.items() if name != "Failed" or value}
        return own_answer(shown, status)

    sqs._json_ok = answer
