"""The Kinesis stream: decodes events for consumers, puts readings for producers."""

import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.chunks import chunks
from telemetry.aws.clients import is_denied
from telemetry.aws.observe import log
from telemetry.domain import bundle as bundles
from telemetry.domain import pack as packs
from telemetry.domain import validation
from telemetry.domain.bundle import Bundle
from telemetry.domain.pack import Outcome, Pack
from telemetry.domain.reading import Reading, check_time
from telemetry.domain.unseen import is_unseen
from telemetry.domain.validation import NothingMeasured
from telemetry.errors import Rejected, Unavailable

VIA = "stream"  # stamped on records of other producers, which `ingest` hasn't counted
T = TypeVar("T")
Head = tuple[str, str, str, int, bytes]  # the first fields of a Record
Pair = tuple[T, dict[str, Any]]  # readings or a line to put, and their entry in the call
# PutRecords' limits: https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
MAX_RECORDS = 500
MAX_BYTES = 5_000_000
# A shard takes 1,000 records a second. More records of one device in a call go to several keys, so
# this matters where each reading is a record.
RECORDS_A_KEY = 250
# Waits between attempts at a put, seconds: 1.5 s in all, well within a device's timeout.
# PUT_SECONDS_MAX is for a stream that hangs; the overflow queue needs the rest of ingest's time.
BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.75)
PUT_SECONDS_MAX = 6.0


class Record(NamedTuple):
    """One stream record as a consumer sees it; without a `reading`, `rejected` says why.

    Each reading of a pack is a Record, all with the sequence number of their stream record. A
    reading whose every value stands for no measurement has no metrics. `opened` sets `bundle` for a
    record of another producer with several readings, and `again` in place of `reading` for a breach
    that filters can't see.
    """

    sequence_number: str
    partition_key: str
    shard_id: str
    arrived_at_ms: int
    whole: bytes  # the stream record's bytes
    reading: Reading | None
    rejected: Rejected | None
    refused: tuple[Rejected, ...] = ()  # metrics that are invalid, beside valid ones
    left_out: int = 0  # values that stand for no measurement
    bundle: Bundle | None = None
    pack: Pack | None = None
    place: int = 0  # in the pack, from 0
    again: Reading | None = None  # to be put on the stream, and stored when it comes back

    @property
    def data(self) -> bytes:
        """The record's bytes; of a reading in a pack, those that it has as a single record."""
        return self.pack.documents[self.place] if self.pack else self.whole

    @property
    def name(self) -> str:
        """The event's id; with `#` and its place for a reading among others in a pack."""
        name = f"{self.shard_id}:{self.sequence_number}"
        return f"{name}#{self.place}" if self.pack and len(self.pack.outcomes) > 1 else name

    @property
    def bypassed_ingest(self) -> bool:
        """Whether `ingest` hasn't stamped and counted it: the record is foreign."""
        reading = self.identified
        return reading is None or reading.received_at_ms is None or reading.via is not None

    @property
    def identified(self) -> Reading | None:
        """The reading, whether it is stored now or put on the stream again."""
        return self.reading or self.again

    @property
    def received_at_ms(self) -> int:
        """When `ingest` received it; for an unstamped record, when it arrived on the stream."""
        stamped = self.identified.received_at_ms if self.identified else None
        return self.arrived_at_ms if stamped is None else stamped


def decode(event: dict[str, Any]) -> list[Record]:
    """Return the records of an event source mapping's event, in order, each with its reading."""
    return [record for entry in event["Records"] for record in _records(entry)]


def checked(records: Iterable[Record], retention_ms: int) -> list[Record]:
    """Return the same records; those that bypassed `ingest` get its time checks.

    Their clock is the time of arrival, so the result is the same at each delivery and replay.
    """
    return [_checked(record, retention_ms) for record in records]


def _checked(record: Record, retention_ms: int) -> Record:
    if record.reading is None or not record.bypassed_ingest:
        return record
    try:
        check_time(record.reading, record.received_at_ms, retention_ms)
    except Rejected as error:
        return record._replace(reading=None, rejected=error, refused=(), left_out=0)
    return record


def opened(record: Record, limits: Mapping[str, float]) -> Record:
    """Return the same record, with its bundle if it is one.

    A breach that bypassed `ingest` and that filters can't see is in `again`. Its stamps say that it
    bypassed `ingest`, and when. `limits` has the rules' limits by metric.
    """
    reading = record.reading
    if reading is not None:
        is_of_ingest = reading.via is None and reading.received_at_ms is not None
        if is_of_ingest or not is_unseen(record.whole, reading, limits):
            return record
        stamped = reading._replace(received_at_ms=record.received_at_ms, via=reading.via or VIA)
        return record._replace(reading=None, again=stamped)
    if record.pack is not None:
        return record
    try:
        bundle = bundles.opened(record.data)
    except Rejected as error:
        return record._replace(rejected=error)
    return record._replace(rejected=bundle.rejected, bundle=bundle) if bundle else record


def put_back(record: Record) -> tuple[list[Reading], list[tuple[str, bytes]]]:
    """Return a bundle's readings to put on the stream, and its records, each with its device.

    Their stamps say that they bypassed `ingest` and arrived with the bundle. A reading with refused
    values is a record with those values, so that they are counted and logged like those of any
    record.
    """
    readings, records = [], []
    stamps = {"received_at": record.arrived_at_ms, "via": VIA, "replayed_at": None}
    for reading, document in record.bundle.members if record.bundle else ():
        if document is None:
            stamped = reading._replace(
                received_at_ms=record.arrived_at_ms, via=VIA, replayed_at_ms=None
            )
            readings.append(stamped)
        else:
            data = json.dumps({**document, **stamps}, default=str).encode()
            records.append((reading.device_id, data))
    return readings, records


