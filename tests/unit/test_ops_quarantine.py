"""Quarantine, as operators have it: seen, released once each, dropped by name only."""

import argparse
import base64
import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from telemetry.aws.quarantine import Held, Quarantine

from ops import quarantine
from ops.errors import OpsError
from ops.target import Target
from tests.fakes import MemoryKinesis, MemoryLambda, MemoryS3, MemorySqs
from tests.template import everywhere

SHARD = "shardId-000000000003"
AT_MS = 1_795_224_600_250  # 2026-11-21T01:30:00.250Z
OUTPUTS = {
    "Name": "plant",
    "FailuresBucket": "failures",
    "StreamName": "telemetry-readings",
    "OverflowUrl": "overflow",
}


def held(number: str, data: bytes = b"poison", **changed: Any) -> Held:
    line = Held(
        f"{SHARD}:{number}",
        "aggregate",
        "kinesis",
        "is not JSON",
        None,
        None,
        SHARD,
        number,
        "pump-1",
        AT_MS,
        data,
    )
    return line._replace(**changed)


def change(event_id: str) -> Held:
    """A record of the alerts table's stream."""
    data = json.dumps({"eventID": event_id, "dynamodb": {"NewImage": {}}}).encode()
    return held("7", data, name=event_id, function="dispatch", source="dynamodb")


class Stack:
    """A stack in memory, and what its operators do to it."""

    def __init__(self) -> None:
        self.bucket, self.kinesis, self.functions = MemoryS3(), MemoryKinesis(), MemoryLambda()
        self.sqs = MemorySqs()
        clients: dict[str, Any] = {
            "s3": self.bucket,
            "kinesis": self.kinesis,
            "lambda": self.functions,
            "sqs": self.sqs,
        }
        self.target = Target("telemetry", OUTPUTS, clients.__getitem__)
        self.said = ""

    def put(self, *lines: Held) -> str:
        """Quarantine these in one object; return its key."""
        before = set(self.bucket.objects)
        assert Quarantine(self.bucket, "failures").keep(lines)
        (key,) = set(self.bucket.objects) - before
        return key

    def do(self, *arguments: str) -> int:
        parser = argparse.ArgumentParser()
        quarantine.add(parser.add_subparsers())
        options = parser.parse_args(["quarantine", *arguments])
        told = StringIO()
        done: int = options.does(options, self.target, Console(file=told, width=200))
        self.said = told.getvalue()
        return done

    def names(self) -> list[str]:
        return sorted(line["name"].rpartition(":")[2] for line in self.bucket.lines())

    def on_stream(self) -> list[tuple[str, bytes]]:
        return [(record["PartitionKey"], record["Data"]) for record in self.kinesis.records]


@pytest.fixture
def stack() -> Stack:
    return Stack()


