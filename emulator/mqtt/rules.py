"""The rules engine: each message to the rules that select it, and to their actions.

A message stays in the spool until all of that is done, so a broker that dies in the midst of it
does it again: at least once, as AWS. Ports are passed in; `aws` has those of the embedded AWS.
"""

import base64
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from emulator.mqtt import sql
from emulator.mqtt.limits import BASIC_INGEST
from emulator.mqtt.spool import Published, Spool

LOGGER = logging.getLogger(__name__)
WAITS_SECONDS = (0.2, 0.5)
"""Between attempts at an action; AWS doesn't tell its own."""
AWAY_SECONDS = 1.0
WORKERS = 8


class ActionFailed(Exception):
    """An action didn't do what it is for."""


class Unreachable(Exception):
    """The embedded AWS doesn't tell its rules now; the message waits."""


@dataclass(frozen=True)
class Rule:
    """A deployed rule: its SQL, and its actions as GetTopicRule has them."""

    name: str
    arn: str
    statement: sql.Statement | None
    actions: Sequence[Mapping[str, Any]]
    error_action: Mapping[str, Any] | None

    @classmethod
    def from_api(cls, arn: str, found: Mapping[str, Any]) -> "Rule | None":
        """Return a rule of the API's, None of a disabled one; with wrong SQL it selects nothing."""
        if found.get("ruleDisabled"):
            return None
        statement = None
        if found.get("awsIotSqlVersion") != sql.VERSION:
            LOGGER.error(
                "rule %s: only SQL version %s is supported", found["ruleName"], sql.VERSION
            )
        else:
            try:
                statement = sql.parse(found["sql"])
            except sql.SqlError as error:
                LOGGER.error("rule %s: %s", found["ruleName"], error)  # noqa: TRY400 - a message
        actions, on_error = found.get("actions") or [], found.get("errorAction")
        return cls(found["ruleName"], arn, statement, actions, on_error)


class Actions(Protocol):
    """What rules do."""

    def run(self, rule: Rule, action: Mapping[str, Any], message: sql.Message, data: bytes) -> None:
        """Run one action; raise ActionFailed."""


def chosen(rules: Sequence[Rule], topic: str) -> tuple[list[Rule], str]:
    """Return the rules that a message of this topic is for, and the topic as they see it."""
    if topic.startswith(BASIC_INGEST):
        name, _, rest = topic.removeprefix(BASIC_INGEST).partition("/")
        found = [rule for rule in rules if rule.name == name]
        if not found:
            LOGGER.error("RuleNotFound: %s; the message is lost, as on AWS", topic)
        return found, rest
    subscribed = [
        rule for rule in rules if rule.statement and sql.matches(rule.statement.topic_filter, topic)
    ]
    return subscribed, topic


class RulesEngine:
    """Takes messages from the spool, some at a time."""

    def __init__(
        self,
        spool: Spool,
        rules: Callable[[], Sequence[Rule]],
        actions: Actions,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Run what `rules` gives with `actions`."""
        self._spool = spool
        self._rules = rules
        self._actions = actions
        self._sleep = sleep
        self._waiting: queue.Queue[tuple[int, Published]] = queue.Queue()

    @property
    def pending(self) -> int:
        """How many messages wait for a worker."""
        return self._waiting.qsize()

    def start(self) -> None:
        """Begin, with what a broker before this one has left."""
        for each in self._spool.kept():
            self._waiting.put(each)
        for _ in range(WORKERS):
            threading.Thread(target=self._work, daemon=True).start()

    def accept(self, message: Published) -> None:
        """Take responsibility for a message: it may be acknowledged when this returns."""
        self._waiting.put((self._spool.add(message), message))

    def _work(self) -> None:
        while True:
            number, message = self._waiting.get()
            try:
                self.process(message)
            except Exception:  # it must not end the worker; the next broker tries again
                LOGGER.exception("message %s to %s stays", number, message.topic)
            else:
                self._spool.done(number)

    def process(self, message: Published) -> None:
        """Give a message to every rule that selects it."""
        rules, topic = chosen(self._known_rules(), message.topic)
        seen = sql.Message(
            topic, message.payload, message.client_id, message.principal, message.at_ms
        )
        for rule in rules:
            self._apply(rule, seen, message.topic)

    def _known_rules(self) -> Sequence[Rule]:
        while True:
            try:
                return self._rules()
            except Unreachable as error:
                LOGGER.warning("rules: %s", error)
                self._sleep(AWAY_SECONDS)

    def _apply(self, rule: Rule, message: sql.Message, topic: str) -> None:
        if rule.statement is None:
            return
        try:
            if not rule.statement.selects(message):
                return
            data = rule.statement.result(message)
        except sql.Undocumented as error:
            # as on AWS, no error action: it is for actions, not for SQL
            LOGGER.error("rule %s: AWS doesn't say what it gives: %s", rule.name, error)  # noqa: TRY400
            return
        failures = []
        for action in rule.actions:
            try:
                self._try(rule, action, message, data)
            except ActionFailed as error:
                failures.append(failure(action, error))
        if failures and rule.error_action:
            document = error_document(rule, message, topic, failures)
            try:
                self._try(rule, rule.error_action, message, document)
            except ActionFailed as error:
                LOGGER.error("ErrorActionFailure: %s: %s", rule.name, error)  # noqa: TRY400
        elif failures:
            LOGGER.error("rule %s: %s", rule.name, failures)

    def _try(
        self, rule: Rule, action: Mapping[str, Any], message: sql.Message, data: bytes
    ) -> None:
        for wait_seconds in WAITS_SECONDS:
            try:
                self._actions.run(rule, action, message, data)
            except ActionFailed:
                self._sleep(wait_seconds)
            else:
                return
        self._actions.run(rule, action, message, data)


def failure(action: Mapping[str, Any], error: ActionFailed) -> dict[str, str]:
    """Return how an error document names an action that failed."""
    ((kind, of_kind),) = action.items()
    resource = of_kind.get("streamName") or of_kind.get("functionArn") or of_kind.get("queueUrl")
    name = f"{kind[:1].upper()}{kind[1:]}Action"
    return {"failedAction": name, "failedResource": str(resource), "errorMessage": str(error)}


def error_document(
    rule: Rule, message: sql.Message, topic: str, failures: list[dict[str, str]]
) -> bytes:
    """Return what an error action gets.

    https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html
    """
    document = {
        "ruleName": rule.name,
        "topic": topic,
        "cloudwatchTraceId": str(uuid.uuid4()),
        "clientId": message.client_id,
        "base64OriginalPayload": base64.b64encode(message.payload).decode(),
        "failures": failures,
    }
    return json.dumps(document).encode()
