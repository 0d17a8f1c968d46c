"""The Kinesis stream: events decoded for the consumers, readings put by the producers."""

import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.chunks import chunks
from telemetry.aws.clients import is_denied
from telemetry.aws.observe import log
from telemetry.domain import bundle as bundles
from telemetry.domain import validation
from telemetry.domain.bundle import Bundle
from telemetry.domain.reading import Reading, check_time, encode
from telemetry.domain.validation import NothingMeasured
from telemetry.errors import Rejected, Unavailable

VIA = "stream"  # stamped on what another producer put there: `ingest` hasn't counted it
T = TypeVar("T")
Pair = tuple[T, dict[str, Any]]  # what is put, and its entry in the call
# PutRecords' limits: https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
MAX_RECORDS = 500
MAX_BYTES = 5_000_000
# A shard takes 1,000 records a second; a request with more of one device than this is spread.
RECORDS_A_KEY = 250
# Waits between attempts at a put, seconds: 1.5 s in all, well inside a device's patience. A stream
# that hangs instead of refusing gets this long; the rest of ingest's time is the overflow queue's.
BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.75)
PUT_SECONDS_MAX = 6.0


class Record(NamedTuple):
    """One stream record as a consumer sees it; `reading` is None where `rejected` says why.

    A reading of which all values stand for no measurement has no metrics. `bundle`: where a record
    holds several readings, and has been opened.
    """

    sequence_number: str
    partition_key: str
    shard_id: str
    arrived_at_ms: int
    data: bytes
    reading: Reading | None
    rejected: Rejected | None
    refused: tuple[Rejected, ...] = ()  # metrics, of a reading that has others
    left_out: int = 0  # values that stand for no measurement
    bundle: Bundle | None = None

    @property
    def bypassed_ingest(self) -> bool:
        """Whether it came past `ingest`, which stamps its readings and has counted them."""
        reading = self.reading
        return reading is None or reading.received_at_ms is None or reading.via is not None

    @property
    def received_at_ms(self) -> int:
        """When the pipeline received it: a foreign record, when it arrived on the stream."""
        stamped = self.reading.received_at_ms if self.reading else None
        return self.arrived_at_ms if stamped is None else stamped


def decode(event: dict[str, Any]) -> list[Record]:
    """The records of an event source mapping's event, in order, each with its reading."""
    return [_record(entry) for entry in event["Records"]]


def checked(records: Iterable[Record], retention_ms: int) -> list[Record]:
    """The same, those past `ingest` held to the times that it takes.

    The clock is that of their arrival: a record is the same reading at each delivery and replay.
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


def opened(record: Record) -> Record:
    """The same, with what it holds where it is a bundle."""
    if record.reading is not None:
        return record
    try:
        bundle = bundles.opened(record.data)
    except Rejected as error:
        return record._replace(rejected=error)
    return record._replace(rejected=bundle.rejected, bundle=bundle) if bundle else record


def records_of(record: Record) -> list[tuple[str, bytes]]:
    """A bundle's readings as records, each with its device.

    They are stamped as received when the bundle arrived, past `ingest`. What is refused of one goes
    along, so that it is told and counted as of any record.
    """
    found = []
    stamps = {"received_at": record.arrived_at_ms, "via": VIA, "replayed_at": None}
    for reading, document in record.bundle.members if record.bundle else ():
        if document is None:
            stamped = reading._replace(
                received_at_ms=record.arrived_at_ms, via=VIA, replayed_at_ms=None
            )
            data = encode(stamped)
        else:
            data = json.dumps({**document, **stamps}, default=str).encode()
        found.append((reading.device_id, data))
    return found


def _record(entry: dict[str, Any]) -> Record:
    kinesis = entry["kinesis"]
    try:
        data = base64.b64decode(kinesis["data"], validate=True)
    except ValueError:  # not what Kinesis sends; keep what came
        data = kinesis["data"].encode()
    record = Record(
        kinesis["sequenceNumber"],
        kinesis["partitionKey"],
        entry["eventID"].partition(":")[0],
        int(kinesis["approximateArrivalTimestamp"] * 1000),
        data,
        None,
        None,
    )
    try:
        parsed = validation.decode(data)
    except NothingMeasured as error:
        return record._replace(reading=error.reading, left_out=error.left_out)
    except Rejected as error:
        return record._replace(rejected=error)
    return record._replace(reading=parsed.reading, refused=parsed.refused, left_out=parsed.left_out)


def resume_from(records: Sequence[Record], failed: Iterable[str]) -> dict[str, Any]:
    """The answer to the mapping: which record to deliver from again, if any.

    `failed` are sequence numbers. The lowest one makes the checkpoint, so naming it alone is
    enough: https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html
    Where that is the first record, nothing got done: raises Unavailable, which means the same to
    the mapping, and counts as an error of the function, so that somebody is told.
    """
    wanted = set(failed)
    for record in records:
        if record.sequence_number in wanted:
            if record is records[0]:
                raise Unavailable(f"none of {len(records)} records could be processed")
            return {"batchItemFailures": [{"itemIdentifier": record.sequence_number}]}
    return {"batchItemFailures": []}


class _DeniedError(Exception):
    """The role may not put: to try again within seconds is no use."""


class Stream:
    """Puts readings on the stream."""

    def __init__(
        self,
        kinesis: Any,
        name: str,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kinesis = kinesis
        self._name = name
        self._sleep = sleep
        self._clock = clock

    def put(self, readings: Sequence[Reading]) -> list[Reading]:
        """Put all; returns those that the stream didn't take within bounded retries.

        PutRecords fails in part, so each attempt sends only what is left. An attempt that is
        lost on its way back may have arrived: it is sent again, and counted once downstream.
        """
        entries = _entries((reading.device_id, encode(reading)) for reading in readings)
        return [reading for reading, _ in self._put(zip(readings, entries, strict=True))]

    def put_lines(self, lines: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """The same for records' bytes as they are, each with what its partition key is made of."""
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
        """Those of `pairs` that one call didn't put; all, where no time is left for it.

        Raises _DeniedError where the role may not put.
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
    """One stream record each, keyed by device so that a shard has a device's in order."""
    seen: Counter[str] = Counter()
    entries = []
    for device_id, data in records:
        salt = seen[device_id] // RECORDS_A_KEY
        seen[device_id] += 1
        key = f"{device_id}/{salt}" if salt else device_id
        entries.append({"Data": data, "PartitionKey": key})
    return entries


def _size(pair: Pair[Any]) -> int:
    """Bytes that count towards PutRecords' limit."""
    return len(pair[1]["Data"]) + len(pair[1]["PartitionKey"])
