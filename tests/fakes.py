"""In-memory fakes of the functions' AWS services.

`tests/contract` checks that the stores behave like the real adapters. A fake of a class is its
subclass, so that mypy compares their signatures. A fake of a boto3 client has the methods that the
adapters call. When told to, it refuses part of a batch, or is `down`.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from itertools import count
from typing import Any, NoReturn
from uuid import UUID

from botocore.exceptions import ClientError
from telemetry.aws.alerts import AlertReader
from telemetry.aws.archive_bucket import Archive
from telemetry.aws.claims import Claims
from telemetry.aws.counters import Counters
from telemetry.aws.generations import PARTITION, Generations
from telemetry.aws.items import Attributes, Conflict, Failed, Outcome, Write, Written
from telemetry.aws.registry import AdminSecret, Registry
from telemetry.aws.window_scan import ScanPage, WindowTable, key_of, to_key
from telemetry.aws.windows import WindowReader
from telemetry.domain.accounting import Counts, Metric
from telemetry.domain.archive_layout import prefix_at
from telemetry.domain.notice import Notice
from telemetry.domain.schema import versions
from telemetry.domain.times import to_iso_minute
from telemetry.domain.token import Grant
from telemetry.errors import Rejected, Unavailable

Refuses = Callable[[Any], bool]


def nothing(_entry: Any) -> bool:
    return False


class Crash(BaseException):
    """The environment is gone: no error handler sees it."""


class MemoryItems:
    """A table of versioned items. After `crash_after` written items the process dies.

    `fault` is called at each write: "before" fails it, "after" fails only its answer, "" neither.
    """

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.stored: dict[tuple[str, str], Attributes] = {}
        self.statements = 0
        self.crash_after: int | None = None
        self.fault: Callable[[Write], str] = lambda _write: ""

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        keys = [self._key(write.item) for write in writes]
        assert len(set(keys)) == len(keys), "DynamoDB refuses two statements for one item"
        return [self._write(write) for write in writes]

    def _key(self, item: Attributes) -> tuple[str, str]:
        return item[self.key[0]]["S"], item[self.key[1]]["S"]

    def _write(self, write: Write) -> Outcome:
        if self.crash_after is not None:
            if self.crash_after == 0:
                raise Crash
            self.crash_after -= 1
        self.statements += 1
        fault = self.fault(write)
        if fault == "before":
            return Failed()
        outcome = self._try(write)
        return Failed() if fault == "after" else outcome

    def _try(self, write: Write) -> Outcome:
        key = self._key(write.item)
        current = self.stored.get(key)
        if write.expected == 0:
            if current is not None:
                return Conflict(deepcopy(current))
            self.stored[key] = deepcopy(write.item)
            return Written()
        if current is None or current["version"]["N"] != str(write.expected):
            return Conflict(deepcopy(current))
        self.stored[key] = {**current, **deepcopy(write.item)}
        return Written()


def refuse(code: str, operation: str) -> NoReturn:
    error = {"Error": {"Code": code, "Message": "refused"}}
    raise ClientError(error, operation)  # type: ignore[arg-type]


class Client:
    """Base of the fake boto3 clients: they can be down."""

    down = False
    down_with = "ServiceUnavailable"

    def check(self, operation: str) -> None:
        if self.down:
            refuse(self.down_with, operation)


class MemoryKinesis(Client):
    """A stream. `refuses` is called for each entry; a refused entry is throttled."""

    def __init__(self, refuses: Refuses = nothing) -> None:
        self.refuses = refuses
        self.records: list[dict[str, Any]] = []
        self.calls: list[int] = []  # how many entries each had

    def put_record(
        self,
        *,
        StreamName: str,  # noqa: N803
        PartitionKey: str,  # noqa: N803
        Data: bytes,  # noqa: N803
    ) -> dict[str, str]:
        entry = {"PartitionKey": PartitionKey, "Data": Data}
        answer = self.put_records(StreamName=StreamName, Records=[entry])
        if answer["FailedRecordCount"]:
            refuse(answer["Records"][0]["ErrorCode"], "PutRecord")
        put: dict[str, str] = answer["Records"][0]
        return put

    def put_records(self, *, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002, N803
        self.calls.append(len(Records))
        self.check("PutRecords")
        results = []
        for record in Records:
            if self.refuses(record):
                code = "ProvisionedThroughputExceededException"
                results.append({"ErrorCode": code, "ErrorMessage": "slow down"})
            else:
                self.records.append(record)
                results.append({"SequenceNumber": str(len(self.records)), "ShardId": "shard-0"})
        failed = sum("ErrorCode" in result for result in results)
        return {"FailedRecordCount": failed, "Records": results}


class MemorySqs(Client):
    """A queue: `bodies` can be received, `taken` are received, by receipt.

    `refuses` is called for each body.
    """

    def __init__(self, refuses: Refuses = nothing) -> None:
        self.refuses = refuses
        self.bodies: list[str] = []
        self.taken: dict[str, str] = {}
        self._receipts = 0

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: ARG002, N803
        MaxNumberOfMessages: int,  # noqa: N803
        WaitTimeSeconds: int,  # noqa: ARG002, N803
    ) -> dict[str, Any]:
        self.check("ReceiveMessage")
        messages: list[dict[str, str]] = []
        while self.bodies and len(messages) < MaxNumberOfMessages:
            self._receipts += 1
            receipt = f"receipt {self._receipts}"
            self.taken[receipt] = self.bodies.pop(0)
            messages.append({"Body": self.taken[receipt], "ReceiptHandle": receipt})
        return {"Messages": messages} if messages else {}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None:  # noqa: ARG002, N803
        self.check("DeleteMessage")
        self.taken.pop(ReceiptHandle, None)

    def change_message_visibility(
        self,
        *,
        QueueUrl: str,  # noqa: ARG002, N803
        ReceiptHandle: str,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
    ) -> None:
        self.check("ChangeMessageVisibility")
        assert VisibilityTimeout == 0
        if ReceiptHandle in self.taken:
            self.bodies.append(self.taken.pop(ReceiptHandle))

    def time_passes(self) -> None:
        """Make received messages that weren't deleted visible again."""
        self.bodies += self.taken.values()
        self.taken.clear()

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:  # noqa: ARG002, N803
        self.check("SendMessage")
        self.bodies.append(MessageBody)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG002, N803
        self.check("SendMessageBatch")
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        for entry in Entries:
            if self.refuses(entry["MessageBody"]):
                failure = {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False}
                answer["Failed"].append(failure)
            else:
                self.bodies.append(entry["MessageBody"])
                answer["Successful"].append({"Id": entry["Id"], "MessageId": "m"})
        return answer


