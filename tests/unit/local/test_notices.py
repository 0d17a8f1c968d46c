"""`python -m local notices`: the deliveries of the queue, and the ways of each notice."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from local import notices
from local.instance import Instance
from local.notices import Delivery, Notices, delivered, line_of, together

OPENED = {
    "notice_id": "pump-1/overheating/us-east-1/1/opened",
    "change": "opened",
    "rule": "overheating",
    "severity": "critical",
    "device_id": "pump-1",
    "peak": 39.5,
}
CLEARED = OPENED | {"notice_id": "pump-1/overheating/us-east-1/1/cleared", "change": "cleared"}


def of_topic(notice: dict[str, Any], message_id: str = "a", sent_ms: int = 0) -> dict[str, Any]:
    body = {"Type": "Notification", "Message": json.dumps(notice)}
    return message(body, message_id, sent_ms)


def of_bus(notice: dict[str, Any], message_id: str = "b", sent_ms: int = 0) -> dict[str, Any]:
    return message({"detail-type": "Alert opened", "detail": notice}, message_id, sent_ms)


def message(body: dict[str, Any], message_id: str, sent_ms: int) -> dict[str, Any]:
    return {
        "MessageId": message_id,
        "ReceiptHandle": message_id,
        "Body": json.dumps(body),
        "Attributes": {"SentTimestamp": str(sent_ms)},
    }


class Queue:
    """SQS; its messages come again until they are deleted."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)

    def get_queue_url(self, **_options: str) -> dict[str, str]:
        return {"QueueUrl": "queue"}

    def receive_message(self, **_options: Any) -> dict[str, Any]:
        return {"Messages": self.messages[:1]} if self.messages else {}

    def delete_message(self, **options: str) -> None:
        handle = options["ReceiptHandle"]
        self.messages = [each for each in self.messages if each["ReceiptHandle"] != handle]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(notices, "subscribe", lambda _state: False)
    monkeypatch.setattr(notices, "client", lambda _state, _service: queue)
    monkeypatch.setattr(Instance, "deployed", lambda _self: SimpleNamespace())
    return queue


def look(tmp_path: Path) -> list[Delivery]:
    return Notices(Instance("main", tmp_path)).look()


def test_the_envelope_of_the_topic_and_the_event_of_the_bus_are_read() -> None:
    first = delivered(of_topic(OPENED, sent_ms=1_700_000_000_000))
    assert first == Delivery("a", "2023-11-14T22:13:20Z", "SNS", OPENED)
    assert delivered(of_bus(OPENED)).by == "EventBridge"
    assert delivered(of_bus(OPENED)).notice == OPENED


def test_the_next_command_shows_all_notices_again(tmp_path: Path, queue: Queue) -> None:
    queue.messages = [of_topic(OPENED), of_bus(OPENED)]
    first = look(tmp_path)
    assert [each.by for each in first] == ["SNS", "EventBridge"]
    assert queue.messages == []
    assert look(tmp_path) == first


def test_follow_shows_each_notice_once(tmp_path: Path, queue: Queue) -> None:
    queue.messages = [of_topic(OPENED)]
    follower = Notices(Instance("main", tmp_path))
    assert [each.message_id for each in follower.look()] == ["a"]
    assert follower.look() == []
    queue.messages = [of_topic(CLEARED, "c")]
    assert [each.message_id for each in look(tmp_path)] == ["a", "c"], "by another command"
    assert [each.message_id for each in follower.look()] == ["c"]


def test_a_message_that_comes_again_is_one_delivery(tmp_path: Path, queue: Queue) -> None:
    queue.messages = [of_topic(OPENED)]
    look(tmp_path)
    queue.messages = [of_topic(OPENED)]
    assert [each.message_id for each in look(tmp_path)] == ["a"]


def test_a_notice_is_a_line_with_all_its_ways() -> None:
    deliveries = [
        Delivery("a", "2026-11-27T10:00:00Z", "SNS", OPENED),
        Delivery("b", "2026-11-27T10:00:01Z", "EventBridge", OPENED),
        Delivery("c", "2026-11-27T10:05:00Z", "SNS", CLEARED),
    ]
    opened, cleared = [line_of(each).split() for each in together(deliveries)]
    assert opened == [
        *("2026-11-27T10:00:00Z", "opened", "overheating", "critical", "pump-1", "39.5"),
        *("SNS,", "EventBridge"),
    ]
    assert cleared[1] == "cleared"
    assert cleared[-1] == "SNS"


def test_a_notice_without_a_number_or_of_another_shape_is_shown_too() -> None:
    line = line_of(*together([Delivery("a", "2026-11-27T10:00:00Z", "SNS", {"change": "sent"})]))
    assert line.split() == ["2026-11-27T10:00:00Z", "sent", "SNS"]
