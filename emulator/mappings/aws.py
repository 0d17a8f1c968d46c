"""The engine's ports on an AWS endpoint: streams, functions, failure destinations.

As on AWS, the engine reads streams and writes to destinations with the function's role. So a
missing permission shows. It invokes functions as the account's root.

It reads streams without boto3's parser. That parser decodes each record's data, which the function
gets encoded again, and makes a datetime of each time. It took most of the engine's time.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cached_property
from typing import Any, TypeVar

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session

from emulator.mappings.model import (
    AFTER,
    AT_TIMESTAMP,
    DYNAMODB,
    KINESIS,
    TRIM_HORIZON,
    Answer,
    Mapping,
    Page,
    Record,
    Shard,
    Start,
    json_bytes,
)
from emulator.mappings.ports import CursorExpired, NotInvoked, OutsideProblem, Trimmed
from emulator.sigv4 import Key

T = TypeVar("T")
CONNECT_SECONDS = 5
CALL_SECONDS_MAX = 15
FUNCTION_SECONDS_MAX = 15 * 60
FETCH_MAX_DYNAMODB = 1000
CONNECTIONS_MAX = 64
SESSION_NAME = "event-source-mapping"
OK_STATUS = 200
UTF8_BYTES_MAX = 4
RECORD_FRAME_BYTES = 2
"""The bytes between two records in JSON, at most."""

STREAMS = [KINESIS], [DYNAMODB]

KINESIS_API = "kinesis", "Kinesis_20131202", "application/x-amz-json-1.1"
STREAMS_API = "dynamodb", "DynamoDBStreams_20120810", "application/x-amz-json-1.0"


class ApiError(Exception):
    """A service's error answer."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the code, to tell one error from another."""
        super().__init__(f"{code}: {message}")
        self.code = code


