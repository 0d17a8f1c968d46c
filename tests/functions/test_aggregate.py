"""Aggregate: every reading into its window, the bad ones into quarantine, nothing lost."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from telemetry.aws.pace import Pace
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.stream import Stream
from telemetry.aws.windows import KEY, Windows
from telemetry.domain import no_measurement, validation
from telemetry.domain import pack as packs
from telemetry.domain.reading import FIELDS, Reading
from telemetry.domain.rule import Rule, filter_pattern
from telemetry.domain.window import Window, decode
from telemetry.errors import Unavailable

from emulator.event_pattern import compile_pattern, parse_event
from functions.aggregate.handler import run
from tests import writers
from tests.fakes import Crash, MemoryItems, MemoryKinesis, MemoryS3
from tests.functions.incoming import (
    NOW_MS,
    SHARD,
    TRACE,
    documents_in,
    failed,
    kinesis,
    number,
    reading,
)

DAY_MS = 86_400_000
MINUTE_MS = 60_000
LIMITS = {"temperature": 38.0, "humidity": 90.0}
NOTHING_FAILED: dict[str, Any] = {"batchItemFailures": []}
Counted = Callable[..., float]


class Stage:
    """The function with its stores in memory; `restart` is a new execution environment."""

    def __init__(self) -> None:
        self.items = MemoryItems(KEY)
        self.bucket = MemoryS3()
        self.kinesis = MemoryKinesis()
        self.now = 0.0
        self.restart()

    def restart(self) -> None:
        self.windows = Windows(self.items, "eu-west-1", 30 * DAY_MS, lambda: (0,))
        self.windows._states._sleep = lambda _seconds: None

    def run(self, *records: Reading | bytes, now_ms: int = NOW_MS) -> dict[str, Any]:
        quarantine = Quarantine(self.bucket, "failures")
        puts = Stream(self.kinesis, "readings", lambda _seconds: None, lambda: self.now)
        pace = Pace(lambda: self.now)
        return run(kinesis(records), now_ms, self.windows, quarantine, puts, pace, LIMITS)

    def put_back(self) -> list[bytes]:
        return [record["Data"] for record in self.kinesis.records]

    def stored(self) -> dict[tuple[str, str], Window]:
        return {key: decode(item["readings"]["B"]) for key, item in self.items.stored.items()}

    def quarantined(self) -> list[dict[str, Any]]:
        return self.bucket.lines()

    def fail_writes_of(self, *devices: str) -> None:
        self.items.fault = lambda write: "before" if write.item["device_id"]["S"] in devices else ""


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_readings_are_stored_by_device_minute_and_region(stage: Stage) -> None:
    answer = stage.run(
        reading("a", NOW_MS + 250, temperature=20.5),
        reading("a", NOW_MS + 59_999, temperature=21.0, humidity=40.0),
        reading("a", NOW_MS + 60_000, temperature=22.0),
        reading("b", NOW_MS + 250, pressure=990.0),
    )
    assert answer == NOTHING_FAILED
    assert stage.stored() == {
        ("a", "2026-11-21T01:30:00Z#eu-west-1"): {
            250: {"temperature": 20.5},
            59_999: {"temperature": 21.0, "humidity": 40.0},
        },
        ("a", "2026-11-21T01:31:00Z#eu-west-1"): {0: {"temperature": 22.0}},
        ("b", "2026-11-21T01:30:00Z#eu-west-1"): {250: {"pressure": 990.0}},
    }


def test_a_window_expires_when_its_retention_is_over(stage: Stage) -> None:
    stage.run(reading(at_ms=NOW_MS + 30_000))
    (item,) = stage.items.stored.values()
    # 2026-11-21T01:30:00Z is 1795224600 s; 30 days are 2592000 s
    assert item["expires_at"] == {"N": "1797816600"}


def test_a_reading_sent_twice_is_stored_once(stage: Stage, counted: Counted) -> None:
    stage.run(reading(), reading())
    stage.restart()
    stage.run(reading())
    assert list(stage.stored().values()) == [{0: {"temperature": 20.0}}]
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (1, 2)


def test_every_record_of_a_batch_is_counted_once(stage: Stage, counted: Counted) -> None:
    stage.run(
        reading(at_ms=NOW_MS + 1),
        reading(at_ms=NOW_MS + 1),
        reading(at_ms=NOW_MS + 1, temperature=30.0),
        reading(at_ms=NOW_MS + 2, humidity=1.0),
        b"poison",
    )
    assert counted("ReadingsStored") == 2
    assert counted("ReadingsDuplicate") == 2
    assert counted("ReadingsQuarantined") == 1
    assert counted("ReadingsConflicting") == 1  # of a value: its reading is a duplicate too


def test_lag_is_that_of_the_reading_that_waited_longest(stage: Stage, counted: Counted) -> None:
    stage.run(
        reading(at_ms=NOW_MS)._replace(received_at_ms=NOW_MS - 700),
        reading(at_ms=NOW_MS + 1)._replace(received_at_ms=NOW_MS - 1_500),
        reading(at_ms=NOW_MS + 2)._replace(received_at_ms=None),
        now_ms=NOW_MS,
    )
    assert counted("ReadingLag") == 1_500


def test_readings_count_in_the_minute_in_which_they_were_received(
    stage: Stage, counted: Counted
) -> None:
    earlier = NOW_MS - 10 * MINUTE_MS
    stage.run(
        reading(at_ms=NOW_MS + 1)._replace(received_at_ms=earlier + 59_999),
        reading(at_ms=NOW_MS + 1)._replace(received_at_ms=earlier),
        reading(at_ms=NOW_MS + 2),
        now_ms=NOW_MS + MINUTE_MS,
    )
    assert counted("ReadingsStored", earlier) == counted("ReadingsDuplicate", earlier) == 1
    assert counted("ReadingsStored", NOW_MS) == 1
    assert counted("ReadingsDuplicate", NOW_MS) == 0


def test_a_record_that_bypassed_ingest_is_foreign_and_counts_when_it_arrived(
    stage: Stage, counted: Counted
) -> None:
    stage.run(
        reading(at_ms=NOW_MS + 1),
        reading(at_ms=NOW_MS + 2)._replace(received_at_ms=None),
        b"poison",
    )
    arrived = NOW_MS  # 250 ms into this minute, says the event
    assert counted("ReadingsForeign", arrived) == 2
    assert counted("ReadingsStored", arrived) == 2
    assert counted("ReadingsQuarantined", arrived) == 1
    assert counted("RecordsQuarantined") == 1  # now, where the alarm looks
    with pytest.raises(KeyError):
        counted("RecordsQuarantined", arrived)


def test_a_reading_over_mqtt_is_foreign_although_it_is_stamped(
    stage: Stage, counted: Counted
) -> None:
    earlier = NOW_MS - MINUTE_MS
    stage.run(reading(at_ms=NOW_MS)._replace(received_at_ms=earlier, via="mqtt"))
    assert counted("ReadingsForeign", earlier) == counted("ReadingsStored", earlier) == 1


@pytest.mark.parametrize("offset_ms", [300_001, -30 * DAY_MS - 1])
@pytest.mark.parametrize("via", [None, "mqtt"])
def test_a_record_that_bypassed_ingest_with_a_refused_time_is_quarantined_once(
    stage: Stage, counted: Counted, offset_ms: int, via: str | None
) -> None:
    stamped = None if via is None else NOW_MS
    arrived = NOW_MS + (250 if via is None else 0)  # what isn't stamped: when it arrived
    odd = reading(at_ms=arrived + offset_ms)._replace(received_at_ms=stamped, via=via)
    edge = odd._replace(recorded_at_ms=arrived + offset_ms - (1 if offset_ms > 0 else -1))
    assert stage.run(odd, edge) == NOTHING_FAILED
    (held,) = stage.quarantined()
    assert held["field"] == "recorded_at"
    assert counted("ReadingsForeign") == 2
    assert counted("ReadingsStored") == counted("ReadingsQuarantined") == 1
    # hours later, as after a failure, it is the same
    assert stage.run(odd, edge, now_ms=NOW_MS + DAY_MS) == NOTHING_FAILED
    assert len(stage.quarantined()) == 1


def test_a_reading_from_ingest_gets_no_second_time_check(stage: Stage) -> None:
    stage.run(reading(at_ms=NOW_MS + 300_001))
    assert stage.quarantined() == []


def test_a_batch_that_is_resumed_counts_each_reading_once_in_all(
    stage: Stage, counted: Counted
) -> None:
    batch: list[Reading | bytes] = [reading("a"), b"poison", reading("b"), reading("c"), b"bad"]
    stage.fail_writes_of("b")
    assert stage.run(*batch) == failed(2)
    assert counted("ReadingsStored") == counted("ReadingsQuarantined") == 1
    stage.fail_writes_of()
    assert stage.run(*batch[2:]) == NOTHING_FAILED
    # c was stored the first time, behind the checkpoint, where it didn't count
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (2, 1)
    assert counted("ReadingsQuarantined") == 2


def test_a_batch_that_fails_whole_counts_nothing(stage: Stage, counted: Counted) -> None:
    stage.fail_writes_of("a")
    with pytest.raises(Unavailable):
        stage.run(reading("a"), reading("b"))
    with pytest.raises(KeyError):
        counted("ReadingsStored")


@pytest.mark.parametrize(
    "poison",
    [
        b"",
        b"\x00\xff\xfe\x80",
        b"{",
        b"[]",
        b'"text"',
        b'{"device_id":"a"}',
        b'{"device_id":"a","recorded_at":1}',
        b'{"device_id":"a","recorded_at":1,"temperature":NaN}',
        b'{"device_id":"a","recorded_at":1,"temperature":1,"trace_id":7}',
        b'{"device_id":"a","recorded_at":1,"temperature":1}{}',
        b"[" * 5_000,
    ],
)
def test_a_poison_record_is_quarantined_with_its_bytes_and_stops_nothing(
    stage: Stage, poison: bytes
) -> None:
    answer = stage.run(reading("a"), poison, reading("b"))
    assert answer == NOTHING_FAILED
    assert {device for device, _ in stage.stored()} == {"a", "b"}
    (held,) = stage.quarantined()
    assert base64.b64decode(held["data"]) == poison
    assert held["reason"]
    assert held["name"] == f"{SHARD}:{number(1)}"
    assert (held["function"], held["source"]) == ("aggregate", "kinesis")
    assert held["sequence_number"] == number(1)
    assert held["shard_id"] == SHARD
    assert held["partition_key"] == "pump-1"
    assert held["arrived_at_ms"] == 1_795_224_600_250


def test_the_quarantined_reason_says_which_field_and_what_would_be_right(stage: Stage) -> None:
    stage.run(b'{"device_id":"a","recorded_at":1,"temperature":412.0}')
    (held,) = stage.quarantined()
    assert (held["field"], held["value"]) == ("temperature", 412.0)
    assert held["reason"] == "412.0 is above 150.0 °C"


@pytest.mark.parametrize("letter", ["x", "é", '"'])
def test_a_poison_record_of_a_megabyte_is_quarantined_too(stage: Stage, letter: str) -> None:
    poison = json.dumps({letter * 330_000: 1}, ensure_ascii=False).encode()
    assert stage.run(poison, reading("b")) == NOTHING_FAILED
    (held,) = stage.quarantined()
    assert base64.b64decode(held["data"]) == poison


def test_a_record_that_no_table_could_hold_is_quarantined_and_not_retried_for_ever(
    stage: Stage,
) -> None:
    trace_id = b"1" * 500_000  # an alert's item has it, and may have 400 kB
    poison = b'{"device_id":"a","recorded_at":1,"temperature":1,"trace_id":"%s"}' % trace_id
    assert stage.run(poison) == NOTHING_FAILED
    assert len(stage.quarantined()) == 1


def test_a_reading_for_a_full_window_is_quarantined_as_window_full(
    stage: Stage, counted: Counted
) -> None:
    batch = [reading(at_ms=NOW_MS + offset) for offset in range(6_001)]
    assert stage.run(*batch) == NOTHING_FAILED
    (window,) = stage.stored().values()
    assert len(window) == 6_000
    (held,) = stage.quarantined()
    assert held["reason"].startswith("window_full")
    assert json.loads(base64.b64decode(held["data"]))["recorded_at"] == NOW_MS + 6_000
    assert (counted("ReadingsStored"), counted("ReadingsQuarantined")) == (6_000, 1)


def test_the_batch_is_resumed_from_the_lowest_failed_record(stage: Stage) -> None:
    stage.fail_writes_of("b", "c")
    answer = stage.run(reading("a"), reading("c"), reading("a", NOW_MS + 1), reading("b"))
    assert answer == failed(1)
    assert {device for device, _ in stage.stored()} == {"a"}


def test_a_batch_whose_first_record_fails_is_an_error_of_the_function(stage: Stage) -> None:
    stage.fail_writes_of("a")
    with pytest.raises(Unavailable):
        stage.run(reading("a"), reading("b"))
    assert {device for device, _ in stage.stored()} == {"b"}


def test_only_poison_before_the_checkpoint_is_quarantined(stage: Stage, counted: Counted) -> None:
    stage.fail_writes_of("b")
    batch: list[Reading | bytes] = [
        b"poison 0",
        reading("a"),
        b"poison 2",
        reading("b"),
        b"poison 4",
    ]
    assert stage.run(*batch) == failed(3)
    assert [held["sequence_number"] for held in stage.quarantined()] == [number(0), number(2)]
    assert counted("ReadingsQuarantined") == 2
    # what is delivered again starts at the checkpoint
    stage.fail_writes_of()
    assert stage.run(*batch[3:]) == NOTHING_FAILED
    datas = sorted(base64.b64decode(held["data"]) for held in stage.quarantined())
    assert datas == [b"poison 0", b"poison 2", b"poison 4"]


def test_a_record_that_cannot_be_quarantined_is_delivered_again(
    stage: Stage, counted: Counted
) -> None:
    stage.bucket.down = True
    assert stage.run(reading("a"), b"poison", reading("b")) == failed(1)
    assert counted("ReadingsQuarantined") == counted("RecordsQuarantined") == 0
    assert counted("ReadingsStored") == 1  # the turn of b to count comes with the poison
    assert stage.quarantined() == []


def test_a_batch_delivered_again_leaves_one_object_in_quarantine(stage: Stage) -> None:
    for _ in range(2):
        stage.run(b"poison 0", reading("a"), b"poison 2")
    assert [held["name"] for held in stage.quarantined()] == [
        f"{SHARD}:{number(index)}" for index in (0, 2)
    ]


BATCH = [
    reading(f"pump-{index % 7}", NOW_MS + index * 5_000, temperature=20.0 + index)
    for index in range(60)
]


def stored_without_faults() -> Mapping[tuple[str, str], Window]:
    untroubled = Stage()
    untroubled.run(*BATCH)
    return untroubled.stored()


@pytest.mark.parametrize("writes", [0, 1, 20, 34])
@pytest.mark.parametrize("restarted", [True, False])
def test_a_crash_in_mid_batch_changes_no_window_after_the_redelivery(
    stage: Stage, writes: int, restarted: bool
) -> None:
    stage.items.crash_after = writes
    with pytest.raises(Crash):
        stage.run(*BATCH)
    assert len(stage.stored()) == writes
    stage.items.crash_after = None
    if restarted:
        stage.restart()
    assert stage.run(*BATCH) == NOTHING_FAILED
    assert stage.stored() == stored_without_faults()


def test_writes_whose_answers_are_lost_change_no_window(stage: Stage) -> None:
    unlucky = iter(["after", "before"] * 30)
    stage.items.fault = lambda _write: next(unlucky, "")
    assert stage.run(*BATCH) == NOTHING_FAILED
    assert stage.stored() == stored_without_faults()


def test_a_zombie_loses_to_the_newer_version_and_adds_its_readings(stage: Stage) -> None:
    stage.run(reading(at_ms=NOW_MS))
    zombie = stage.windows
    stage.restart()
    stage.run(reading(at_ms=NOW_MS + 1))
    stage.windows = zombie
    stage.run(reading(at_ms=NOW_MS + 2))
    (window,) = stage.stored().values()
    assert sorted(window) == [0, 1, 2]


def test_the_bytes_are_the_same_whatever_the_order_of_delivery() -> None:
    forth, back = Stage(), Stage()
    forth.run(*BATCH)
    for record in reversed(BATCH):
        back.run(record)
        back.run(record)
    contents = [
        {key: item["readings"] for key, item in stage.items.stored.items()}
        for stage in (forth, back)
    ]
    assert contents[0] == contents[1]


def spoil(stage: Stage, device_id: str) -> None:
    """Let newer code have written a device's window."""
    for (device, _), item in stage.items.stored.items():
        if device == device_id:
            item["readings"] = {"B": b"\x02" + item["readings"]["B"][1:]}
    stage.restart()


