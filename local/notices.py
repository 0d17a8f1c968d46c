"""The notices that an instance sent, received as a subscriber of its topic and its event bus.

The subscriber is a queue in the embedded AWS, outside the stack. Received messages are moved into a
file of the instance's folder, so that they can be read again.
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
"""Name of the queue, and of the bus's rule."""
SENDERS = ("sns.amazonaws.com", "events.amazonaws.com")
RECEIVED_AT_ONCE = 10
LOOK_SECONDS = 1.0

Json = dict[str, Any]


class Delivery(NamedTuple):
    """A notice as it came to the queue, which gets it once from the topic and once from the bus."""

    message_id: str
    sent_at: str
    """ISO 8601, UTC."""
    by: str
    """SNS or EventBridge."""
    notice: Json


class SentNotice(NamedTuple):
    """A notice, with all ways by which it was sent."""

    sent_at: str
    notice: Json
    by: Sequence[str]


def subscribe(state: State) -> bool:
    """Subscribe the queue to the topic and the bus; return False if it was subscribed already."""
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
    # every source has the empty prefix, so the rule matches all events of this bus
    events.put_rule(Name=NAME, EventBusName=bus, EventPattern='{"source": [{"prefix": ""}]}')
    events.put_targets(Rule=NAME, EventBusName=bus, Targets=[{"Id": NAME, "Arn": arn}])
    return True


class Notices:
    """The notices that an instance has sent since its queue was subscribed."""

    def __init__(self, instance: Instance) -> None:
        """Subscribe the queue if it isn't; raise LocalError if the instance isn't up."""
        self._instance = instance
        state = instance.deployed()
        self.is_new = subscribe(state)
        self._sqs = client(state, "sqs")
        self._url = self._sqs.get_queue_url(QueueName=NAME)["QueueUrl"]
        self._file = instance.folder / "notices.jsonl"
        self._read = 0

    def look(self) -> list[Delivery]:
        """Return the deliveries since the last look, oldest first."""
        self._file.touch(0o600)
        with self._file.open("r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another command may look at the same time
            deliveries = [Delivery(*json.loads(line)) for line in file]
            known = {each.message_id for each in deliveries}
            for message in self._received():
                delivery = delivered(message)
                if delivery.message_id not in known:
                    file.write(json.dumps(delivery) + "\n")
                    file.flush()
                    deliveries.append(delivery)
                handle = message["ReceiptHandle"]
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=handle)
        unread, self._read = deliveries[self._read :], len(deliveries)
        return sorted(unread, key=lambda each: each.sent_at)

    def follow(self) -> Iterator[list[Delivery]]:
        """Look again and again, yield the deliveries; raise LocalError when the instance ends."""
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
    """Return the delivery in a message of the queue: SNS's envelope, or EventBridge's event."""
    body = json.loads(message["Body"])
    is_event = "detail-type" in body
    notice = body["detail"] if is_event else json.loads(body["Message"])
    sent_at = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
    text = sent_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    return Delivery(message["MessageId"], text, "EventBridge" if is_event else "SNS", notice)


def together(deliveries: Iterable[Delivery]) -> list[SentNotice]:
    """Return each notice once, with all its ways, in the order of the first deliveries."""
    by_id: dict[str, SentNotice] = {}
    for each in deliveries:
        name = str(each.notice.get("notice_id", each.message_id))
        if name in by_id:
            by_id[name] = by_id[name]._replace(by=[*by_id[name].by, each.by])
        else:
            by_id[name] = SentNotice(each.sent_at, each.notice, [each.by])
    return list(by_id.values())


COLUMNS = (
    ("sent at", 20), ("change", 7), ("rule", 12), ("severity", 8), ("device", 12), ("value", 5),
)  # fmt: skip
"""The table's columns with their least widths. A last column lists the ways of a notice."""


def heading() -> str:
    """Return the line above the notices."""
    return "  ".join([*(f"{name:<{width}}" for name, width in COLUMNS), "by"])


def line_of(sent: SentNotice) -> str:
    """Return a notice as a line below the heading; its value is the furthest breach so far."""
    notice, peak = sent.notice, sent.notice.get("peak")
    value = f"{peak:g}" if isinstance(peak, int | float) else ""
    names = ("change", "rule", "severity", "device_id")
    cells = [sent.sent_at, *(str(notice.get(name, "")) for name in names), value]
    padded = (f"{cell:<{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    return "  ".join([*padded, ", ".join(sent.by)])


def as_json(delivery: Delivery) -> Json:
    """Return a delivery as JSON: {sent_at, by, notice}."""
    return {"sent_at": delivery.sent_at, "by": delivery.by, "notice": delivery.notice}
