"""The publishers of notices: an SNS topic, and an EventBridge bus."""

import json
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.domain.notice import Notice, subject
from telemetry.errors import Unavailable


class Publisher(Protocol):
    """A target of notices; `name` identifies it in claims."""

    name: str

    def publish(self, notice: Notice) -> None:
        """Send the notice; raise Unavailable if the service doesn't take it."""


class Topic:
    """The SNS topic: the notice as JSON; subscribers can filter by the attributes."""

    name = "sns"

    def __init__(self, sns: Any, arn: str) -> None:
        self._sns = sns
        self._arn = arn

    def publish(self, notice: Notice) -> None:
        wanted = ("change", "rule", "severity", "device_id")
        attributes = {
            name: {"DataType": "String", "StringValue": getattr(notice, name)} for name in wanted
        }
        try:
            self._sns.publish(
                TopicArn=self._arn,
                Subject=subject(notice),
                Message=json.dumps(notice._asdict()),
                MessageAttributes=attributes,
            )
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"SNS didn't take the notice: {error}") from error


class Bus:
    """The EventBridge bus: source `telemetry.alerts`, detail-type `Alert opened`."""

    name = "bus"

    def __init__(self, events: Any, bus: str) -> None:
        self._events = events
        self._bus = bus

    def publish(self, notice: Notice) -> None:
        entry = {
            "EventBusName": self._bus,
            "Source": "telemetry.alerts",
            "DetailType": f"Alert {notice.change}",
            "Detail": json.dumps(notice._asdict()),
        }
        try:
            answer = self._events.put_events(Entries=[entry])
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"EventBridge didn't take the notice: {error}") from error
        if answer["FailedEntryCount"]:
            code = answer["Entries"][0].get("ErrorCode")
            raise Unavailable(f"EventBridge didn't take the notice: {code}")