class MemoryS3(Client):
    """A bucket's objects by key. A page of a listing has `page_keys` of them."""

    page_keys = 1_000

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.listings = 0

    def put_object(
        self,
        *,
        Bucket: str,  # noqa: ARG002, N803
        Key: str,  # noqa: N803
        Body: bytes,  # noqa: N803
        IfMatch: str = "",  # noqa: N803
    ) -> dict[str, str]:
        self.check("PutObject")
        self._expect(IfMatch, Key, "PutObject")
        self.objects[Key] = Body
        return {"ETag": self._etag(Key)}

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: ARG002, N803
        self.check("GetObject")
        if Key not in self.objects:
            refuse("NoSuchKey", "GetObject")
        return {"Body": io.BytesIO(self.objects[Key]), "ETag": self._etag(Key)}

    def delete_object(self, *, Bucket: str, Key: str, IfMatch: str = "") -> None:  # noqa: ARG002, N803
        self.check("DeleteObject")
        self._expect(IfMatch, Key, "DeleteObject")
        self.objects.pop(Key, None)

    def list_objects_v2(self, *, Bucket: str, Prefix: str, **after: str) -> dict[str, Any]:  # noqa: ARG002, N803
        self.check("ListObjectsV2")
        self.listings += 1
        last = after.get("ContinuationToken", after.get("StartAfter", ""))
        keys = sorted(key for key in self.objects if key.startswith(Prefix) and key > last)
        page = keys[: self.page_keys]
        modified = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)
        answer: dict[str, Any] = {
            "Contents": [
                {"Key": key, "LastModified": modified, "ETag": self._etag(key)} for key in page
            ],
            "IsTruncated": len(page) < len(keys),
        }
        return answer | ({"NextContinuationToken": page[-1]} if len(page) < len(keys) else {})

    def lines(self) -> list[dict[str, Any]]:
        """Return the JSON lines in all objects of the quarantine."""
        held = [body for key, body in sorted(self.objects.items()) if key.startswith("quarantine/")]
        return [json.loads(line) for body in held for line in body.splitlines()]

    def _etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()}"'

    def _expect(self, etag: str, key: str, operation: str) -> None:
        if etag and key not in self.objects:
            refuse("NoSuchKey", operation)
        if etag and etag != self._etag(key):
            refuse("PreconditionFailed", operation)


