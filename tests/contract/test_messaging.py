"""The stream, the queues and the ways out: the adapters against the services, in moto."""

import base64
import json
from typing import Any, NoReturn

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from botocore.stub import ANY, Stubber
from telemetry.aws.overflow import Overflow, overflowed
from telemetry.aws.publishers import Bus, Topic
from telemetry.aws.quarantine import Appender, Quarantine, entry_of_record
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Record, Stream
from telemetry.domain.notice import Notice
from telemetry.domain.reading import Reading
from telemetry.errors import Rejected, Unavailable

from tests.fakes import MemorySqs, refuse
from tests.functions.incoming import unpacked

NOW_MS = 1_795_224_600_000
NOTICE = Notice(
    "pump-1/overheating/eu-west-1/1/opened",
    "opened",
    "pump-1",
    "overheating",
    "critical",
    "eu-west-1",
    1,
    "2026-11-21T01:30:00.000Z",
    "2026-11-21T01:30:09.000Z",
    41.5,
    None,
)

pytestmark = pytest.mark.usefixtures("in_moto")


def readings(count: int, device_id: str = "pump-1") -> list[Reading]:
    return [Reading(device_id, NOW_MS + index, {"temperature": 20.0}) for index in range(count)]


def put(client: Any, batch: list[Reading], is_packing: bool = False) -> list[Reading]:
    """Put each reading as a record, or those of a device together."""
    stream = Stream(client, "readings", lambda _seconds: None, is_packing=is_packing)
    return stream.put(batch)


