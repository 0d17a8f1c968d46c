"""Event source mappings behave as recorded on AWS: recordings are replayed, field by field.

A recording of a stream has the created mapping, the events of its function and the documents of its
failure destination (tests/recordings.py). In a replay the mapping runs on the engine. The engine
reads answers of GetRecords, and sends events to Invoke and documents to a queue, topic or bucket,
with the same code as outside of tests. Only the stream's paging and AWS itself are fakes.

A bucket's `payload` is a text, as AWS documents it; the recordings have it parsed.
"""

import asyncio
import base64
import io
import json
import random
import re
from collections.abc import Awaitable, Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import pytest

from emulator.mappings.aws import (
    AwsDestination,
    DynamoDbSource,
    Endpoint,
    KinesisSource,
    LambdaSink,
)
from emulator.mappings.memory import (
    EPOCH_MS,
    FIRST_SEQUENCE,
    MemoryShard,
    VirtualTimeLoop,
    run_virtually,
)
from emulator.mappings.model import DYNAMODB, Mapping, Record
from tests.mapping_rig import Rig
from tests.recordings import (
    ACCOUNT,
    PLACEHOLDER,
    UUID_FORM,
    Document,
    Recording,
    kind_of,
    needed,
    recorded_of,
    with_pattern_texts,
)

pytestmark = needed
as_aws = pytest.mark.as_aws

Function = Callable[[Document], Any]
T = TypeVar("T")

NOT_HERE = dict.fromkeys(
    [
        "dynamodb__duplicate_event_source_mappings",
        "dynamodb__dynamodb_invalid_event_filter_eventName_INSERT_123",
        "dynamodb__dynamodb_invalid_event_filter_single-string",
        "dynamodb__esm_with_not_existing_dynamodb_stream",
        "kinesis__duplicate_event_source_mappings",
        "kinesis__esm_with_not_existing_kinesis_stream",
    ],
    "the API refuses to create a mapping: no engine runs; tests/contract",
)
REPLAYED: list[str] = []


def recorded(*names: str) -> pytest.MarkDecorator:
    """Run a test with each of these recordings."""
    REPLAYED.extend(names)
    return pytest.mark.parametrize("name", names)


def test_no_recording_of_a_stream_is_forgotten() -> None:
    assert recorded_of("kinesis", "dynamodb") == sorted({*REPLAYED, *NOT_HERE})


# Recordings

SECONDS = {"<approximate-arrival-timestamp>", "<approximate-creation-datetime>"}
"""Numbers with a fraction, in an event; equal though they are different times."""
STAND_INS = {"<region>": "eu-central-1", "<partition>": "aws", ACCOUNT: "123456789012"}
STREAM_LABEL = "2026-01-01T00:00:00.000"
ROLE_ARN = "arn:aws:iam::123456789012:role/consumer"
CLIENTS = {("lambda", ""), ("sqs", ROLE_ARN), ("sns", ROLE_ARN), ("s3", ROLE_ARN)}
TABLE_FAILED = "dynamodb__dynamodb_report_batch_item_failure_scenarios_"
TABLE_SUCCEEDED = "dynamodb__dynamodb_report_batch_item_success_scenarios_"
UNRECORDED: dict[str, Document] = {
    TABLE_FAILED: {
        "BatchSize": 3,
        "MaximumBatchingWindowInSeconds": 1,
        "MaximumRetryAttempts": 3,
        "DestinationConfig": {"OnFailure": {"Destination": "arn:aws:sqs:::failures"}},
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
    },
    TABLE_SUCCEEDED: {
        "BatchSize": 1,
        "MaximumRetryAttempts": 2,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
    },
}
"""Settings of mappings that were not recorded, from the requests of those tests."""


