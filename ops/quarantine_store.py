"""The quarantine of a stack, as operators read and change it: objects of JSON lines.

`telemetry/aws/quarantine.py` writes them, under `quarantine/<device>/<hour>/`. A record may be in
several objects, since batches are delivered at least once. It has one name, and a command on a name
acts on all of its lines.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from ops.errors import OpsError
from ops.target import Target

PREFIX = "quarantine/"
AFTER_SLASH = "0"
"""The character after "/": a device's name with it sorts after all keys of the device's folder."""
SHARED = ("~unnamed", "~several")
"""Folders of records that name no device, and of objects with records of several devices."""
READERS = 8
ATTEMPTS = 5
SHORT_LENGTH = 10
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
GONE = {"NoSuchKey", "404"}

Line = dict[str, Any]


class QuarantineObject(NamedTuple):
    """An object of the quarantine."""

    key: str
    modified: datetime
    lines: list[Line]


class ObjectListing(NamedTuple):
    """An object's key, and when it was written."""

    key: str
    modified: datetime
    etag: str


class Store:
    """The quarantine of a stack."""

    def __init__(self, target: Target) -> None:
        """Read and write the stack's bucket of failures."""
        self._s3 = target.connect("s3")
        self._bucket = target.output("FailuresBucket")

    def read(self, device: str | None = None) -> list[QuarantineObject]:
        """Return all objects, or those that may have a device's records, by key; raise OpsError."""
        return self.objects(self.list_objects(device))

    def some(self, per_device: int) -> tuple[list[QuarantineObject], list[str]]:
        """Return up to `per_device` objects of each device, and the devices that have more.

        A device with more objects, however many, costs one more call.
        """
        chosen: list[ObjectListing] = []
        more: list[str] = []
        count, device = 0, ""
        after = ""
        try:
            while True:
                page, has_more = self._page(PREFIX, after)
                for each in page:
                    if device_of(each.key) != device:
                        count, device = 0, device_of(each.key)
                    count += 1
                    if count <= per_device:
                        chosen.append(each)
                    elif count == per_device + 1:
                        more.append(device)
                if not page or not has_more:
                    break
                is_over = count > per_device
                after = f"{PREFIX}{device}{AFTER_SLASH}" if is_over else page[-1].key
        except (ClientError, BotoCoreError) as error:
            raise OpsError(f"bucket {self._bucket}: {error}") from None
        return self.objects(chosen), more

    def list_objects(self, device: str | None = None) -> list[ObjectListing]:
        """Return the keys of all objects, or of those that may have a device's records."""
        folders = [PREFIX]
        if device is not None:
            folders = [f"{PREFIX}{name}/" for name in (device, *SHARED)]
        try:
            return [each for folder in folders for each in self._list(folder)]
        except (ClientError, BotoCoreError) as error:
            raise OpsError(f"bucket {self._bucket}: {error}") from None

    def objects(self, listings: Collection[ObjectListing]) -> list[QuarantineObject]:
        """Return objects with their lines, without those that are gone; raise OpsError."""
        try:
            with ThreadPoolExecutor(READERS) as pool:
                bodies = list(pool.map(self._get, (each.key for each in listings)))
        except (ClientError, BotoCoreError) as error:
            raise OpsError(f"bucket {self._bucket}: {error}") from None
        return [
            QuarantineObject(each.key, each.modified, lines_of(found[0]))
            for each, found in zip(listings, bodies, strict=True)
            if found
        ]

    def remove(self, key: str, names: Collection[str]) -> None:
        """Take lines out of an object, and keep lines written to it meanwhile; raise OpsError."""
        try:
            for _ in range(ATTEMPTS):
                found = self._get(key)
                if found is None or self._write(key, found[1], without(found[0], names)):
                    return
        except (ClientError, BotoCoreError) as error:
            raise OpsError(f"{self._bucket}/{key}: {error}") from None
        raise OpsError(f"{self._bucket}/{key}: other writers keep changing it: try again")

    def put_back(self, line: Line) -> None:
        """Put an object back to where a redrive found it."""
        key = line["name"].removeprefix("object:")
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=data_of(line))

    def _list(self, prefix: str) -> Iterator[ObjectListing]:
        after = ""
        while True:
            page, has_more = self._page(prefix, after)
            yield from page
            if not page or not has_more:
                return
            after = page[-1].key

    def _page(self, prefix: str, after: str) -> tuple[list[ObjectListing], bool]:
        """Return a page of the listing after a key, and whether there is another page."""
        more = {"StartAfter": after} if after else {}
        page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
        found = [
            ObjectListing(each["Key"], each["LastModified"], each.get("ETag", ""))
            for each in page.get("Contents", [])
        ]
        return found, bool(page.get("IsTruncated"))

    def _get(self, key: str) -> tuple[bytes, str] | None:
        try:
            found = self._s3.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                return None
            raise
        return found["Body"].read(), found["ETag"]

    def _write(self, key: str, etag: str, body: bytes) -> bool:
        """Write an object, or delete it if empty; return False if it was changed meanwhile."""
        where = {"Bucket": self._bucket, "Key": key, "IfMatch": etag}
        try:
            if body:
                self._s3.put_object(Body=body, **where)
            else:
                self._s3.delete_object(**where)
        except ClientError as error:
            if error.response["Error"]["Code"] in CHANGED | GONE:
                return False
            raise
        return True


def device_of(key: str) -> str:
    """Return the device's part of a key."""
    return key.removeprefix(PREFIX).partition("/")[0]


def lines_of(body: bytes) -> list[Line]:
    """Return an object's lines."""
    return [json.loads(line) for line in body.splitlines()]


def without(body: bytes, names: Collection[str]) -> bytes:
    """Return an object's bytes without the lines of these names, the others as they are."""
    lines = body.splitlines(keepends=True)
    return b"".join(line for line in lines if json.loads(line)["name"] not in names)


def data_of(line: Line) -> bytes:
    """Return a record's own bytes."""
    return base64.b64decode(line["data"])


def short(name: str) -> str:
    """Return a record's short name: the same for the same record, wherever it is listed."""
    return hashlib.sha256(name.encode()).hexdigest()[:SHORT_LENGTH]


def when(line: Line, modified: datetime) -> str:
    """Return when a record arrived, or else when it was put here."""
    at_ms = line.get("arrived_at_ms")
    at = modified if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_mistake(line: Line) -> str:
    """Return what is wrong with a record, in a sentence: the field, the reason, the value."""
    field, value = line.get("field"), line.get("value")
    text = f"{field}: {line.get('reason')}" if field else str(line.get("reason"))
    return text if value is None or str(value) in text else f"{text}; it is {value!r}"


def names_of(found: Iterable[QuarantineObject]) -> set[str]:
    """Return the names of all records."""
    return {line["name"] for each in found for line in each.lines}