class TestStream:
    @pytest.fixture
    def kinesis(self) -> Any:
        client = boto3.client("kinesis")
        client.create_stream(StreamName="readings", ShardCount=1)
        return client

    @staticmethod
    def records(kinesis: Any) -> list[dict[str, Any]]:
        iterator = kinesis.get_shard_iterator(
            StreamName="readings",
            ShardId="shardId-000000000000",
            ShardIteratorType="TRIM_HORIZON",
        )["ShardIterator"]
        found: list[dict[str, Any]] = []
        while batch := kinesis.get_records(ShardIterator=iterator):
            found += batch["Records"]
            iterator = batch["NextShardIterator"]
            if not batch["MillisBehindLatest"]:
                break
        return found

    def test_readings_arrive_in_order_with_their_devices_key(self, kinesis: Any) -> None:
        assert put(kinesis, [*readings(2), *readings(1, "pump-2")]) == []
        found = self.records(kinesis)
        assert [record["PartitionKey"] for record in found] == ["pump-1", "pump-1", "pump-2"]
        assert json.loads(found[1]["Data"]) == {
            "device_id": "pump-1",
            "recorded_at": NOW_MS + 1,
            "temperature": 20.0,
        }

    def test_packs_arrive_with_their_devices_key(self, kinesis: Any) -> None:
        batch = [*readings(3), *readings(1, "pump-2"), *readings(2, "pump-3")]
        assert put(kinesis, batch, is_packing=True) == []
        found = self.records(kinesis)
        assert [record["PartitionKey"] for record in found] == ["pump-1", "pump-2", "pump-3"]
        assert [
            reading["recorded_at"] - NOW_MS
            for record in found
            for reading in unpacked(json.loads(record["Data"]))
        ] == [0, 1, 2, 0, 0, 1]

    def test_the_key_is_spread_by_how_much_a_device_sends_not_by_what_comes_with_it(
        self, kinesis: Any
    ) -> None:
        # two devices' readings in turns, 300 and 200 of them, and one device at the very end
        many, fewer = readings(300), readings(200, "pump-2")
        batch = [each for pair in zip(many, fewer, strict=False) for each in pair]
        batch += [*many[200:], *readings(1, "pump-3")]
        assert put(kinesis, batch) == []
        keys: dict[str, list[str]] = {}
        for record in self.records(kinesis):
            device_id = json.loads(record["Data"])["device_id"]
            keys.setdefault(device_id, []).append(record["PartitionKey"])
        assert keys == {
            "pump-1": ["pump-1"] * 250 + ["pump-1/1"] * 50,
            "pump-2": ["pump-2"] * 200,
            "pump-3": ["pump-3"],
        }

    def test_lines_are_spread_by_device_as_readings_are(self, kinesis: Any) -> None:
        lines = [(f"pump-{index % 3}", b"%d" % index) for index in range(600)]
        assert Stream(kinesis, "readings", lambda _seconds: None).put_lines(lines) == []
        found = {record["PartitionKey"] for record in self.records(kinesis)}
        assert found == {"pump-0", "pump-1", "pump-2"}

    def test_more_readings_than_a_call_takes_arrive_all(self, kinesis: Any) -> None:
        assert put(kinesis, readings(1_201)) == []
        times = [json.loads(record["Data"])["recorded_at"] for record in self.records(kinesis)]
        assert times == [NOW_MS + index for index in range(1_201)]

    def test_a_stream_that_is_not_there_takes_nothing(self) -> None:
        batch = readings(3)
        assert put(boto3.client("kinesis"), batch) == batch

    def test_only_what_failed_is_put_again(self) -> None:
        client = boto3.client("kinesis", config=Config(retries={"total_max_attempts": 1}))
        batch = readings(3)
        with Stubber(client) as stub:
            stub.add_response("put_records", self.answer("", "throttled", ""), self.sends(0, 1, 2))
            stub.add_client_error("put_records", "LimitExceededException")
            stub.add_response("put_records", self.answer(""), self.sends(1))
            assert put(client, batch) == []
            stub.assert_no_pending_responses()

    def test_what_still_fails_in_the_end_is_returned(self) -> None:
        client = boto3.client("kinesis")
        batch = readings(3)
        with Stubber(client) as stub:
            stub.add_response("put_records", self.answer("throttled", "", "throttled"))
            for _ in range(5):
                stub.add_response("put_records", self.answer("throttled", "throttled"))
            left = put(client, batch)
        assert [id(each) for each in left] == [id(batch[0]), id(batch[2])]

    def test_a_stream_that_the_role_may_not_put_to_is_tried_once(self) -> None:
        class Forbidden:
            calls = 0

            def put_records(self, **_arguments: Any) -> NoReturn:
                self.calls += 1
                refuse("AccessDeniedException", "PutRecords")

        client, batch = Forbidden(), readings(3)
        assert put(client, batch) == batch
        assert client.calls == 1

    def test_a_connection_that_breaks_is_tried_again(self) -> None:
        class Flaky:
            calls = 0

            def put_records(self, **arguments: Any) -> dict[str, Any]:
                self.calls += 1
                if self.calls < 3:
                    raise EndpointConnectionError(endpoint_url="https://kinesis")
                return {"Records": [{} for _ in arguments["Records"]]}

        assert put(Flaky(), readings(2)) == []

    @staticmethod
    def answer(*errors: str) -> dict[str, Any]:
        """One result a record: throttled, or taken."""
        refused = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"}
        taken = {"SequenceNumber": "1", "ShardId": "shardId-000000000000"}
        return {"Records": [refused if error else taken for error in errors]}

    @staticmethod
    def sends(*indexes: int) -> dict[str, Any]:
        texts = [
            f'{{"device_id":"pump-1","recorded_at":{NOW_MS + index},"temperature":20.0}}'
            for index in indexes
        ]
        return {
            "StreamName": "readings",
            "Records": [{"Data": text.encode(), "PartitionKey": "pump-1"} for text in texts],
        }


class Mailbox:
    """A queue, and what is in it."""

    def __init__(self) -> None:
        self.sqs = boto3.client("sqs")
        self.url = self.sqs.create_queue(QueueName="box")["QueueUrl"]
        self.arn = f"arn:aws:sqs:us-east-1:{self.url.split('/')[-2]}:box"
        self.queue = Queue(self.sqs, self.url)

    def bodies(self) -> list[str]:
        found: list[str] = []
        while messages := self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            found += [message["Body"] for message in messages]
        return found


@pytest.fixture
def box(in_moto: None) -> Mailbox:  # noqa: ARG001
    return Mailbox()


