"""The failures bucket: batches that a mapping gave up on, in the form in which Lambda writes them.

https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html
"""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws import quarantine, stream
from telemetry.aws.observe import log
from telemetry.aws.quarantine import QuarantineEntry
from telemetry.aws.stream import Record
from telemetry.domain.reading import shown
from telemetry.errors import Rejected, Unavailable

PREFIX = "aws/lambda/"  # Lambda writes here, and the bucket announces these objects
STAGES = ("aggregate", "alert", "dispatch")  # their mappings send failed batches to the bucket
TO_DO = Rejected("waits for its redrive")


class GivenUpRecord(NamedTuple):
    """A record that a mapping gave up on, as its function gets it, and its quarantine entry."""

    event: dict[str, Any]
    entry: QuarantineEntry
    accepted_at_ms: int | None = None  # when ingest counted it; None if it didn't


class Failure(NamedTuple):
    """A batch that a mapping gave up on."""

    key: str
    etag: str
    document: dict[str, Any]
    stage: str
    records: list[GivenUpRecord]


class Failures:
    """The bucket's objects under `aws/lambda/`."""

    def __init__(self, s3: Any, bucket: str, pipeline: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._names = {f"{pipeline}-{stage}": stage for stage in STAGES}

    def keys(self) -> Iterator[str]:
        """Yield all keys, page by page; raise Unavailable."""
        more: dict[str, str] = {}
        while True:
            try:
                page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=PREFIX, **more)
            except (ClientError, BotoCoreError) as error:
                raise Unavailable(f"the failures can't be listed: {error}") from error
            yield from (each["Key"] for each in page.get("Contents", []))
            if not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and ETag, None if it is gone; raise Unavailable."""
        try:
            found = self._s3.get_object(Bucket=self._bucket, Key=key)
            return found["Body"].read(), found["ETag"]
        except ClientError as error:
            if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                return None
            raise Unavailable(f"{key} can't be read: {error}") from error
        except BotoCoreError as error:
            raise Unavailable(f"{key} can't be read: {error}") from error

    def parse(self, key: str, body: bytes, etag: str) -> Failure:
        """Return the batch in an object; raise Rejected if it isn't one of this pipeline's."""
        try:
            document = json.loads(body)
            name = document["requestContext"]["functionArn"].split(":")[6]
            records = json.loads(document["payload"])["Records"]
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise Rejected(f"is not the document of a batch given up: {error!r}") from None
        if name not in self._names:
            known = ", ".join(sorted(self._names))
            reason = f"is not a function that is redriven: {known}"
            raise Rejected(reason, field="requestContext.functionArn", value=name)
        stage = self._names[name]
        if not isinstance(records, list) or not records:
            raise Rejected("has no list of Records", field="payload", value=records)
        return Failure(key, etag, document, stage, [_given(each, stage) for each in records])

    def keep_only(self, failure: Failure, rest: Sequence[GivenUpRecord]) -> None:
        """Leave only the records `rest` in a batch, unless another redrive changed it meanwhile.

        The bucket announces the object again. Raise Unavailable if it can't be written.
        """
        body = json.dumps({**failure.document, "payload": event_of(rest)}).encode()
        try:
            self._s3.put_object(
                Bucket=self._bucket, Key=failure.key, Body=body, IfMatch=failure.etag
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "NoSuchKey", "412", "404"}:
                log.info("another redrive changed the batch", extra={"key": failure.key})
                return
            raise Unavailable(f"{failure.key} can't be written: {error}") from error
        except BotoCoreError as error:
            raise Unavailable(f"{failure.key} can't be written: {error}") from error

    def remove(self, key: str) -> None:
        """Delete an object; the bucket keeps it as an old version. Raise Unavailable."""
        try:
            self._s3.delete_object(Bucket=self._bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"{key} can't be deleted: {error}") from error


def event_of(records: Sequence[GivenUpRecord]) -> str:
    """Return the event, as JSON, that gives a function these records."""
    # as compact as Lambda writes it: a batch may have the full 6 MB that an invocation takes
    events = {"Records": [each.event for each in records]}
    return json.dumps(events, separators=(",", ":"))


def announced(message: str) -> list[str]:
    """Return the keys that a bucket notification names; none for any other message."""
    try:
        records = json.loads(message).get("Records", [])
        keys = [unquote_plus(record["s3"]["object"]["key"]) for record in records]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        log.warning("not an announcement", extra={"body": shown(message)})
        return []
    return [key for key in keys if key.startswith(PREFIX)]


def apart(given: GivenUpRecord) -> list[GivenUpRecord]:
    """Return the readings of a pack as records, each with its place in its number; or nothing.

    So a reading that its function can't take goes to quarantine alone.
    """
    if "kinesis" not in given.event:
        return []
    records = stream.decode({"Records": [given.event]})
    return [
        _given(_alone(given.event, record), given.entry.function)
        for record in records
        if len(records) > 1
    ]


def _alone(event: dict[str, Any], record: Record) -> dict[str, Any]:
    """Return the event with one reading of its pack."""
    number = record.name.partition(":")[2]
    data = base64.b64encode(record.data).decode()
    kinesis = {**event["kinesis"], "sequenceNumber": number, "data": data}
    return {**event, "eventID": record.name, "kinesis": kinesis}


def entry_of_object(key: str, body: bytes, rejected: Rejected) -> QuarantineEntry:
    """Return the quarantine entry of an object that isn't a batch; a release puts it back."""
    reason, field, value = rejected.reason, rejected.field, shown(rejected.value)
    name = f"object:{key}"
    return QuarantineEntry(
        name, "redrive", "object", reason, field, value, None, None, None, None, body
    )


def _given(event: Any, stage: str) -> GivenUpRecord:
    """Return a record of a payload; raise Rejected if it is neither Kinesis's nor DynamoDB's."""
    try:
        if "kinesis" in event:
            record, *others = stream.decode({"Records": [event]})
            if others:
                record = record._replace(pack=None)  # the whole pack waits, until it is taken apart
            entry = quarantine.entry_of_record(record, stage, TO_DO)
            return GivenUpRecord(
                event, entry, None if record.bypassed_ingest else record.received_at_ms
            )
        entry = quarantine.entry_of_change(event, stage, TO_DO)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        reason = f"has a record of neither Kinesis nor DynamoDB: {error!r}"
        raise Rejected(reason, field="payload", value=event) from None
    return GivenUpRecord(event, entry)
