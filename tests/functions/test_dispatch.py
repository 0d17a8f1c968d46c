"""Dispatch: each change of the alerts table becomes a notice on the queue."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws.alerts import KEY, Alerts
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.domain.episode import Breach, EpisodeKey
from telemetry.errors import Unavailable

from functions.dispatch import handler as dispatch
from tests.fakes import MemoryItems, MemoryS3, MemorySqs
from tests.functions.incoming import NOW_MS, TRACE, changes, failed

Counted = Callable[[str], float]


def run(event: dict[str, Any], queue: Queue, bucket: MemoryS3 | None = None) -> dict[str, Any]:
    return dispatch.run(event, queue, Quarantine(bucket or MemoryS3(), "failures"))


def images(*devices: str, trace_id: str | None = TRACE) -> list[dict[str, Any]]:
    """The alerts table's items after a breach of each device."""
    items = MemoryItems(KEY)
    alerts = Alerts(items, "eu-west-1", {"overheating": "critical"})
    for device in devices:
        breach = Breach(NOW_MS + 250, 41.5, trace_id)
        alerts.join({EpisodeKey(device, "overheating"): [breach]})
    return list(items.stored.values())


def test_an_opened_episode_is_announced_as_the_schema_has_it(counted: Counted) -> None:
    sqs = MemorySqs()
    answer = run(changes(images("pump-1")), Queue(sqs, "notices"))
    assert answer == {"batchItemFailures": []}
    assert [json.loads(body) for body in sqs.bodies] == [
        {
            "notice_id": "pump-1/overheating/eu-west-1/1/opened",
            "change": "opened",
            "device_id": "pump-1",
            "rule": "overheating",
            "severity": "critical",
            "region": "eu-west-1",
            "episode": 1,
            "first_breach_at": "2026-11-21T01:30:00.250Z",
            "last_breach_at": "2026-11-21T01:30:00.250Z",
            "peak": 41.5,
            "trace_id": TRACE,
            "cleared_at": None,
            "ended_by": None,
        }
    ]
    assert counted("NoticesQueued") == 1


def test_an_episode_without_a_trace_is_announced_too() -> None:
    sqs = MemorySqs()
    run(changes(images("pump-1", trace_id=None)), Queue(sqs, "notices"))
    assert json.loads(sqs.bodies[0])["trace_id"] is None


def test_the_notice_of_a_change_delivered_twice_has_one_id() -> None:
    sqs = MemorySqs()
    for _ in range(2):
        run(changes(images("pump-1")), Queue(sqs, "notices"))
    assert sqs.bodies[0] == sqs.bodies[1]


def test_the_batch_is_resumed_from_the_first_notice_that_was_not_taken(counted: Counted) -> None:
    sqs = MemorySqs(refuses=lambda body: "pump-1/" in body or "pump-3/" in body)
    batch = images("pump-0", "pump-1", "pump-2", "pump-3")
    assert run(changes(batch), Queue(sqs, "notices")) == failed(1)
    assert counted("NoticesQueued") == 2


def test_a_batch_whose_first_notice_fails_is_an_error_of_the_function() -> None:
    sqs = MemorySqs(refuses=lambda body: "pump-0/" in body)
    with pytest.raises(Unavailable):
        run(changes(images("pump-0", "pump-1")), Queue(sqs, "notices"))


def broken(image: dict[str, Any], name: str) -> dict[str, Any]:
    """An item without an attribute, as other code or a hand left it."""
    return {key: value for key, value in image.items() if key != name}


@pytest.mark.parametrize("name", ["episode", "peak", "rule", "region", "severity", "trace_id"])
def test_a_change_that_is_of_no_episode_keeps_no_notice_waiting(
    name: str, counted: Counted
) -> None:
    sqs, bucket = MemorySqs(), MemoryS3()
    first, bad, last = images("pump-0", "pump-1", "pump-2")
    answer = run(changes([first, broken(bad, name), last]), Queue(sqs, "notices"), bucket)
    assert answer == {"batchItemFailures": []}
    assert [json.loads(body)["device_id"] for body in sqs.bodies] == ["pump-0", "pump-2"]
    (line,) = bucket.lines()
    assert (line["function"], line["source"], line["name"]) == ("dispatch", "dynamodb", "event1")
    assert name in line["reason"]
    assert counted("RecordsQuarantined") == 1


def test_a_change_that_cannot_be_quarantined_comes_back() -> None:
    sqs, bucket = MemorySqs(), MemoryS3()
    bucket.down = True
    first, bad, last = images("pump-0", "pump-1", "pump-2")
    batch = changes([first, broken(bad, "episode"), last])
    assert run(batch, Queue(sqs, "notices"), bucket) == failed(1)


def test_a_record_after_a_notice_that_was_not_taken_is_not_quarantined_yet() -> None:
    sqs, bucket = MemorySqs(refuses=lambda body: "pump-1/" in body), MemoryS3()
    first, refused, bad = images("pump-0", "pump-1", "pump-2")
    batch = changes([first, refused, broken(bad, "episode")])
    assert run(batch, Queue(sqs, "notices"), bucket) == failed(1)
    assert bucket.lines() == []
