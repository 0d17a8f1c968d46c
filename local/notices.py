"""What went out of an instance: its notices, as a subscriber of its topic and of its bus gets them.

The subscriber is a queue of the instance's own, beside the stack. What has come to it is moved into
a file of the instance's folder, so that it can be looked at again.
"""

import fcntl
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from local.deployment import client
from local.errors import LocalError
from local.instance import Instance, State

NAME = "local-notices"
"""Of the queue, and of the bus's rule."""
SENDERS = ("sns.amazonaws.com", "events.amazonaws.com")
RECEIVED_AT_ONCE = 10
LOOK_SECONDS = 1.0

Json = dict[str, Any]


class Delivery(NamedTuple):
    """A notice as it came to the queue: once from the topic, once from the bus."""

    message_id: str
    sent_at: str
    """ISO 8601, UTC."""
    by: str
    """SNS or EventBridge."""
    notice: Json


class Shown(NamedTuple):
    """A notice as a person sees it, however many ways it went."""

    sent_at: str
    notice: Json
    by: Sequence[str]


def subscribe(state: State) -> bool:
    """Subscribe the queue to the topic and to the bus; return False if it was already."""
    sqs, sns, events = (client(state, service) for service in ("sqs", "sns", "events"))
    topic, bus = state.outputs["NoticesTopicArn"], state.outputs["EventBusName"]
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": SENDERS},
        "Action": "sqs:SendMessage",
        "Resource": "*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    url = sqs.create_queue(QueueName=NAME, Attributes={"Policy": policy})["QueueUrl"]
    wanted = {"QueueUrl": url, "AttributeNames": ["QueueArn"]}
    arn = sqs.get_queue_attributes(**wanted)["Attributes"]["QueueArn"]
    pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
    if arn in {each["Endpoint"] for page in pages for each in page["Subscriptions"]}:
        return False
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    # a prefix that every source has: all that is sent to this bus
    events.put_rule(Name=NAME, EventBusName=bus, EventPattern='{"source": [{"prefix": ""}]}')
    events.put_targets(Rule=NAME, EventBusName=bus, Targets=[{"Id": NAME, "Arn": arn}])
    return True


class Notices:
    """All that has gone out of an instance since its queue was subscribed."""

    def __init__(self, instance: Instance) -> None:
        """Look at an instance that is up; raise LocalError if it isn't."""
        self._instance = instance
        state = instance.deployed()
        self.is_new = subscribe(state)
        self._sqs = client(state, "sqs")
        self._url = self._sqs.get_queue_url(QueueName=NAME)["QueueUrl"]
        self._file = instance.folder / "notices.jsonl"
        self._read = 0

    def look(self) -> list[Delivery]:
        """Return what has come since the last look, the oldest first."""
        self._file.touch(0o600)
        with self._file.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another command may look, too
            kept = [Delivery(*json.loads(line)) for line in file]
            known = {each.message_id for each in kept}
            for message in self._received():
                delivery = delivered(message)
                if delivery.message_id not in known:
                    file.write(json.dumps(delivery) + "\n")
                    file.flush()
                    kept.append(delivery)
                handle = message["ReceiptHandle"]
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=handle)
        found, self._read = kept[self._read :], len(kept)
        return sorted(found, key=lambda each: each.sent_at)

    def follow(self) -> Iterator[list[Delivery]]:
        """Return what has come, look after look; raise LocalError when the instance ends."""
        while self._instance.is_running():
            yield self.look()
            time.sleep(LOOK_SECONDS)
        raise LocalError(f"instance '{self._instance.name}' has ended")

    def _received(self) -> Iterator[Json]:
        wanted = {"QueueUrl": self._url, "MaxNumberOfMessages": RECEIVED_AT_ONCE}
        while messages := self._sqs.receive_message(**wanted, AttributeNames=["SentTimestamp"]).get(
            "Messages"
        ):
            yield from messages


def delivered(message: Json) -> Delivery:
    """Return what a message of the queue says: SNS's envelope, or EventBridge's event."""
    body = json.loads(message["Body"])
    is_event = "detail-type" in body
    notice = body["detail"] if is_event else json.loads(body["Message"])
    sent_at = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
    text = sent_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Delivery(message["MessageId"], text, "EventBridge" if is_event else "SNS", notice)


def together(deliveries: Iterable[Delivery]) -> list[Shown]:
    """Return each notice once, with all the ways that it went, in the order of its first one."""
    found: dict[str, Shown] = {}
    for each in deliveries:
        name = str(each.notice.get("notice_id", each.message_id))
        if name in found:
            found[name] = found[name]._replace(by=[*found[name].by, each.by])
        else:
            found[name] = Shown(each.sent_at, each.notice, [each.by])
    return list(found.values())


COLUMNS = (
    ("sent at", 20), ("change", 7), ("rule", 12), ("severity", 8), ("device", 12), ("value", 5),
)  # fmt: skip
"""The table's columns, and how wide they are at least; the ways that a notice went come last."""


def heading() -> str:
    """Return the line above the notices."""
    return "  ".join([*(f"{name:<{width}}" for name, width in COLUMNS), "by"])


def line_of(shown: Shown) -> str:
    """Return a notice as a line below the heading; the value is the furthest breach so far."""
    notice, peak = shown.notice, shown.notice.get("peak")
    value = f"{peak:g}" if isinstance(peak, int | float) else ""
    names = ("change", "rule", "severity", "device_id")
    cells = [shown.sent_at, *(str(notice.get(name, "")) for name in names), value]
    padded = (f"{cell:<{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    return "  ".join([*padded, ", ".join(shown.by)])


def as_json(delivery: Delivery) -> Json:
    """Return a delivery as JSON: when it went out, which way, and all that the notice says."""
    return {"sent_at": delivery.sent_at, "by": delivery.by, "notice": delivery.notice}
