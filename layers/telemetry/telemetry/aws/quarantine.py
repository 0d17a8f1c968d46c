"""The quarantine: records that no retry makes valid wait here for a person.

An object under `quarantine/` in the failures bucket has JSON lines, one for each record. Operators
list, show, release and drop the records (`ops/quarantine.py`).

A key has the device and the hour: `quarantine/pump-17/2026-11-21T01/aggregate-<hash>.jsonl`. So the
records of one device are together, and don't hide those of others. The hash is made from the
object's content, so to put the same records again changes nothing. No record is dropped: a device
that sends many wrong records gets larger objects, not more objects (`Appender`).
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
# In place of a device's id: for records of no device, and of several. No id has a ~.
UNNAMED, SEVERAL = "~unnamed", "~several"
DEVICES_A_BATCH = 8  # devices with an object of their own; the others of a batch share one
APPENDED_BYTES = 64_000  # largest growing object, since each new line rewrites the whole object
APPENDED_OBJECTS = 50  # growing objects that an execution environment remembers
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"}


def _random() -> str:
    return uuid4().hex[:16]


class QuarantineEntry(NamedTuple):
    """One record in quarantine; fields that its source doesn't know are None."""

    name: str  # the record's eventID, with its place in a pack; or made from its content
    function: str  # the stage that couldn't process it
    source: str  # where it came from, and where a release sends it
    reason: str
    field: str | None
    value: Any
    shard_id: str | None
    sequence_number: str | None
    partition_key: str | None
    arrived_at_ms: int | None
    data: bytes  # the record as it came
    is_partly: bool = False  # its valid metrics are stored; only refused ones wait
    device_id: Any = None  # the device that the record names, valid or not
    released: str | None = None  # the release that sent it again, if one did


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
        """Quarantine stream records for `aggregate`; return those that couldn't be written.

        `partly` are records of which only some metrics are refused.
        """
        entries = [entry_of_record(record, "aggregate", error) for record, error in rejected]
        entries += [
            entry_of_record(record, "aggregate", error, is_partly=True) for record, error in partly
        ]
        return [] if self.keep(entries) else [record for record, _ in (*rejected, *partly)]

    def keep(self, entries: Sequence[QuarantineEntry]) -> bool:
        """Put entries in quarantine, an object for each device and hour; return whether it worked.

        Where a batch has entries of many devices, the devices with the fewest share an object.
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
    """A growing object, as this execution environment wrote it last."""

    key: str
    etag: str
    body: bytes


class Appender:
    """Puts single records in quarantine, many of a device and hour in one object.

    An execution environment appends only to its own objects. If an operator has changed or deleted
    one meanwhile, it begins another, so records that were taken out stay out.
    """

    def __init__(self, s3: Any, bucket: str, new_name: Callable[[], str] = _random) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._new_name = new_name
        self._grown: OrderedDict[str, Grown] = OrderedDict()

    def keep(self, entries: Sequence[QuarantineEntry]) -> bool:
        """Put entries in quarantine; return whether it worked."""
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
        """Append lines to an object; return False if it is full, or somebody changed it."""
        # a record that is delivered again is there already
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
    """Group entries by device and hour; devices beyond DEVICES_A_BATCH share one group."""
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
    """Return the quarantine entry of a stream record, or of one reading of a pack."""
    data = record.data
    stored = " (its other metrics are stored)" if is_partly else ""
    return QuarantineEntry(
        record.name,
        function,
        "kinesis",
        rejected.reason + stored,
        rejected.field,
        shown(rejected.value),
        record.shard_id,
        record.sequence_number,
        record.partition_key,
        record.arrived_at_ms,
        data,
        is_partly,
        device_id=device_in(data) or record.partition_key.partition("/")[0],
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
    """Return the device that a record's JSON names, even if the record is invalid; None if none.

    Only a string names a device; a long one is cut.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    named = document.get("device_id") if isinstance(document, dict) else None
    return shown(named) if isinstance(named, str) else None


def _device(entry: QuarantineEntry) -> str:
    """Return the device's part of an object's key."""
    named = entry.device_id
    return named if isinstance(named, str) and SUBJECT.fullmatch(named) else UNNAMED


def _folder(entry: QuarantineEntry, device: str) -> str:
    """Return `<device>/<hour>/` of a key; the hour is that of arrival, or `undated`."""
    at_ms = entry.arrived_at_ms
    hour = "undated" if at_ms is None else to_iso(at_ms)[: len("2026-11-21T01")]
    return f"{device}/{hour}/"


def _line(entry: QuarantineEntry) -> bytes:
    document = {**entry._asdict(), "data": base64.b64encode(entry.data).decode()}
    return json.dumps(document).encode() + b"\n"