def _records(entry: dict[str, Any]) -> list[Record]:
    """Return the Record of a stream record, or those of a pack's readings."""
    kinesis = entry["kinesis"]
    try:
        data = base64.b64decode(kinesis["data"], validate=True)
    except ValueError:  # Kinesis doesn't send this; keep the bytes that came
        data = kinesis["data"].encode()
    head = (
        kinesis["sequenceNumber"],
        kinesis["partitionKey"],
        entry["eventID"].partition(":")[0],
        int(kinesis["approximateArrivalTimestamp"] * 1000),
        data,
    )
    try:
        pack = packs.decode(data)
        if pack is None:
            return [_record(head, validation.decode(data))]
    except Rejected as error:
        return [_record(head, error)]
    return [_record(head, outcome, pack, place) for place, outcome in enumerate(pack.outcomes)]


def _record(head: Head, outcome: Outcome, pack: Pack | None = None, place: int = 0) -> Record:
    if isinstance(outcome, NothingMeasured):
        return Record(*head, outcome.reading, None, (), outcome.left_out, None, pack, place)
    if isinstance(outcome, Rejected):
        return Record(*head, None, outcome, (), 0, None, pack, place)
    reading, refused, left_out = outcome
    # Record(…), without a call of Python's for each reading
    fields = (*head, reading, None, refused, left_out, None, pack, place, None)
    return tuple.__new__(Record, fields)


def resume_from(records: Sequence[Record], failed: Iterable[str]) -> dict[str, Any]:
    """Return the answer to the mapping: the record from which to deliver again, if any.

    `failed` are sequence numbers. The mapping resumes from the lowest one, so the answer names only
    that: https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html
    If that is the first record, nothing succeeded: raise Unavailable. The mapping does the same,
    but the function's errors count it, and an alarm watches those.
    """
    wanted = set(failed)
    for record in records:
        if record.sequence_number in wanted:
            if record is records[0]:
                raise Unavailable(f"none of {len(records)} records could be processed")
            return {"batchItemFailures": [{"itemIdentifier": record.sequence_number}]}
    return {"batchItemFailures": []}


class _DeniedError(Exception):
    """The role may not put records; a retry within seconds is useless."""


class Stream:
    """Puts readings on the stream."""

    def __init__(
        self,
        kinesis: Any,
        name: str,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        is_packing: bool = True,
    ) -> None:
        """Put on a stream; `is_packing` says whether readings of a request share a record."""
        self._kinesis = kinesis
        self._name = name
        self._sleep = sleep
        self._clock = clock
        self._is_packing = is_packing

    def put(self, readings: Sequence[Reading]) -> list[Reading]:
        """Put all; return those that the stream didn't take within bounded retries.

        PutRecords may fail in part, so each attempt sends only the remaining readings. If an answer
        is lost, its readings are sent again; windows count them once.
        """
        packed = packs.pack(readings, self._is_packing)
        entries = _entries((each.device_id, each.data) for each in packed)
        left = self._put(zip(packed, entries, strict=True))
        return [reading for each, _ in left for reading in each.readings]

    def put_lines(self, lines: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """Put records' bytes, each with its device id or another key; return the failed ones."""
        return [line for line, _ in self._put(zip(lines, _entries(lines), strict=True))]

    def _put(self, pairs: Iterable[Pair[T]]) -> list[Pair[T]]:
        left = list(pairs)
        give_up_at = self._clock() + PUT_SECONDS_MAX
        for wait_seconds in (0.0, *BACKOFF_SECONDS):
            if not left or self._clock() > give_up_at:
                break
            if wait_seconds:
                self._sleep(random.uniform(wait_seconds / 2, wait_seconds))
            calls = chunks(left, _size, MAX_RECORDS, MAX_BYTES)
            try:
                left = [pair for call in calls for pair in self._attempt(call, give_up_at)]
            except _DeniedError:
                break
        return left

    def _attempt(self, pairs: list[Pair[T]], give_up_at: float) -> list[Pair[T]]:
        """Return the pairs that one call didn't put; all of them if no time is left for a call.

        Raise _DeniedError if the role may not put.
        """
        if self._clock() > give_up_at:
            return pairs
        entries = [entry for _, entry in pairs]
        try:
            answer = self._kinesis.put_records(StreamName=self._name, Records=entries)
        except (ClientError, BotoCoreError) as error:
            log.warning("stream unavailable", extra={"why": str(error)})
            if is_denied(error):
                raise _DeniedError from error
            return pairs
        results = answer["Records"]
        codes = Counter(result["ErrorCode"] for result in results if result.get("ErrorCode"))
        if codes:
            log.warning("records not taken", extra={"codes": codes})
        return [
            pair for pair, result in zip(pairs, results, strict=True) if result.get("ErrorCode")
        ]


def _entries(records: Iterable[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """Return an entry for each record, keyed by device so that one shard has them in order."""
    seen: Counter[str] = Counter()
    entries = []
    for device_id, data in records:
        salt = seen[device_id] // RECORDS_A_KEY
        seen[device_id] += 1
        key = f"{device_id}/{salt}" if salt else device_id
        entries.append({"Data": data, "PartitionKey": key})
    return entries


def _size(pair: Pair[Any]) -> int:
    """Return the bytes that count towards PutRecords' limit."""
    return len(pair[1]["Data"]) + len(pair[1]["PartitionKey"])
