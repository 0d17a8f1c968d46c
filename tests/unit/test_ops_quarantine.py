"""Quarantine, as operators have it: seen, released once each, dropped by name only."""

import argparse
import base64
import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from telemetry.aws.quarantine import Quarantine, QuarantineEntry, entry_of_change
from telemetry.domain.times import minute_of, to_iso_minute
from telemetry.domain.window import encode
from telemetry.errors import Rejected

from ops import quarantine
from ops.errors import OpsError
from ops.quarantine_release import Watch
from ops.quarantine_store import short
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


def held(number: str, data: bytes = b"poison", **changed: Any) -> QuarantineEntry:
    line = QuarantineEntry(
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
        device_id="pump-1",
    )
    return line._replace(**changed)


def change(event_id: str) -> QuarantineEntry:
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

    def put(self, *lines: QuarantineEntry) -> str:
        """Quarantine these in one object; return its key."""
        before = set(self.bucket.objects)
        assert Quarantine(self.bucket, "failures").keep(lines)
        (key,) = set(self.bucket.objects) - before
        return key

    def do(self, *arguments: str) -> int:
        parser = argparse.ArgumentParser()
        quarantine.add(parser.add_subparsers())
        is_quick = arguments[0] == "release" and "--wait" not in arguments
        quick = ["--wait", "0"] if is_quick else []
        options = parser.parse_args(["quarantine", *arguments, *quick])
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


def test_a_released_reading_with_many_digits_goes_as_filters_can_compare_it(stack: Stack) -> None:
    odd = b'{"device_id":"pump-1","recorded_at":1795224600000,"temperature":38.333333333333336}'
    stack.put(held("12#3", odd), held("13", b"poison"))
    assert stack.do("release", "--all") == 0
    (_, first), (_, second) = stack.on_stream()
    assert json.loads(first) == {
        "device_id": "pump-1",
        "recorded_at": 1795224600000,
        "temperature": 38.333334,
        "low": {"temperature": 38.333333},
        "readings": {"after_ms": [0], "temperature": [38.333333333333336]},
    }
    assert second == b"poison"


