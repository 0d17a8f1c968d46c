"""SQS queues: notices, overflow, quarantine."""

import base64
import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.observe import log
from telemetry.aws.stream import Record
from telemetry.domain import reading as readings_of
from telemetry.domain.reading import Reading
from telemetry.errors import Rejected

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
        for _ in range(ATTEMPTS):
            for chunk in _chunks(bodies, sorted(left)):
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


def _chunks(bodies: Sequence[str], indexes: Iterable[int]) -> Iterable[list[int]]:
    chunk: list[int] = []
    size = 0
    for index in indexes:
        body_size = len(bodies[index].encode())
        if chunk and (len(chunk) == MESSAGES_A_CALL or size + body_size > BYTES_A_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += body_size
    if chunk:
        yield chunk


class Overflow:
    """Where accepted readings wait while the stream doesn't take them: many a message."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put(self, readings: Sequence[Reading]) -> list[Reading]:
        """Queue all; returns those that couldn't be."""
        groups = list(_grouped(readings))
        failed = self._queue.send([body for _, body in groups])
        return [reading for index in sorted(failed) for reading in groups[index][0]]


def _grouped(readings: Sequence[Reading]) -> Iterable[tuple[list[Reading], str]]:
    """Readings with the message that holds them: canonical JSON, one a line."""
    group: list[Reading] = []
    lines: list[str] = []
    size = 0
    for reading in readings:
        line = readings_of.encode(reading).decode()
        if group and size + len(line) > BYTES_A_CALL - len(lines):
            yield group, "\n".join(lines)
            group, lines, size = [], [], 0
        group.append(reading)
        lines.append(line)
        size += len(line)
    if group:
        yield group, "\n".join(lines)


def overflowed(body: str) -> list[Reading]:
    """The readings in an overflow message."""
    return [readings_of.decode(line.encode()) for line in body.split("\n")]


class Quarantine:
    """Where records that no retry makes valid wait for a person, with their reason and bytes."""

    def __init__(self, queue: Queue, s3: Any, bucket: str) -> None:
        self._queue = queue
        self._s3 = s3
        self._bucket = bucket

    def put(self, rejected: Sequence[tuple[Record, Rejected]]) -> list[Record]:
        """Quarantine all; returns those that couldn't be."""
        bodies, waiting, failed = [], [], []
        for record, reason in rejected:
            try:
                bodies.append(self._message(record, reason))
                waiting.append(record)
            except (ClientError, BotoCoreError) as error:
                log.warning("bucket unavailable", extra={"why": str(error)})
                failed.append(record)
        return failed + [waiting[index] for index in sorted(self._queue.send(bodies))]

    def _message(self, record: Record, rejected: Rejected) -> str:
        """What happened and the bytes; bytes too long for a message go to the failures bucket."""
        message = {
            "reason": rejected.reason,
            "field": rejected.field,
            "value": readings_of.shown(rejected.value),
            "shard_id": record.shard_id,
            "sequence_number": record.sequence_number,
            "partition_key": record.partition_key,
            "arrived_at_ms": record.arrived_at_ms,
        }
        body = json.dumps({**message, "data": base64.b64encode(record.data).decode()})
        if len(body) <= BYTES_A_CALL:
            return body
        key = f"quarantine/{record.shard_id}/{record.sequence_number}-{uuid.uuid4()}"
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=record.data)
        return json.dumps({**message, "data_bucket": self._bucket, "data_key": key})
