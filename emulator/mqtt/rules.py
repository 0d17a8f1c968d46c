"""The rules engine: passes each message to the rules that select it, and runs their actions.

A message stays in the spool until all actions are done. If the broker dies before that, the actions
run again after its restart: at least once, as on AWS. A message that fails unexpectedly, or that
can't be removed from the spool, is retried later; neither ends a worker. The ports are passed in;
`aws` has those of the embedded AWS.
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
from emulator.mqtt.spool import NotStored, Published, Spool

LOGGER = logging.getLogger(__name__)
WAITS_SECONDS = (0.2, 0.5)
"""The pauses between attempts at an action; AWS doesn't document its own."""
AWAY_SECONDS = 1.0
AGAIN_SECONDS = 0.5, 30.0
"""The first and the longest pause before a message that failed unexpectedly is retried."""
WORKERS = 8
STOP_SECONDS = 10.0
"""How long the end waits for messages in work; an action's attempts and pauses take about that."""


class ActionFailed(Exception):
    """An action failed; the message says why."""


class Unreachable(Exception):
    """The embedded AWS doesn't answer; the message waits."""


@dataclass(frozen=True)
class Rule:
    """A deployed rule: its SQL, and its actions as GetTopicRule returns them."""

    name: str
    arn: str
    statement: sql.Statement | None
    actions: Sequence[Mapping[str, Any]]
    error_action: Mapping[str, Any] | None

    @classmethod
    def from_api(cls, arn: str, description: Mapping[str, Any]) -> "Rule | None":
        """Return a rule of the API's answer, None if disabled; invalid SQL selects nothing."""
        if description.get("ruleDisabled"):
            return None
        statement = None
        if description.get("awsIotSqlVersion") != sql.VERSION:
            LOGGER.error(
                "rule %s: only SQL version %s is supported", description["ruleName"], sql.VERSION
            )
        else:
            try:
                statement = sql.parse(description["sql"])
            except sql.SqlError as error:
                LOGGER.error("rule %s: %s", description["ruleName"], error)  # noqa: TRY400 - a message
        actions, on_error = description.get("actions") or [], description.get("errorAction")
        return cls(description["ruleName"], arn, statement, actions, on_error)


class Actions(Protocol):
    """The services that run actions."""

    def run(self, rule: Rule, action: Mapping[str, Any], message: sql.Message, data: bytes) -> None:
        """Run one action; raise ActionFailed."""


def selected_rules(rules: Sequence[Rule], topic: str) -> tuple[list[Rule], str]:
    """Return the rules for a message of this topic, and the topic that they see.

    Basic Ingest (`$aws/rules/<rule>/…`) names one rule, which sees the rest of the topic.
    """
    if topic.startswith(BASIC_INGEST):
        name, _, rest = topic.removeprefix(BASIC_INGEST).partition("/")
        named = [rule for rule in rules if rule.name == name]
        if not named:
            LOGGER.error("RuleNotFound: %s; the message is lost, as on AWS", topic)
        return named, rest
    subscribed = [
        rule for rule in rules if rule.statement and sql.matches(rule.statement.topic_filter, topic)
    ]
    return subscribed, topic


@dataclass(frozen=True)
class Task:
    """A message in the spool, and the state of its processing."""

    number: int
    message: Published
    is_processed: bool = False
    """Whether only its removal from the spool is left."""
    tries: int = 0
    """How often it failed unexpectedly."""

    @property
    def wait_seconds(self) -> float:
        """The pause before the next try, in seconds; it doubles with each failure."""
        least, most = AGAIN_SECONDS
        return min(least * 2.0 ** (self.tries - 1), most) if self.tries else 0.0


class Tasks:
    """A queue of tasks, ordered by the time of their next try; safe for several threads."""

    def __init__(self) -> None:
        """Begin empty."""
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Task]] = []
        self._order = itertools.count()
        self.is_closed = False

    def __len__(self) -> int:
        """Return how many tasks wait for a worker or for their next try."""
        return len(self._waiting)

    def put(self, task: Task) -> None:
        """Add a task."""
        due = time.monotonic() + task.wait_seconds
        with self._changed:
            heapq.heappush(self._waiting, (due, next(self._order), task))
            self._changed.notify()

    def close(self) -> None:
        """Give out no more tasks."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    def get(self) -> Task | None:
        """Wait for a task whose time has come, and remove it; return None once this is closed."""
        with self._changed:
            while not self.is_closed:
                wait = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(wait)
            return None


class RulesEngine:
    """Processes the messages of a spool, several at a time."""

    def __init__(
        self,
        spool: Spool,
        rules: Callable[[], Sequence[Rule]],
        actions: Actions,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Process messages with the rules that `rules` returns; `actions` runs their actions."""
        self._spool = spool
        self._rules = rules
        self._actions = actions
        self._sleep = sleep
        self._tasks = Tasks()
        self._workers: list[threading.Thread] = []
        self._refused = 0

    @property
    def pending(self) -> int:
        """How many messages wait for a worker."""
        return len(self._tasks)

    def start(self) -> None:
        """Start the workers, with the messages that an earlier broker left in the spool."""
        for number, message in self._spool.kept():
            self._tasks.put(Task(number, message))
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
        for worker in self._workers:
            worker.start()

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """End the workers after the messages that they have in work; the spool keeps the others.

        Return whether all ended within `seconds`. Messages may still be accepted, for a later
        engine.
        """
        self._tasks.close()
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def accept(self, message: Published) -> None:
        """Store a message, which may be acknowledged when this returns.

        Raises NotStored if it must not be acknowledged. The log says when this begins and when it
        ends, because a full disk may have lost the first line.
        """
        try:
            number = self._spool.add(message)
        except NotStored as problem:
            if not self._refused:
                LOGGER.error("messages can't be stored and aren't acknowledged: %s", problem)  # noqa: TRY400
            self._refused += 1
            raise
        if self._refused:
            LOGGER.warning("messages are stored again; %d were refused", self._refused)
            self._refused = 0
        self._tasks.put(Task(number, message))

    def _work(self) -> None:
        while task := self._tasks.get():
            try:
                if not task.is_processed:
                    self.process(task.message)
                    task = replace(task, is_processed=True, tries=0)
                self._spool.done(task.number)
            except BaseException as error:  # no error may end the worker
                task = replace(task, tries=task.tries + 1)
                self._tasks.put(task)
                text = "message %s to %s is tried again in %s s: %r"
                arguments = task.number, task.message.topic, task.wait_seconds, error
                LOGGER.error(text, *arguments, exc_info=task.tries == 1)  # noqa: TRY400 - once is enough

    def process(self, message: Published) -> None:
        """Pass a message to every rule that selects it."""
        rules, topic = selected_rules(self._known_rules(), message.topic)
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
                if self._tasks.is_closed:
                    raise
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
            # As on AWS, an error of the SQL runs no error action.
            LOGGER.error("rule %s: AWS doesn't document the result: %s", rule.name, error)  # noqa: TRY400
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
    """Return the entry of an error document for a failed action."""
    ((kind, of_kind),) = action.items()
    resource = of_kind.get("streamName") or of_kind.get("functionArn") or of_kind.get("queueUrl")
    name = f"{kind[:1].upper()}{kind[1:]}Action"
    return {"failedAction": name, "failedResource": str(resource), "errorMessage": str(error)}


def error_document(
    rule: Rule, message: sql.Message, topic: str, failures: list[dict[str, str]]
) -> bytes:
    """Return the payload of an error action.

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
