"""The functions' boto3 clients: the adapters' calls, on the simulated services."""

import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, TypeVar

from botocore.exceptions import ClientError
from telemetry.domain.schema import versions

from emulator.mappings.model import Answer
from emulator.mappings.ports import NotInvoked
from tests.fakes import schema_id
from tests.simulation.processes import wait
from tests.simulation.services import STACK, Services
from tests.simulation.tables import Item, Refused, Table

T = TypeVar("T")
Json = dict[str, Any]
Invoke = Callable[[str, Json], Awaitable[Answer]]
"""Runs a function with an event, and waits for its answer."""
REGISTRY = "telemetry/reading"


def refusal(code: str, operation: str, item: Item | None = None) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "simulated"}}
    if item is not None:
        response["Item"] = item
    return ClientError(response, operation)


class Clients:
    """The clients of one environment; `call` decides whether a call fails."""

    def __init__(self, services: Services, invoke: Invoke) -> None:
        self.services = services
        self.conditions = services.conditions
        self.invoke = invoke
        self.dynamodb = DynamoDb(self)
        self.kinesis = Kinesis(self)
        self.sqs = Sqs(self)
        self.s3 = S3(self)
        self.aws_lambda = Lambda(self)
        self.glue = Glue(self)
        self.sns = Publishing(self, "sns")
        self.events = Publishing(self, "events")

    def call(self, service: str, operation: str, does: Callable[[], T]) -> T:
        raise NotImplementedError

    def note_key(self, data: bytes, key: str) -> None:
        """Record the partition key of a record that was to get onto the stream."""


class Client:
    """A client of one service."""

    service = ""

    def __init__(self, of: Clients) -> None:
        self._of = of
        self._services = of.services
        self._conditions = of.conditions

    def _call(self, operation: str, does: Callable[[], T]) -> T:
        return self._of.call(self.service, operation, does)


class Kinesis(Client):
    service = "kinesis"

    def put_record(self, *, StreamName: str, PartitionKey: str, Data: bytes) -> None:  # noqa: ARG002, N803
        self._call("PutRecord", lambda: self._services.stream.take(Data, PartitionKey))

    def put_records(self, *, StreamName: str, Records: list[Json]) -> Json:  # noqa: ARG002, N803
        stream = self._services.stream
        for record in Records:
            self._of.note_key(record["Data"], record["PartitionKey"])

        def does() -> Json:
            results: list[Json] = []
            for record in Records:
                if self._conditions.happens("put_throttle"):
                    code = "ProvisionedThroughputExceededException"
                    results.append({"ErrorCode": code, "ErrorMessage": "simulated"})
                    continue
                shard_id, number = stream.take(record["Data"], record["PartitionKey"])
                results.append({"ShardId": shard_id, "SequenceNumber": number})
            failed = sum("ErrorCode" in result for result in results)
            return {"FailedRecordCount": failed, "Records": results}

        return self._call("PutRecords", does)


