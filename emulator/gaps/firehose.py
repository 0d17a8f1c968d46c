"""Closes a gap of the embedded AWS: Firehose delivers many records in one compressed object.

On AWS it buffers records of a stream up to a time or a size. It appends the delimiter to each
record, compresses them, and names the object by the arrival of its oldest record
(https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html). A record that the Kinesis
Producer Library aggregated is delivered as the records in it
(https://docs.aws.amazon.com/streams/latest/dev/kpl-with-firehose.html). The emulator (1.5.33)
writes an unchanged object for each record, on the thread that serves every request. Here that
thread only buffers the records, and another thread writes them. Writing needs the permissions of
the role, too.
"""

import asyncio
import contextvars
import gzip
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator.gaps.permissions import role_allows

LOOK_SECONDS = 0.2
AGAIN_SECONDS = 2.0
MEGABYTE = 1024 * 1024
COMPRESSION = 1  # of 9: quick
KPL_MAGIC, MD5_BYTES = b"\xf3\x89\x9a\xc2", 16
KPL_RECORDS = KPL_DATA = 3  # numbers of fields
WITH_LENGTH = 2  # Protobuf's wire type
BUFFER_SECONDS, BUFFER_MEGABYTES = 300, 5  # AWS's defaults
OK_STATUS = 200

log = logging.getLogger("firehose")
Stream = dict[str, Any]
Put = Callable[[str, bytes], None]
"""Put an object at /bucket/key; raise Undelivered."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    deliver_in_objects(
        modules.service("firehose"), modules.service("s3"), modules.core("iam_evaluator")
    )


class Undelivered(Exception):
    """An object couldn't be written; the message says why."""


@dataclass
class Buffer:
    """Records that a delivery stream has read and not written yet."""

    stream: Stream
    context: contextvars.Context  # has the emulator's account and region
    since: float
    records: list[bytes] = field(default_factory=list)
    size: int = 0

    def is_due(self, now: float) -> bool:
        """Return whether it has waited long enough or is large enough."""
        hints = self.config.get("BufferingHints") or {}
        seconds = int(hints.get("IntervalInSeconds", BUFFER_SECONDS))
        most = int(hints.get("SizeInMBs", BUFFER_MEGABYTES)) * MEGABYTE
        return now - self.since >= seconds or self.size >= most

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the stream's destination."""
        found: dict[str, Any] = self.stream["destinations"][0]["config"]
        return found


class Delivery:
    """The buffers of all delivery streams, and the loop that writes due ones."""

    def __init__(self, firehose: Any, iam: Any, put: Put) -> None:
        """Use the emulator's modules of these names; `put` writes objects."""
        self._firehose = firehose
        self._iam = iam
        self._put = put
        self._buffers: dict[str, Buffer] = {}
        self._lock = threading.Lock()

    def note(self, stream_arn: str, records: Sequence[tuple[str, bytes]]) -> None:
        """Buffer records of a stream for each delivery stream that reads it."""
        now = time.time()
        with self._lock:
            for stream in list(self._firehose._streams.values()):
                if self._reads(stream, stream_arn):
                    buffer = self._buffers.get(stream["arn"])
                    if buffer is None:
                        buffer = Buffer(stream, contextvars.copy_context(), now)
                        self._buffers[stream["arn"]] = buffer
                    for _, data in records:
                        buffer.records += deaggregated(data)
                        buffer.size += len(data)

    @staticmethod
    def _reads(stream: Stream, stream_arn: str) -> bool:
        source = stream.get("kinesis_source") or {}
        kinds = [destination["type"] for destination in stream["destinations"]]
        return source.get("KinesisStreamARN") == stream_arn and kinds == ["ExtendedS3"]

    def run(self) -> None:
        """Write due buffers, for ever. AWS, too, retries as long as the stream has the records."""
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                self.deliver_due()
            except BaseException:  # any error: the next round has the buffers again
                log.exception("not delivered")
                time.sleep(AGAIN_SECONDS)

    def deliver_due(self) -> None:
        """Write due buffers; put back one that can't be written, and raise its error."""
        for buffer in self._take_due():
            try:
                buffer.context.run(self._write, buffer)
            except BaseException:
                self._put_back(buffer)
                raise

    def _take_due(self) -> Iterator[Buffer]:
        """Remove and yield each due buffer, one at a time."""
        now = time.time()
        for arn in list(self._buffers):
            with self._lock:
                buffer = self._buffers[arn]
                if buffer.is_due(now):
                    del self._buffers[arn]
                else:
                    continue
            yield buffer

    def _put_back(self, buffer: Buffer) -> None:
        """Put a buffer back, before records that came later."""
        with self._lock:
            newer = self._buffers.get(buffer.stream["arn"])
            if newer is not None:
                buffer.records += newer.records
                buffer.size += newer.size
            self._buffers[buffer.stream["arn"]] = buffer

    def _write(self, buffer: Buffer) -> None:
        config, stream = buffer.config, buffer.stream
        arrival = time.gmtime(buffer.since)
        stamp = self._firehose._java_time("yyyy-MM-dd-HH-mm-ss", arrival)
        prefix = self._firehose._evaluate_prefix(config.get("Prefix", ""), arrival)
        is_compressed = config.get("CompressionFormat") == "GZIP"
        name = f"{stream['name']}-{stream['version']}-{stamp}-{self._firehose.new_uuid()}"
        key = f"{prefix}{name}{'.gz' if is_compressed else ''}"
        bucket = self._firehose._s3_bucket_from_arn(config["BucketARN"])
        self._check(stream["kinesis_source"], "kinesis:GetRecords", None)
        self._check(config, "s3:PutObject", f"{config['BucketARN']}/{key}")
        delimiter = delimiter_of(config)
        body = b"".join(record + delimiter for record in buffer.records)
        if is_compressed:
            body = gzip.compress(body, COMPRESSION, mtime=0)
        self._put(f"/{bucket}/{key}", body)

    def _check(self, grants: dict[str, Any], action: str, resource: str | None) -> None:
        """Raise Undelivered if the role lacks a permission."""
        role, asked = grants["RoleARN"], resource or grants["KinesisStreamARN"]
        if not role_allows(self._iam, role, action, asked):
            raise Undelivered(f"{role} isn't allowed {action} on {asked}")