class MemoryLambda(Client):
    """Functions by name. Each is called with its event; an error is answered as Lambda does.

    `deadly` records end the process: the answer to them and their batch is Lambda's own.
    """

    def __init__(self) -> None:
        self.functions: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.deadly: set[str] = set()
        self.batches: list[tuple[str, list[str]]] = []

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        self.check("Invoke")
        if FunctionName not in self.functions:
            refuse("ResourceNotFoundException", "Invoke")
        event = json.loads(Payload)
        names = [record["eventID"] for record in event["Records"]]
        self.batches.append((FunctionName, names))
        if self.deadly & set(names):
            died = {"errorType": "Runtime.ExitError", "errorMessage": "exit status 137"}
            return self._answer(died, FunctionError="Unhandled")
        try:
            return self._answer(self.functions[FunctionName](event))
        except Exception as error:  # noqa: BLE001 - a function may raise anything
            raised = {"errorType": type(error).__name__, "errorMessage": str(error)}
            return self._answer(raised, FunctionError="Unhandled")

    def _answer(self, payload: Any, **more: str) -> dict[str, Any]:
        return {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(payload).encode()), **more}


class MemoryCounters(Counters):
    """Counts by metric and minute."""

    def __init__(self, counts: dict[Metric, dict[int, int]] | None = None) -> None:
        self.counts = counts or {}
        self.down = False

    def by_minute(self, metrics: Sequence[Metric], from_ms: int, to_ms: int) -> Counts:
        if self.down:
            raise Unavailable("CloudWatch is away")
        return {
            metric: {
                minute_ms: amount
                for minute_ms, amount in self.counts.get(metric, {}).items()
                if from_ms <= minute_ms < to_ms
            }
            for metric in metrics
        }


class MemoryClaims(Claims):
    """Claims as (state, leased until) by device and name."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], tuple[str, int]] = {}

    def take(self, device_id: str, name: str, now_seconds: int, lease_seconds: int) -> str:
        state, until = self.held.get((device_id, name), ("leased", -1))
        if state == "done":
            return "done"
        if until >= now_seconds:
            return "held"
        self.held[device_id, name] = ("leased", now_seconds + lease_seconds)
        return "taken"

    def done(self, device_id: str, name: str) -> None:
        self.held[device_id, name] = ("done", 0)


def schema_id(version: int) -> UUID:
    """Return the id of a version of the reading schema, in `KnownSchemas`."""
    return UUID(int=0x0300_0000_0000_4000_8000_0000_0000_0000 + version)


class KnownSchemas:
    """A registry of the reading schema's versions, and of those that a test adds."""

    def __init__(self, added: dict[UUID, dict[str, Any]] | None = None) -> None:
        self.down = False
        self._known = {schema_id(each["version"]): each for each in versions("reading")}
        self._known |= added or {}

    def writer(self, schema_id: UUID) -> dict[str, Any]:
        if self.down:
            raise Unavailable("the schema registry can't be reached")
        if schema_id not in self._known:
            reason = "is not the id of a version of the reading schema"
            raise Rejected(reason, field="schema_id", value=str(schema_id))
        return self._known[schema_id]


class MemoryPublisher:
    """A publisher of notices, by name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.sent: list[Notice] = []

    def publish(self, notice: Notice) -> None:
        if self.failure:
            raise self.failure
        self.sent.append(notice)


class MemoryRegistry(Registry):
    """Grants with their secrets, by subject."""

    def __init__(self) -> None:
        self.grants: dict[str, tuple[Grant, str]] = {}

    def find(self, subject: str, secret: str) -> Grant | None:
        grant, stored = self.grants.get(subject, (None, ""))
        return grant if stored == secret else None

    def create(self, grants: Sequence[tuple[Grant, str]], created_at: str) -> list[str]:  # noqa: ARG002
        taken = [grant.subject for grant, _ in grants if grant.subject in self.grants]
        if not taken:
            self.grants |= {grant.subject: (grant, secret) for grant, secret in grants}
        return taken

    def remove(self, subject: str) -> bool:
        return self.grants.pop(subject, None) is not None


class MemorySecret(AdminSecret):
    """The first admin's secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def matches(self, secret: str) -> bool:
        return secret == self._secret