class DynamoDb(Client):
    service = "dynamodb"

    def batch_execute_statement(self, *, Statements: list[Json]) -> Json:  # noqa: N803
        return self._call(
            "BatchExecuteStatement",
            lambda: {"Responses": [self._execute(each) for each in Statements]},
        )

    def _execute(self, statement: Json) -> Json:
        conditions, text = self._conditions, statement["Statement"]
        if conditions.happens("item_throttle"):
            return {"Error": {"Code": "ThrottlingError", "Message": "simulated"}}
        table = self._table(text.split('"')[1])
        try:
            table.execute(self._services.name, text, statement["Parameters"])
        except Refused as refused:
            conditions.hits["conflict"] += 1
            is_insert = text.startswith("INSERT")
            code = "DuplicateItem" if is_insert else "ConditionalCheckFailed"
            error: Json = {"Code": code, "Message": "simulated"}
            if refused.item is not None and not conditions.happens("mute_conflict"):
                error["Item"] = refused.item
            self._note(table, statement, code)
            return {"Error": error}
        self._note(table, statement, "written")
        return {}

    def _note(self, table: Table, statement: Json, outcome: str) -> None:
        """Record a statement's item: of its texts only keys name a region."""
        texts = [value["S"] for value in statement["Parameters"] if "S" in value]
        version = statement["Parameters"][-1].get("N", "")
        self._conditions.history.note(self._services.name, table.name, *texts[:2], version, outcome)

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool = False) -> Json:  # noqa: N803
        def does() -> Json:
            table = self._table(TableName)
            item = table.get(self._services.name, table.key_of(Key), ConsistentRead)
            return {} if item is None else {"Item": item}

        return self._call("GetItem", does)

    def put_item(self, **request: Any) -> None:
        def does() -> None:
            table = self._table(request["TableName"])
            values = request["ExpressionAttributeValues"]
            condition = request["ConditionExpression"]
            try:
                table.claim(self._services.name, request["Item"], condition, values)
            except Refused as refused:
                code = "ConditionalCheckFailedException"
                raise refusal(code, "PutItem", refused.item) from None

        self._call("PutItem", does)

    def update_item(self, **request: Any) -> None:
        def does() -> None:
            self._table(request["TableName"]).set_state(
                self._services.name,
                request["Key"],
                request["UpdateExpression"],
                request["ExpressionAttributeValues"],
            )

        self._call("UpdateItem", does)

    def query(self, **request: Any) -> Json:
        def does() -> Json:
            (value,) = request["ExpressionAttributeValues"].values()
            found, last = self._table(request["TableName"]).indexed(
                self._services.name, value["S"], request["Limit"], request.get("ExclusiveStartKey")
            )
            return {"Items": found} | ({"LastEvaluatedKey": last} if last else {})

        return self._call("Query", does)

    def get_paginator(self, operation: str) -> "Windows":
        assert operation == "query"
        return Windows(self)

    def _table(self, name: str) -> Table:
        return self._services.tables[name]


class Windows:
    """The pages of a query for a device's windows."""

    def __init__(self, dynamodb: DynamoDb) -> None:
        self._dynamodb = dynamodb

    def paginate(self, **request: Any) -> Iterator[Json]:
        values = request["ExpressionAttributeValues"]
        table = self._dynamodb._table(request["TableName"])
        region = self._dynamodb._services.name
        if ":partition" in values:  # the regions' generations
            (name,) = values.values()
            yield self._dynamodb._call(
                "Query", lambda: {"Items": table.of_partition(region, name["S"])}
            )
            return
        device_id, low, high = [values[name]["S"] for name in (":device", ":from", ":to")]
        is_forward, size = request["ScanIndexForward"], request["PaginationConfig"]["PageSize"]
        seen = ""  # the sort key of the last item so far

        def page() -> Json:
            found = table.between(region, device_id, low, high, is_forward)
            keys = [table.key_of(item)[1] for item in found]
            left = [
                item
                for item, key in zip(found, keys, strict=True)
                if not seen or (key > seen if is_forward else key < seen)
            ]
            return {"Items": left[:size]}

        while True:
            items = self._dynamodb._call("Query", page)["Items"]
            yield {"Items": items}
            if len(items) < size:
                return
            seen = table.key_of(items[-1])[1]


class Sqs(Client):
    service = "sqs"

    def send_message_batch(self, *, QueueUrl: str, Entries: list[Json]) -> Json:  # noqa: N803
        def does() -> Json:
            answer: Json = {"Successful": [], "Failed": []}
            for entry in Entries:
                if self._conditions.happens("send_fails"):
                    failure = {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False}
                    answer["Failed"].append(failure)
                    continue
                sent = self._services.queues[QueueUrl].send(entry["MessageBody"])
                answer["Successful"].append({"Id": entry["Id"], "MessageId": sent})
            return answer

        return self._call("SendMessageBatch", does)

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:  # noqa: N803
        self._call("SendMessage", lambda: self._services.queues[QueueUrl].send(MessageBody))

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int,  # noqa: N803
        WaitTimeSeconds: int,  # noqa: ARG002, N803
    ) -> Json:
        def does() -> Json:
            found = self._services.queues[QueueUrl].receive(MaxNumberOfMessages)
            return {"Messages": [{"Body": m.body, "ReceiptHandle": m.receipt} for m in found]}

        return self._call("ReceiveMessage", does)

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> None:  # noqa: N803
        queue = self._services.queues[QueueUrl]
        self._call("DeleteMessage", lambda: queue.delete(ReceiptHandle))

    def change_message_visibility(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        ReceiptHandle: str,  # noqa: N803
        VisibilityTimeout: int,  # noqa: N803
    ) -> None:
        queue = self._services.queues[QueueUrl]
        self._call("ChangeMessageVisibility", lambda: queue.hide(ReceiptHandle, VisibilityTimeout))


