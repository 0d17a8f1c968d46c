"""Drain: what overflowed gets onto the stream, or stays in the queue."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws.overflow import Overflow
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Stream

from functions.drain.handler import run
from tests.fakes import MemoryKinesis, MemorySqs
from tests.functions.incoming import NOW_MS, reading, sqs

Counted = Callable[[str], float]


def messages(*sizes: int) -> list[str]:
    """Overflow messages of so many readings."""
    queue = MemorySqs()
    for index, size in enumerate(sizes):
        batch = [reading(f"pump-{index}", NOW_MS + offset) for offset in range(size)]
        assert Overflow(Queue(queue, "overflow")).put(batch) == []
    return queue.bodies


def drain(kinesis: MemoryKinesis, bodies: list[str]) -> dict[str, Any]:
    return run(sqs(bodies), Stream(kinesis, "readings", lambda _seconds: None))


def devices(kinesis: MemoryKinesis) -> list[str]:
    return [json.loads(record["Data"])["device_id"] for record in kinesis.records]


def test_every_overflowed_reading_gets_onto_the_stream(counted: Counted) -> None:
    kinesis = MemoryKinesis()
    assert drain(kinesis, messages(2, 3)) == {"batchItemFailures": []}
    assert devices(kinesis) == ["pump-0"] * 2 + ["pump-1"] * 3
    assert counted("ReadingsDrained") == 5


def test_a_reading_comes_out_of_the_queue_as_it_went_in() -> None:
    kinesis = MemoryKinesis()
    drain(kinesis, messages(1))
    assert json.loads(kinesis.records[0]["Data"]) == {
        "device_id": "pump-0",
        "recorded_at": NOW_MS,
        "temperature": 20.0,
        "received_at": NOW_MS,
        "trace_id": "1-67891233-abcdef012345678912345678",
    }


def test_only_messages_of_which_a_reading_was_not_taken_come_back(counted: Counted) -> None:
    kinesis = MemoryKinesis(refuses=lambda record: record["PartitionKey"] == "pump-1")
    answer = drain(kinesis, messages(2, 2, 2))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert counted("ReadingsDrained") == 4


def test_all_messages_come_back_while_the_stream_is_away() -> None:
    kinesis = MemoryKinesis()
    kinesis.down = True
    failures = drain(kinesis, messages(1, 1))["batchItemFailures"]
    assert failures == [{"itemIdentifier": "m0"}, {"itemIdentifier": "m1"}]


@pytest.mark.parametrize("body", ["", "poison", '{"device_id":"a"}'])
def test_a_message_that_holds_no_readings_keeps_no_other_waiting(body: str) -> None:
    kinesis = MemoryKinesis()
    first, second = messages(1, 1)
    answer = drain(kinesis, [first, body, second])
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert devices(kinesis) == ["pump-0", "pump-1"]
