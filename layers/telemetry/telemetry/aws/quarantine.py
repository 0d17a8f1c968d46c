"""The quarantine: where records that no retry makes valid wait for a person."""

import base64
import json
import uuid
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.observe import log
from telemetry.aws.queue import BYTES_A_CALL, Queue
from telemetry.aws.stream import Record
from telemetry.domain.reading import shown
from telemetry.errors import Rejected


class Quarantine:
    """Messages with a record's reason, where it came from, and its original bytes."""

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
            "value": shown(rejected.value),
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