class S3(Client):
    service = "s3"

    def put_object(
        self,
        *,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        Body: bytes | str,  # noqa: N803
        IfMatch: str | None = None,  # noqa: N803
    ) -> Json:
        body = Body.encode() if isinstance(Body, str) else Body

        def does() -> Json:
            bucket = self._services.buckets[Bucket]
            if IfMatch not in (None, bucket.etag(Key)):
                raise refusal("PreconditionFailed", "PutObject")
            bucket.put(Key, body)
            return {"ETag": bucket.etag(Key)}

        return self._call("PutObject", does)

    def get_object(self, *, Bucket: str, Key: str) -> Json:  # noqa: N803
        def does() -> Json:
            bucket = self._services.buckets[Bucket]
            if Key not in bucket.objects:
                raise refusal("NoSuchKey", "GetObject")
            return {"Body": BytesIO(bucket.objects[Key]), "ETag": bucket.etag(Key)}

        return self._call("GetObject", does)

    def delete_object(self, *, Bucket: str, Key: str, IfMatch: str | None = None) -> None:  # noqa: N803
        def does() -> None:
            bucket = self._services.buckets[Bucket]
            if IfMatch not in (None, bucket.etag(Key)):
                raise refusal("PreconditionFailed", "DeleteObject")
            bucket.objects.pop(Key, None)

        self._call("DeleteObject", does)

    def list_objects_v2(self, *, Bucket: str, Prefix: str) -> Json:  # noqa: N803
        def does() -> Json:
            keys = sorted(self._services.buckets[Bucket].objects)
            at = datetime.fromtimestamp(self._conditions.now_ms() / 1000, UTC)
            found = [{"Key": key, "LastModified": at} for key in keys if key.startswith(Prefix)]
            return {"Contents": found}

        return self._call("ListObjectsV2", does)


class Glue(Client):
    service = "glue"

    def get_schema_version(self, *, SchemaVersionId: str) -> Json:  # noqa: N803
        def does() -> Json:
            found = [each for each in versions("reading") if id_of(each) == SchemaVersionId]
            if not found:
                raise refusal("EntityNotFoundException", "GetSchemaVersion")
            if self._conditions.happens("registry_fails"):
                raise refusal("InternalServiceException", "GetSchemaVersion")
            return {
                "SchemaArn": f"arn:aws:glue:{self._services.name}:123456789012:schema/{REGISTRY}",
                "SchemaDefinition": json.dumps(found[0]),
                "DataFormat": "AVRO",
                "Status": "AVAILABLE",
            }

        return self._call("GetSchemaVersion", does)


def id_of(schema: Json) -> str:
    """Return the registry's id of a version of the reading schema."""
    return str(schema_id(schema["version"]))


class Lambda(Client):
    service = "lambda"

    def invoke(self, *, FunctionName: str, Payload: bytes) -> Json:  # noqa: N803
        """Invoke a function; the wait for its answer is part of the call."""
        self._call("Invoke", lambda: None)
        stage = FunctionName.removeprefix(f"{STACK}-")
        try:
            answer = wait(self._of.invoke(stage, json.loads(Payload)))
        except NotInvoked:
            raise refusal("TooManyRequestsException", "Invoke") from None
        found: Json = {"Payload": BytesIO(json.dumps(answer.payload).encode())}
        if answer.function_error is not None:
            found["FunctionError"] = answer.function_error
        return found


class Publishing(Client):
    """SNS and EventBridge; keeps the published notices, by way."""

    def __init__(self, of: Clients, service: str) -> None:
        super().__init__(of)
        self.service = service

    def publish(self, *, TopicArn: str, Message: str, **_more: Any) -> None:  # noqa: ARG002, N803
        self._call("Publish", lambda: self._services.published["sns"].append(Message))

    def put_events(self, *, Entries: list[Json]) -> Json:  # noqa: N803
        def does() -> Json:
            for entry in Entries:
                self._services.published["bus"].append(entry["Detail"])
            return {"FailedEntryCount": 0, "Entries": [{}]}

        return self._call("PutEvents", does)
