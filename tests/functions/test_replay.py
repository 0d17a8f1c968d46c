"""Replay: a span of the archive goes back into the stream as it was, page by page."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws.pace import Pace
from telemetry.aws.stream import Record, Stream, checked
from telemetry.aws.stream import decode as stream_decode
from telemetry.domain import pack as packs
from telemetry.domain import reading as readings_of
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso
from telemetry.errors import Rejected, Unavailable

from functions.replay.handler import PAGE_ITEMS, run
from tests import writers
from tests.fakes import MemoryArchive, MemoryKinesis
from tests.functions.incoming import documents_in

TEN = from_iso("2026-11-21T10:00:00Z")
HOUR_MS = 3_600_000
NOW_MS = TEN + 3 * HOUR_MS
REQUEST = {
    "from": "2026-11-21T10:00:00Z",
    "to": "2026-11-21T11:00:00Z",
    "device": None,
    "by": "received",
    "readings_per_second": 1_000,
}
Counted = Callable[[str], float]


class Clock:
    """Stands still but for sleeps, and for `step` seconds at each look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Stage:
    """The function with its archive and stream in memory, and the loop of its state machine."""

    def __init__(self) -> None:
        self.archive = MemoryArchive()
        self.kinesis = MemoryKinesis()
        self.clock = Clock()
        self.invocations = 0

    def run(self, event: dict[str, Any]) -> dict[str, Any]:
        self.invocations += 1
        stream = Stream(self.kinesis, "readings", lambda _seconds: None)
        pace = Pace(self.clock, self.clock.sleep)
        answer = run(json.loads(json.dumps(event)), NOW_MS, self.archive, stream, pace)
        found: dict[str, Any] = json.loads(json.dumps(answer))  # as Lambda passes it on
        return found

    def plan(self, **change: Any) -> dict[str, Any]:
        return self.run({"task": "plan", "request": {**REQUEST, **change}})

    def items(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """What the map's ItemSelector makes of a plan."""
        shared = {name: plan[name] for name in ("request", "as_of_ms", "readings_per_second")}
        start = {"task": "send", "token": None, "done": 0}
        return [{**start, **shared, "part": part} for part in plan["parts"]]

    def replay(self, **change: Any) -> int:
        """How many readings a whole replay sent."""
        done = 0
        for event in self.items(self.plan(**change)):
            answer = self.run(event)
            while answer["token"] is not None:
                answer = self.run(answer)
            done += answer["done"]
        return done

    def sent(self) -> list[bytes]:
        return [record["Data"] for record in self.kinesis.records]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def line(received_ms: int, device_id: str = "pump-1", recorded_ms: int | None = None) -> bytes:
    reading = Reading(device_id, recorded_ms or received_ms, {"temperature": 20.0}, received_ms)
    return readings_of.encode(reading)


def copy(sent: bytes) -> bytes:
    """What goes for a reading's line, in canonical JSON: all that it was, and when that was."""
    return sent.removesuffix(b"}") + b',"replayed_at":%d}' % NOW_MS


def test_records_received_in_the_span_go_back_stamped_or_as_they_were(
    stage: Stage, counted: Counted
) -> None:
    wanted = [line(TEN), line(TEN + HOUR_MS - 1, "pump-2"), b"not a reading \xff"]
    stage.archive.keep(TEN + 1, *wanted, line(TEN + HOUR_MS))
    assert stage.replay() == 3
    assert stage.sent() == [copy(wanted[0]), copy(wanted[1]), wanted[2]]
    assert counted("ReadingsReplayed") == 3


def delivered(data: bytes, arrived_ms: int) -> Record:
    """A record of the stream as the consumers judge it."""
    kinesis = {
        "data": base64.b64encode(data).decode(),
        "partitionKey": "a",
        "sequenceNumber": "1",
        "approximateArrivalTimestamp": arrived_ms / 1000,
    }
    event = {"Records": [{"kinesis": kinesis, "eventID": "shardId-0:1"}]}
    (record,) = checked(stream_decode(event), 30 * 24 * HOUR_MS)
    return record


@pytest.mark.parametrize(
    ("recorded_ms", "received_ms"),
    [
        (TEN - HOUR_MS, TEN),
        (TEN + HOUR_MS // 2, TEN + HOUR_MS // 2),
        (TEN + HOUR_MS + 600_000, TEN + HOUR_MS + 600_000),  # Firehose's object went on
        (TEN - 29 * 24 * HOUR_MS, TEN),
    ],
)
def test_another_producers_reading_keeps_its_time_of_arrival(
    stage: Stage, recorded_ms: int, received_ms: int
) -> None:
    foreign = {"device_id": "pump-2", "recorded_at": recorded_ms, "humidity": 5.0}
    stage.archive.keep(TEN, json.dumps(foreign).encode())
    assert stage.replay() == 1
    (copied,) = stage.sent()
    stamped = {"received_at": received_ms, "via": "stream", "replayed_at": NOW_MS}
    assert json.loads(copied) == {**foreign, **stamped}
    record = delivered(copied, TEN + 90 * 24 * HOUR_MS)
    assert record.reading is not None
    assert record.bypassed_ingest  # so aggregate counts it


def test_of_a_record_with_several_readings_they_go_and_not_it(stage: Stage) -> None:
    first, second, other = line(TEN), line(TEN + 1, "pump-2"), line(TEN + 2, "pump-3")
    foreign = b'{"device_id":"pump-4","recorded_at":%d,"humidity":5.0}' % TEN
    stage.archive.keep(TEN, b"[" + first + b"," + foreign + b"]", writers.kpl([second, other]))
    assert stage.replay() == 4
    stamped = b',"received_at":%d,"via":"stream","replayed_at":%d}' % (TEN, NOW_MS)
    copies = [copy(first), foreign.removesuffix(b"}") + stamped, copy(second), copy(other)]
    assert stage.sent() == copies
    stage.kinesis.records.clear()
    stage.archive.keep(TEN, *copies)
    assert stage.replay(device="pump-2") == 1  # the copies of a replay don't go once more


def pack_of(size: int, device_id: str = "pump-1") -> tuple[bytes, list[bytes]]:
    """A pack, and the copies of its readings as single records."""
    readings = [
        Reading(device_id, TEN + at, {"temperature": 20.0 + at % 100}, TEN) for at in range(size)
    ]
    return packs.encode(readings), [copy(readings_of.encode(each)) for each in readings]


def singly(sent: list[bytes]) -> list[dict[str, Any]]:
    return documents_in({"Data": each} for each in sent)


def test_a_packs_readings_go_together_again(stage: Stage, counted: Counted) -> None:
    data, copies = pack_of(10)
    stage.archive.keep(TEN, data)
    assert stage.replay() == 10
    (sent,) = stage.sent()
    assert singly([sent]) == [json.loads(each) for each in copies]
    assert json.loads(sent)["replayed_at"] == NOW_MS
    assert counted("ReadingsReplayed") == 10
    stage.kinesis.records.clear()
    stage.archive.keep(TEN, sent)
    assert stage.replay() == 10  # the first one, and not its copy


def test_only_the_readings_of_a_pack_that_are_asked_for_go(stage: Stage) -> None:
    data, copies = pack_of(10)
    stage.archive.keep(TEN, data)
    span = {"from": "2026-11-21T10:00:00.002Z", "to": "2026-11-21T10:00:00.005Z"}
    assert stage.replay(by="recorded", **span) == 3
    assert singly(stage.sent()) == [json.loads(each) for each in copies[2:5]]


def test_a_bad_reading_of_a_pack_goes_again_alone(stage: Stage) -> None:
    data, copies = pack_of(3)
    bad = data.replace(b"[20.0,21.0,22.0]", b'[20.0,"hot",22.0]')
    stage.archive.keep(TEN, bad)
    assert stage.replay() == 3
    sent = singly(stage.sent())
    assert [each for each in sent if each["temperature"] != "hot"] == [
        json.loads(copies[0]),
        json.loads(copies[2]),
    ]
    (refused,) = (each for each in sent if each["temperature"] == "hot")
    assert refused["recorded_at"] == TEN + 1
    assert "replayed_at" not in refused  # as any record that isn't a reading


def test_a_large_pack_keeps_to_a_low_rate_and_goes_on_within_it(stage: Stage) -> None:
    data, copies = pack_of(200)
    stage.archive.keep(TEN, data, line(TEN, "pump-2"))
    (event,) = stage.items(stage.plan(readings_per_second=2))
    longest, invocations = 0.0, 0
    while True:
        began = stage.clock.now
        event = stage.run(event)
        longest, invocations = max(longest, stage.clock.now - began), invocations + 1
        if event["token"] is None:
            break
    assert longest <= 60  # of 120 s
    assert invocations > 1
    assert event["done"] == 201
    found = sorted(singly(stage.sent()), key=lambda each: (each["device_id"], each["recorded_at"]))
    assert found == [json.loads(each) for each in (*copies, copy(line(TEN, "pump-2")))]
    assert stage.clock.now == pytest.approx(100.5)


@pytest.mark.parametrize("recorded_ms", [TEN + 3 * HOUR_MS, TEN - 31 * 24 * HOUR_MS])
def test_a_reading_that_was_refused_for_its_time_is_refused_again(
    stage: Stage, recorded_ms: int
) -> None:
    foreign = {"device_id": "pump-2", "recorded_at": recorded_ms, "humidity": 5.0}
    stage.archive.keep(TEN, json.dumps(foreign).encode())
    stage.replay()
    (copied,) = stage.sent()
    rejected = delivered(copied, NOW_MS).rejected
    assert rejected is not None
    assert rejected.field == "recorded_at"


@pytest.mark.parametrize("by", ["received", "recorded"])
def test_a_replayed_reading_is_archived_and_not_sent_by_the_next_replay(
    stage: Stage, by: str
) -> None:
    foreign = b'{"device_id": "pump-2", "recorded_at": "2026-11-21T10:00:01Z", "humidity": 5}'
    stage.archive.keep(TEN, line(TEN), foreign)
    assert stage.replay(by=by) == 2
    stage.archive.keep(TEN + HOUR_MS, *stage.sent())  # by Firehose, in an hour that is searched
    for _ in range(2):
        stage.kinesis.records.clear()
        assert stage.replay(by=by) == 2
        assert stage.sent()[0] == copy(line(TEN))


def test_readings_beside_their_hour_in_the_archive_are_found_too(stage: Stage) -> None:
    # Firehose names an object by its oldest record; the overflow queue may have held one back
    in_nine, in_eleven = line(TEN + 5), line(TEN + 60_000, "pump-2")
    stage.archive.keep(TEN - 1, line(TEN - 1), in_nine)
    stage.archive.keep(TEN + HOUR_MS + 1, in_eleven, line(TEN + HOUR_MS + 1))
    assert stage.replay() == 2
    assert stage.sent() == [copy(in_nine), copy(in_eleven)]


def test_by_event_time_readings_are_found_however_late_they_came(stage: Stage) -> None:
    late = line(TEN + 2 * HOUR_MS + 5, recorded_ms=TEN + 1)
    stage.archive.keep(TEN + 2 * HOUR_MS, late, line(TEN + 2 * HOUR_MS))
    assert stage.replay() == 0
    assert stage.replay(by="recorded") == 1
    assert stage.sent() == [copy(late)]


def test_a_device_alone_can_be_replayed(stage: Stage) -> None:
    stage.archive.keep(TEN, line(TEN), line(TEN, "pump-2"), b"not a reading")
    assert stage.replay(device="pump-2") == 1
    assert stage.sent() == [copy(line(TEN, "pump-2"))]


def test_a_devices_records_have_its_partition_key_and_others_one_of_their_own(
    stage: Stage,
) -> None:
    stage.archive.keep(TEN, line(TEN), b"poison", b"poison", b"other poison")
    stage.replay()
    keys = [record["PartitionKey"] for record in stage.kinesis.records]
    assert keys[0] == "pump-1"
    assert keys[1] == keys[2] != keys[3]


def test_a_record_that_ends_with_a_newline_of_its_own_is_one_record(stage: Stage) -> None:
    # the line's end and Firehose's: other producers often write one
    stage.archive.keep(TEN, *(line(TEN) + b"\n").split(b"\n"))
    assert stage.replay() == 1
    assert stage.sent() == [copy(line(TEN))]


def test_a_plan_has_only_the_parts_that_there_are(stage: Stage) -> None:
    for hour in (-2, 0, 2):
        stage.archive.keep(TEN + hour * HOUR_MS, line(TEN))
    assert stage.plan()["parts"] == ["2026-11-21T10"]
    wide = stage.plan(**{"from": "2026-11-21T09:00:00Z", "to": "2026-11-21T12:30:00Z"})
    assert wide["parts"] == ["2026-11-21T08", "2026-11-21T10", "2026-11-21T12"]
    assert (
        stage.plan(**{"from": "2020-01-01T00:00:00Z", "to": "2020-01-02T00:00:00Z"})["parts"] == []
    )


def test_the_parts_that_run_at_once_share_the_rate(stage: Stage) -> None:
    assert stage.plan()["readings_per_second"] == 1_000
    stage.archive.keep(TEN, line(TEN))
    assert stage.plan()["readings_per_second"] == 1_000
    for hour in range(6):
        stage.archive.keep(TEN + hour * HOUR_MS, line(TEN))
    assert stage.plan(to="2026-11-21T20:00:00Z")["readings_per_second"] == 250


def test_a_part_is_sent_no_faster_than_its_rate(stage: Stage) -> None:
    stage.archive.keep(TEN, *(line(TEN + index) for index in range(2_000)))
    assert stage.replay(readings_per_second=100) == 2_000
    assert stage.clock.now == 20.0


def test_at_the_lowest_rate_no_invocation_outlasts_its_timeout(stage: Stage) -> None:
    for hour in range(4):  # which share the rate: one in four seconds each
        stage.archive.keep(TEN + hour * HOUR_MS, *(line(TEN + each) for each in range(40)))
    plan = stage.plan(to="2026-11-21T13:00:00Z", readings_per_second=1)
    answer, *_ = stage.items(plan)
    sent: list[int] = []
    while not sent or answer["token"] is not None:
        began = stage.clock.now
        answer = stage.run(answer)
        assert stage.clock.now - began < 90  # of 120 s
        sent.append(answer["done"])
    assert sent[-1] == 40
    assert stage.clock.now == 160


def test_an_invocation_does_its_share_and_the_next_goes_on_where_it_ended(stage: Stage) -> None:
    lines = [line(TEN + index) for index in range(3 * PAGE_ITEMS)]
    stage.archive.keep(TEN, *lines[:100])
    stage.archive.keep(TEN, *lines[100:])
    stage.clock.step = 20.0  # of 30 s that it has
    assert stage.replay() == len(lines)
    assert stage.sent() == [copy(each) for each in lines]
    assert stage.invocations > 2


def test_records_that_the_stream_does_not_take_are_sent_again_and_none_is_left_out(
    stage: Stage,
) -> None:
    lines = [line(TEN + index) for index in range(3 * PAGE_ITEMS)]
    stage.archive.keep(TEN, *lines)
    (event,) = stage.items(stage.plan())
    stage.kinesis.refuses = lambda record: record["Data"] == copy(lines[PAGE_ITEMS + 3])
    answer = stage.run(event)
    assert (answer["done"], answer["token"][1]) == (PAGE_ITEMS, PAGE_ITEMS)
    with pytest.raises(Unavailable, match="didn't take 1 of 500"):
        stage.run(answer)
    stage.kinesis.refuses = lambda _record: False
    answer = stage.run(answer)
    assert (answer["done"], answer["token"]) == (len(lines), None)
    assert set(stage.sent()) == {copy(each) for each in lines}


def test_records_archived_after_the_plan_are_not_sent(stage: Stage) -> None:
    # else a replay of the present hour would find what it sends itself, for ever
    stage.archive.keep(TEN, line(TEN))
    stage.archive.keep(TEN, line(TEN + 1), written_ms=NOW_MS + 1)
    assert stage.replay() == 1


@pytest.mark.parametrize("rate", [0, -1, 1.5, "fast", None, True, 100_001])
def test_a_rate_that_can_not_be_is_named(stage: Stage, rate: Any) -> None:
    with pytest.raises(Rejected, match="readings_per_second: is not a whole number from 1"):
        stage.plan(readings_per_second=rate)
