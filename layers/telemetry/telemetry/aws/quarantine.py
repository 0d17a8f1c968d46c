"""The quarantine: where records that no retry makes valid wait for a person.

An object under `quarantine/` in the failures bucket has JSON lines, a record each. Its key is made
from its content, so putting the same again changes nothing. Operators list, show, release and drop
what is there (`ops/quarantine.py`).
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.observe import log
from telemetry.aws.stream import Record
from telemetry.domain.reading import shown
from telemetry.errors import Rejected

PREFIX = "quarantine/"


class Held(NamedTuple):
    """One record in quarantine; what its source doesn't know is None."""

    name: str  # the record's eventID, by which operators call it
    function: str  # the stage that couldn't take it
    source: str  # where it came from, and goes again when it is released
    reason: str
    field: str | None
    value: Any
    shard_id: str | None
    sequence_number: str | None
    partition_key: str | None
    arrived_at_ms: int | None
    data: bytes  # as they came
    is_partly: bool = False  # its valid metrics are stored: only what was refused waits


class Quarantine:
    """Puts records in quarantine."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3 = s3
        self._bucket = bucket

    def put(
        self,
        rejected: Sequence[tuple[Record, Rejected]],
        partly: Sequence[tuple[Record, Rejected]] = (),
    ) -> list[Record]:
        """Quarantine stream records that `aggregate` can't take; returns those that couldn't be.

        `partly` are readings of which it can't take some metrics.
        """
        held = [of_stream(record, "aggregate", error) for record, error in rejected]
        held += [of_stream(record, "aggregate", error, is_partly=True) for record, error in partly]
        return [] if self.keep(held) else [record for record, _ in (*rejected, *partly)]

    def keep(self, held: Sequence[Held]) -> bool:
        """Whether all are in quarantine now, in one object; else none is."""
        if not held:
            return True
        body = b"".join(_line(each) for each in held)
        try:
            self._s3.put_object(Bucket=self._bucket, Key=_key(held[0], body), Body=body)
        except (ClientError, BotoCoreError) as error:
            log.warning("quarantine unavailable", extra={"why": str(error)})
            return False
        return True


def of_stream(record: Record, function: str, rejected: Rejected, is_partly: bool = False) -> Held:
    """What is held of a stream's record."""
    stored = " (its other metrics are stored)" if is_partly else ""
    return Held(
        f"{record.shard_id}:{record.sequence_number}",
        function,
        "kinesis",
        rejected.reason + stored,
        rejected.field,
        shown(rejected.value),
        record.shard_id,
        record.sequence_number,
        record.partition_key,
        record.arrived_at_ms,
        record.data,
        is_partly,
    )


def of_change(record: dict[str, Any], function: str, rejected: Rejected) -> Held:
    """What is held of a record of a table's stream; raises what reading one that is none raises."""
    change = record["dynamodb"]
    return Held(
        record["eventID"],
        function,
        "dynamodb",
        rejected.reason,
        rejected.field,
        shown(rejected.value),
        None,
        change["SequenceNumber"],
        None,
        int(change.get("ApproximateCreationDateTime", 0) * 1000) or None,
        json.dumps(record).encode(),
    )


def _line(held: Held) -> bytes:
    document = {**held._asdict(), "data": base64.b64encode(held.data).decode()}
    return json.dumps(document).encode() + b"\n"


def _key(first: Held, body: bytes) -> str:
    """`quarantine/<shard>/<first sequence number>-<hash>.jsonl`."""
    digest = hashlib.sha256(body).hexdigest()[:16]
    return f"{PREFIX}{first.name.replace(':', '/')}-{digest}.jsonl"