def test_a_record_that_is_in_several_objects_is_listed_once(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.put(held("12"), held("13"))
    stack.put(held("12"))
    assert stack.do("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == [f"{SHARD}:12", f"{SHARD}:13"]
    assert listed[0] == {
        "name": f"{SHARD}:12",
        "when": "2026-11-21T01:30:00Z",
        "function": "aggregate",
        "source": "kinesis",
        "reason": "is not JSON",
    }
    stack.do("list")
    assert f"{SHARD}:12  2026-11-21T01:30:00Z  aggregate: is not JSON\n" in stack.said
    assert stack.said.endswith("2 in quarantine\n")


def test_more_objects_than_a_page_has_are_all_listed_the_oldest_record_first(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.bucket.page_keys = 2
    for index in range(5):
        stack.put(held(str(10 + index), arrived_at_ms=AT_MS - index * 60_000))
    stack.do("list", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"][-2:] for each in listed] == ["14", "13", "12", "11", "10"]


def test_what_knows_no_time_is_listed_with_that_of_its_object(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.put(held("12", name="object:aws/lambda/x", source="object", arrived_at_ms=None))
    stack.do("list", "--json")
    assert json.loads(capsys.readouterr().out)[0]["when"] == "2026-11-21T01:30:00Z"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ('{"ä": 1}'.encode(), {"data": '{"ä": 1}'}),
        (b"\x00\xff", {"data_base64": base64.b64encode(b"\x00\xff").decode()}),
    ],
)
def test_a_record_is_shown_with_its_bytes_as_text_where_they_are(
    stack: Stack, capsys: pytest.CaptureFixture[str], data: bytes, shown: dict[str, str]
) -> None:
    stack.put(held("12", data, field="temperature", value=412.0), held("13"))
    assert stack.do("show", "12") == 0
    record = json.loads(capsys.readouterr().out)
    assert shown.items() <= record.items()
    assert ("data" in record) == ("data" in shown)
    assert (record["name"], record["field"], record["value"]) == (f"{SHARD}:12", "temperature", 412)


def test_a_name_is_asked_for_by_an_end_that_is_its_alone(stack: Stack) -> None:
    stack.put(held("112"), held("12"), held("13"))
    with pytest.raises(OpsError, match=r"'12': 2 names end so, one was expected: .*:112, .*:12"):
        stack.do("drop", "12")
    with pytest.raises(OpsError, match="'99': no name in quarantine ends so"):
        stack.do("release", "13", "99")
    assert stack.names() == ["112", "12", "13"]
    stack.do("drop", ":12", f"{SHARD}:13")
    assert stack.names() == ["112"]


def test_a_whole_name_is_meant_though_it_is_the_end_of_another(stack: Stack) -> None:
    stack.put(change("c1"), change("abc1"))
    stack.do("drop", "c1")
    assert stack.names() == ["abc1"]


def test_a_released_record_goes_onto_the_stream_under_its_key_and_out_of_every_object(
    stack: Stack,
) -> None:
    stack.put(held("12", b"\x00mended"), held("13"))
    stack.put(held("12", b"\x00mended"))
    stack.put(held("12", b"\x00mended", function="alert"))  # it could not take it either
    assert stack.do("release", "12") == 0
    assert stack.on_stream() == [("pump-1", b"\x00mended")]
    assert stack.names() == ["13"]
    assert "1 released" in stack.said


def test_all_are_released_and_no_object_is_left(stack: Stack) -> None:
    stack.functions.functions["plant-dispatch"] = lambda _event: {"batchItemFailures": []}
    stack.put(held("12"), held("13"))
    stack.put(change("change-1"))
    stack.put(held("0", b"line", name="overflow:m1:0", source="overflow", partition_key="m1"))
    stack.put(held("0", b"{}", name="object:aws/lambda/x/y", source="object"))
    assert stack.do("release", "--all") == 0
    assert sorted(stack.on_stream()) == [
        ("m1", b"line"),
        ("pump-1", b"poison"),
        ("pump-1", b"poison"),
    ]
    assert stack.functions.batches == [("plant-dispatch", ["change-1"])]
    assert stack.bucket.objects == {"aws/lambda/x/y": b"{}"}  # where a redrive finds it again


@pytest.mark.parametrize("arguments", [["release"], ["release", "12", "--all"]])
def test_a_release_names_records_or_all_of_them(stack: Stack, arguments: list[str]) -> None:
    stack.put(held("12"))
    with pytest.raises(OpsError, match="name records, or --all of them"):
        stack.do(*arguments)
    assert stack.names() == ["12"]


def test_nothing_is_dropped_but_by_name(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.put(held("12"))
    for arguments in (["drop"], ["drop", "--all"]):
        with pytest.raises(SystemExit):
            stack.do(*arguments)
    capsys.readouterr()
    assert stack.names() == ["12"]
    assert stack.on_stream() == []


def test_a_record_that_the_stream_does_not_take_stays(stack: Stack) -> None:
    stack.put(held("12"), held("13", partition_key="pump-2"))
    stack.kinesis.refuses = lambda record: record["PartitionKey"] == "pump-1"
    assert stack.do("release", "--all") == 1
    assert stack.names() == ["12"]
    assert "1 released" in stack.said
    assert "✗ shardId-000000000003:12 stays: " in stack.said
    assert "ProvisionedThroughputExceededException" in stack.said


def raising(_event: dict[str, Any]) -> Any:
    raise KeyError("version")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (raising, "KeyError: 'version'"),
        (lambda _: {"batchItemFailures": [{"itemIdentifier": "7"}]}, "asks for it again"),
        (None, "ResourceNotFoundException"),
    ],
)
def test_a_change_that_its_function_does_not_take_stays(
    stack: Stack, function: Callable[[Any], Any] | None, why: str
) -> None:
    if function:
        stack.functions.functions["plant-dispatch"] = function
    stack.put(change("change-1"))
    assert stack.do("release", "change-1") == 1
    assert stack.names() == ["change-1"]
    assert why in stack.said


def test_a_line_that_comes_in_while_another_is_released_stays(stack: Stack) -> None:
    key = stack.put(held("12"))
    other = b'{"name": "another"}\n'
    put_record = stack.kinesis.put_record

    def meanwhile(**call: Any) -> None:
        put_record(**call)
        stack.bucket.objects[key] += other

    stack.kinesis.put_record = meanwhile  # type: ignore[method-assign]
    stack.do("release", "12")
    assert stack.bucket.objects == {key: other}


def test_an_object_that_changes_under_the_write_is_read_again(stack: Stack) -> None:
    key = stack.put(held("12"), held("13"))
    other = b'{"name": "another"}\n'
    get_object, seen = stack.bucket.get_object, []

    def changing(**call: Any) -> Any:
        found = get_object(**call)
        seen.append(key)
        if len(seen) == 2:  # the read that the write is made from
            stack.bucket.objects[key] += other
        return found

    stack.bucket.get_object = changing  # type: ignore[method-assign]
    stack.do("drop", "12")
    assert [line["name"][-2:] for line in stack.bucket.lines()] == ["13", "er"]


def test_a_release_cut_off_before_the_removal_is_done_again(stack: Stack) -> None:
    stack.put(held("12"))
    delete_object = stack.bucket.delete_object

    def interrupted(**_call: Any) -> None:
        raise KeyboardInterrupt

    stack.bucket.delete_object = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        stack.do("release", "12")
    assert stack.names() == ["12"]  # nothing is lost, and windows are sets
    stack.bucket.delete_object = delete_object  # type: ignore[method-assign]
    stack.do("release", "12")
    assert (stack.names(), len(stack.on_stream())) == ([], 2)


def test_a_bucket_out_of_reach_is_named(stack: Stack) -> None:
    stack.bucket.down = True
    with pytest.raises(OpsError, match="bucket failures: "):
        stack.do("list")


def test_what_is_dropped_can_be_had_as_long_as_the_command_says() -> None:
    bucket = everywhere("AWS::S3::Bucket")["FailuresBucket"]
    (rule,) = bucket["LifecycleConfiguration"]["Rules"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == quarantine.OLD_VERSIONS_DAYS
    assert "ExpirationInDays" not in rule  # nothing that waits for a person goes by itself


def test_a_released_message_of_mqtt_goes_to_the_overflow_queue_as_its_event(stack: Stack) -> None:
    event = b'{"topic":"telemetry/pump-1/readings"}'
    stack.put(held("0", event, name="mqtt:1f", source="mqtt"))
    assert stack.do("release", "--all") == 0
    assert stack.sqs.bodies == [event.decode()]
    assert (stack.names(), stack.on_stream()) == ([], [])