def test_a_window_that_cannot_be_read_keeps_no_other_devices_readings_waiting(
    stage: Stage, counted: Counted
) -> None:
    stage.run(reading("pump-1", NOW_MS))
    spoil(stage, "pump-1")
    others = [reading(f"pump-{index}", NOW_MS + 1) for index in (0, 2)]
    batch = others[0], reading("pump-1", NOW_MS + 1), others[1]
    assert stage.run(*batch) == NOTHING_FAILED
    assert {device for device, _ in stage.items.stored} == {"pump-0", "pump-1", "pump-2"}
    (line,) = stage.bucket.lines()
    assert line["sequence_number"] == number(1)
    assert line["reason"].startswith("window_unreadable: ")
    assert base64.b64decode(line["data"]) == kinesis_data(batch[1])
    # in the minute in which ingest counted it, and not as a record of another producer
    assert counted("ReadingsQuarantined", NOW_MS) == 1
    assert counted("ReadingsForeign", NOW_MS) == 0
    assert counted("ReadingsStored") == 3


def kinesis_data(sample: Reading) -> bytes:
    (record,) = kinesis([sample])["Records"]
    return base64.b64decode(record["kinesis"]["data"])


ARRIVED_MS = 1_795_224_600_250  # of the records of an event
FIVE = [reading(f"pump-{index}", NOW_MS + index, temperature=20.0 + index) for index in range(5)]