def nodes(value: Any) -> Iterator[Document]:
    """Return every object in a document, outer ones first."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value:
        if isinstance(child, dict | list):
            yield from nodes(child)


class StreamRecording(Recording):
    """A recording of mappings of a stream."""

    def __init__(self, name: str) -> None:
        super().__init__(name, STAND_INS)

    @cached_property
    def mappings(self) -> list[Mapping]:
        """Return the created mappings, with values in place of placeholders."""
        replies = [
            reply
            for key, reply in self.content.items()
            if key.startswith("create_event_source_mapping")
        ]
        return [
            Mapping.from_api(self._filled(with_pattern_texts(reply)))
            for reply in replies or [self._unrecorded()]
        ]

    def _unrecorded(self) -> Document:
        """Return the mapping of a recording that lacks it."""
        [settings] = [UNRECORDED[each] for each in UNRECORDED if self.name.startswith(each)]
        function_arns = [each["requestContext"]["functionArn"] for each in self.documents]
        return settings | {
            "UUID": "<uuid:90>",
            "EventSourceArn": self.records[0]["eventSourceARN"],
            "FunctionArn": next(iter(function_arns), "arn:aws:lambda:::function:consumer"),
        }

    @cached_property
    def records(self) -> list[Document]:
        """Return the records that any function or bucket got, each once, in order."""
        found = [each for each in nodes(self.content) if "eventID" in each]
        return list({each["eventID"]: each for each in found}.values())

    @cached_property
    def documents(self) -> list[Document]:
        """Return the documents that the failure destination got."""
        return [each for each in nodes(self.content) if "requestContext" in each]

    def is_as(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, str) and expected in SECONDS:
            return isinstance(actual, float) and EPOCH_MS <= actual * 1000 <= EPOCH_MS + 10**9
        return super().is_as(actual, expected)

    def _filled(self, value: Any) -> Any:
        """Return a document with realistic values in place of placeholders."""
        if isinstance(value, dict):
            return {key: self._filled(child) for key, child in value.items()}
        if isinstance(value, list):
            return [self._filled(child) for child in value]
        if not isinstance(value, str) or value == "<datetime>":
            return value
        for label in re.findall(r"/stream/(<resource:\d+>)", value):  # of a table
            self.bound.setdefault(label, STREAM_LABEL)
        return PLACEHOLDER.sub(lambda found: self._stand_in(found[0]), value)

    def _stand_in(self, placeholder: str) -> str:
        number = int(re.sub(r"\D", "", placeholder) or 0)
        made = {"uuid": str(UUID(int=number << 32, version=4)), "resource": f"name-{number}"}
        if placeholder not in self.bound:
            self.bound[placeholder] = made[kind_of(placeholder)]
        return self.bound[placeholder]


# The stage


class Invoked(NamedTuple):
    """An event that reached a function."""

    at_ms: int
    function_arn: str
    event: Document


class Sent(NamedTuple):
    """A document that a failure destination got."""

    at_ms: int
    service: str
    target: str
    text: str
    key: str = ""


class FakeAws(Endpoint):
    """Invoke, queues, topics and buckets with AWS's answers, and clients for all of them."""

    def __init__(self, now_ms: Callable[[], int], function: Function) -> None:
        self._now_ms = now_ms
        self._function = function
        self._ids = random.Random(0)
        self._seconds = 0.0
        self.function_seconds = 0.0
        self.invoked: list[Invoked] = []
        self.sent: list[Sent] = []

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call, and let its duration pass."""
        done = work()
        seconds, self._seconds = self._seconds, 0.0
        await asyncio.sleep(seconds)
        return done

    async def run_long(self, work: Callable[[], T]) -> T:
        return await self.run(work)

    def client(self, service: str, role_arn: str = "") -> Any:
        assert (service, role_arn) in {*CLIENTS, ("sqs", "")}  # the latter finds a queue's address
        return self

    def role_of(self, function_arn: str) -> str:
        assert ":function:" in function_arn
        return ROLE_ARN

    def new_id(self) -> str:
        return f"{self._ids.getrandbits(128):032x}"

    def invoke(self, **request: Any) -> Document:
        """Answer Invoke; bytes that a function returns are the payload unchanged."""
        event = json.loads(request["Payload"])
        self.invoked.append(Invoked(self._now_ms(), request["FunctionName"], event))
        self._seconds = self.function_seconds
        error: Document = {}
        try:
            result = self._function(event)
        except ZeroDivisionError as problem:
            error = {"FunctionError": "Unhandled"}
            result = {"errorMessage": str(problem), "errorType": "ZeroDivisionError"}
        text = result if isinstance(result, bytes) else json.dumps(result).encode()
        return error | {
            "StatusCode": 200,
            "ExecutedVersion": "$LATEST",
            "Payload": io.BytesIO(text),
            "ResponseMetadata": {"RequestId": str(UUID(self.new_id(), version=4))},
        }

    def get_queue_url(self, **request: Any) -> Document:
        return {"QueueUrl": f"https://sqs.eu-central-1.amazonaws.com/1/{request['QueueName']}"}

    def send_message(self, **request: Any) -> None:
        name = request["QueueUrl"].rpartition("/")[2]
        self.sent.append(Sent(self._now_ms(), "sqs", name, request["MessageBody"]))

    def publish(self, **request: Any) -> None:
        name = request["TopicArn"].rpartition(":")[2]
        self.sent.append(Sent(self._now_ms(), "sns", name, request["Message"]))

    def put_object(self, **request: Any) -> None:
        text = request["Body"].decode()
        self.sent.append(Sent(self._now_ms(), "s3", request["Bucket"], text, request["Key"]))


class Stage(Rig):
    """One recording's mappings on the engine; virtual time, as everywhere in the rig."""

    def __init__(
        self, loop: VirtualTimeLoop, recording: StreamRecording, function: Function, seed: int
    ) -> None:
        super().__init__(loop, recording.mappings[0], None, shards=0)
        self.recording = recording
        self.mappings = list(recording.mappings)
        self.aws = FakeAws(loop.now_ms, function)
        self.ports.sink = LambdaSink(self.aws)
        self.ports.destination = AwsDestination(self.aws)
        self.ports.chance = random.Random(seed)
        is_table = self.mappings[0].service == DYNAMODB
        number = f"{0:020d}-{0xC0FFEE:08x}" if is_table else f"{0:012d}"
        self.shard = MemoryShard(f"shardId-{number}")
        self.stream.by_id[self.shard.shard_id] = self.shard

    def put_as_recorded(self, *records: Document) -> None:
        """Put the data of these records; GetRecords then returns records for them."""
        for each in records:
            sequence = str(FIRST_SEQUENCE + len(self.shard.records))
            make = self._change if self.mappings[0].service == DYNAMODB else self._record
            self.shard.records.append(make(each, sequence))

    def _record(self, recorded: Document, sequence: str) -> Record:
        found = {
            "SequenceNumber": sequence,
            "ApproximateArrivalTimestamp": self.loop.now_ms() / 1000,
            "Data": recorded["kinesis"]["data"],
            "PartitionKey": recorded["kinesis"]["partitionKey"],
            "EncryptionType": "NONE",
        }
        return KinesisSource(self.aws, self.mappings[0])._record(self.shard.shard_id, found)

    def _change(self, recorded: Document, sequence: str) -> Record:
        found = recorded | {
            "eventID": self.aws.new_id(),
            "awsRegion": "eu-central-1",
            "dynamodb": recorded["dynamodb"]
            | {
                "ApproximateCreationDateTime": self.loop.now_ms() // 1000,
                "SequenceNumber": sequence,
            },
        }
        del found["eventSourceARN"]  # GetRecords has no such field
        return DynamoDbSource(self.aws, self.mappings[0])._record(found)

    @property
    def events(self) -> list[Document]:
        """Return the events of functions, in order."""
        return [each.event for each in self.aws.invoked]

    @property
    def delivered_records(self) -> list[Document]:
        return [record for event in self.events for record in event["Records"]]

    def grouping(self) -> list[list[int]]:
        """Return the records of each invocation, by their place in the shard."""
        places = {record.event["eventID"]: at for at, record in enumerate(self.shard.records)}
        return [[places[each["eventID"]] for each in event["Records"]] for event in self.events]

    def assert_got(self, *expected: Document) -> None:
        """Check that all invocations had exactly these events, one after the other."""
        assert list(self.recording.differences(self.events, list(expected))) == []

    def assert_gave_up(self, *expected: Document) -> None:
        """Check that the mapping's destination got exactly these documents."""
        arn = self.mappings[0].destination_arn or ""
        documents = [json.loads(each.text) for each in self.aws.sent]
        for document in documents:
            if ":s3:" in arn:
                assert isinstance(document["payload"], str)
                document["payload"] = json.loads(document["payload"])
        assert list(self.recording.differences(documents, list(expected))) == []
        where = {f":{each.service}:{each.target}" for each in self.aws.sent}
        assert where <= {f":{arn.split(':')[2]}:{arn.rpartition(':')[2]}"}