class MemoryWindowReader(WindowReader):
    """Reads the windows in a table's items; `items_read` counts the items."""

    def __init__(self, items: MemoryItems, clock: Callable[[], float] | None = None) -> None:
        # without a clock, each look is a new one
        super().__init__(None, "windows", clock or count(step=60).__next__)
        self.items = items
        self.items_read = 0
        self.down = False

    def ping(self) -> None:
        if self.down:
            raise ConnectionError("the table is away")

    def _pointers(self) -> Iterator[Attributes]:
        stored = self.items.stored.items()
        return (item for (partition, _), item in stored if partition == PARTITION)

    def _items(
        self, device_id: str, from_ms: int, to_ms: int, page_size: int, newest_first: bool
    ) -> Iterator[Attributes]:
        assert page_size > 0, "DynamoDB refuses an empty page"
        if self.down:
            raise ConnectionError("the table is away")
        first, last = to_iso_minute(from_ms), to_iso_minute(to_ms)
        for (device, minute_region), item in sorted(
            self.items.stored.items(), key=lambda stored: stored[0], reverse=newest_first
        ):
            if device == device_id and first <= minute_region <= last:
                self.items_read += 1
                yield item


class MemoryGenerations(Generations):
    """A region's pointer among a table's items. `clock` in seconds; without it each look is new."""

    def __init__(
        self, items: MemoryItems, region: str, clock: Callable[[], float] | None = None
    ) -> None:
        super().__init__(None, "windows", region, items, clock or count(step=60).__next__)
        self.items = items
        self.down = False

    def _get(self, key: Attributes) -> Attributes | None:
        if self.down:
            raise Unavailable("the table is away")
        return deepcopy(self.items.stored.get((key["device_id"]["S"], key["minute_region"]["S"])))


class MemoryWindowTable(WindowTable):
    """A table's items as a whole, in pages of two."""

    def __init__(self, items: MemoryItems) -> None:
        super().__init__(None, "windows", lambda _seconds: None)
        self.items = items
        self.gets = 0
        self.between_gets: Callable[[], None] = lambda: None

    def scan(self, segment: int, segments: int, after: Attributes | None) -> ScanPage:
        found = [
            key
            for key in sorted(self.items.stored)
            if zlib.crc32(key[0].encode()) % segments == segment
            and (after is None or key > key_of(after))
        ]
        page = [deepcopy(self.items.stored[key]) for key in found[:2]]
        return ScanPage(page, to_key(*found[1]) if len(found) > 2 else None)

    def get(self, keys: Sequence[Attributes]) -> dict[tuple[str, str], Attributes]:
        if self.gets:
            self.between_gets()
        self.gets += 1
        there = [key for key in map(key_of, keys) if key in self.items.stored]
        return {key: deepcopy(self.items.stored[key]) for key in there}

    def delete(self, keys: Sequence[Attributes]) -> None:
        for key in map(key_of, keys):
            self.items.stored.pop(key, None)


class MemoryArchive(Archive):
    """The archive's objects by key: the time of the write in epoch ms, and the lines."""

    def __init__(self) -> None:
        super().__init__(None, "archive")
        self.objects: dict[str, tuple[int, list[bytes]]] = {}

    def keep(self, arrived_ms: int, *lines: bytes, written_ms: int | None = None) -> str:
        """Archive records of one arrival in an object; return its key."""
        key = f"{prefix_at(arrived_ms)}archive-{len(self.objects):04}.gz"
        self.objects[key] = (written_ms or arrived_ms, list(lines))
        return key

    def _pages(self, **query: str) -> Iterator[dict[str, Any]]:
        prefix, after = query["Prefix"], query.get("StartAfter", "")
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > after]
        if "Delimiter" in query:
            folders = {prefix + key[len(prefix) :].partition("/")[0] + "/" for key in keys}
            yield {"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)]}
        for key in keys:  # a page each
            written = datetime.fromtimestamp(self.objects[key][0] / 1000, UTC)
            yield {"Contents": [{"Key": key, "LastModified": written}]}

    def _read(self, key: str) -> Iterable[bytes]:
        return [line + b"\n" for line in self.objects[key][1]]


class MemoryAlertReader(AlertReader):
    """Reads the open episodes in a table's items."""

    def __init__(self, items: MemoryItems) -> None:
        self.items = items

    def _query(
        self, status_bucket: str, limit: int, start: Attributes | None
    ) -> tuple[list[Attributes], Attributes | None]:
        found = [
            item
            for item in self.items.stored.values()
            if item.get("status_bucket") == {"S": status_bucket}
        ]
        found.sort(key=_open_order)
        if start is not None:
            found = [item for item in found if _open_order(item) > _open_order(start)]
        page = found[:limit]
        names = ("status_bucket", "first_breach_ms", *self.items.key)
        last = {name: page[-1][name] for name in names} if len(page) == limit else None
        return page, last


def _open_order(item: Attributes) -> tuple[int, str, str]:
    return int(item["first_breach_ms"]["N"]), item["device_id"]["S"], item["rule_region"]["S"]