class TestQueue:
    def test_more_messages_than_a_call_takes_arrive_all(self, box: Mailbox) -> None:
        bodies = [f"message {index}" for index in range(25)]
        assert box.queue.send(bodies) == set()
        assert sorted(box.bodies()) == sorted(bodies)

    def test_messages_too_long_for_one_call_arrive_all(self, box: Mailbox) -> None:
        bodies = [str(index) * 100_000 for index in range(5)]
        assert box.queue.send(bodies) == set()
        assert sorted(box.bodies()) == sorted(bodies)

    def test_a_call_has_no_more_bytes_than_sqs_takes_whatever_the_alphabet(self) -> None:
        sqs = MemorySqs()
        sizes: list[int] = []
        send = sqs.send_message_batch

        def measured(**call: Any) -> dict[str, Any]:
            sizes.append(sum(len(each["MessageBody"].encode()) for each in call["Entries"]))
            return send(**call)

        sqs.send_message_batch = measured  # type: ignore[method-assign]
        assert Queue(sqs, "queue").send(["°" * 60_000] * 3) == set()  # 120,000 bytes each
        assert sizes == [240_000, 120_000]

    def test_a_queue_that_is_not_there_takes_nothing(self, box: Mailbox) -> None:
        assert Queue(box.sqs, f"{box.url}-gone").send(["a", "b"]) == {0, 1}

    def test_only_what_failed_is_sent_again_and_what_still_fails_is_told(self) -> None:
        client = boto3.client("sqs")
        failed = {"Id": "1", "Code": "InternalError", "SenderFault": False}
        taken = {"MessageId": "m", "MD5OfMessageBody": "0"}
        with Stubber(client) as stub:
            stub.add_response(
                "send_message_batch",
                {
                    "Successful": [{"Id": "0", **taken}, {"Id": "2", **taken}],
                    "Failed": [failed],
                },
            )
            for _ in range(2):
                stub.add_response(
                    "send_message_batch",
                    {"Successful": [], "Failed": [failed]},
                    {"QueueUrl": ANY, "Entries": [{"Id": "1", "MessageBody": "b"}]},
                )
            assert Queue(client, "https://queue").send(["a", "b", "c"]) == {1}
            stub.assert_no_pending_responses()

    def test_readings_come_out_of_the_overflow_as_they_went_in(self, box: Mailbox) -> None:
        batch = readings(5_000)
        assert Overflow(box.queue).put(batch) == []
        bodies = box.bodies()
        assert 1 < len(bodies) < 10  # many a message, and none too long for one
        found = [reading for body in bodies for reading in overflowed(body)[0]]
        assert sorted(found) == batch

    def test_readings_of_every_message_that_is_not_taken_are_told(self) -> None:
        batch = readings(5_000)
        sqs = MemorySqs()
        unlucky = [batch[0].recorded_at_ms, batch[-1].recorded_at_ms]
        sqs.refuses = lambda body: any(f":{at_ms}," in body for at_ms in unlucky)
        lost = Overflow(Queue(sqs, "overflow")).put(batch)
        taken = [reading for body in sqs.bodies for reading in overflowed(body)[0]]
        assert (lost[0], lost[-1]) == (batch[0], batch[-1])
        assert sorted([*lost, *taken]) == batch


