"""Drain: what overflowed gets onto the stream, or stays in the queue."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws.overflow import Overflow
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Stream
from telemetry.domain import no_measurement

from functions.drain import handler
from functions.drain.handler import contents, run
from tests.fakes import KnownSchemas, MemoryKinesis, MemoryS3, MemorySqs
from tests.functions.incoming import NOW_MS, documents_in, reading, sqs

NOTHING_FAILED: dict[str, Any] = {"batchItemFailures": []}
RETENTION_MS = 30 * 86_400_000
Counted = Callable[[str], float]


def messages(*sizes: int) -> list[str]:
    """Overflow messages of so many readings."""
    queue = MemorySqs()
    for index, size in enumerate(sizes):
        batch = [reading(f"pump-{index}", NOW_MS + offset) for offset in range(size)]
        assert Overflow(Queue(queue, "overflow")).put(batch) == []
    return queue.bodies


def drain(kinesis: MemoryKinesis, bodies: list[str], bucket: MemoryS3 | None = None) -> Any:
    stream = Stream(kinesis, "readings", lambda _seconds: None)
    quarantine = Quarantine(bucket or MemoryS3(), "failures")
    return run(sqs(bodies), stream, quarantine, RETENTION_MS, KnownSchemas())


def devices(kinesis: MemoryKinesis) -> list[str]:
    return [document["device_id"] for document in documents_in(kinesis.records)]


def test_every_overflowed_reading_gets_onto_the_stream(counted: Counted) -> None:
    kinesis = MemoryKinesis()
    assert drain(kinesis, messages(2, 3)) == NOTHING_FAILED
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


@pytest.mark.parametrize("body", ["", "poison", '{"device_id":"a"}', "\ud800"])
def test_a_line_that_is_no_reading_goes_to_quarantine_with_its_bytes(
    body: str, counted: Counted
) -> None:
    kinesis, bucket = MemoryKinesis(), MemoryS3()
    first, second = messages(1, 2)
    line, *others = second.split("\n")
    assert drain(kinesis, [first, "\n".join([line, body, *others])], bucket) == NOTHING_FAILED
    assert devices(kinesis) == ["pump-0", "pump-1", "pump-1"]
    (held,) = bucket.lines()
    assert (held["name"], held["function"], held["source"]) == (
        "overflow:m1:1",
        "drain",
        "overflow",
    )
    assert base64.b64decode(held["data"]) == body.encode(errors="surrogatepass")
    assert held["reason"]
    assert (counted("ReadingsDrained"), counted("ReadingsQuarantined")) == (3, 1)


@pytest.mark.parametrize(
    "line",
    [
        {"temperature": 85},
        {"temperature": 85, "humidity": 40},
        {"temperature": 21, "humidity": 400},
        {"temperature": 21, "wind": 3},
    ],
)
def test_a_reading_of_which_a_value_is_refused_since_it_was_accepted_goes_on_as_it_is(
    line: dict[str, Any], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = no_measurement.load('no_measurement: [{"metric": "temperature", "values": [85]}]')
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    stamped = {"device_id": "pump-0", "recorded_at": NOW_MS, "received_at": NOW_MS, **line}
    kinesis, bucket = MemoryKinesis(), MemoryS3()
    body = messages(1)[0] + "\n" + json.dumps(stamped)
    assert drain(kinesis, [body], bucket) == NOTHING_FAILED
    assert stamped in [json.loads(record["Data"]) for record in kinesis.records]
    assert bucket.lines() == []
    assert (counted("ReadingsDrained"), counted("ReadingsQuarantined")) == (2, 0)
    assert (counted("MetricsRefused"), counted("MetricsLeftOut")) == (0, 0)  # aggregate counts them
    kinesis.down = True
    assert drain(kinesis, [json.dumps(stamped)], bucket)["batchItemFailures"]


def test_a_message_whose_line_finds_no_place_in_quarantine_comes_back(counted: Counted) -> None:
    bucket = MemoryS3()
    bucket.down = True
    answer = drain(MemoryKinesis(), [*messages(1), "poison"], bucket)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert (counted("ReadingsDrained"), counted("ReadingsQuarantined")) == (1, 0)


def test_a_line_waits_for_the_readings_beside_it_and_is_quarantined_once() -> None:
    kinesis, bucket = MemoryKinesis(), MemoryS3()
    body = messages(1)[0] + "\npoison"
    kinesis.down = True
    assert drain(kinesis, [body], bucket)["batchItemFailures"]
    assert bucket.lines() == []
    kinesis.down = False
    for _ in range(2):  # SQS delivers at least once
        assert drain(kinesis, [body], bucket) == NOTHING_FAILED
    assert [held["name"] for held in bucket.lines()] == ["overflow:m0:1"]


@pytest.mark.parametrize("received_at", [10**30, -1, True, 1.5, None])
def test_a_message_whose_time_is_none_goes_to_quarantine_and_the_others_on(
    received_at: Any,
) -> None:
    kinesis, bucket = MemoryKinesis(), MemoryS3()
    published = {
        "topic": "telemetry/a/readings",
        "device_id": "a",
        "format": "json",
        "body": "e30=",
    }
    message = json.dumps({**published, "received_at": received_at})
    assert drain(kinesis, [*messages(1), message, *messages(1)], bucket) == NOTHING_FAILED
    assert len(devices(kinesis)) == 2
    assert [line["source"] for line in bucket.lines()] == ["overflow"]


def test_an_unexpected_message_keeps_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(message: dict[str, Any], *rest: Any) -> Any:
        return 1 / 0 if message["messageId"] == "m1" else contents(message, *rest)

    monkeypatch.setattr(handler, "contents", failing)
    kinesis = MemoryKinesis()
    answer = drain(kinesis, messages(1, 1, 1))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    assert devices(kinesis) == ["pump-0", "pump-2"]