Story = Callable[[Stage], Awaitable[None]]


def play(story: Story, name: str, function: Function = lambda _event: None, seed: int = 1) -> Stage:
    """Replay a recording."""

    async def main(loop: VirtualTimeLoop) -> Stage:
        stage = Stage(loop, StreamRecording(name), function, seed)
        await story(stage)
        await stage.kill()
        return stage

    return run_virtually(main)


def put_to_running(*records: Document) -> Story:
    """Replay: create the mapping, then put records, by default the recorded ones."""

    async def story(stage: Stage) -> None:
        stage.start()
        await asyncio.sleep(5.5)
        stage.put_as_recorded(*(records or stage.recording.records))
        await asyncio.sleep(600)

    return story


def raising(_event: Document) -> None:
    """A function that fails as the recorded one did."""
    raise ZeroDivisionError("division by zero")


def names_failures(event: Document) -> Document:
    """A function that reports each record with a mark to fail."""
    failed = []
    for record in event["Records"]:
        if "kinesis" in record:
            fails = json.loads(base64.b64decode(record["kinesis"]["data"]))["should_fail"]
            number = record["kinesis"]["sequenceNumber"]
        else:
            fails = record["dynamodb"]["NewImage"]["should_fail"]["BOOL"]
            number = record["dynamodb"]["SequenceNumber"]
        failed += [{"itemIdentifier": number}] if fails else []
    return {"batchItemFailures": failed}