def lines_of(readings: Iterable[Reading]) -> list[bytes]:
    """Readings as another producer writes them."""
    return [
        json.dumps(
            {"device_id": each.device_id, "recorded_at": each.recorded_at_ms, **each.metrics}
        ).encode()
        for each in readings
    ]


BUNDLES = {
    "KPL": writers.kpl(lines_of(FIVE)),
    "list": b"[" + b",".join(lines_of(FIVE)) + b"]",
    "lines": b"\n".join(lines_of(FIVE)),
}


def test_a_bad_metric_in_a_bundle_is_refused_with_its_record_when_that_comes(
    stage: Stage, counted: Counted
) -> None:
    line = b'{"device_id":"a","recorded_at":%d,"temperature":999,"humidity":40}' % NOW_MS
    stage.run(writers.kpl([line]))
    assert stage.quarantined() == []
    (data,) = stage.put_back()
    stamps = {"received_at": ARRIVED_MS, "via": "stream", "replayed_at": None}
    assert json.loads(data) == {**json.loads(line), **stamps}
    stage.run(data)
    assert list(stage.stored().values()) == [{0: {"humidity": 40.0}}]
    assert (counted("ReadingsForeign"), counted("MetricsRefused")) == (1, 1)
    (held,) = stage.quarantined()
    assert held["field"] == "temperature"


