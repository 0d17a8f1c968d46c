"""What redrive and the operators' quarantine need of S3, SQS and Lambda, in moto."""

import io
import json
from typing import Any

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from telemetry.aws.failures import Failures
from telemetry.aws.functions import Functions, Verdict
from telemetry.aws.quarantine import Quarantine, QuarantineEntry, entry_of_record
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Record
from telemetry.errors import Rejected, Unavailable

from ops.quarantine_store import Store
from ops.target import Target
from tests.functions.incoming import NOW_MS, SHARD, given_up, kinesis, reading

pytestmark = pytest.mark.usefixtures("in_moto")
KEY = "aws/lambda/0af6e1b1/shardId-000000000003/2026/11/21/batch"


@pytest.fixture
def s3(in_moto: None) -> Any:  # noqa: ARG001
    client = boto3.client("s3")
    client.create_bucket(Bucket="failures")
    client.put_bucket_versioning(Bucket="failures", VersioningConfiguration={"Status": "Enabled"})
    return client


def held(number: str) -> QuarantineEntry:
    record = Record(number, "pump-1", SHARD, NOW_MS, b"poison", None, None)
    return entry_of_record(record, "aggregate", Rejected("is not JSON"))


def body_of(s3: Any, key: str) -> bytes:
    body: bytes = s3.get_object(Bucket="failures", Key=key)["Body"].read()
    return body


class TestFailures:
    def failures(self, s3: Any, bucket: str = "failures") -> Failures:
        return Failures(s3, bucket, "telemetry")

    def test_all_batches_are_listed_and_nothing_else(self, s3: Any) -> None:
        for index in range(1_001):  # a page has 1,000
            s3.put_object(Bucket="failures", Key=f"{KEY}-{index:04}", Body=b"")
        Quarantine(s3, "failures").keep([held("1")])
        keys = list(self.failures(s3).keys())
        assert keys == [f"{KEY}-{index:04}" for index in range(1_001)]

    def test_what_is_gone_is_no_error_and_what_is_away_is_unavailable(self, s3: Any) -> None:
        assert self.failures(s3).read(KEY) is None
        s3.put_object(Bucket="failures", Key=KEY, Body=b"")
        self.failures(s3).remove(KEY)
        assert self.failures(s3).read(KEY) is None
        self.failures(s3).remove(KEY)
        away = self.failures(s3, "no-such-bucket")
        with pytest.raises(Unavailable):
            away.read(KEY)
        with pytest.raises(Unavailable):
            list(away.keys())
        with pytest.raises(Unavailable):
            away.remove(KEY)

    def test_a_batch_keeps_only_what_is_left_unless_another_had_it_meanwhile(self, s3: Any) -> None:
        failures = self.failures(s3)
        s3.put_object(
            Bucket="failures", Key=KEY, Body=given_up("aggregate", kinesis([reading()] * 3))
        )
        read = failures.read(KEY)
        assert read is not None
        failure = failures.parse(KEY, *read)
        failures.keep_only(failure, failure.records[1:2])
        read = failures.read(KEY)
        assert read is not None
        rest = failures.parse(KEY, *read)
        assert [each.event for each in rest.records] == [failure.records[1].event]
        assert rest.stage == "aggregate"
        failures.keep_only(failure, failure.records)  # from what it was before
        assert failures.read(KEY) == read
        failures.remove(KEY)
        failures.keep_only(rest, rest.records)
        assert failures.read(KEY) is None


class TestQueue:
    def test_a_message_received_is_deleted_or_given_back(self) -> None:
        sqs = boto3.client("sqs")
        url = sqs.create_queue(QueueName="announcements")["QueueUrl"]
        queue = Queue(sqs, url)
        assert queue.receive() == []
        queue.send(["a", "b"])
        taken = {message.body: message for message in queue.receive()}
        assert taken.keys() == {"a", "b"}
        assert queue.receive() == []
        queue.delete(taken["a"])
        queue.give_back(taken["b"])
        assert [message.body for message in queue.receive()] == ["b"]

    def test_a_queue_out_of_reach_is_unavailable_when_read_and_else_no_error(self) -> None:
        sqs = boto3.client("sqs")
        url = sqs.create_queue(QueueName="announcements")["QueueUrl"]
        Queue(sqs, url).send(["a"])
        (message,) = Queue(sqs, url).receive()
        gone = Queue(sqs, f"{url}-gone")
        with pytest.raises(Unavailable):
            gone.receive()
        gone.delete(message)
        gone.give_back(message)