def kinesis_put(data: str, key: str) -> Document:
    """A record that was put and is in no recording."""
    return {"kinesis": {"data": base64.b64encode(data.encode()).decode(), "partitionKey": key}}


def item_put(item: Document) -> Document:
    """Return a put item of a table with the key `id`, which is in no recording."""
    return {
        "eventName": "INSERT",
        "eventSourceARN": "",
        "dynamodb": {"Keys": {"id": item["id"]}, "NewImage": item},
    }


# Batches


@as_aws("batch_size", "recorded")
@recorded("kinesis__create_kinesis_event_source_mapping")
def test_ten_records_put_at_once_are_one_batch_of_a_mapping_with_the_defaults(name: str) -> None:
    stage = play(put_to_running(), name)
    stage.assert_got(stage.recording.content["kinesis_records"])


@as_aws("batch_size", "recorded")
@recorded("dynamodb__dynamodb_event_source_mapping")
def test_a_function_gets_a_tables_change_with_its_binary_values_encoded(name: str) -> None:
    stage = play(put_to_running(), name)
    stage.assert_got(*stage.recording.content["event_logs"])


@as_aws("batch_size", "recorded")
@as_aws("starting_position", "recorded")
@recorded("kinesis__kinesis_event_source_trim_horizon")
def test_from_the_horizon_records_older_than_the_mapping_are_delivered_in_order(name: str) -> None:
    async def story(stage: Stage) -> None:
        stage.aws.function_seconds = 5
        stage.put_as_recorded(*stage.recording.records[:20])
        await asyncio.sleep(10)
        stage.start()
        stage.put_as_recorded(*stage.recording.records[20:])
        await asyncio.sleep(60)

    stage = play(story, name)
    stage.assert_got(*[each["event"] for each in stage.recording.content["invocation_events"]])