@pytest.mark.parametrize("kind", BUNDLES)
def test_the_readings_of_a_bundle_go_back_on_the_stream_and_are_counted_when_they_come(
    stage: Stage, counted: Counted, kind: str
) -> None:
    assert stage.run(BUNDLES[kind], reading("pump-9")) == NOTHING_FAILED
    stamps = {"received_at": ARRIVED_MS, "via": "stream"}
    put_back = [json.loads(data) for data in stage.put_back()]
    assert put_back == [{**json.loads(line), **stamps} for line in lines_of(FIVE)]
    assert [record["PartitionKey"] for record in stage.kinesis.records] == [
        each.device_id for each in FIVE
    ]
    assert (counted("ReadingsForeign"), counted("ReadingsStored")) == (0, 1)  # pump-9's
    assert stage.quarantined() == []

    assert stage.run(*stage.put_back()) == NOTHING_FAILED
    assert len(stage.stored()) == 6
    assert (counted("ReadingsForeign"), counted("ReadingsStored")) == (5, 6)
    assert len(stage.put_back()) == 5  # they aren't put back once more


def test_a_bundle_that_is_delivered_again_makes_duplicates(stage: Stage, counted: Counted) -> None:
    for _ in range(2):
        stage.run(BUNDLES["KPL"])
    stage.run(*stage.put_back())
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (5, 5)
    assert counted("ReadingsForeign") == 10


def test_a_bundle_that_the_stream_does_not_take_is_delivered_again_with_later_records(
    stage: Stage, counted: Counted
) -> None:
    stage.kinesis.refuses = lambda entry: entry["PartitionKey"] == "pump-3"
    first = reading("pump-9")
    answer = stage.run(first, BUNDLES["list"], BUNDLES["KPL"], b"poison")
    assert answer == failed(1)
    assert len(stage.put_back()) == 4  # the second bundle waits
    assert stage.quarantined() == []
    assert (counted("ReadingsStored"), counted("ReadingsForeign")) == (1, 0)
    stage.kinesis.refuses = lambda _entry: False
    stage.run(BUNDLES["list"], BUNDLES["KPL"], b"poison")
    stage.run(*stage.put_back())
    assert len(stage.stored()) == 6
    assert (counted("ReadingsStored"), counted("ReadingsQuarantined")) == (6, 1)


def test_an_invocation_puts_back_for_half_a_minute_and_leaves_the_rest(stage: Stage) -> None:
    def hangs(_entry: dict[str, Any]) -> bool:
        stage.now += 5.0
        return False

    stage.kinesis.refuses = hangs
    assert stage.run(reading(), BUNDLES["list"], BUNDLES["list"], BUNDLES["KPL"]) == failed(3)


