"""What the engine needs from outside, and how the outside says that it can't.

Time is passed in too: `now_ms` is a function, and waiting goes through the event loop, which
`emulator.mappings.memory` replaces by one with virtual time.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from emulator.mappings.model import Answer, Mapping, Page, Shard, Start

NowMs = Callable[[], int]


class NotInvoked(Exception):
    """The function didn't run: it was throttled, or Lambda failed before it."""


class CursorExpired(Exception):
    """The cursor is too old: open the shard again behind the last record fetched."""


class Trimmed(Exception):
    """What was asked for has left the stream: go on at its horizon."""


class OutsideProblem(Exception):
    """The source or the destination can't do it now; the message says why."""


class Source(Protocol):
    """A stream."""

    async def shards(self) -> list[Shard]:
        """Return the stream's shards, open and closed; raise OutsideProblem."""

    async def latest(self, shard_id: str) -> Start:
        """Return the place behind the shard's last record."""

    async def open(self, shard_id: str, start: Start) -> str:
        """Return a cursor; raise Trimmed or OutsideProblem."""

    async def fetch(self, shard_id: str, cursor: str, limit: int) -> Page:
        """Return up to `limit` records; raise CursorExpired, Trimmed or OutsideProblem."""


class Sink(Protocol):
    """Where functions are invoked."""

    async def invoke(self, function_arn: str, event: dict[str, Any]) -> Answer:
        """Invoke a function and wait for its answer; raise NotInvoked."""


class Destination(Protocol):
    """Where what is given up goes."""

    async def send(self, mapping: Mapping, key: str, document: dict[str, Any]) -> None:
        """Send a failure's document to the mapping's destination; raise OutsideProblem.

        `key` names the object where the destination is a bucket.
        """


class Checkpoints(Protocol):
    """What outlives the engine: texts by mapping and shard, and each mapping's state."""

    def load(self, uuid: str) -> dict[str, str]:
        """Return what was saved of each of a mapping's shards."""

    def save(self, uuid: str, shards: Sequence[tuple[str, str]]) -> None:
        """Save texts of a mapping's shards, all or none of them."""

    def forget_shard(self, uuid: str, shard_id: str) -> None:
        """Drop what was saved of one shard."""

    def note(self, uuid: str, state: str, last_result: str) -> None:
        """Save a mapping's state and last result."""

    def known(self) -> dict[str, tuple[str, str]]:
        """Return each mapping's state and last result."""

    def forget(self, uuid: str) -> None:
        """Drop all of a mapping."""


@dataclass
class Ports:
    """All of it."""

    source_of: Callable[[Mapping], Source]
    sink: Sink
    destination: Destination
    checkpoints: Checkpoints
    now_ms: NowMs
    chance: random.Random = field(default_factory=random.Random)