@as_aws("batch_size", "recorded")
@recorded("kinesis__kinesis_event_source_mapping_with_async_invocation")
def test_a_shards_next_batch_waits_for_the_one_before_it(name: str) -> None:
    async def story(stage: Stage) -> None:
        stage.aws.function_seconds = 5
        stage.start()
        await asyncio.sleep(5.5)
        stage.put_as_recorded(*stage.recording.records[:10])
        await asyncio.sleep(0.2)
        stage.put_as_recorded(*stage.recording.records[10:])
        await asyncio.sleep(60)

    stage = play(story, name)
    stage.assert_got(*[each["event"] for each in stage.recording.content["invocation_events"]])
    first, second = [each.at_ms for each in stage.aws.invoked]
    assert second - first >= 5000


TWO_FUNCTIONS = (
    "kinesis__create_kinesis_event_source_mapping_multiple_lambdas_single_kinesis_event_stream"
)


@as_aws("batch_size", "recorded")
@recorded(TWO_FUNCTIONS)
def test_two_functions_on_one_stream_each_get_every_record(name: str) -> None:
    stage = play(put_to_running(), name)
    got = {each.function_arn: each.event for each in stage.aws.invoked}
    content = stage.recording.content
    expected = [content["kinesis_records-a"], content["kinesis_records-b"]]
    events = [got[mapping.function_arn] for mapping in stage.mappings]
    assert list(stage.recording.differences(events, expected)) == []
    assert len(stage.events) == 2


# Filters


@as_aws("filter_criteria", "recorded")
@recorded("kinesis__kinesis_event_filtering_json_pattern")
def test_two_mappings_of_a_stream_each_deliver_the_records_of_their_own_pattern(name: str) -> None:
    messages = [
        {"event_type": "function_1", "message": "foo"},
        {"event_type": "function_2", "message": "bar"},
    ]
    puts = [kinesis_put(json.dumps(each), "custom") for each in messages]
    stage = play(put_to_running(*puts), name)
    got = {each.function_arn: each.event["Records"] for each in stage.aws.invoked}
    first, second = stage.mappings
    assert len(stage.events) == 2
    [record] = got[first.function_arn]
    logged = json.dumps([json.loads(base64.b64decode(record["kinesis"]["data"]))])
    assert logged == stage.recording.content["kinesis-record-lambda-payload"]
    assert record["kinesis"]["data"] == puts[0]["kinesis"]["data"]
    [record] = got[second.function_arn]
    assert record["kinesis"]["data"] == puts[1]["kinesis"]["data"]


FILTERED = "dynamodb__dynamodb_event_filter_"
DROPPED: dict[str, Document] = {
    "content_filter_type": {"id": {"S": "id_value_2"}},
    "content_multiple_filters": {"id": {"S": "id_value"}, "id2": {"S": "id2_new_value"}},
    "exists_filter_type": {"id": {"S": "id_value_2"}},
    "insert_same_entry_twice": {"id": {"S": "id_value"}, "id2": {"S": "id2_value"}},
    "numeric_filter": {"id": {"S": "id_value_2"}, "numericFilter": {"N": "101"}},
    "prefix_filter": {"id": {"S": "id_value_1"}, "prefix": {"S": "other-suffix"}},
}
"""The second items of recordings in which the function got only the first item."""


def change_to(item: Document, first: Document) -> Document:
    """Return the stream's record of a second item; with the first one's key it is a change."""
    change = first["dynamodb"]
    is_same = item["id"] == change["Keys"]["id"]
    images = {"NewImage": item} | ({"OldImage": change["NewImage"]} if is_same else {})
    return first | {
        "eventName": "MODIFY" if is_same else "INSERT",
        "dynamodb": change | {"Keys": {"id": item["id"]}} | images,
    }


@as_aws("filter_criteria", "recorded")
@recorded(
    *[FILTERED + each for each in DROPPED],
    FILTERED + "content_or_filter",
    FILTERED + "date_time_conversion",
    FILTERED + "exists_false_filter",
)
def test_a_function_gets_the_changes_of_a_table_that_match(name: str) -> None:
    async def story(stage: Stage) -> None:
        content, (first, *more) = stage.recording.content, stage.recording.records
        dropped = DROPPED.get(name.removeprefix(FILTERED))
        assert bool(dropped) != bool(more)
        stage.start()
        await asyncio.sleep(5.5)
        stage.put_as_recorded(first)
        await asyncio.sleep(10)
        stage.assert_got(*content["lambda-log-events"])
        stage.put_as_recorded(*([change_to(dropped, first)] if dropped else more))
        await asyncio.sleep(60)
        stage.assert_got(*content["lambda-multiple-log-events"])
        assert stage.view(stage.shard.shard_id, stage.mappings[0].uuid)["lanes"] == [
            stage.shard.records[1].sequence
        ]

    play(story, name)


