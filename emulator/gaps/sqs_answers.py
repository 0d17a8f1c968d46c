"""Closes a gap of the embedded AWS: the answer to a batch without failures has no list of failures.

AWS answers SendMessageBatch like that in SQS's JSON protocol (recorded). The emulator (1.5.33)
returns an empty list, so a program that fails on AWS would work.
"""

from typing import Any

Document = dict[str, Any]


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    leave_out_no_failures(modules.service("sqs"))


def leave_out_no_failures(sqs: Any) -> None:
    """Make `ministack.services.sqs` omit an empty `Failed` from its JSON answers."""
    own_answer = sqs._json_ok

    def answer(found: Document, status: int = 200) -> Any:
        present = {name: value for name, value in found.items() if name != "Failed" or value}
        return own_answer(present, status)

    sqs._json_ok = answer
