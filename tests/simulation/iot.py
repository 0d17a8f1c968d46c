"""AWS IoT Core of one region: takes messages, and runs the template's rules on them.

The rules are the template's own text, run by the engine of the local broker: its attempts at an
action, its error document. What may go wrong is simulated: acknowledgements, actions, time.
"""

import asyncio
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from emulator.mqtt import sql
from emulator.mqtt.rules import ActionFailed, Rule, RulesEngine
from emulator.mqtt.spool import Published, Spool
from tests.simulation.events import Events
from tests.simulation.functions import CALL_SECONDS
from tests.simulation.processes import Crash, running, wait
from tests.simulation.services import Services
from tests.template import everywhere

Json = dict[str, Any]
LATE_SECONDS = (0.5, 20.0)
SERVICES = {"kinesis": "kinesis", "lambda": "lambda", "sqs": "sqs"}
FAULTS = {"kinesis": "action_fails", "lambda": "action_fails", "sqs": "error_action_fails"}
QUEUES = {"OverflowQueue": "overflow"}
NO_SPOOL = cast("Spool", SimpleNamespace())  # nothing is kept: the engine is told each message


@dataclass
class Publication:
    """A message as a device published it, once."""

    topic: str
    payload: bytes
    device_id: str
    documents: list[Any] | None
    """What it means; None where nobody can read it."""
    region: str = ""
    """Where it went, and when: as IoT sets it."""
    at_ms: int = 0
    is_acknowledged: bool = False
    is_lost: bool = False
    """Whether IoT has told its owner, by a metric, that it could put it nowhere."""


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Return the template's rules, by logical id."""
    found = everywhere("AWS::IoT::TopicRule")
    return tuple(rule_of(name, each["TopicRulePayload"]) for name, each in found.items())


def rule_of(name: str, payload: Json) -> Rule:
    """Return a rule in the form of the API."""
    found = {
        "ruleName": name,
        "sql": payload["Sql"],
        "awsIotSqlVersion": payload["AwsIotSqlVersion"],
        "actions": [in_the_apis_words(each) for each in payload["Actions"]],
        "errorAction": in_the_apis_words(payload.get("ErrorAction")),
    }
    rule = Rule.from_api(name, found)
    if rule is None or rule.statement is None:
        raise ValueError(f"{name}: {payload['Sql']}")
    return rule


def in_the_apis_words(value: Any) -> Any:
    """Return a value with names that begin in lower case."""
    if not isinstance(value, dict):
        return value
    return {name[:1].lower() + name[1:]: in_the_apis_words(of) for name, of in value.items()}


def plain_topic(topic: str) -> str:
    """Return a topic without the prefix of Basic Ingest."""
    return topic.split("/", 3)[3] if topic.startswith("$aws/rules/") else topic


class Iot:
    """The message broker and the rules of one region."""

    def __init__(self, services: Services, events: Events) -> None:
        self.services = services
        self.conditions = services.conditions
        self.events = events
        self.at_work = 0
        """Messages whose rules aren't done."""
        self.records: dict[tuple[str, str], str] = {}
        """The topics of what rules have put on the stream, by place."""
        self._meant: dict[tuple[str, bytes], list[Any] | None] = {}
        self._skew_ms = self.conditions.drawn_skew_ms()

    async def publish(self, message: Publication) -> bool:
        """Take a message, at QoS 1; return whether its sender gets the acknowledgement."""
        conditions = self.conditions
        if self.services.is_lost or conditions.is_out("iot", self.services.name):
            return False
        message.region, message.at_ms = self.services.name, conditions.now_ms()
        self._meant[plain_topic(message.topic), message.payload] = message.documents
        self.at_work += 1
        conditions.begin(self._process(message))
        if conditions.happens("puback_lost"):
            conditions.history.note(message.device_id, "gets no PUBACK from", self.services.name)
            return False
        message.is_acknowledged = True
        return True

    def meaning(self, topic: str, payload: bytes) -> list[Any] | None:
        """Return the documents in a message; None if it can't be read."""
        return self._meant[plain_topic(topic), payload]

    async def _process(self, message: Publication) -> None:
        """Give a message to the rules, after a while."""
        conditions = self.conditions
        try:
            if conditions.happens("message_late"):
                await asyncio.sleep(conditions.chance.uniform(*LATE_SECONDS))
            at_ms = conditions.now_ms() + self._skew_ms
            actions, found = Actions(self), rules()
            engine = RulesEngine(
                NO_SPOOL, lambda: found, actions, lambda seconds: wait(asyncio.sleep(seconds))
            )
            published = Published(
                message.topic, message.payload, message.device_id, "certificate", at_ms
            )
            try:
                await running(lambda: engine.process(published))
            except Crash:
                return
            if actions.is_lost:
                conditions.history.note(self.services.name, "IoT loses a message to", message.topic)
                conditions.hits["lost by IoT"] += 1
                message.is_lost = True
        finally:
            self.at_work -= 1


class Actions:
    """The rules' actions on one message."""

    def __init__(self, iot: Iot) -> None:
        self._iot = iot
        self._services = iot.services
        self._conditions = iot.conditions
        self.is_lost = False
        """Whether an error action has failed, too, as far as IoT can tell."""

    def run(self, rule: Rule, action: Mapping[str, Any], message: sql.Message, data: bytes) -> None:
        """Run one action; raise ActionFailed."""
        ((kind, of_kind),) = action.items()
        try:
            self._run(kind, of_kind, message, data)
        except ActionFailed as error:
            self._conditions.history.note(self._services.name, rule.name, kind, error)
            self.is_lost = action is rule.error_action
            raise
        self.is_lost = False

    def _run(
        self, kind: str, of_kind: Mapping[str, Any], message: sql.Message, data: bytes
    ) -> None:
        conditions, services = self._conditions, self._services
        wait(asyncio.sleep(conditions.chance.choice(CALL_SECONDS)))
        if services.is_lost:
            raise Crash("the region is lost")
        if conditions.is_out(SERVICES[kind], services.name) or conditions.happens("call_fails"):
            raise ActionFailed("ServiceUnavailable")
        if conditions.happens(FAULTS[kind]):
            raise ActionFailed("ThrottlingException")
        if kind == "kinesis":
            place = services.stream.take(data, sql.template(of_kind["partitionKey"])(message))
            self._iot.records[place] = message.topic
            conditions.history.note(services.name, message.topic, "is on the stream", *place)
        elif kind == "lambda":
            self._iot.events.accept(stage_of(of_kind["functionArn"]), json.loads(data))
        else:
            services.queues[QUEUES[of_kind["queueUrl"]]].send(data.decode())
        if conditions.happens("answer_lost"):
            raise ActionFailed("its answer is lost")


def stage_of(function: str) -> str:
    """Return the stage of a function that the template names."""
    return function.removesuffix("Function.Arn").lower()
