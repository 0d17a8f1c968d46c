"""The quarantine: where records that no retry makes valid wait for a person.

An object under `quarantine/` in the failures bucket has JSON lines, a record each. Operators list,
show, release and drop what is there (`ops/quarantine.py`).

A key begins with the device and the hour, so one device's records, however many, are together and
hide no other's: `quarantine/pump-17/2026-11-21T01/aggregate-<hash>.jsonl`. The rest of it is made
from the object's content, so putting the same again changes nothing. Nothing is dropped: who sends
much that is wrong gets larger objects, not more of them (`Appender`).
"""

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.observe import log
from telemetry.aws.stream import Record
from telemetry.domain.reading import shown
from telemetry.domain.times import to_iso
from telemetry.domain.token import SUBJECT
from telemetry.errors import Rejected

PREFIX = "quarantine/"
# In the place of a device: no device's records, and those of several. No id has a ~.
UNNAMED, SEVERAL = "~unnamed", "~several"
DEVICES_A_BATCH = 8  # that get an object of their own; the others of a batch share one
APPENDED_BYTES = 64_000  # of an object that grows; each line more writes all of it again
APPENDED_OBJECTS = 50  # that an execution environment has at hand
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}


def _random() -> str:
    return uuid4().hex[:16]


class QuarantineEntry(NamedTuple):
    """One record in quarantine; what its source doesn't know is None."""

    name: str  # the record's eventID, or made from its content
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
    device_id: Any = None  # whose it is, as far as it says
    released: str | None = None  # by which release it came again


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
        entries = [entry_of_record(record, "aggregate", error) for record, error in rejected]
        entries += [
            entry_of_record(record, "aggregate", error, is_partly=True) for record, error in partly
        ]
        return [] if self.keep(entries) else [record for record, _ in (*rejected, *partly)]

    def keep(self, entries: Sequence[QuarantineEntry]) -> bool:
        """Whether all are in quarantine now, in an object for each device and hour.

        Where a batch has records of many devices, those of which it has few share one.
        """
        try:
            for folder, group in _by_folder(entries):
                body = b"".join(map(_line, group))
                digest = hashlib.sha256(body).hexdigest()[:16]
                key = f"{PREFIX}{folder}{group[0].function}-{digest}.jsonl"
                self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)
        except (ClientError, BotoCoreError) as error:
            log.warning("quarantine unavailable", extra={"why": str(error)})
            return False
        return True


class Grown(NamedTuple):
    """An object that grows: as this environment has written it last."""

    key: str
    etag: str
    body: bytes


class Appender:
    """Puts single records in quarantine, many of a device and hour into one object.

    An environment appends to objects of its own only. Where an operator has changed one meanwhile,
    or taken it away, it begins another, so what was taken out stays out.
    """

    def __init__(self, s3: Any, bucket: str, new_name: Callable[[], str] = _random) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._new_name = new_name
        self._grown: OrderedDict[str, Grown] = OrderedDict()

    def keep(self, entries: Sequence[QuarantineEntry]) -> bool:
        """Whether all are in quarantine now."""
        try:
            for folder, group in _by_folder(entries):
                self._append(folder, group)
        except (ClientError, BotoCoreError) as error:
            log.warning("quarantine unavailable", extra={"why": str(error)})
            return False
        return True

    def _append(self, folder: str, entries: Sequence[QuarantineEntry]) -> None:
        lines = [_line(each) for each in entries]
        grown = self._grown.pop(folder, None)
        if grown and self._grow(folder, grown, lines):
            return
        body = b"".join(lines)
        key = f"{PREFIX}{folder}{entries[0].function}-{self._new_name()}.jsonl"
        answer = self._s3.put_object(Bucket=self._bucket, Key=key, Body=body)
        self._remember(folder, Grown(key, answer["ETag"], body))

    def _grow(self, folder: str, grown: Grown, lines: Sequence[bytes]) -> bool:
        """Whether the lines are in the object now; it may be full, or another by now."""
        # what is delivered again is there already
        body = grown.body + b"".join(line for line in lines if line not in grown.body)
        if len(body) > APPENDED_BYTES:
            return False
        try:
            answer = self._s3.put_object(
                Bucket=self._bucket, Key=grown.key, Body=body, IfMatch=grown.etag
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in CHANGED:
                return False
            raise
        self._remember(folder, Grown(grown.key, answer["ETag"], body))
        return True

    def _remember(self, folder: str, grown: Grown) -> None:
        self._grown[folder] = grown
        while len(self._grown) > APPENDED_OBJECTS:
            self._grown.popitem(last=False)


def _by_folder(entries: Sequence[QuarantineEntry]) -> list[tuple[str, list[QuarantineEntry]]]:
    """The records of each device and hour; those of all but a few devices are together."""
    folders: dict[str, list[QuarantineEntry]] = {}
    for each in entries:
        folders.setdefault(_folder(each, _device(each)), []).append(each)
    most = sorted(folders, key=lambda name: -len(folders[name]))
    groups = [(name, folders[name]) for name in most[:DEVICES_A_BATCH]]
    rest = [each for name in most[DEVICES_A_BATCH:] for each in folders[name]]
    return [*groups, (_folder(rest[0], SEVERAL), rest)] if rest else groups


def entry_of_record(
    record: Record, function: str, rejected: Rejected, is_partly: bool = False
) -> QuarantineEntry:
    """Return the quarantine entry of a stream record."""
    stored = " (its other metrics are stored)" if is_partly else ""
    return QuarantineEntry(
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
        device_id=device_in(record.data) or record.partition_key.partition("/")[0],
    )


def entry_of_change(record: dict[str, Any], function: str, rejected: Rejected) -> QuarantineEntry:
    """Return the entry of a table stream's record; raise LookupError for a malformed record."""
    change = record["dynamodb"]
    return QuarantineEntry(
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
        device_id=change.get("Keys", change.get("NewImage", {})).get("device_id", {}).get("S"),
        released=record.get("released"),
    )


def device_in(data: bytes) -> Any:
    """Whose a record is by its own word, whatever else is wrong with it; None where it says none.

    Only a text names a device; what is too long to be one isn't looked into.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    named = document.get("device_id") if isinstance(document, dict) else None
    return shown(named) if isinstance(named, str) else None


def _device(entry: QuarantineEntry) -> str:
    """The device's part of a key."""
    named = entry.device_id
    return named if isinstance(named, str) and SUBJECT.fullmatch(named) else UNNAMED


def _folder(entry: QuarantineEntry, device: str) -> str:
    """`<device>/<hour>/` of a key; the hour of arrival, where that is known."""
    at_ms = entry.arrived_at_ms
    hour = "undated" if at_ms is None else to_iso(at_ms)[: len("2026-11-21T01")]
    return f"{device}/{hour}/"


def _line(entry: QuarantineEntry) -> bytes:
    document = {**entry._asdict(), "data": base64.b64encode(entry.data).decode()}
    return json.dumps(document).encode() + b"\n"