# Failures and their destinations

ON_FAILURE_S3 = [
    "kinesis__kinesis_event_source_mapping_with_s3_on_failure_destination",
    "dynamodb__dynamodb_event_source_mapping_with_s3_on_failure_destination",
]


def failed_put(name: str) -> Document:
    """Return the records that were put; only the bucket's recording has them."""
    like = next(each for each in ON_FAILURE_S3 if each.startswith(name.partition("__")[0]))
    [record] = StreamRecording(like).records
    return record


def play_failure(name: str) -> Stage:
    """Replay a recording of a function that raises until its retries are used up."""
    stage = play(put_to_running(failed_put(name)), name, raising)
    stage.assert_gave_up(*stage.recording.documents)
    [document] = stage.recording.documents
    count = document["requestContext"]["approximateInvokeCount"]
    assert stage.grouping() == [[0]] * count
    assert count == stage.mappings[0].retries_max + 1
    return stage


@as_aws("on_failure_sqs", "recorded")
@as_aws("max_retry_attempts", "recorded")
@recorded(
    "kinesis__kinesis_event_source_mapping_with_on_failure_destination_config",
    "dynamodb__dynamodb_event_source_mapping_with_on_failure_destination_config",
)
def test_a_queue_gets_the_document_of_a_batch_whose_retries_are_used_up(name: str) -> None:
    assert play_failure(name).aws.sent[0].service == "sqs"


@as_aws("on_failure_sns", "recorded")
@as_aws("max_retry_attempts", "recorded")
@recorded(
    "kinesis__kinesis_event_source_mapping_with_sns_on_failure_destination_config",
    "dynamodb__dynamodb_event_source_mapping_with_sns_on_failure_destination_config",
)
def test_a_topic_gets_the_same_document_as_a_message(name: str) -> None:
    stage = play_failure(name)
    topic_arn = stage.recording.content["failure_sns_message"]["TopicArn"]
    assert list(stage.recording.differences(stage.mappings[0].destination_arn, topic_arn)) == []
    assert stage.aws.sent[0].service == "sns"


@as_aws("on_failure_s3", "recorded")
@as_aws("max_retry_attempts", "recorded")
@recorded(*ON_FAILURE_S3)
def test_a_bucket_gets_the_document_with_the_records_under_a_key_of_the_time(name: str) -> None:
    stage = play_failure(name)
    [sent] = stage.aws.sent
    written_at = json.loads(sent.text)["timestamp"]
    day, second = written_at[:10].replace("-", "/"), written_at[:19].replace(":", ".")
    folder = f"aws/lambda/{stage.mappings[0].uuid}/{stage.shard.shard_id}/{day}"
    assert sent.service == "s3"
    assert re.fullmatch(f"{re.escape(f'{folder}/{second}')}-{UUID_FORM}", sent.key)


# Partial responses

SUCCEEDED = "kinesis__kinesis_report_batch_item_success_scenarios_"
SUCCESSES: dict[str, Any] = {
    "empty_batch_item_failure_success": {"batchItemFailures": []},
    "empty_dict_success": {},
    "empty_list_success": [],
    "empty_string_success": "",
    "null_batch_item_failure_success": {"batchItemFailures": None},
    "null_success": None,
}
FAILED = "kinesis__kinesis_report_batch_item_failure_scenarios_"
FAILURES: dict[str, Any] = {
    "empty_string_item_identifier_failure": {"batchItemFailures": [{"itemIdentifier": ""}]},
    "invalid_key_foo_failure": {"batchItemFailures": [{"foo": 123}]},
    "invalid_key_foo_null_value_failure": {"batchItemFailures": [{"foo": None}]},
    "item_identifier_not_present_failure": {"batchItemFailures": [{"itemIdentifier": 123}]},
    "null_item_identifier_failure": {"batchItemFailures": [{"itemIdentifier": None}]},
}