class Endpoint:
    """An AWS endpoint, and the threads that wait for its answers."""

    def __init__(
        self, url: str, region: str, root: Key, calls: Executor, invocations: Executor
    ) -> None:
        """Call the services at `url`, of the account whose root has the key `root`.

        Invocations have their own threads, so that slow functions don't block reading.
        """
        self.url = url
        self.region = region
        self._calls = calls
        self._invocations = invocations
        self._lock = threading.RLock()
        self._http = URLLib3Session(
            timeout=CALL_SECONDS_MAX,
            max_pool_connections=CONNECTIONS_MAX,
            proxies={},
        )
        self._root = Credentials(root.key_id, root.secret)
        self._roles: dict[str, RefreshableCredentials] = {}
        self._clients: dict[tuple[str, str], Any] = {}

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work`, which waits for a short answer, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._calls, work)

    async def run_long(self, work: Callable[[], T]) -> T:
        """Run `work`, which waits for a function, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._invocations, work)

    def call(
        self, api: tuple[str, str, str], action: str, body: dict[str, Any], role_arn: str
    ) -> dict[str, Any]:
        """Call a JSON API with a role's credentials; raise ApiError or OutsideProblem."""
        service, target, content_type = api
        headers = {"X-Amz-Target": f"{target}.{action}", "Content-Type": content_type}
        request = AWSRequest("POST", self.url, headers, json.dumps(body).encode())
        try:
            SigV4Auth(self._credentials(role_arn), service, self.region).add_auth(request)
            answer = self._http.send(request.prepare())
        except (BotoCoreError, ClientError) as error:
            raise OutsideProblem(str(error)) from error
        try:
            document: dict[str, Any] = json.loads(answer.content or b"{}")
        except ValueError:
            text = f"{action}: {answer.status_code} {answer.content[:100]!r}"
            raise OutsideProblem(text) from None
        if answer.status_code != OK_STATUS:
            code = str(document.get("__type", answer.status_code)).rpartition("#")[2]
            raise ApiError(code, document.get("message") or document.get("Message") or "")
        return document

    def client(self, service: str, role_arn: str = "") -> Any:
        """Return a boto3 client with a role's credentials, or with the root's if none is given."""
        key = service, role_arn
        with self._lock:  # threads may share a client, but not make clients at once
            if key not in self._clients:
                self._clients[key] = self._make_client(service, role_arn)
            return self._clients[key]

    def _make_client(self, service: str, role_arn: str) -> Any:
        is_invoking = service == "lambda"
        config = Config(
            proxies={},
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=CALL_SECONDS_MAX + (FUNCTION_SECONDS_MAX if is_invoking else 0),
            max_pool_connections=CONNECTIONS_MAX,
            s3={"addressing_style": "path"},
        )
        session = botocore.session.Session()
        credentials = self._credentials(role_arn)
        # boto3's own session accepts no credentials that renew themselves
        session._credentials = credentials  # type: ignore[attr-defined] # noqa: SLF001
        return session.create_client(
            service, region_name=self.region, endpoint_url=self.url, config=config
        )

    def _credentials(self, role_arn: str) -> Credentials:
        if not role_arn:
            return self._root
        if role_arn in self._roles:
            return self._roles[role_arn]
        with self._lock:
            if role_arn not in self._roles:
                self._roles[role_arn] = self._assumed(role_arn)
            return self._roles[role_arn]

    def _assumed(self, role_arn: str) -> RefreshableCredentials:
        def assume() -> dict[str, str]:
            answer = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName=SESSION_NAME)
            found = answer["Credentials"]
            return {
                "access_key": found["AccessKeyId"],
                "secret_key": found["SecretAccessKey"],
                "token": found["SessionToken"],
                "expiry_time": found["Expiration"].isoformat(),
            }

        try:
            return RefreshableCredentials.create_from_metadata(assume(), assume, "assume-role")
        except (BotoCoreError, ClientError) as error:
            raise OutsideProblem(f"{role_arn} can't be assumed: {error}") from error

    async def mappings(self) -> list[Mapping]:
        """Return all mappings; raise OutsideProblem."""

        def list_all() -> list[Mapping]:
            pages = self.client("lambda").get_paginator("list_event_source_mappings").paginate()
            return [
                Mapping.from_api(found)
                for page in pages
                for found in page["EventSourceMappings"]
                if found.get("EventSourceArn", "").split(":")[2:3] in STREAMS
            ]

        try:
            return await self.run(list_all)
        except (BotoCoreError, ClientError) as error:
            raise OutsideProblem(str(error)) from error

    def role_of(self, function_arn: str) -> str:
        """Return a function's role; raise OutsideProblem."""
        try:
            found = self.client("lambda").get_function_configuration(FunctionName=function_arn)
        except (BotoCoreError, ClientError) as error:
            raise OutsideProblem(str(error)) from error
        role: str = found["Role"]
        return role


class StreamSource:
    """The common part of Kinesis and DynamoDB streams."""

    api: tuple[str, str, str]

    def __init__(self, endpoint: Endpoint, mapping: Mapping) -> None:
        """Read a mapping's stream with its function's role."""
        self._endpoint = endpoint
        self._mapping = mapping
        self._region = mapping.source_arn.split(":")[3]

    @cached_property
    def _role_arn(self) -> str:
        return self._endpoint.role_of(self._mapping.function_arn)

    async def _iterator(self, shard_id: str, kind: str, where: dict[str, Any]) -> str:
        answer = await self._endpoint.run(
            lambda: self._call(
                "GetShardIterator", ShardId=shard_id, ShardIteratorType=kind, **where
            )
        )
        return str(answer["ShardIterator"])

    def _call(self, action: str, **body: Any) -> dict[str, Any]:
        try:
            return self._endpoint.call(self.api, action, body, self._role_arn)
        except ApiError as error:
            self.__dict__.pop("_role_arn", None)  # the function may have another role by now
            if error.code == "ExpiredIteratorException":
                raise CursorExpired from error
            if error.code == "TrimmedDataAccessException":
                raise Trimmed from error
            raise OutsideProblem(str(error)) from error


class KinesisSource(StreamSource):
    """A Kinesis stream.

    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html
    """

    api = KINESIS_API

    async def shards(self) -> list[Shard]:
        """Return all shards, also closed ones that still have records."""

        def list_all() -> list[Shard]:
            found: list[dict[str, Any]] = []
            page = self._call("ListShards", StreamARN=self._mapping.source_arn)
            found += page["Shards"]
            while page.get("NextToken"):
                page = self._call("ListShards", NextToken=page["NextToken"])
                found += page["Shards"]
            return [shard_of(each, "AdjacentParentShardId") for each in found]

        return await self._endpoint.run(list_all)

    async def latest(self, shard_id: str) -> Start:  # noqa: ARG002 - the same for every shard
        """Return the place after the shard's last record: now."""
        return Start(AT_TIMESTAMP, time.time_ns() // 1_000_000)

    async def open(self, shard_id: str, start: Start) -> str:
        """Return a shard iterator."""
        place: dict[str, Any] = {}
        if start.kind == AT_TIMESTAMP:
            place["Timestamp"] = int(start.value or 0) / 1000
        elif start.kind == AFTER:
            place["StartingSequenceNumber"] = start.value
        stream = {"StreamARN": self._mapping.source_arn}
        return await self._iterator(shard_id, start.kind, stream | place)

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:
        """Return the next records."""

        def get() -> Page:
            answer = self._call(
                "GetRecords", StreamARN=self._mapping.source_arn, ShardIterator=cursor, Limit=limit
            )
            return Page(
                [self._record(shard_id, found) for found in answer["Records"]],
                answer.get("NextShardIterator"),
                answer.get("MillisBehindLatest", 0),
                answer.get("RecordsBehindLatest"),
            )

        return await self._endpoint.run(get)

    def _record(self, shard_id: str, found: dict[str, Any]) -> Record:
        key, sequence, data = found["PartitionKey"], found["SequenceNumber"], found["Data"]
        arrived = found["ApproximateArrivalTimestamp"]
        event = {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": key,
                "sequenceNumber": sequence,
                "data": data,
                "approximateArrivalTimestamp": arrived,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{shard_id}:{sequence}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": self._role_arn,
            "awsRegion": self._region,
            "eventSourceARN": self._mapping.source_arn,
        }
        size_bytes = self._frame + len(data) + UTF8_BYTES_MAX * len(key)
        return Record(sequence, key, round(arrived * 1000), size_bytes, event)

    @cached_property
    def _frame(self) -> int:
        """The bytes of a record without its data and its key, at most."""
        return len(self._mapping.source_arn) + len(self._role_arn) + 512


class DynamoDbSource(StreamSource):
    """A table's stream.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_streams_GetRecords.html
    """

    api = STREAMS_API

    async def shards(self) -> list[Shard]:
        """Return all shards, also closed ones."""

        def list_all() -> list[Shard]:
            found: list[Shard] = []
            more: dict[str, Any] = {}
            while True:
                answer = self._call("DescribeStream", StreamArn=self._mapping.source_arn, **more)
                description = answer["StreamDescription"]
                found += [shard_of(each) for each in description["Shards"]]
                if not description.get("LastEvaluatedShardId"):
                    return found
                more = {"ExclusiveStartShardId": description["LastEvaluatedShardId"]}

        return await self._endpoint.run(list_all)

    async def latest(self, shard_id: str) -> Start:
        """Return the place after the last record; it reads the shard, because LATEST moves."""
        place, cursor = TRIM_HORIZON, await self.open(shard_id, TRIM_HORIZON)
        while True:
            page = await self.fetch(shard_id, cursor, FETCH_MAX_DYNAMODB)
            if page.records:
                place = Start(AFTER, page.records[-1].sequence)
            if not page.records or page.cursor is None:
                return place
            cursor = page.cursor

    async def open(self, shard_id: str, start: Start) -> str:
        """Return a shard iterator."""
        place: dict[str, Any] = {}
        if start.kind == AFTER:
            place["SequenceNumber"] = start.value
        stream = {"StreamArn": self._mapping.source_arn}
        return await self._iterator(shard_id, start.kind, stream | place)

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:  # noqa: ARG002
        """Return the next records."""

        def get() -> Page:
            answer = self._call(
                "GetRecords", ShardIterator=cursor, Limit=min(limit, FETCH_MAX_DYNAMODB)
            )
            records = [self._record(found) for found in answer["Records"]]
            # DynamoDB doesn't say how far behind a reader is. A full page means that more may come.
            behind = answer.get("RecordsBehindLatest")
            is_more = behind if behind is not None else len(records) == FETCH_MAX_DYNAMODB
            return Page(records, answer.get("NextShardIterator"), int(bool(is_more)), behind)

        return await self._endpoint.run(get)

    def _record(self, found: dict[str, Any]) -> Record:
        change = found["dynamodb"]
        created = float(change["ApproximateCreationDateTime"])
        event = found | {
            "dynamodb": change | {"ApproximateCreationDateTime": created},
            "eventSourceARN": self._mapping.source_arn,
        }
        key = json.dumps(change["Keys"], sort_keys=True)
        size = len(json_bytes(event)) + RECORD_FRAME_BYTES
        return Record(change["SequenceNumber"], key, round(created * 1000), size, event)


def shard_of(found: dict[str, Any], *other_parents: str) -> Shard:
    """Return a shard of the API's answer as the engine's value."""
    parents = [found[name] for name in ("ParentShardId", *other_parents) if found.get(name)]
    is_closed = bool(found.get("SequenceNumberRange", {}).get("EndingSequenceNumber"))
    return Shard(found["ShardId"], tuple(parents), is_closed)


def source_of(endpoint: Endpoint, mapping: Mapping) -> KinesisSource | DynamoDbSource:
    """Return the source of a mapping."""
    kind = DynamoDbSource if mapping.service == DYNAMODB else KinesisSource
    return kind(endpoint, mapping)


class LambdaSink:
    """Lambda's Invoke."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Invoke functions of `endpoint`."""
        self._endpoint = endpoint

    async def invoke(self, function_arn: str, event: dict[str, Any]) -> Answer:
        """Invoke a function and wait for its answer; raise NotInvoked."""
        return await self._endpoint.run_long(lambda: self._invoke(function_arn, event))

    def _invoke(self, function_arn: str, event: dict[str, Any]) -> Answer:
        body = json_bytes(event)
        try:
            answer = self._endpoint.client("lambda").invoke(FunctionName=function_arn, Payload=body)
            text = answer["Payload"].read()
        except ReadTimeoutError as error:
            return Answer({"errorMessage": str(error)}, "Unhandled")
        except Exception as error:  # any error: there is no answer of the function
            raise NotInvoked(str(error) or repr(error)) from error
        return Answer(
            payload_of(text),
            answer.get("FunctionError"),
            answer["ResponseMetadata"].get("RequestId", ""),
            answer.get("ExecutedVersion", "$LATEST"),
            answer["StatusCode"],
        )


def payload_of(text: bytes) -> Any:
    """Return a function's answer; a text if it isn't JSON, None if it is empty."""
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.decode(errors="replace")


class AwsDestination:
    """Sends to queues, topics and buckets with the function's role."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Send to queues, topics and buckets of `endpoint`."""
        self._endpoint = endpoint

    async def send(self, mapping: Mapping, key: str, document: dict[str, Any]) -> None:
        """Send a document; raise OutsideProblem."""
        try:
            await self._endpoint.run(lambda: self._send(mapping, key, json.dumps(document)))
        except OutsideProblem:
            raise
        except Exception as error:  # any error: the batch must not be lost
            raise OutsideProblem(f"{mapping.destination_arn}: {error}") from error

    def _send(self, mapping: Mapping, key: str, text: str) -> None:
        arn = mapping.destination_arn or ""
        service, name = arn.split(":")[2], arn.rpartition(":")[2]
        client = self._endpoint.client(service, self._endpoint.role_of(mapping.function_arn))
        match service:
            case "s3":
                client.put_object(Bucket=name, Key=key, Body=text.encode())
            case "sns":
                client.publish(TopicArn=arn, Message=text)
            case "sqs":
                client.send_message(QueueUrl=self._queue_url(name), MessageBody=text)
            case _:
                raise OutsideProblem(f"{arn} is not a queue, a topic or a bucket")

    def _queue_url(self, name: str) -> str:
        url: str = self._endpoint.client("sqs").get_queue_url(QueueName=name)["QueueUrl"]
        return url
