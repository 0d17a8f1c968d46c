"""One shard of one mapping: read it, filter it, sort it into lanes, save its position."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from emulator.mappings import policy
from emulator.mappings.lane import Counts, Lane, Window, Work
from emulator.mappings.model import AFTER, DYNAMODB, TRIM_HORIZON, Mapping, Page, Record, Start
from emulator.mappings.ports import CursorExpired, OutsideProblem, Ports, Source, Trimmed

LOGGER = logging.getLogger(__name__)
FETCH_MAX = 10_000
READ_AHEAD = 10_000
READ_AHEAD_BYTES = 32 * 1024 * 1024
"""Limits of records fetched and not yet delivered; above either, fetching stops."""
POLL_SECONDS = 1.0
"""The pause between fetches of a Kinesis shard without new records (documented)."""
POLL_SECONDS_DYNAMODB = 0.25
"""The same pause for a DynamoDB stream: four fetches a second (documented)."""
PROBLEM_SECONDS = 1.0


@dataclass(frozen=True)
class Position:
    """How far a shard is read and delivered. It is saved as a text."""

    start: Start = TRIM_HORIZON
    """The place to read from as long as a lane has delivered nothing."""
    lanes: tuple[str | None, ...] = ()
    """For each lane, the record after which it goes on."""
    is_finished: bool = False
    """Whether the shard is closed, and all of it delivered."""
    window: Window | None = None
    counts: Counts = field(default_factory=Counts)
    last_result: str = ""

    def to_text(self, view: dict[str, Any]) -> str:
        """Return the position as JSON, with `view`: the figures for status output."""
        document = {
            "start": self.start,
            "lanes": self.lanes,
            "is_finished": self.is_finished,
            "window": self.window and asdict(self.window),
            "counts": vars(self.counts),
            "last_result": self.last_result,
            "view": view,
        }
        return json.dumps(document)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the position that `to_text` wrote."""
        found = json.loads(text)
        return cls(
            start=Start(*found["start"]),
            lanes=tuple(found["lanes"]),
            is_finished=found["is_finished"],
            window=Window(**found["window"]) if found["window"] else None,
            counts=Counts(**found["counts"]),
            last_result=found["last_result"],
        )

    def slowest(self) -> str | None:
        """Return the last record of the slowest lane; None if a lane is at the start."""
        known = [lane for lane in self.lanes if lane is not None]
        return min(known, key=int) if known and len(known) == len(self.lanes) else None

    def lanes_for(self, mapping: Mapping) -> tuple[str | None, ...]:
        """Return the last delivered record of each lane of the mapping.

        If the number of lanes changed, keys move between lanes. Then each lane begins where the
        slowest one was, and records that the others had delivered after it are delivered again.
        """
        count = lanes_of(mapping)
        return self.lanes if len(self.lanes) == count else (self.slowest(),) * count


def lanes_of(mapping: Mapping) -> int:
    """Return how many lanes a shard has.

    With tumbling windows it is one, because each invocation passes the shard's state to the next.
    """
    return 1 if mapping.tumbling_window_seconds else mapping.parallelization_factor