class TestQuarantine:
    @pytest.fixture
    def s3(self) -> Any:
        client = boto3.client("s3")
        client.create_bucket(Bucket="failures")
        return client

    @staticmethod
    def record(data: bytes, number: str = "49") -> Record:
        return Record(number, "pump-1", "shardId-3", NOW_MS, data, None, None)

    @staticmethod
    def objects(s3: Any) -> dict[str, bytes]:
        listed = s3.list_objects_v2(Bucket="failures").get("Contents", [])
        bodies = {each["Key"]: s3.get_object(Bucket="failures", Key=each["Key"]) for each in listed}
        return {key: found["Body"].read() for key, found in bodies.items()}

    def test_a_record_waits_with_name_reason_origin_and_bytes(self, s3: Any) -> None:
        reason = Rejected("412.0 is above 150.0 °C", field="temperature", value=412.0)
        rejected = [(self.record(b"\x00\xff{"), reason)]
        assert Quarantine(s3, "failures").put(rejected) == []
        (body,) = self.objects(s3).values()
        assert json.loads(body) == {
            "name": "shardId-3:49",
            "function": "aggregate",
            "source": "kinesis",
            "reason": "412.0 is above 150.0 °C",
            "field": "temperature",
            "value": 412.0,
            "shard_id": "shardId-3",
            "sequence_number": "49",
            "partition_key": "pump-1",
            "arrived_at_ms": NOW_MS,
            "data": base64.b64encode(b"\x00\xff{").decode(),
            "is_partly": False,
            "device_id": "pump-1",
            "released": None,
        }

    def test_records_of_one_call_are_the_lines_of_one_object(self, s3: Any) -> None:
        large = bytes(range(256)) * 4_000
        rejected = [
            (self.record(data, number), Rejected("is not JSON"))
            for data, number in ((b"x", "49"), (large, "50"))
        ]
        assert Quarantine(s3, "failures").put(rejected) == []
        ((key, body),) = self.objects(s3).items()
        # not under aws/lambda/, where the mappings' failures are announced from
        assert key.startswith("quarantine/pump-1/2026-11-21T01/aggregate-")
        found = [json.loads(line) for line in body.splitlines()]
        assert [base64.b64decode(each["data"]) for each in found] == [b"x", large]

    def test_single_records_of_a_device_and_hour_grow_into_one_object(self, s3: Any) -> None:
        appender = Appender(s3, "failures")
        for number in range(20):
            held = entry_of_record(
                self.record(b"x", str(number)), "ingest", Rejected("is not JSON")
            )
            assert appender.keep([held])
        ((key, body),) = self.objects(s3).items()
        assert key.startswith("quarantine/pump-1/2026-11-21T01/ingest-")
        assert [json.loads(line)["sequence_number"] for line in body.splitlines()] == [
            str(number) for number in range(20)
        ]

    def test_what_an_operator_took_out_of_a_growing_object_stays_out(self, s3: Any) -> None:
        appender = Appender(s3, "failures")
        held = [
            entry_of_record(self.record(b"x", str(number)), "ingest", Rejected("is not JSON"))
            for number in range(3)
        ]
        assert appender.keep(held[:1])
        assert appender.keep(held[1:2])
        ((key, body),) = self.objects(s3).items()
        s3.put_object(Bucket="failures", Key=key, Body=body.splitlines(keepends=True)[1])
        assert appender.keep(held[2:])
        found = [line for body in self.objects(s3).values() for line in body.splitlines()]
        assert sorted(json.loads(line)["sequence_number"] for line in found) == ["1", "2"]

    def test_the_same_records_again_are_the_same_object(self, s3: Any) -> None:
        def put(data: bytes) -> None:
            Quarantine(s3, "failures").put([(self.record(data), Rejected("is not JSON"))])

        put(b"a")
        before = self.objects(s3)
        put(b"a")
        assert self.objects(s3) == before
        put(b"b")  # the same place on another stream of that name
        assert len(self.objects(s3)) == 2

    def test_records_are_returned_that_could_not_be_quarantined(self, s3: Any) -> None:
        first, second = self.record(b"x", "1"), self.record(b"y", "2")
        rejected = [(first, Rejected("is not JSON")), (second, Rejected("is not JSON"))]
        assert Quarantine(s3, "no-such-bucket").put(rejected) == [first, second]


class TestTopic:
    def test_subscribers_get_the_notice_and_can_filter_by_its_attributes(
        self, box: Mailbox
    ) -> None:
        sns = boto3.client("sns")
        arn = sns.create_topic(Name="notices")["TopicArn"]
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=box.arn)
        Topic(sns, arn).publish(NOTICE)
        (body,) = box.bodies()
        envelope = json.loads(body)
        assert json.loads(envelope["Message"]) == NOTICE._asdict()
        assert envelope["Subject"] == "overheating opened: pump-1"
        attributes = {name: each["Value"] for name, each in envelope["MessageAttributes"].items()}
        assert attributes == {
            "change": "opened",
            "rule": "overheating",
            "severity": "critical",
            "device_id": "pump-1",
        }

    def test_the_longest_names_make_a_subject_that_sns_takes(self, box: Mailbox) -> None:
        sns = boto3.client("sns")
        arn = sns.create_topic(Name="notices")["TopicArn"]
        sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=box.arn)
        Topic(sns, arn).publish(NOTICE._replace(device_id="d" * 128, rule="r" * 64))
        assert len(json.loads(box.bodies()[0])["Subject"]) <= 100

    def test_a_topic_that_is_away_is_unavailable(self) -> None:
        topic = Topic(boto3.client("sns"), "arn:aws:sns:us-east-1:123456789012:gone")
        with pytest.raises(Unavailable):
            topic.publish(NOTICE)


class TestBus:
    def test_an_event_that_is_not_taken_is_unavailable(self) -> None:
        client = boto3.client("events")
        with Stubber(client) as stub:
            answer = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "InternalFailure"}]}
            stub.add_response("put_events", answer)
            stub.add_client_error("put_events", "AccessDeniedException")
            for _ in range(2):
                with pytest.raises(Unavailable):
                    Bus(client, "notices").publish(NOTICE)
