"""Conditional writes to a DynamoDB table, in batches, and compare-and-set on top of them.

The delivery semantics of the pipeline rely on this file. A write succeeds only if the item still
has the version from which the change was computed. So a retry, a zombie invocation or a second lane
of a shard can't overwrite another write: it merges into the newer item and tries again.
"""

import math
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.chunks import chunks
from telemetry.aws.clients import is_denied
from telemetry.aws.observe import log
from telemetry.errors import Rejected

Attributes = dict[str, dict[str, Any]]  # DynamoDB's typed values by name: {"version": {"N": "1"}}
K = TypeVar("K", bound=Hashable)
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
R = TypeVar("R", bound="Result[Any]")

# BatchExecuteStatement's limit of statements, and half of its limit of bytes
STATEMENTS_A_CALL = 25
BYTES_A_CALL = 8_000_000
ROUNDS = 8  # of compare-and-set; in each lost round, another writer succeeded
BACKOFF_SECONDS = 0.02  # before the second round, doubling, with jitter
# The codes of a failed condition: of an INSERT, of an UPDATE
CONFLICTS = ("DuplicateItem", "ConditionalCheckFailed")
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchStatementError.html
STATEMENT_DENIED = "AccessDenied"


class Write(NamedTuple):
    """An item to write if the stored version is still `expected` (0: there is no item)."""

    item: Attributes
    expected: int


class Written(NamedTuple):
    """The write took place."""


class Conflict(NamedTuple):
    """The stored item has another version: it is in `current` (None: there is no item)."""

    current: Attributes | None


class Failed(NamedTuple):
    """The write may not have taken place; a retry may succeed."""


class Denied(NamedTuple):
    """The role may not write this; a retry succeeds only after its permissions change."""


Outcome = Written | Conflict | Failed | Denied


class Items(Protocol):
    """A table of versioned items."""

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Try each write alone; return the outcomes in order. An item may have one write."""


class DynamoItems:
    """Items in DynamoDB, written by PartiQL statements, 25 a call.

    A batch costs the same write units as single writes (a transaction costs twice as much), and
    each statement gets its own answer. `key` names the two key attributes.
    """

    def __init__(self, dynamodb: Any, table: str, key: tuple[str, str]) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._key = key

    def write(self, writes: Sequence[Write]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for chunk in chunks(writes, _size, STATEMENTS_A_CALL, BYTES_A_CALL):
            outcomes += self._call(chunk)
        return outcomes

    def _call(self, writes: Sequence[Write]) -> list[Outcome]:
        statements = [self._statement(write) for write in writes]
        try:
            answer = self._dynamodb.batch_execute_statement(Statements=statements)
        except (ClientError, BotoCoreError) as error:
            log.warning("table unavailable", extra={"table": self._table, "why": str(error)})
            return [Denied() if is_denied(error) else Failed()] * len(writes)
        return [
            self._outcome(write, response)
            for write, response in zip(writes, answer["Responses"], strict=True)
        ]

    def _outcome(self, write: Write, response: dict[str, Any]) -> Outcome:
        error = response.get("Error")
        if error is None:
            return Written()
        if error["Code"] not in CONFLICTS:
            log.warning("item not written", extra={"table": self._table, "why": error["Code"]})
            return Denied() if error["Code"] == STATEMENT_DENIED else Failed()
        return Conflict(error["Item"]) if "Item" in error else self._read(write.item)

    def _read(self, item: Attributes) -> Outcome:
        """Return the conflict with the stored item, which the failed statement didn't return."""
        key = {name: item[name] for name in self._key}
        try:
            answer = self._dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)
        except (ClientError, BotoCoreError) as error:
            log.warning("item not read", extra={"table": self._table, "why": str(error)})
            return Failed()
        return Conflict(answer.get("Item"))

    def _statement(self, write: Write) -> dict[str, Any]:
        item = write.item
        if write.expected == 0:
            fields = ", ".join(f"'{name}': ?" for name in item)
            text, parameters = (
                f'INSERT INTO "{self._table}" VALUE {{{fields}}}',
                list(item.values()),
            )
        else:
            names = [name for name in item if name not in self._key]
            changes = " ".join(f'SET "{name}" = ?' for name in names)
            condition = " AND ".join(f'"{name}" = ?' for name in (*self._key, "version"))
            text = f'UPDATE "{self._table}" {changes} WHERE {condition}'
            parameters = [item[name] for name in (*names, *self._key)]
            parameters.append({"N": str(write.expected)})
        return {
            "Statement": text,
            "Parameters": parameters,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }


