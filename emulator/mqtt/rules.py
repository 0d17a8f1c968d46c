"""The rules engine: each message to the rules that select it, and to their actions.

A message stays in the spool until all of that is done, so a broker that dies in the midst of it
does it again: at least once, as AWS. What fails unexpectedly is tried again after a while, and so
is a message that the spool couldn't forget; neither ends a worker. Ports are passed in; `aws` has
those of the embedded AWS.
"""

import base64
import heapq
import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from emulator.mqtt import sql
from emulator.mqtt.limits import BASIC_INGEST
from emulator.mqtt.spool import NotKept, Published, Spool

LOGGER = logging.getLogger(__name__)
WAITS_SECONDS = (0.2, 0.5)
"""Between attempts at an action; AWS doesn't tell its own."""
AWAY_SECONDS = 1.0
AGAIN_SECONDS = 0.5, 30.0
"""Before a message that failed unexpectedly is tried again: at first, and at most."""
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


@dataclass(frozen=True)
class Task:
    """A message that is in the spool, and what is still to be done with it."""

    number: int
    message: Published
    is_processed: bool = False
    """Whether it is only to be forgotten."""
    tries: int = 0
    """How often that has failed unexpectedly."""

    @property
    def wait_seconds(self) -> float:
        """How long it waits before it is tried again: each time twice as long."""
        least, most = AGAIN_SECONDS
        return min(least * 2.0 ** (self.tries - 1), most) if self.tries else 0.0


class Tasks:
    """What waits for a worker, by when it is due; safe to use from several threads."""

    def __init__(self) -> None:
        """Begin with none."""
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Task]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        """How many wait, for a worker or for their time."""
        return len(self._waiting)

    def put(self, task: Task) -> None:
        """Add one."""
        due = time.monotonic() + task.wait_seconds
        with self._changed:
            heapq.heappush(self._waiting, (due, next(self._order), task))
            self._changed.notify()

    def get(self) -> Task:
        """Take the first that is due, once one is."""
        with self._changed:
            while True:
                wait = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(wait)


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
        self._tasks = Tasks()
        self._refused = 0

    @property
    def pending(self) -> int:
        """How many messages wait for a worker."""
        return len(self._tasks)

    def start(self) -> None:
        """Begin, with what a broker before this one has left."""
        for number, message in self._spool.kept():
            self._tasks.put(Task(number, message))
        for _ in range(WORKERS):
            threading.Thread(target=self._work, daemon=True).start()

    def accept(self, message: Published) -> None:
        """Take responsibility for a message: it may be acknowledged when this returns.

        Raises NotKept where it must not be. That is told when it begins, and when it has ended:
        a full disk may have kept the first from the log.
        """
        try:
            number = self._spool.add(message)
        except NotKept as problem:
            if not self._refused:
                LOGGER.error("messages aren't taken, nor acknowledged, for now: %s", problem)  # noqa: TRY400
            self._refused += 1
            raise
        if self._refused:
            LOGGER.warning("messages are taken again; %d were not", self._refused)
            self._refused = 0
        self._tasks.put(Task(number, message))

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if not task.is_processed:
                    self.process(task.message)
                    task = replace(task, is_processed=True, tries=0)
                self._spool.done(task.number)
            except BaseException as error:  # whatever it is, it must not end the worker
                task = replace(task, tries=task.tries + 1)
                self._tasks.put(task)
                told = "message %s to %s is tried again in %s s: %r"
                what = task.number, task.message.topic, task.wait_seconds, error
                LOGGER.error(told, *what, exc_info=task.tries == 1)  # noqa: TRY400 - once is enough

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