@as_aws("report_batch_item_failures", "recorded")
@recorded(
    *[SUCCEEDED + each for each in SUCCESSES],
    *[TABLE_SUCCEEDED + each for each in SUCCESSES if each != "empty_string_success"],
)
def test_an_answer_that_names_no_failure_is_a_success(name: str) -> None:
    answer = SUCCESSES[name.partition("_scenarios_")[2]]
    stage = play(put_to_running(), name, lambda _: answer)
    assert stage.mappings[0].reports_item_failures
    stage.assert_got(*stage.recording.content[name.partition("__")[0] + "_events"])


@as_aws("report_batch_item_failures", "recorded")
@as_aws("max_retry_attempts", "recorded")
@recorded(
    *[
        prefix + each
        for prefix in (FAILED, TABLE_FAILED)
        for each in [*FAILURES, "unhandled_exception_in_function"]
    ]
)
def test_an_answer_that_names_no_record_of_the_batch_fails_all_of_it(name: str) -> None:
    answer = FAILURES.get(name.partition("_scenarios_")[2])
    stage = play(put_to_running(), name, (lambda _: answer) if answer else raising)
    stage.assert_got(*stage.recording.content[name.partition("__")[0] + "_events"])
    stage.assert_gave_up(*stage.recording.documents)


@as_aws("report_batch_item_failures", "recorded")
@as_aws("fresh_retry_budget", "recorded")
@recorded(
    "kinesis__kinesis_report_batch_item_failures", "dynamodb__dynamodb_report_batch_item_failures"
)
def test_after_progress_the_remaining_records_have_all_their_retries(name: str) -> None:
    stage = play(put_to_running(), name, names_failures)
    key = next(key for key in stage.recording.content if key.endswith("_records"))
    expected = stage.recording.content[key]["Records"]  # in order of their partition keys
    assert list(stage.recording.differences(stage.delivered_records, expected)) == []
    assert stage.grouping() == [[0, 1, 2], [3, 4, 5], [5], [5], [5], [5]]
    stage.assert_gave_up(*stage.recording.documents)


@as_aws("report_batch_item_failures", "recorded")
@as_aws("on_failure_sqs", "recorded")
@recorded("dynamodb__dynamodb_report_batch_item_failures_with_on_failure_destination_config")
def test_only_the_record_that_failed_to_the_end_goes_to_the_destination(name: str) -> None:
    like = StreamRecording("dynamodb__dynamodb_report_batch_item_failures")
    stage = play(put_to_running(*like.records), name, names_failures)
    stage.assert_gave_up(*stage.recording.documents)
    [document] = [json.loads(each.text) for each in stage.aws.sent]
    fails = stage.shard.records[-1].sequence
    assert document["DDBStreamBatchInfo"]["startSequenceNumber"] == fails


# Age

AGE_EXCEEDED = "kinesis__kinesis_maximum_record_age_exceeded_"


@as_aws("max_record_age", "recorded")
@as_aws("exponential_backoff", "recorded")
@recorded(AGE_EXCEEDED + "expire-while-retrying")
def test_a_record_is_tried_eight_times_in_a_minute_whatever_the_jitter(name: str) -> None:
    async def story(stage: Stage) -> None:
        stage.put_as_recorded(kinesis_put("stream-data", "test"))
        stage.start()
        await asyncio.sleep(300)

    tried = {}
    for seed in range(20):
        stage = play(story, name, raising, seed)
        tried[seed] = len(stage.events)
        stage.assert_gave_up(*stage.recording.documents)
        assert [each.at_ms - EPOCH_MS for each in stage.aws.sent] == [60_000]
    assert tried == dict.fromkeys(range(20), 8)


@as_aws("max_record_age", "recorded")
@recorded(AGE_EXCEEDED + "expire-before-ingestion")
def test_a_record_too_old_when_it_is_read_is_given_up_without_an_invocation(name: str) -> None:
    async def story(stage: Stage) -> None:
        stage.put_as_recorded(kinesis_put("stream-data", "test"))
        await asyncio.sleep(60)
        stage.start()
        await asyncio.sleep(300)

    stage = play(story, name, raising)
    stage.assert_got()
    stage.assert_gave_up(*stage.recording.documents)