class ShardReader:
    """Reads a shard from its saved position, and delivers it through its lanes."""

    def __init__(
        self,
        mapping: Mapping,
        shard_id: str,
        position: Position,
        source: Source,
        ports: Ports,
        save: Callable[[str], None],
    ) -> None:
        """Prepare to read; `save` is called with the position's text whenever it has changed.

        Raises InvalidPattern.
        """
        self._start = position.start
        self._source = source
        self._save = save
        self._passes = policy.filter_of(mapping)
        self._read = position.slowest()
        self._page = Page([], None)
        self._is_at_end = False
        self.is_finished = position.is_finished
        self._result = position.last_result
        self.problem = ""
        """The reason why the shard can't be read; empty once it is read again."""
        self._is_reopened = False
        self.work = Work(
            mapping,
            shard_id,
            ports,
            save=self.save,
            report=self._report,
            counts=replace(position.counts),
        )
        dones = position.lanes_for(mapping)
        windows = [position.window, *[None] * (len(dones) - 1)]
        self.lanes = [Lane(self.work, *each) for each in zip(dones, windows, strict=True)]
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Read and deliver until the shard ends or `stop` is called."""
        if self.is_finished:
            return
        self.save()
        await self._all_of([self._read_on(), *[lane.run() for lane in self.lanes]])
        if self._is_at_end and not self.waiting and not self.work.stopping.is_set():
            self.is_finished = True
        self.save()

    async def _all_of(self, works: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Wait for all; if one fails, let the others finish their batches, then raise its error.

        Errors of others are logged. Cancelling them would leave functions running on records that
        the next reader delivers again.
        """
        tasks = [asyncio.create_task(work) for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() for task in done):
                self.stop()
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        errors = [error for task in tasks if (error := task.exception())]
        for error in errors[1:]:
            LOGGER.error("shard %s: another part failed, too", self.work.shard_id, exc_info=error)
        if errors:
            raise errors[0]

    def read_no_further(self) -> None:
        """Deliver the fetched records and finish: the shard has left the stream."""
        self._is_at_end = True
        for lane in self.lanes:
            lane.wake(0, is_at_end=True)

    def stop(self) -> None:
        """Begin no further batch; `run` returns once the running invocations are answered."""
        self.work.stopping.set()
        self._room.set()
        for lane in self.lanes:
            lane.wake(0, self._is_at_end)

    @property
    def waiting(self) -> int:
        """How many fetched records are not delivered yet."""
        return sum([lane.waiting for lane in self.lanes])

    def save(self) -> None:
        """Save how far reading and delivery have come."""
        self._room.set()
        position = Position(
            self._start,
            tuple([lane.position(self._read) for lane in self.lanes]),
            self.is_finished,
            self.lanes[0].window,
            self.work.counts,
            self._result,
        )
        self._save(position.to_text(self._view()))

    def _report(self, result: str) -> None:
        self._result = result

    @property
    def last_result(self) -> str:
        """The reason why the shard can't be read, or the result of the last invocation."""
        return self.problem or self._result

    def _view(self) -> dict[str, Any]:
        """Return the figures for status output, besides the position and the counts."""
        now_ms = self.work.ports.now_ms()
        oldest = [lane.oldest_ms for lane in self.lanes]
        ages = [now_ms - each for each in oldest if each is not None]
        behind = 0 if self.is_finished else self._page.behind_records
        return {
            "at_ms": now_ms,
            "last_result": self.last_result,
            "waiting": self.waiting,
            "lag_records": None if behind is None else self.waiting + behind,
            "lag_ms": max([*ages, self._page.behind_ms, 0]),
        }

    # Reading

    async def _read_on(self) -> None:
        cursor: str | None = None
        while not self.work.stopping.is_set() and not self._is_at_end:
            if self._is_far_ahead():
                await self._wait_for_room()
                continue
            started_ms = self.work.ports.now_ms()
            try:
                cursor = cursor or await self._open()
                page = await self._source.fetch(self.work.shard_id, cursor, FETCH_MAX)
            except (CursorExpired, Trimmed) as outdated:
                cursor = None
                await self._reopen(outdated)
            except OutsideProblem as problem:
                cursor = None
                self.problem = f"PROBLEM: {problem}"
                await self.work.pause(PROBLEM_SECONDS)
            else:
                cursor = page.cursor
                self.problem = ""
                self._is_reopened = False
                self._sort(page, started_ms)
                if not page.records or page.behind_ms == 0:
                    await self.work.pause(self._poll_seconds)

    async def _wait_for_room(self) -> None:
        """Let lanes deliver their queues now: no further record is fetched until there is room."""
        for lane in self.lanes:
            lane.hurry(is_hurried=True)
        self._room.clear()
        await self._room.wait()
        for lane in self.lanes:
            lane.hurry(is_hurried=False)

    async def _reopen(self, outdated: Exception) -> None:
        """Read on after the last read record, or at the horizon; pause if that failed before."""
        if isinstance(outdated, Trimmed):
            self._go_on_at_horizon()
        if self._is_reopened:
            await self.work.pause(PROBLEM_SECONDS)
        self._is_reopened = True

    def _is_far_ahead(self) -> bool:
        most = max(READ_AHEAD, 2 * self.work.mapping.batch_size)
        waiting_bytes = sum([lane.queued_bytes for lane in self.lanes])
        return self.waiting >= most or waiting_bytes >= READ_AHEAD_BYTES

    @property
    def _poll_seconds(self) -> float:
        is_dynamodb = self.work.mapping.service == DYNAMODB
        return POLL_SECONDS_DYNAMODB if is_dynamodb else POLL_SECONDS

    async def _open(self) -> str:
        """Return a cursor after the last read record; at first, after the last delivered one."""
        start = self._start if self._read is None else Start(AFTER, self._read)
        return await self._source.open(self.work.shard_id, start)

    def _go_on_at_horizon(self) -> None:
        """Read from the horizon on: the next record to read has expired on the stream."""
        self._start = TRIM_HORIZON
        self._read = None

    def _sort(self, page: Page, started_ms: int) -> None:
        """Give the records that pass the filter to their lanes."""
        self._page = page
        records = page.records
        before = self._read
        if records:
            self._read = records[-1].sequence
            if self._passes is not None:
                passes = self._passes
                passed = [record for record in records if passes(record)]
                self.work.counts.filtered += len(records) - len(passed)
                records = passed
            self._spread(records, before)
            self.save()
        self._is_at_end = self._is_at_end or page.cursor is None
        read_through_ms = started_ms if page.behind_ms == 0 else 0
        for lane in self.lanes:
            lane.wake(read_through_ms, self._is_at_end)

    def _spread(self, records: list[Record], before: str | None) -> None:
        if len(self.lanes) == 1:
            self.lanes[0].push(records, before)
            return
        spread: list[list[Record]] = [[] for _ in self.lanes]
        for record in records:
            spread[policy.lane_of(record.key, len(spread))].append(record)
        for lane, share in zip(self.lanes, spread, strict=True):
            if share:
                lane.push(share, before)