def test_refused_metrics_are_logged_with_their_way_in(
    stage: Stage, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    line = {"device_id": "a", "recorded_at": NOW_MS, "temperature": 999, "humidity": 40}
    stamped = {**line, "received_at": NOW_MS, "via": "mqtt"}
    stage.run(json.dumps(line).encode(), json.dumps(stamped).encode())
    assert [each["via"] for each in logged("refused")] == ["stream", "mqtt"]


class Shard(MemoryKinesis):
    """A stream of one shard, with its limit: 1,000 records a second."""

    def __init__(self) -> None:
        super().__init__(self.is_full)
        self.now, self.tokens = 0.0, 1_000.0

    def is_full(self, _entry: dict[str, Any]) -> bool:
        if self.tokens < 1:
            return True
        self.tokens -= 1
        return False

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.tokens = min(1_000, self.tokens + 1_000 * seconds)


@pytest.mark.parametrize(("kind", "odd"), [("KPL", {}), ("list", {"wind": 3})])
def test_the_largest_bundle_gets_through_one_shard_at_its_first_delivery(
    stage: Stage, kind: str, odd: dict[str, Any]
) -> None:
    lines = lines_of(reading(f"pump-{place}") for place in range(5_000))
    documents = [{**json.loads(line), **odd} for line in lines]
    data = json.dumps(documents).encode() if kind == "list" else writers.kpl(lines)
    shard = Shard()
    sink = Stream(shard, "readings", shard.sleep, lambda: shard.now)
    pace = Pace(lambda: shard.now)
    quarantine = Quarantine(stage.bucket, "failures")
    answer = run(kinesis([reading(), data]), NOW_MS, stage.windows, quarantine, sink, pace, LIMITS)
    assert answer == NOTHING_FAILED
    assert len(shard.records) == 5_000
    assert len({record["PartitionKey"] for record in shard.records}) == 5_000
    assert shard.now < 10


def test_a_stream_that_takes_nothing_ends_an_attempt_at_once(stage: Stage) -> None:
    stage.kinesis.refuses = lambda _entry: True
    assert stage.run(reading(), BUNDLES["KPL"]) == failed(1)
    assert len(stage.kinesis.calls) <= 6


ODD_FIELDS = {
    "meta": {"via": "lora", "device_id": "x", "temperature": 2},
    "sensor": [{"received_at": 1}],
    "note": '"via": \\"via\\": \ud800',
    "wind": math.nan,
    "pressure": 10**5000,
}


@pytest.mark.parametrize("odd", ODD_FIELDS)
def test_a_reading_is_worth_the_same_alone_and_in_a_bundle(
    stage: Stage, counted: Counted, odd: str
) -> None:
    (line,) = lines_of([reading("a", NOW_MS, temperature=20.0)])
    value = "1" + "0" * 5000 if odd == "pressure" else json.dumps(ODD_FIELDS[odd])
    line = line[:-1] + f', "{odd}": {value}}}'.encode()
    stage.run(line)
    alone = stage.stored()
    assert list(alone.values()) == [{0: {"temperature": 20.0}}]
    stage.items.stored.clear()
    stage.restart()
    stage.run(b"[" + line + b"]")
    stage.run(*stage.put_back())
    assert stage.stored() == alone
    assert counted("ReadingsQuarantined") == 0
    fields = [held["field"] for held in stage.quarantined()]
    assert fields == [odd, odd]
    assert counted("MetricsRefused") == 2


def test_a_refused_document_of_a_bundle_is_quarantined_with_the_bundle_and_counted(
    stage: Stage, counted: Counted
) -> None:
    bad = [b'{"device_id":"a"}', b'"x"']
    data = writers.kpl([*lines_of(FIVE), *bad])
    assert stage.run(data) == NOTHING_FAILED
    assert len(stage.put_back()) == 5
    (held,) = stage.quarantined()
    assert base64.b64decode(held["data"]) == data
    assert (held["field"], held["name"]) == ("recorded_at", f"{SHARD}:{number(0)}")
    assert held["reason"] == "is missing (reading 6 of 7 in the record; 2 are refused)"
    assert (counted("ReadingsForeign"), counted("ReadingsQuarantined")) == (2, 2)
    assert counted("RecordsQuarantined") == 1


def test_a_damaged_bundle_is_quarantined_as_one_record(stage: Stage, counted: Counted) -> None:
    assert stage.run(BUNDLES["KPL"][:-1]) == NOTHING_FAILED
    (held,) = stage.quarantined()
    assert "KPL-aggregated" in held["reason"]
    assert (counted("ReadingsForeign"), counted("ReadingsQuarantined")) == (1, 1)
    assert stage.put_back() == []


def test_a_reading_of_a_bundle_is_held_to_the_time_at_which_the_bundle_came(stage: Stage) -> None:
    ahead = reading("pump-1", ARRIVED_MS + 300_001)
    stage.run(b"[" + b",".join(lines_of([ahead, reading("pump-2")])) + b"]")
    stage.run(*stage.put_back())
    assert [key[0] for key in stage.stored()] == ["pump-2"]
    (held,) = stage.quarantined()
    assert held["field"] == "recorded_at"


def test_a_reading_with_a_byte_order_mark_goes_back_without_it(stage: Stage) -> None:
    (line,) = lines_of(FIVE[:1])
    stage.run(b"\xef\xbb\xbf" + line + b"\0")
    (data,) = stage.put_back()
    assert json.loads(data)["device_id"] == "pump-0"


# Packs: each reading as if it were a record, delivered together.


def packed(*readings: Reading, **changes: Any) -> bytes:
    """A pack's bytes, with other values of some columns."""
    document = json.loads(packs.encode(readings))
    for name, column in changes.items():
        document["readings"][name] = column
        numbers = [each for each in column if isinstance(each, float)]
        document[name], document["low"][name] = max(numbers), min(numbers)
    return json.dumps(document).encode()


TEN = [reading("pump-1", NOW_MS + at * 1_000, temperature=20.0 + at) for at in range(10)]


# Breaches that filters can't see

FILTERS = [
    compile_pattern(json.dumps(pattern))
    for pattern in filter_pattern(
        Rule(name=name, metric=name, above=above, clears_below=1, severity="info")
        for name, above in LIMITS.items()
    )
]


def is_seen(record: bytes) -> bool:
    """Return whether the alert's mapping surely lets a record through."""
    event = {"data": parse_event(record.decode())}
    return any(each.matches(event) for each in FILTERS)


def over_mqtt(metrics: str, **stamps: Any) -> bytes:
    """Return what a rule puts on the stream, with the metrics' text as the device sent it."""
    stamped = {"device_id": "pump-1", "received_at": NOW_MS - MINUTE_MS, "via": "mqtt", **stamps}
    return f'{{"recorded_at":{NOW_MS},{metrics},{json.dumps(stamped)[1:]}'.encode()


LONG = {
    "a 32-bit float in full": ('"temperature":38.299999237060547', 38.299999237060547),
    "degrees Fahrenheit": ('"temperature":38.333333333333336', 101 * 5 / 9 - 160 / 9),
    "seven decimals": ('"temperature":38.1234567', 38.1234567),
    "zeros": ('"temperature":38.5000000', 38.5),
    "barely above": ('"temperature":38.00000000000001', 38.00000000000001),
    "an exponent": ('"temperature":385e-1', 38.5),
    "digits beyond a double": ('"temperature":38.20000000000000284', 38.2),
}


@pytest.mark.parametrize("kind", LONG)
def test_a_breach_that_filters_cannot_see_goes_back_on_the_stream_and_counts_when_it_comes(
    stage: Stage, counted: Counted, kind: str
) -> None:
    text, value = LONG[kind]
    assert stage.run(over_mqtt(text), reading("pump-9")) == NOTHING_FAILED
    assert [device for device, _ in stage.stored()] == ["pump-9"]
    assert (counted("ReadingsForeign"), counted("ReadingsStored")) == (0, 1)
    (again,) = stage.put_back()
    assert is_seen(again)
    (document,) = documents_in(stage.kinesis.records)
    stamps = {"received_at": NOW_MS - MINUTE_MS, "via": "mqtt"}
    identity = {"device_id": "pump-1", "recorded_at": NOW_MS}
    assert document == {**identity, "temperature": value, **stamps}
    assert stage.kinesis.records[0]["PartitionKey"] == "pump-1"

    assert stage.run(again) == NOTHING_FAILED
    windows = stage.stored()
    assert windows["pump-1", "2026-11-21T01:30:00Z#eu-west-1"] == {0: {"temperature": value}}
    assert (counted("ReadingsForeign"), counted("ReadingsStored")) == (1, 2)
    assert counted("ReadingsForeign", minute_ms=NOW_MS - MINUTE_MS) == 1
    assert stage.put_back() == [again]  # it isn't put back once more


@pytest.mark.parametrize(
    "record",
    [
        over_mqtt('"temperature":38.5'),
        over_mqtt('"temperature":38.123456,"humidity":40.299999237060547'),
        over_mqtt('"temperature":37.299999237060547'),
        over_mqtt('"temperature":38.00000000000000000001'),  # the double is 38.0
        over_mqtt('"pressure":1013.2999999523163'),
        over_mqtt('"temperature":38.299999237060547', via=None),
        reading(temperature=38.299999237060547),
    ],
    ids=["few digits", "no limit", "no breach", "equal", "no rule", "stamped", "from ingest"],
)
def test_any_other_reading_is_stored_at_once(stage: Stage, record: bytes | Reading) -> None:
    assert stage.run(record) == NOTHING_FAILED
    assert len(stage.stored()) == 1
    assert stage.put_back() == []


def test_a_breach_of_another_producer_is_stamped_with_its_arrival(
    stage: Stage, counted: Counted
) -> None:
    stamped = f'"recorded_at":"2026-11-21T01:30:00Z","device_id":"pump-1","trace_id":"{TRACE}"'
    stage.run(f'{{{stamped},"temperature":39.299999237060547}}'.encode())
    (document,) = documents_in(stage.kinesis.records)
    assert document == {
        "device_id": "pump-1",
        "recorded_at": NOW_MS,
        "temperature": 39.29999923706055,
        "trace_id": TRACE,
        "received_at": ARRIVED_MS,
        "via": "stream",
    }
    stage.run(*stage.put_back())
    assert counted("ReadingsForeign") == counted("ReadingsStored") == 1


def test_a_replayed_breach_stays_a_replayed_one(stage: Stage) -> None:
    stage.run(over_mqtt('"temperature":38.299999237060547', replayed_at=NOW_MS))
    (document,) = documents_in(stage.kinesis.records)
    assert document["replayed_at"] == NOW_MS


def test_a_breach_in_a_record_that_is_not_quite_json_is_put_back_as_json(stage: Stage) -> None:
    record = over_mqtt('"temperature":38.5,"humidity":NaN')
    assert validation.decode(record).reading.metrics == {"temperature": 38.5}
    stage.run(record)
    (again,) = stage.put_back()
    assert is_seen(again)
    (held,) = stage.quarantined()
    assert base64.b64decode(held["data"]) == record


def test_what_is_refused_of_an_unseen_breach_is_counted_and_quarantined_once(
    stage: Stage, counted: Counted
) -> None:
    record = over_mqtt('"temperature":38.299999237060547,"humidity":412,"colour":"red"')
    stage.run(record)
    assert (counted("MetricsRefused"), counted("ReadingsForeign")) == (2, 0)
    stage.run(*stage.put_back())
    assert (counted("MetricsRefused"), counted("ReadingsForeign")) == (2, 1)
    assert counted("ReadingsQuarantined") == 0
    (held,) = stage.quarantined()
    assert (held["is_partly"], base64.b64decode(held["data"])) == (True, record)
    assert list(stage.stored().values()) == [{0: {"temperature": 38.29999923706055}}]


def test_an_unseen_breach_that_is_delivered_again_makes_duplicates(
    stage: Stage, counted: Counted
) -> None:
    for _ in range(2):
        stage.run(over_mqtt('"temperature":38.299999237060547'))
    stage.run(*stage.put_back())
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (1, 1)
    assert counted("ReadingsForeign") == 2


def test_an_unseen_breach_that_the_stream_does_not_take_is_delivered_again(
    stage: Stage, counted: Counted
) -> None:
    unseen = over_mqtt('"temperature":38.299999237060547')
    stage.kinesis.refuses = lambda entry: entry["PartitionKey"] == "pump-1"
    assert stage.run(reading("pump-9"), unseen, BUNDLES["list"], b"poison") == failed(1)
    assert (counted("ReadingsStored"), counted("ReadingsQuarantined")) == (1, 0)
    assert stage.put_back() == []
    stage.kinesis.refuses = lambda _entry: False
    assert stage.run(unseen, BUNDLES["list"], b"poison") == NOTHING_FAILED
    stage.run(*stage.put_back())
    assert (counted("ReadingsStored"), counted("ReadingsQuarantined")) == (7, 1)


def test_the_unseen_breaches_of_a_batch_are_put_in_one_call(stage: Stage) -> None:
    devices = [f"pump-{index}" for index in range(400)]
    stage.run(*(over_mqtt('"temperature":38.299999237060547', device_id=each) for each in devices))
    assert len(stage.put_back()) == 400
    assert stage.kinesis.calls == [400]


def test_of_a_pack_that_filters_do_not_see_only_the_breaches_go_back(
    stage: Stage, counted: Counted
) -> None:
    hot = [20.0, 38.299999237060547, 38.5]
    three = [reading(at_ms=NOW_MS + at, temperature=each) for at, each in enumerate(hot)]
    seen = packed(*(each._replace(via="mqtt") for each in three))
    stage.run(seen)
    assert stage.put_back() == []
    unseen = seen.replace(b'"temperature": 38.5,', b'"temperature": 38.500000000001,')
    assert unseen != seen
    fresh = Stage()
    fresh.run(unseen)
    assert list(fresh.stored().values()) == [{0: {"temperature": 20.0}}]
    assert [each["temperature"] for each in documents_in(fresh.kinesis.records)] == hot[1:]
    fresh.run(*fresh.put_back())
    assert fresh.stored() == stage.stored()
    assert counted("ReadingsForeign") == 6


def test_a_pack_is_worth_its_readings(stage: Stage, counted: Counted) -> None:
    assert stage.run(packed(*TEN)) == NOTHING_FAILED
    singly = Stage()
    singly.run(*TEN)
    assert stage.stored() == singly.stored()
    assert stage.run(packed(*TEN[:4]), packed(*TEN[3:])) == NOTHING_FAILED
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (20, 11)
    assert counted("ReadingsForeign") == 0


def test_a_bad_reading_of_a_pack_is_quarantined_alone_under_a_name_of_its_own(
    stage: Stage, counted: Counted
) -> None:
    temperatures = [20.0, 412.0, 22.0, "hot", 24.0]
    answer = stage.run(reading("pump-9"), packed(*TEN[:5], temperature=temperatures))
    assert answer == NOTHING_FAILED
    assert {
        offset: metrics
        for (device, _), window in stage.stored().items()
        for offset, metrics in window.items()
        if device == "pump-1"
    } == {0: {"temperature": 20.0}, 2_000: {"temperature": 22.0}, 4_000: {"temperature": 24.0}}
    held = stage.quarantined()
    assert [each["name"] for each in held] == [f"{SHARD}:{number(1)}#{at}" for at in (1, 3)]
    assert [each["sequence_number"] for each in held] == [number(1)] * 2
    assert [each["reason"] for each in held] == [
        "412.0 is above 150.0 °C",
        "is not a finite number of °C",
    ]
    documents = [json.loads(base64.b64decode(each["data"])) for each in held]
    stamps = {"device_id": "pump-1", "received_at": NOW_MS, "trace_id": TRACE}
    assert documents == [
        {**stamps, "recorded_at": NOW_MS + at * 1_000, "temperature": temperatures[at]}
        for at in (1, 3)
    ]
    assert (counted("ReadingsStored"), counted("ReadingsQuarantined")) == (4, 2)
    assert counted("RecordsQuarantined") == 2


def test_a_refused_metric_of_a_pack_leaves_the_others_stored(
    stage: Stage, counted: Counted
) -> None:
    two = [reading(at_ms=NOW_MS + at, temperature=20.0, humidity=40.0) for at in range(2)]
    stage.run(packed(*two, humidity=[40.0, 200.0]))
    (window,) = stage.stored().values()
    assert window == {0: {"temperature": 20.0, "humidity": 40.0}, 1: {"temperature": 20.0}}
    (held,) = stage.quarantined()
    assert (held["field"], held["is_partly"]) == ("humidity", True)
    assert json.loads(base64.b64decode(held["data"]))["recorded_at"] == NOW_MS + 1
    assert (counted("ReadingsStored"), counted("MetricsRefused")) == (2, 1)


def test_a_value_of_a_pack_that_stands_for_no_measurement_is_left_out(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = no_measurement.load("no_measurement: [{metric: temperature, values: [21]}]")
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    stage.run(packed(*TEN[:3]))
    assert list(stage.stored().values()) == [
        {0: {"temperature": 20.0}, 2_000: {"temperature": 22.0}}
    ]
    assert [counted(f"Readings{end}") for end in ("Stored", "Duplicate")] == [2, 1]
    assert counted("MetricsLeftOut") == 1


def test_a_malformed_pack_is_one_rejected_record(stage: Stage, counted: Counted) -> None:
    data = packed(*TEN[:3]).replace(b"[0, 1000, 2000]", b"[0, 1000]")
    assert stage.run(data, reading("pump-9")) == NOTHING_FAILED
    (held,) = stage.quarantined()
    assert held["name"] == f"{SHARD}:{number(0)}"
    assert base64.b64decode(held["data"]) == data
    assert (held["field"], held["reason"]) == (
        "readings.temperature",
        "has 3 values, and after_ms has 2; a pack's columns have as many",
    )
    assert (counted("ReadingsForeign"), counted("ReadingsQuarantined")) == (1, 1)


def test_a_pack_of_which_a_reading_fails_is_delivered_again_whole(
    stage: Stage, counted: Counted
) -> None:
    other_minute = reading("pump-1", NOW_MS + 60_000)
    batch: list[Reading | bytes] = [
        reading("pump-0"),
        packed(*TEN[:3], other_minute),
        b"poison",
        reading("pump-2"),
    ]
    minute = "2026-11-21T01:31:00Z#eu-west-1"
    stage.items.fault = lambda write: "before" if write.item["minute_region"]["S"] == minute else ""
    assert stage.run(*batch) == failed(1)
    assert (counted("ReadingsStored"), stage.quarantined()) == (1, [])
    stage.items.fault = lambda _write: ""
    assert stage.run(*batch[1:]) == NOTHING_FAILED
    # the three readings that were stored before count as duplicates, once
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (2, 4)
    assert len(stage.quarantined()) == 1


def test_a_first_pack_of_which_a_reading_fails_is_an_error_of_the_function(stage: Stage) -> None:
    minute = "2026-11-21T01:31:00Z#eu-west-1"
    stage.items.fault = lambda write: "before" if write.item["minute_region"]["S"] == minute else ""
    with pytest.raises(Unavailable):
        stage.run(packed(TEN[0], reading("pump-1", NOW_MS + 60_000)), reading("pump-2"))


def test_a_bad_reading_that_finds_no_place_in_quarantine_brings_its_pack_again(
    stage: Stage, counted: Counted
) -> None:
    stage.bucket.down = True
    batch: list[Reading | bytes] = [
        reading("pump-0"),
        packed(*TEN[:3], temperature=[20.0, 412.0, 22.0]),
    ]
    assert stage.run(*batch) == failed(1)
    assert (counted("ReadingsStored"), counted("ReadingsQuarantined")) == (1, 0)
    stage.bucket.down = False
    assert stage.run(*batch[1:]) == NOTHING_FAILED
    assert (counted("ReadingsDuplicate"), counted("ReadingsQuarantined")) == (2, 1)


def test_each_reading_of_a_pack_that_bypassed_ingest_is_held_to_its_arrival(
    stage: Stage, counted: Counted
) -> None:
    over_mqtt = [
        each._replace(via="mqtt") for each in (TEN[0], reading("pump-1", NOW_MS + 300_001))
    ]
    stage.run(packed(*over_mqtt))
    (held,) = stage.quarantined()
    assert (held["field"], held["name"]) == ("recorded_at", f"{SHARD}:{number(0)}#1")
    assert [counted(f"Readings{end}") for end in ("Foreign", "Stored", "Quarantined")] == [2, 1, 1]


def test_a_reading_of_a_pack_whose_window_is_full_or_unreadable_is_quarantined_alone(
    stage: Stage,
) -> None:
    stage.run(reading("pump-1", NOW_MS + 60_000))
    for item in stage.items.stored.values():
        item["readings"] = {"B": b"\x02" + item["readings"]["B"][1:]}
    stage.restart()
    assert stage.run(packed(*TEN[:2], reading("pump-1", NOW_MS + 60_001))) == NOTHING_FAILED
    (held,) = stage.quarantined()
    assert held["name"] == f"{SHARD}:{number(0)}#2"
    assert held["reason"].startswith("window_unreadable: ")
    assert json.loads(base64.b64decode(held["data"]))["recorded_at"] == NOW_MS + 60_001


def test_a_bundles_readings_of_a_device_go_back_as_one_record(stage: Stage) -> None:
    stage.run(b"[" + b",".join(lines_of(TEN)) + b"]")
    (data,) = stage.put_back()
    stage.run(data)
    assert sum(map(len, stage.stored().values())) == 10


def test_packs_of_another_producer_in_a_bundle_are_opened(stage: Stage, counted: Counted) -> None:
    foreign = packed(*(each._replace(received_at_ms=None, trace_id=None) for each in TEN))
    stage.run(writers.kpl([foreign, *lines_of(FIVE)]))
    stage.run(*stage.put_back())
    assert sum(map(len, stage.stored().values())) == 15
    assert counted("ReadingsForeign") == 15


# A metric that isn't valid: what comes past ingest is checked here.


def raw(at_ms: int = NOW_MS, **fields: Any) -> bytes:
    stamps = {"received_at": NOW_MS, "via": "mqtt"}
    return json.dumps({"device_id": "pump-1", "recorded_at": at_ms, **stamps, **fields}).encode()


def test_a_refused_metric_leaves_the_others_stored_and_its_record_in_quarantine(
    stage: Stage,
) -> None:
    record = raw(temperature=999, humidity=55, colour="red")
    assert stage.run(record, raw(NOW_MS + 1, temperature=20)) == NOTHING_FAILED
    assert list(stage.stored().values()) == [{0: {"humidity": 55}, 1: {"temperature": 20}}]
    (held,) = stage.quarantined()
    assert (held["field"], held["value"], held["is_partly"]) == ("temperature", 999, True)
    assert held["reason"] == (
        "999 is above 150.0 °C; colour: is not a field of a reading; its fields are device_id, "
        "recorded_at, temperature, humidity, pressure, battery (its other metrics are stored)"
    )
    assert base64.b64decode(held["data"]) == record


def test_a_refused_metric_is_counted_beside_the_balance_and_logged(
    stage: Stage, counted: Counted, logged: Callable[[str], list[dict[str, Any]]]
) -> None:
    stage.run(raw(temperature=999, humidity=55, colour="red"), raw(NOW_MS + 1, battery=61))
    assert [counted(f"Readings{end}") for end in ("Foreign", "Stored", "Duplicate")] == [2, 1, 0]
    assert (counted("ReadingsQuarantined"), counted("RecordsQuarantined")) == (1, 1)
    assert counted("MetricsRefused", NOW_MS) == 2
    assert [(each["device_id"], each["field"]) for each in logged("refused")] == [
        ("pump-1", "temperature"),
        ("pump-1", "colour"),
    ]


def test_a_record_that_is_released_brings_only_what_its_window_lacks(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = raw(temperature=160, humidity=55)
    stage.run(record)
    monkeypatch.setitem(FIELDS["temperature"], "maximum", 200.0)  # after a fix
    validation._model.cache_clear()
    try:
        for _ in range(2):
            stage.run(record)
    finally:
        validation._model.cache_clear()
    assert list(stage.stored().values()) == [{0: {"temperature": 160, "humidity": 55}}]
    assert (counted("ReadingsStored"), counted("ReadingsDuplicate")) == (2, 1)
    assert len(stage.quarantined()) == 1


def test_a_record_whose_refused_metric_cannot_be_quarantined_is_delivered_again(
    stage: Stage, counted: Counted
) -> None:
    records = [raw(temperature=20), raw(NOW_MS + 1, temperature=999, humidity=5)]
    stage.bucket.down = True
    assert stage.run(*records) == failed(1)
    assert counted("MetricsRefused") == 0
    stage.bucket.down = False
    assert stage.run(*records[1:]) == NOTHING_FAILED
    assert (counted("MetricsRefused"), len(stage.quarantined())) == (1, 1)


def test_of_a_device_that_goes_on_sending_a_wrong_value_quarantine_keeps_ten_records(
    stage: Stage, counted: Counted
) -> None:
    stage.run(*[raw(NOW_MS + at, temperature=999, humidity=5) for at in range(15)])
    assert len(stage.quarantined()) == 10
    assert (counted("MetricsRefused"), counted("ReadingsStored")) == (15, 15)


def test_a_value_that_stands_for_no_measurement_is_left_out_and_counted(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = no_measurement.load("no_measurement: [{metric: temperature, values: [-127]}]")
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    stage.run(raw(temperature=-127, humidity=55), raw(NOW_MS + 1, temperature=-127))
    assert list(stage.stored().values()) == [{0: {"humidity": 55}}]
    assert stage.quarantined() == []
    assert (counted("MetricsLeftOut"), counted("MetricsRefused")) == (2, 0)
    # the balance: what brings nothing is a duplicate
    assert [counted(f"Readings{end}") for end in ("Foreign", "Stored", "Duplicate")] == [2, 1, 1]