@as_aws("max_record_age", "recorded")
@recorded(AGE_EXCEEDED + "discard_records")
def test_a_record_too_old_is_given_up_apart_from_the_fresh_ones_behind_it(name: str) -> None:
    async def story(stage: Stage) -> None:
        stage.put_as_recorded(kinesis_put("stream-data", "test"))
        await asyncio.sleep(80)
        stage.put_as_recorded(*stage.recording.records)
        stage.start()
        await asyncio.sleep(300)

    stage = play(story, name)
    expected = stage.recording.content["Records"]
    assert list(stage.recording.differences(stage.delivered_records, expected)) == []
    stage.assert_gave_up(*stage.recording.documents)


# State


@as_aws("state_visible", "recorded")
@recorded("kinesis__kinesis_empty_provided")
def test_the_last_result_is_ok_once_a_function_has_answered_even_nothing(name: str) -> None:
    async def story(stage: Stage) -> None:
        created = stage.recording.content["create_event_source_mapping_response"]
        later = stage.recording.content["get_esm_result"]
        uuid = stage.mappings[0].uuid
        stage.start()
        await asyncio.sleep(5.5)
        assert stage.checkpoints.known() == {uuid: ("Enabled", created["LastProcessingResult"])}
        stage.put_as_recorded(kinesis_put("hello", "test"))
        await asyncio.sleep(60)
        assert stage.checkpoints.known() == {uuid: (later["State"], later["LastProcessingResult"])}

    stage = play(story, name, lambda _: b"")
    assert stage.grouping() == [[0]]


def play_disabling(name: str, *puts: Document) -> Stage:
    """Replay: the mapping delivers a record, is disabled, and a later record waits."""

    async def story(stage: Stage) -> None:
        uuid = stage.mappings[0].uuid
        stage.start()
        await asyncio.sleep(5.5)
        stage.put_as_recorded(*puts)
        await asyncio.sleep(60)
        assert stage.checkpoints.known() == {uuid: ("Enabled", "OK")}
        stage.change(is_enabled=False)
        await asyncio.sleep(5)
        assert stage.checkpoints.known() == {uuid: ("Disabled", "OK")}
        stage.put_as_recorded(*puts)
        await asyncio.sleep(60)

    return play(story, name)


@as_aws("follows_mapping", "recorded")
@recorded("kinesis__disable_kinesis_event_source_mapping")
def test_a_disabled_mapping_delivers_nothing_more(name: str) -> None:
    stage = play_disabling(name, *StreamRecording(name).records)
    stage.assert_got(*stage.recording.content["invocation_events"])


@as_aws("follows_mapping", "recorded")
@recorded("dynamodb__disabled_dynamodb_event_source_mapping")
def test_a_tables_disabled_mapping_shows_the_last_result_it_had(name: str) -> None:
    stage = play_disabling(name, item_put({"id": {"S": "an-id"}, "data": {"S": "data1"}}))
    assert stage.grouping() == [[0]]
    answer = stage.recording.content["update_event_source_mapping_result"]
    [(_, last_result)] = stage.checkpoints.known().values()
    assert last_result == answer["LastProcessingResult"]


@as_aws("follows_mapping", "recorded")
@recorded("dynamodb__deletion_event_source_mapping_with_dynamodb")
def test_a_mapping_stays_when_its_table_is_deleted(name: str) -> None:
    async def story(stage: Stage) -> None:
        answer = stage.recording.content["list_event_source_mapping_result"]
        [listed] = answer["EventSourceMappings"]
        expected = {stage.mappings[0].uuid: (listed["State"], listed["LastProcessingResult"])}
        stage.start()
        await asyncio.sleep(5.5)
        stage.stream.problem = "ResourceNotFoundException"
        assert stage.checkpoints.known() == expected
        await asyncio.sleep(60)
        assert stage.checkpoints.known()[stage.mappings[0].uuid][0] == "Enabled"

    play(story, name)
