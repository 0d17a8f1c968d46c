"""Subscribers of the pipeline's notices: a queue of the topic, and one of the bus."""

import json
from collections import defaultdict
from secrets import token_hex
from typing import Any

from tests.pipeline.deployed import Pipeline, becomes


def queue_open_to(sqs: Any, name: str, service: str) -> tuple[str, str]:
    """Make a queue that the service may send to; return its URL and ARN."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": "*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    url = sqs.create_queue(QueueName=name, Attributes={"Policy": policy})["QueueUrl"]
    wanted = {"QueueUrl": url, "AttributeNames": ["QueueArn"]}
    return url, sqs.get_queue_attributes(**wanted)["Attributes"]["QueueArn"]


class Notices:
    """All notices since it was made."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._sqs = pipeline.aws("sqs")
        self._got: dict[str, list[dict[str, Any]]] = defaultdict(list)
        of_topic, of_bus = (f"{way}-{token_hex(3)}" for way in ("topic", "bus"))
        self._topic_queue, topic_queue_arn = queue_open_to(self._sqs, of_topic, "sns")
        self._bus_queue, bus_queue_arn = queue_open_to(self._sqs, of_bus, "events")
        pipeline.aws("sns").subscribe(
            TopicArn=pipeline.outputs["NoticesTopicArn"], Protocol="sqs", Endpoint=topic_queue_arn
        )
        bus = {"EventBusName": pipeline.outputs["EventBusName"]}
        events = pipeline.aws("events")
        pattern = json.dumps(
            {"source": ["telemetry.alerts"], "detail-type": ["Alert opened", "Alert cleared"]}
        )
        events.put_rule(Name=of_bus, EventPattern=pattern, **bus)
        target = {"Id": "subscriber", "Arn": bus_queue_arn}
        assert events.put_targets(Rule=of_bus, Targets=[target], **bus)["FailedEntryCount"] == 0

    def of(self, device_id: str) -> tuple[list[Any], list[Any]]:
        """Return the notices about a device from the topic, and those from the bus."""
        self._receive()
        return self._about("topic", device_id), self._about("bus", device_id)

    def counts(self, *device_ids: str) -> dict[str, tuple[int, int]]:
        """Return the number of notices about each device from the topic, and from the bus."""
        self._receive()
        return {
            device_id: (len(self._about("topic", device_id)), len(self._about("bus", device_id)))
            for device_id in device_ids
        }

    def arrived_once(self, *device_ids: str) -> None:
        """Return whether each device's notice came each way, and no second one is on its way.

        A notice may be delivered more than once under its id, and is on a busy machine.
        """
        once = dict.fromkeys(device_ids, (1, 1))
        what = "each notice comes once from the topic and once from the bus"
        becomes(lambda: self.counts(*device_ids), once, what)
        becomes(lambda: self._pipeline.waiting("NoticesQueueUrl"), 0, "notices are all sent")
        assert self.counts(*device_ids) == once, what

    def _about(self, way: str, device_id: str) -> list[Any]:
        """Return a device's notices, each id once, as receivers must do."""
        found = [notice for notice in self._got[way] if notice["device_id"] == device_id]
        by_id = {notice["notice_id"]: notice for notice in found}
        if len(by_id) < len(found):
            print(f"{len(found)} deliveries of {len(by_id)} notices about {device_id} by {way}")
        return list(by_id.values())

    def _receive(self) -> None:
        for body in self._received(self._topic_queue):
            self._got["topic"].append(json.loads(body["Message"]))
        for body in self._received(self._bus_queue):
            self._got["bus"].append(body["detail"])

    def _received(self, queue: str) -> list[Any]:
        bodies = []
        while True:
            answer = self._sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
            for message in answer.get("Messages", []):
                bodies.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            if not answer.get("Messages"):
                return bodies