def test_a_record_that_is_in_several_objects_is_listed_once(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.put(held("12"), held("13"))
    stack.put(held("12"))
    assert stack.do("list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["record"] for each in listed] == [f"{SHARD}:12", f"{SHARD}:13"]
    assert listed[0] == {
        "name": short(f"{SHARD}:12"),
        "when": "2026-11-21T01:30:00Z",
        "device_id": "pump-1",
        "function": "aggregate",
        "source": "kinesis",
        "field": None,
        "value": None,
        "reason": "is not JSON",
        "told": "is not JSON",
        "record": f"{SHARD}:12",
    }
    stack.do("list")
    name = short(f"{SHARD}:12")
    assert f"{name}  2026-11-21T01:30:00Z  pump-1  is not JSON  (aggregate)\n" in stack.said
    assert stack.said.endswith("2 in quarantine\n")


def test_more_objects_than_a_page_has_are_all_listed_the_oldest_record_first(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.bucket.page_keys = 2
    for index in range(5):
        stack.put(held(str(10 + index), arrived_at_ms=AT_MS - index * 60_000))
    stack.do("list", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert [each["record"][-2:] for each in listed] == ["14", "13", "12", "11", "10"]


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


def test_nothing_is_dropped_unasked(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    stack.put(held("12"))
    with pytest.raises(SystemExit):
        stack.do("drop", "--all")
    for arguments in (["drop"], ["drop", "12", "--device", "pump-1"]):
        with pytest.raises(OpsError, match="name records, or say which"):
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

    def meanwhile(**call: Any) -> dict[str, str]:
        answer = put_record(**call)
        stack.bucket.objects[key] += other
        return answer

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
    (body,) = stack.sqs.bodies
    assert json.loads(body).items() >= json.loads(event).items()
    assert (stack.names(), stack.on_stream()) == ([], [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"field": "recorded_at", "reason": "is missing"}, "recorded_at: is missing"),
        (
            {
                "field": "temperature",
                "reason": "is not a finite number of °C",
                "value": "20.5",
            },
            "temperature: is not a finite number of °C; it is '20.5'",
        ),
        (
            {"field": "temperature", "reason": "412.0 is above 150.0 °C", "value": 412.0},
            "temperature: 412.0 is above 150.0 °C",
        ),
    ],
)
def test_a_list_says_device_field_reason_and_value(
    stack: Stack, changed: dict[str, Any], words: str
) -> None:
    stack.put(held("12", **changed))
    stack.do("list")
    assert f"  pump-1  {words}  (aggregate)\n" in stack.said


def test_a_short_name_is_enough_for_every_command(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.put(held("12"), held("13"), held("14"))
    stack.do("show", short(f"{SHARD}:12"))
    assert json.loads(capsys.readouterr().out)["name"] == f"{SHARD}:12"
    stack.do("drop", short(f"{SHARD}:13"))
    stack.do("release", short(f"{SHARD}:14"))
    assert stack.names() == ["12"]


def test_what_is_listed_released_and_dropped_can_be_one_devices_or_of_one_reason(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    other = held("13", device_id="pump-2", partition_key="pump-2")
    lines = held("12"), other, held("14", field="battery", reason="is missing")
    many = [held(f"2{n}", device_id=f"p{n}", partition_key=f"p{n}") for n in range(9)]
    for batch in (lines, many):
        assert Quarantine(stack.bucket, "failures").keep(batch)
    assert any("~several" in key for key in stack.bucket.objects)

    def listed(*arguments: str) -> list[str]:
        stack.do("list", "--json", *arguments)
        return [each["record"][-2:] for each in json.loads(capsys.readouterr().out)]

    assert listed("--device", "pump-1") == ["12", "14"]
    assert listed("--reason", "BATTERY: is m") == ["14"]
    assert listed("--device", "pump-2", "--reason", "battery") == []
    assert [listed("--device", f"p{n}") for n in range(9)] == [[f"2{n}"] for n in range(9)]
    stack.do("release", "--device", "pump-2")
    assert [key for key, _ in stack.on_stream()] == ["pump-2"]
    stack.do("drop", "--reason", "battery")
    assert listed("--device", "pump-1") == ["12"]
    assert listed("--device", "pump-2") == []


def test_a_device_that_fills_the_quarantine_hides_no_other(stack: Stack) -> None:
    flood = [held(f"9{n:04}", device_id="pump-5", partition_key="pump-5") for n in range(500)]
    for line in flood:
        stack.put(line)
    for device in ("pump-4", "pump-50", "pump-6"):
        stack.put(held("12", device_id=device, name=f"{SHARD}:{device}"))
    stack.bucket.page_keys = 50
    stack.bucket.listings = 0
    stack.do("list")
    assert stack.bucket.listings <= 4  # not one for each 50 of the 500
    for device in ("pump-4", "pump-50", "pump-6"):
        assert f"  {device}  " in stack.said
    assert stack.said.count("  pump-5  ") == quarantine.OBJECTS_A_DEVICE
    assert "… and more of pump-5: list --device pump-5, or --all\n" in stack.said
    assert stack.said.endswith("23 and more in quarantine\n")
    stack.do("list", "--device", "pump-5")
    assert stack.said.endswith("500 in quarantine\n")
    stack.do("list", "--all")
    assert stack.said.endswith("503 in quarantine\n")


READING = {"device_id": "pump-1", "recorded_at": AT_MS, "temperature": 20.0}
MESSAGE = {
    "topic": "telemetry/pump-1/batch/json",
    "device_id": "pump-1",
    "format": "json",
    "body": base64.b64encode(json.dumps([{**READING, "device_id": "pump-1"}]).encode()).decode(),
    "received_at": AT_MS,
}


class Pipeline:
    """What happens while a release waits: `does` is called at each pause."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack
        self.now = 0.0
        self.pauses = 0
        self.does: Callable[[], None] = lambda: None
        self.items: list[dict[str, Any]] = []
        clients = {"dynamodb": self}
        connect = stack.target.connect
        stack.target = Target(
            "telemetry",
            {**OUTPUTS, "WindowsTable": "windows"},
            lambda service: clients.get(service) or connect(service),
        )
        monkeypatch.setattr(
            quarantine,
            "Watch",
            lambda target, store: Watch(target, store, lambda: self.now, self.pause),
        )

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1
        self.does()

    def query(self, **asked: Any) -> dict[str, Any]:
        assert asked["TableName"] == "windows"
        values = asked["ExpressionAttributeValues"]
        return {
            "Items": [
                item
                for item in self.items
                if item["device_id"] == values[":device"]
                and item["minute_region"]["S"].startswith(values[":minute"]["S"])
            ]
        }

    def store(self, **metrics: float) -> None:
        """The reading at AT_MS is in its window now."""
        window = {AT_MS % 60_000: metrics or {"temperature": 20.0}}
        minute = {"S": f"{to_iso_minute(minute_of(AT_MS))}#eu-west-1"}
        item = {"device_id": {"S": "pump-1"}, "minute_region": minute}
        self.items.append({**item, "readings": {"B": encode(window)}})


@pytest.fixture
def pipeline(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    return Pipeline(stack, monkeypatch)


def test_a_release_says_that_a_reading_is_stored_once_it_is(
    stack: Stack, pipeline: Pipeline
) -> None:
    stack.put(held("12", json.dumps(READING).encode()))
    pipeline.does = lambda: pipeline.store() if pipeline.pauses == 3 else None
    assert stack.do("release", "12", "--wait", "60") == 0
    assert stack.said == "1 released: 1 stored\n"
    assert pipeline.pauses == 3


def test_a_release_says_that_a_reading_was_there_before(stack: Stack, pipeline: Pipeline) -> None:
    stack.put(held("12", json.dumps(READING).encode()))
    pipeline.store()
    assert stack.do("release", "12", "--wait", "60") == 0
    assert stack.said == "1 released: 1 stored before\n"


def test_a_pack_is_stored_once_all_its_readings_are(stack: Stack, pipeline: Pipeline) -> None:
    pack = {
        **READING,
        "low": {"temperature": 20.0},
        "readings": {"after_ms": [0, 60_000], "temperature": [20.0, 20.0]},
    }
    stack.put(held("12", json.dumps(pack).encode()))
    pipeline.store()
    assert stack.do("release", "12", "--wait", "10") == 3
    assert "1 released: 1 couldn't tell\n" in stack.said
    pack["readings"] = {"after_ms": [0, 0], "temperature": [20.0, 20.0]}
    stack.put(held("13", json.dumps(pack).encode()))
    assert stack.do("release", "13", "--wait", "10") == 0


def test_a_reading_of_which_a_metric_lacks_is_not_called_stored(
    stack: Stack, pipeline: Pipeline
) -> None:
    stack.put(held("12", json.dumps({**READING, "battery": 3.0}).encode()))
    pipeline.store()
    assert stack.do("release", "12", "--wait", "10") == 3
    assert "1 released: 1 couldn't tell\n" in stack.said


@pytest.mark.parametrize("name", ["shard-0:1", "shard-0:1#2"])
def test_a_record_that_is_refused_again_is_told_with_its_new_name_and_reason(
    stack: Stack, pipeline: Pipeline, name: str
) -> None:
    stack.put(held("12", b'{"temperature": 412}'))

    def refuse() -> None:
        stack.put(held("1", name=name, field="temperature", reason="is above 150 °C"))

    pipeline.does = refuse
    assert stack.do("release", "12", "--wait", "60") == 1
    assert stack.said.startswith("1 released: 1 refused again\n")
    was, now = short(f"{SHARD}:12"), short(name)
    assert f"✗ {was} was refused again, now {now}: temperature: is above 150 °C" in stack.said


def test_what_nobody_can_tell_in_time_is_said_with_an_exit_code_of_its_own(
    stack: Stack, pipeline: Pipeline
) -> None:
    stack.put(held("12", json.dumps(READING).encode()))
    assert stack.do("release", "12", "--wait", "10") == 3
    name = short(f"{SHARD}:12")
    assert f"? {name}: couldn't tell: neither stored nor in quarantine after 10 s" in stack.said
    assert pipeline.now == 10


@pytest.mark.usefixtures("pipeline")
def test_a_message_that_is_refused_again_is_known_by_its_release_and_is_not_lost(
    stack: Stack,
) -> None:
    event = json.dumps(MESSAGE).encode()
    line = held("0", event, name="mqtt:1f", source="mqtt", function="drain")
    stack.put(line)

    def drained() -> None:
        """`drain` refuses it again, with the very same bytes and under the same name."""
        if stack.sqs.bodies:
            release = json.loads(stack.sqs.bodies.pop())["released"]
            stack.put(line._replace(released=release))

    send = stack.sqs.send_message

    def at_once(**call: Any) -> None:
        send(**call)
        drained()  # before the release has taken out what it sent

    stack.sqs.send_message = at_once  # type: ignore[method-assign]
    assert stack.do("release", "--all", "--wait", "60") == 1
    assert "1 refused again" in stack.said
    assert [each["name"] for each in stack.bucket.lines()] == ["mqtt:1f"]
    assert stack.do("release", "--all", "--wait", "60") == 1  # and once more
    assert [each["name"] for each in stack.bucket.lines()] == ["mqtt:1f"]


def test_a_message_whose_readings_are_stored_is_told_so(stack: Stack, pipeline: Pipeline) -> None:
    event = json.dumps(MESSAGE).encode()
    stack.put(held("0", event, name="mqtt:1f", source="mqtt", function="ingest"))
    pipeline.does = pipeline.store
    assert stack.do("release", "--all", "--wait", "60") == 0
    assert stack.said == "1 released: 1 stored\n"


@pytest.mark.usefixtures("pipeline")
def test_a_change_that_dispatch_puts_aside_again_is_not_lost(stack: Stack) -> None:
    def dispatch(event: dict[str, Any]) -> dict[str, Any]:
        (record,) = event["Records"]
        stack.put(entry_of_change(record, "dispatch", Rejected("is not an episode")))
        return {"batchItemFailures": []}

    stack.functions.functions["plant-dispatch"] = dispatch
    record = {
        "eventID": "c1",
        "dynamodb": {"SequenceNumber": "7", "Keys": {"device_id": {"S": "pump-1"}}},
    }
    stack.put(entry_of_change(record, "dispatch", Rejected("is not an episode")))
    for _ in range(2):
        assert stack.do("release", "--all", "--wait", "60") == 1
        assert "is not an episode" in stack.said
        (line,) = stack.bucket.lines()
        assert (line["name"], line["device_id"]) == ("c1", "pump-1")


def test_a_windows_table_that_cannot_be_read_is_why_nobody_can_tell(stack: Stack) -> None:
    stack.put(held("12", json.dumps(READING).encode()))
    assert stack.do("release", "12", "--wait", "0.01") == 3
    assert "the windows can't be looked into" in stack.said
