"""Interfaces of the engine to the outside, and the errors that the outside raises.

Time comes from outside, too: `now_ms` is a function, and the engine waits only through the event
loop. `emulator.mappings.memory` has an event loop with virtual time.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emulator.mappings.model import Answer, Mapping, Page, Shard, Start

NowMs = Callable[[], int]


class NotInvoked(Exception):
    """The function didn't run: it was throttled, or Lambda failed before it started."""


class CursorExpired(Exception):
    """The cursor is too old; the shard must be opened again after the last fetched record."""


class Trimmed(Exception):
    """The records at this place have left the stream; reading goes on at its horizon."""


class OutsideProblem(Exception):
    """The source or the destination failed for now; the message says why."""


class Source(Protocol):
    """A stream."""

    async def shards(self) -> list[Shard]:
        """Return the stream's shards, open and closed; raise OutsideProblem."""

    async def latest(self, shard_id: str) -> Start:
        """Return the place after the shard's last record."""

    async def open(self, shard_id: str, start: Start) -> str:
        """Return a cursor at `start`; raise Trimmed or OutsideProblem."""

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:
        """Return up to `limit` records; raise CursorExpired, Trimmed or OutsideProblem."""


class Sink(Protocol):
    """The service that invokes functions."""

    async def invoke(self, function_arn: str, event: dict[str, Any]) -> Answer:
        """Invoke a function and wait for its answer; raise NotInvoked."""


class Destination(Protocol):
    """The failure destinations of mappings."""

    async def send(self, mapping: Mapping, key: str, document: dict[str, Any]) -> None:
        """Send a failure document to the mapping's destination; raise OutsideProblem.

        `key`: the object's name, if the destination is a bucket.
        """


class Checkpoints(Protocol):
    """Storage that outlives the engine: a text for each shard, a state for each mapping."""

    def load(self, uuid: str) -> dict[str, str]:
        """Return the saved text of each of a mapping's shards, by shard id."""

    def save(self, uuid: str, shards: Sequence[tuple[str, str]]) -> None:
        """Save (shard id, text) of a mapping's shards: all of them or none."""

    def forget_shard(self, uuid: str, shard_id: str) -> None:
        """Delete the saved text of one shard."""

    def note(self, uuid: str, state: str, last_result: str) -> None:
        """Save a mapping's state and last result."""

    def known(self) -> dict[str, tuple[str, str]]:
        """Return each mapping's state and last result, by UUID."""

    def forget(self, uuid: str) -> None:
        """Delete everything saved for a mapping."""


@dataclass
class Ports:
    """Everything that the engine uses from outside."""

    source_of: Callable[[Mapping], Source]
    sink: Sink
    destination: Destination
    checkpoints: Checkpoints
    now_ms: NowMs
    chance: random.Random = field(default_factory=random.Random)