class TestFunctions:
    @staticmethod
    def answer(payload: bytes, **more: Any) -> dict[str, Any]:
        return {
            "StatusCode": 200,
            "Payload": StreamingBody(io.BytesIO(payload), len(payload)),
            **more,
        }

    @pytest.mark.parametrize(
        ("payload", "error", "expected"),
        [
            (b'{"batchItemFailures": []}', None, Verdict("done")),
            (b'{"batchItemFailures": null}', None, Verdict("done")),
            (b"{}", None, Verdict("done")),
            (b"null", None, Verdict("done")),
            (b"", None, Verdict("done")),
            (b'{"batchItemFailures": [{"itemIdentifier": "49"}]}', None, "later"),
            (b'"done"', None, "later"),
            (b"not JSON", None, "later"),
            (
                b'{"errorType": "Unavailable", "errorMessage": "throttled"}',
                "Unhandled",
                Verdict("later", "Unavailable: throttled"),
            ),
            (b'{"errorType": "SettingMissing"}', "Unhandled", "later"),
            (b'{"errorType": "Runtime.ImportModuleError"}', "Unhandled", "later"),
            (b'{"errorType": "Runtime.ExitError"}', "Unhandled", "never"),
            (
                b'{"errorType": "Sandbox.Timedout", "errorMessage": "after 60 s"}',
                "Unhandled",
                Verdict("never", "Sandbox.Timedout: after 60 s"),
            ),
            (
                b'{"errorType": "KeyError", "errorMessage": "Unavailable"}',
                "Unhandled",
                Verdict("never", "KeyError: Unavailable"),
            ),
            (b"not JSON", "Unhandled", Verdict("never", "Unhandled: ")),
        ],
    )
    def test_an_answer_says_what_becomes_of_the_records(
        self, payload: bytes, error: str | None, expected: Verdict | str
    ) -> None:
        client = boto3.client("lambda")
        more = {"FunctionError": error} if error else {}
        with Stubber(client) as stub:
            sent = {"FunctionName": "telemetry-alert", "Payload": b"{}"}
            stub.add_response("invoke", self.answer(payload, **more), sent)
            verdict = Functions(client, "telemetry").invoke("alert", "{}")
        assert expected in (verdict, verdict.outcome)

    @pytest.mark.parametrize("code", ["TooManyRequestsException", "ResourceNotFoundException"])
    def test_a_function_that_does_not_run_is_asked_later(self, code: str) -> None:
        client = boto3.client("lambda")
        with Stubber(client) as stub:
            stub.add_client_error("invoke", code)
            verdict = Functions(client, "telemetry").invoke("alert", "{}")
        assert verdict.outcome == "later"
        assert code in verdict.why


class TestStore:
    """The operators' side of the quarantine, over what the functions write."""

    def store(self, s3: Any, bucket: str = "failures") -> Store:
        return Store(Target("telemetry", {"FailuresBucket": bucket}, lambda _service: s3))

    def test_lines_are_taken_out_and_the_others_stay_as_they_are(self, s3: Any) -> None:
        Quarantine(s3, "failures").keep([held("12"), held("13"), held("14")])
        (kept,) = self.store(s3).read()
        before = body_of(s3, kept.key).splitlines()
        self.store(s3).remove(kept.key, {held("13").name})
        assert body_of(s3, kept.key).splitlines() == [before[0], before[2]]
        self.store(s3).remove(kept.key, {held("12").name, held("14").name})
        assert self.store(s3).read() == []
        self.store(s3).remove(kept.key, {held("12").name})  # by another operator

    def test_a_write_from_what_an_object_was_before_does_nothing(self, s3: Any) -> None:
        s3.put_object(Bucket="failures", Key="quarantine/a", Body=b"before")
        etag = s3.head_object(Bucket="failures", Key="quarantine/a")["ETag"]
        s3.put_object(Bucket="failures", Key="quarantine/a", Body=b"after")
        for body in (b"rest", b""):
            assert not self.store(s3)._write("quarantine/a", etag, body)
            assert body_of(s3, "quarantine/a") == b"after"

    def test_an_object_that_was_no_batch_is_put_back_where_it_was(self, s3: Any) -> None:
        line = held("0")._replace(name=f"object:{KEY}", source="object", data=b"{}")
        Quarantine(s3, "failures").keep([line])
        (kept,) = self.store(s3).read()
        self.store(s3).put_back(json.loads(body_of(s3, kept.key)))
        assert body_of(s3, KEY) == b"{}"
