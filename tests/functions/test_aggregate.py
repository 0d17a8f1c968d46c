"""Aggregate: every reading into its window, the bad ones into quarantine, nothing lost."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.aws.windows import KEY, Windows
from telemetry.domain import window as windows_of
from telemetry.domain.reading import Reading
from telemetry.domain.window import Window
from telemetry.errors import Unavailable

from functions.aggregate.handler import run
from tests.fakes import Crash, MemoryItems, MemoryS3, MemorySqs
from tests.functions.incoming import NOW_MS, SHARD, failed, kinesis, number, reading

DAY_MS = 86_400_000
MINUTE_MS = 60_000
NOTHING_FAILED: dict[str, Any] = {"batchItemFailures": []}
Counted = Callable[[str], float]


class Stage:
    """The function with its stores in memory; `restart` is a new execution environment."""

    def __init__(self) -> None:
        self.items = MemoryItems(KEY)
        self.queue = MemorySqs()
        self.bucket = MemoryS3()
        self.restart()

    def restart(self) -> None:
        self.windows = Windows(self.items, "eu-west-1", 30 * DAY_MS, lambda: (0,))
        self.windows._states._sleep = lambda _seconds: None

    def run(self, *records: Reading | bytes, now_ms: int = NOW_MS) -> dict[str, Any]:
        quarantine = Quarantine(Queue(self.queue, "quarantine"), self.bucket, "failures")
        return run(kinesis(records), now_ms, self.windows, quarantine)

    def stored(self) -> dict[tuple[str, str], Window]:
        return {
            key: windows_of.decode(item["readings"]["B"]) for key, item in self.items.stored.items()
        }

    def quarantined(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.queue.bodies]

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
    (message,) = stage.quarantined()
    assert base64.b64decode(message["data"]) == poison
    assert message["reason"]
    assert message["sequence_number"] == number(1)
    assert message["shard_id"] == SHARD
    assert message["partition_key"] == "pump-1"
    assert message["arrived_at_ms"] == 1_795_224_600_250


def test_the_quarantined_reason_says_which_field_and_what_would_be_right(stage: Stage) -> None:
    stage.run(b'{"device_id":"a","recorded_at":1,"temperature":412.0}')
    (message,) = stage.quarantined()
    assert (message["field"], message["value"]) == ("temperature", 412.0)
    assert message["reason"] == "412.0 is above 150.0 °C"


@pytest.mark.parametrize("letter", ["x", "é", '"'])
def test_a_poison_record_of_a_megabyte_is_quarantined_too(stage: Stage, letter: str) -> None:
    poison = json.dumps({letter * 330_000: 1}, ensure_ascii=False).encode()
    assert stage.run(poison, reading("b")) == NOTHING_FAILED
    (message,) = stage.quarantined()
    assert len(stage.queue.bodies[0]) < 250_000  # it must fit into a message
    assert message["data_bucket"] == "failures"
    assert stage.bucket.objects == {message["data_key"]: poison}


def test_what_no_table_could_hold_is_poison_not_an_endless_retry(stage: Stage) -> None:
    trace_id = b"1" * 500_000  # an alert's item has it, and may have 400 kB
    poison = b'{"device_id":"a","recorded_at":1,"temperature":1,"trace_id":"%s"}' % trace_id
    assert stage.run(poison) == NOTHING_FAILED
    assert len(stage.quarantined()) == 1


def test_what_a_full_window_does_not_take_is_quarantined_as_window_full(
    stage: Stage, counted: Counted
) -> None:
    batch = [reading(at_ms=NOW_MS + offset) for offset in range(6_001)]
    assert stage.run(*batch) == NOTHING_FAILED
    (window,) = stage.stored().values()
    assert len(window) == 6_000
    (message,) = stage.quarantined()
    assert message["reason"].startswith("window_full")
    assert json.loads(base64.b64decode(message["data"]))["recorded_at"] == NOW_MS + 6_000
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
    assert [message["sequence_number"] for message in stage.quarantined()] == [number(0), number(2)]
    assert counted("ReadingsQuarantined") == 2
    # what is delivered again starts at the checkpoint
    stage.fail_writes_of()
    assert stage.run(*batch[3:]) == NOTHING_FAILED
    datas = [base64.b64decode(message["data"]) for message in stage.quarantined()]
    assert datas == [b"poison 0", b"poison 2", b"poison 4"]


def test_what_cannot_be_quarantined_is_delivered_again(stage: Stage, counted: Counted) -> None:
    stage.queue.refuses = lambda _body: True
    assert stage.run(reading("a"), b"poison", reading("b")) == failed(1)
    assert counted("ReadingsQuarantined") == 0
    stage.queue.down = True
    assert stage.run(reading("a"), b"poison", reading("b")) == failed(1)


def test_poison_too_big_for_a_message_waits_while_the_bucket_is_away(stage: Stage) -> None:
    stage.bucket.down = True
    assert stage.run(reading("a"), b"x" * 300_000) == failed(1)
    assert stage.quarantined() == []


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