def deaggregated(record: bytes) -> list[bytes]:
    """Return the records in an aggregated record of the Kinesis Producer Library.

    Any other record is returned as it is. After the magic number come a Protobuf message and its
    MD5. The message's field 3 is a record, whose field 3 is its data:
    https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md
    """
    message, md5 = record[len(KPL_MAGIC) : -MD5_BYTES], record[-MD5_BYTES:]
    is_whole = hashlib.md5(message, usedforsecurity=False).digest() == md5
    if not record.startswith(KPL_MAGIC) or not is_whole:
        return [record]
    try:
        inner = (part for number, part in fields_of(message) if number == KPL_RECORDS)
        datas = [dict(fields_of(each)).get(KPL_DATA) for each in inner]
    except (IndexError, ValueError):
        return [record]
    return [data for data in datas if data is not None] or [record]


def fields_of(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of a message's length-delimited fields; skip numeric fields.

    Raise IndexError or ValueError if it isn't such a message.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        size, at = varint(message, at)
        if tag & 7 == WITH_LENGTH:
            if at + size > len(message):
                raise ValueError(size)
            yield tag >> 3, message[at : at + size]
            at += size
        elif tag & 7:
            raise ValueError(tag)


def varint(message: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, and the place after it."""
    number = shift = 0
    while True:
        number |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return number, at


def delimiter_of(config: dict[str, Any]) -> bytes:
    """Return the delimiter after each record; the setting writes a newline as backslash n."""
    processing = config.get("ProcessingConfiguration") or {}
    for processor in processing.get("Processors") or []:
        if processor["Type"] == "AppendDelimiterToRecord":
            values = {each["ParameterName"]: each for each in processor["Parameters"]}
            text: str = values["Delimiter"]["ParameterValue"]
            return text.replace("\\n", "\n").encode()
    return b""


def putter(s3: Any) -> Put:
    """Return a function that puts objects into the emulator's buckets."""

    def put(path: str, body: bytes) -> None:
        headers = {"content-type": "application/octet-stream", "content-length": str(len(body))}
        headers["host"] = "s3.localhost"
        request = s3.handle_request("PUT", path, headers, body, {}, internal=True)
        status, _, answer = asyncio.run(request)
        if status != OK_STATUS:
            raise Undelivered(f"{path}: {status} {answer!r}")

    return put


def deliver_in_objects(firehose: Any, s3: Any, iam: Any) -> None:
    """Make the emulator's Firehose deliver a stream's records as AWS's does."""
    delivery = Delivery(firehose, iam, putter(s3))
    firehose.ingest_from_kinesis_source = delivery.note
    threading.Thread(target=delivery.run, daemon=True).start()
