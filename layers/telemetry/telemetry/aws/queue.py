"""SQS queues."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.chunks import chunks
from telemetry.aws.observe import log
from telemetry.errors import Unavailable

# SendMessageBatch's limits: 10 messages, and 1 MiB in all since August 2025. A quarter of that also
# fits accounts and emulators that still have the old limit.
MESSAGES_A_CALL = 10
BYTES_A_CALL = 250_000
ATTEMPTS = 3
WAIT_SECONDS = 1  # a receive that waits asks all of SQS's servers; without a wait, only some


class Message(NamedTuple):
    """A received message; `receipt` is the handle that deletes it."""

    body: str
    receipt: str


class Queue:
    """Sends messages in batches; receives, deletes and gives them back."""

    def __init__(self, sqs: Any, url: str) -> None:
        self._sqs = sqs
        self._url = url

    def send(self, bodies: Sequence[str]) -> set[int]:
        """Send all, each at most BYTES_A_CALL long; return the indexes of the failed ones."""
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

    def receive(self) -> list[Message]:
        """Return up to 10 messages; raise Unavailable."""
        try:
            answer = self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=MESSAGES_A_CALL,
                WaitTimeSeconds=WAIT_SECONDS,
            )
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"nothing can be received: {error}") from error
        return [Message(each["Body"], each["ReceiptHandle"]) for each in answer.get("Messages", [])]

    def delete(self, message: Message) -> None:
        """Delete a processed message; if that fails, the message comes back."""
        try:
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message.receipt)
        except (ClientError, BotoCoreError) as error:
            log.warning("message not deleted", extra={"queue": self._url, "why": str(error)})

    def give_back(self, message: Message) -> None:
        """Make a message visible again now, instead of after its visibility timeout."""
        try:
            self._sqs.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=message.receipt, VisibilityTimeout=0
            )
        except (ClientError, BotoCoreError) as error:
            log.warning("message not given back", extra={"queue": self._url, "why": str(error)})