def _size(write: Write) -> int:
    """Return the rough size of a write in bytes: binary values, and 100 for each attribute."""
    return sum(len(value.get("B", b"")) + 100 for value in write.item.values())


class Result(Protocol[S_co]):
    """The result of a change; `state` is the very state given where nothing changed."""

    @property
    def state(self) -> S_co | None: ...


class CompareAndSet(Generic[K, S, R]):
    """States by key, changed by pure functions and written by compare-and-set.

    The last known states stay in memory, so a warm environment writes without reading. A cold one
    inserts, and gets the stored item from the refusal. `to_item` makes the item of a change's
    result, without the version. `weigh` returns a state's weight in memory, `remembered` is the
    limit of all weights, and `remembered_seconds` how long a state stays after its last change.
    """

    def __init__(
        self,
        items: Items,
        to_item: Callable[[K, R], Attributes],
        to_state: Callable[[Attributes], S],
        *,
        weigh: Callable[[S], int] = lambda _state: 1,
        remembered: int = 20_000,
        remembered_seconds: float = math.inf,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._items = items
        self._to_item = to_item
        self._to_state = to_state
        self._weigh = weigh
        self._known: OrderedDict[K, tuple[S, int, float]] = OrderedDict()  # version, since when
        self._weight = 0
        self._remembered = remembered
        self._remembered_seconds = remembered_seconds
        self._sleep = sleep
        self._clock = clock

    def apply(
        self,
        changes: Mapping[K, Callable[[S | None], R]],
        unreadable: dict[K, Rejected] | None = None,
    ) -> dict[K, R]:
        """Apply each change once; return the results that are stored now, by key.

        A change may be called several times, with newer states; the returned result is the one that
        was written. A key that is missing from the answer couldn't be written. If that is because
        this code can't read its item, `unreadable` gets the key and the reason.
        """
        applied: dict[K, R] = {}
        pending = dict(changes)
        unreadable = {} if unreadable is None else unreadable
        for attempt in range(ROUNDS):
            if attempt:
                self._sleep(random.uniform(0.5, 1) * BACKOFF_SECONDS * 2**attempt)
            self._round(pending, applied, unreadable)
            if not pending:
                break
        self._forget_oldest()
        return applied

    def learn(self, key: K, state: S, version: int) -> None:
        """Remember a state that a reader has seen, unless a newer version is known."""
        known = self._known.get(key)
        if known is None or known[1] < version:
            self._remember(key, state, version)

    def _round(
        self,
        pending: dict[K, Callable[[S | None], R]],
        applied: dict[K, R],
        unreadable: dict[K, Rejected],
    ) -> None:
        """Try all pending changes once; move the successful ones to `applied`."""
        writes: list[tuple[K, R, S, Write]] = []
        for key, change in list(pending.items()):
            known = self._known.get(key)
            state, version = known[:2] if known else (None, 0)
            result = change(state)
            if result.state is None or result.state is state:
                applied[key] = result
                del pending[key]
                continue
            item = self._to_item(key, result)
            item["version"] = {"N": str(version + 1)}
            writes.append((key, result, result.state, Write(item, version)))
        outcomes = self._items.write([write for *_, write in writes])
        for (key, result, state, write), outcome in zip(writes, outcomes, strict=True):
            match outcome:
                case Written():
                    self._remember(key, state, write.expected + 1)
                    applied[key] = result
                    del pending[key]
                case Conflict(None):
                    self._forget(key)
                case Conflict(dict(current)):
                    try:
                        found = self._to_state(current)
                    except Rejected as error:  # newer code wrote it, and only that can merge
                        log.error("item not readable", extra={"item": key, "why": str(error)})
                        unreadable[key] = error
                        del pending[key]
                        continue
                    self._remember(key, found, int(current["version"]["N"]))
                case Failed():
                    # the write may have arrived after all; the next round finds out
                    pass
                case Denied():  # more rounds wouldn't help
                    del pending[key]

    def _remember(self, key: K, state: S, version: int) -> None:
        self._forget(key)
        self._known[key] = (state, version, self._clock())
        self._weight += self._weigh(state)

    def _forget(self, key: K) -> None:
        known = self._known.pop(key, None)
        if known:
            self._weight -= self._weigh(known[0])

    def _forget_oldest(self) -> None:
        """Forget states beyond the weight limit, and states unchanged for remembered_seconds."""
        stale = self._clock() - self._remembered_seconds
        while self._known:
            oldest = next(iter(self._known))
            if self._weight <= self._remembered and self._known[oldest][2] >= stale:
                break
            self._forget(oldest)
