"""SQS queues."""

from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.chunks import chunks
from telemetry.aws.observe import log

# SendMessageBatch's limits: 10 messages, and 1 MiB in all since August 2025; a quarter of that
# also fits accounts and emulators that have the limit of before.
MESSAGES_A_CALL = 10
BYTES_A_CALL = 250_000
ATTEMPTS = 3


class Queue:
    """Sends messages in batches."""

    def __init__(self, sqs: Any, url: str) -> None:
        self._sqs = sqs
        self._url = url

    def send(self, bodies: Sequence[str]) -> set[int]:
        """Send all, each at most BYTES_A_CALL long; the indexes of those that weren't taken."""
        left = set(range(len(bodies)))

        def size_of(index: int) -> int:
            return len(bodies[index].encode())

        for _ in range(ATTEMPTS):
            for chunk in chunks(sorted(left), size_of, MESSAGES_A_CALL, BYTES_A_CALL):
                left -= self._attempt(bodies, chunk)
            if not left:
                break
        return left

    def _attempt(self, bodies: Sequence[str], chunk: list[int]) -> set[int]:
        entries = [{"Id": str(index), "MessageBody": bodies[index]} for index in chunk]
        try:
            answer = self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries)
        except (ClientError, BotoCoreError) as error:
            log.warning("queue unavailable", extra={"queue": self._url, "why": str(error)})
            return set()
        for entry in answer.get("Failed", []):
            log.warning("message not taken", extra={"queue": self._url, "why": entry["Code"]})
        return {int(entry["Id"]) for entry in answer.get("Successful", [])}
