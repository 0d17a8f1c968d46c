"""A lane delivers records of one shard, one batch after the other.

A shard has as many lanes as its mapping's ParallelizationFactor. All records of a partition key go
through the same lane, so they are delivered in order and never in two batches at once.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from emulator.mappings import policy
from emulator.mappings.documents import (
    AGE_EXCEEDED,
    RETRIES_EXHAUSTED,
    failure_document,
    iso,
    object_key,
    with_payload,
)
from emulator.mappings.model import Answer, Batch, Mapping, Record, json_bytes
from emulator.mappings.ports import NotInvoked, OutsideProblem, Ports

OK = "OK"
FAILED = "PROBLEM: Function call failed"


@dataclass
class Counts:
    """Counts of a shard since the mapping began to read it."""

    batches: int = 0
    """Invocations that ran."""
    records: int = 0
    """Records delivered; a record that is delivered again counts again."""
    retries: int = 0
    """Failed invocations after which some of their records were delivered again."""
    throttles: int = 0
    """Attempts that didn't run the function."""
    filtered: int = 0
    discarded: int = 0


@dataclass
class Window:
    """An open tumbling window."""

    start_ms: int
    end_ms: int
    state: Any = field(default_factory=dict)
    state_bytes: int = 2


@dataclass
class Work:
    """The state that the lanes of one shard share."""

    mapping: Mapping
    shard_id: str
    ports: Ports
    save: Callable[[], None]
    """Called when saved state has changed, before the next delivery."""
    report: Callable[[str], None]
    """Called with each result, in the words of LastProcessingResult."""
    counts: Counts = field(default_factory=Counts)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """When it is set, no further batch begins."""

    async def pause(self, seconds: float) -> None:
        """Wait some seconds, or less if `stopping` is set meanwhile."""
        await within(self.stopping, seconds)


async def within(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for an event, at most `seconds` long; without limit if that is None."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Lane:
    """Delivers a shard's records of some partition keys, in order."""

    def __init__(self, work: Work, done: str | None, window: Window | None = None) -> None:
        """Go on after the record `done`, in the window that was open then."""
        self._work = work
        self._queue: deque[Record] = deque()
        self.queued_bytes = 0
        self._in_hand: deque[Record] = deque()
        self._done = done
        self._skip_through = int(done) if done is not None else None
        self._changed = asyncio.Event()
        self._free_since_ms = work.ports.now_ms()
        self._ready_at_ms: int | None = None
        self._read_through_ms = 0
        self._is_at_end = False
        self._is_hurried = False
        self.window = window

    # For the shard's reader

    def push(self, records: Sequence[Record], read: str | None) -> None:
        """Queue records to deliver, except those delivered before.

        `read`: the last record that the shard's reader sorted into lanes before these.
        """
        if not self.waiting:
            self._done = later(self._done, read)
        if self._skip_through is not None:
            records = [each for each in records if int(each.sequence) > self._skip_through]
            if records:
                self._skip_through = None
        if not records:
            return
        self._queue.extend(records)
        self.queued_bytes += sum([record.size_bytes for record in records])
        seconds = self._work.mapping.batching_window_seconds
        if self._ready_at_ms is None and seconds:
            self._ready_at_ms = policy.batching_window_end(
                self._free_since_ms, seconds, self._work.ports.now_ms()
            )

    def wake(self, read_through_ms: int, is_at_end: bool) -> None:
        """Look at the queue again: all records that arrived before `read_through_ms` are in it."""
        self._read_through_ms = read_through_ms
        self._is_at_end = is_at_end
        self._changed.set()

    def hurry(self, is_hurried: bool) -> None:
        """Don't wait for a batching window as long as the shard isn't read further."""
        self._is_hurried = is_hurried
        if is_hurried:
            self._changed.set()

    @property
    def waiting(self) -> int:
        """How many records are not delivered yet."""
        return len(self._queue) + len(self._in_hand)

    @property
    def oldest_ms(self) -> int | None:
        """When the first record that isn't delivered yet arrived."""
        first = self._in_hand or self._queue
        return first[0].arrived_ms if first else None

    def position(self, read: str | None) -> str | None:
        """Return the record after which delivery would go on after a restart."""
        return self._done if self.waiting else later(self._done, read)

    # Delivery

    async def run(self) -> None:
        """Deliver until the shard has ended and all of it is delivered, or `stopping` is set."""
        while not self._work.stopping.is_set():
            if self.window and self.window.state_bytes > policy.STATE_BYTES_MAX:
                await self._end_window(is_early=True)
            elif self._is_window_over():
                await self._end_window(is_early=False)
            elif self._queue:
                self._open_window()
                seconds = self._seconds_to_wait()
                if seconds > 0:
                    await self._change(seconds)
                else:
                    await self._deliver_next()
            elif self._is_at_end:
                break
            else:
                await self._change(None)
        if self._is_at_end and self.window and not self._work.stopping.is_set():
            await self._end_window(is_early=False)

    async def _change(self, seconds: float | None) -> None:
        self._changed.clear()
        await within(self._changed, seconds)

    def _seconds_to_wait(self) -> float:
        """Return for how many seconds more records may still join the batch."""
        if self._ready_at_ms is None or self._is_at_end or self._is_hurried:
            return 0.0
        if self._is_batch_complete():
            return 0.0
        return (self._ready_at_ms - self._work.ports.now_ms()) / 1000

    def _is_batch_complete(self) -> bool:
        if self.window and self._queue[-1].arrived_ms >= self.window.end_ms:
            return True
        return policy.is_full(
            len(self._queue),
            self.queued_bytes,
            self._work.mapping.batch_size,
            self.window.state_bytes if self.window else 0,
        )

    async def _deliver_next(self) -> None:
        mapping = self._work.mapping
        window = self.window
        records = policy.take(
            self._queue,
            mapping.batch_size,
            window.end_ms if window else None,
            window.state_bytes if window else 0,
        )
        self.queued_bytes -= sum([record.size_bytes for record in records])
        self._in_hand.extend(records)
        await self._deliver(Batch(records))
        self._free_since_ms = self._work.ports.now_ms()
        is_more = bool(self._queue and mapping.batching_window_seconds)
        self._ready_at_ms = (
            self._free_since_ms + mapping.batching_window_seconds * 1000 if is_more else None
        )

    async def _deliver(self, batch: Batch, final: dict[str, bool] | None = None) -> None:
        """Try until every record is delivered or given up, or `stopping` is set."""
        work = self._work
        todo = [batch]
        while todo and not work.stopping.is_set():
            batch = todo.pop()
            late = policy.expired_count(batch.records, work.mapping, work.ports.now_ms())
            if late:
                await self._give_up(batch._replace(records=batch.records[:late]), AGE_EXCEEDED)
                if late < len(batch.records):
                    todo.append(batch._replace(records=batch.records[late:]))
                continue
            event = self._event(batch, final)
            try:
                answer = await work.ports.sink.invoke(work.mapping.function_arn, event)
            except NotInvoked as problem:
                work.counts.throttles += 1
                work.report(f"PROBLEM: {problem}")
                todo.append(policy.after_refusal(batch))
            else:
                todo.extend(reversed(await self._follow(batch, answer)))
            if todo:
                await self._wait_for_turn(todo[-1])

    async def _follow(self, batch: Batch, answer: Answer) -> tuple[Batch, ...]:
        """Act on an answer; return the batches to deliver next."""
        work = self._work
        failed_at = policy.first_failed(answer, batch, work.mapping)
        step = policy.after(batch, failed_at, work.mapping)
        work.counts.batches += 1
        work.counts.records += len(batch.records)
        work.counts.retries += bool(step.rest)
        if self.window and batch.records and failed_at != 0:
            self.window.state = answer.payload["state"]
            self.window.state_bytes = len(json_bytes(self.window.state))
        work.report(OK if failed_at is None else FAILED)
        if step.discarded:
            await self._give_up(step.discarded, RETRIES_EXHAUSTED, answer)
        self._finish(step.done)
        return step.rest

    async def _wait_for_turn(self, batch: Batch) -> None:
        """Wait before a batch is tried again, at most until all its records are too old."""
        work = self._work
        seconds = policy.wait_seconds(batch, work.ports.chance)
        if batch.records:
            left = policy.expires_in_seconds(batch, work.mapping, work.ports.now_ms())
            seconds = min(seconds, left)
        if seconds > 0:
            await work.pause(seconds)

    def _finish(self, count: int) -> None:
        """Count the first records in hand as done, and save that before the next attempt."""
        if count == 0:
            return
        for _ in range(count):
            last = self._in_hand.popleft()
            self._done = last.sequence
        self._work.save()

    async def _give_up(self, batch: Batch, condition: str, answer: Answer | None = None) -> None:
        """Send a batch to the destination, and count it as done once it is there.

        While the destination fails, the lane stops and reports it. AWS would drop the batch and
        count a DestinationDeliveryFailure.
        """
        work = self._work
        if batch.records and work.mapping.destination_arn:
            now_ms = work.ports.now_ms()
            request_id = answer.request_id if answer else self._new_id()
            document = failure_document(
                work.mapping, work.shard_id, batch, condition, answer, request_id, now_ms
            )
            key = object_key(work.mapping, work.shard_id, self._new_id(), now_ms)
            if ":s3:" in work.mapping.destination_arn:
                document = with_payload(document, self._event(batch, None))
            if not await self._send(key, document):
                return
        work.counts.discarded += len(batch.records)
        self._finish(len(batch.records))

    async def _send(self, key: str, document: dict[str, Any]) -> bool:
        work = self._work
        tried = Batch(())
        while not work.stopping.is_set():
            try:
                await work.ports.destination.send(work.mapping, key, document)
            except OutsideProblem as problem:
                work.report(f"PROBLEM: {problem}")
                tried = policy.after_refusal(tried)
                await work.pause(policy.wait_seconds(tried, work.ports.chance))
            else:
                return True
        return False

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._work.ports.chance.getrandbits(128), version=4))

    # Tumbling windows

    def _open_window(self) -> None:
        """Open the next record's window, unless one is open or the mapping has no windows."""
        seconds = self._work.mapping.tumbling_window_seconds
        if seconds and self.window is None:
            start_ms = policy.tumbling_start(self._queue[0].arrived_ms, seconds)
            self.window = Window(start_ms, start_ms + seconds * 1000)

    def _is_window_over(self) -> bool:
        """Return whether the open window has passed and all its records are delivered."""
        if self.window is None:
            return False
        if not self._work.mapping.tumbling_window_seconds:  # the mapping was updated
            return True
        if self._queue:
            return self._queue[0].arrived_ms >= self.window.end_ms
        return self._read_through_ms >= self.window.end_ms

    async def _end_window(self, is_early: bool) -> None:
        """Invoke the function for the window's end, with its state and without records."""
        final = {"isFinalInvokeForWindow": True, "isWindowTerminatedEarly": is_early}
        await self._deliver(Batch(()), final)
        if not self._work.stopping.is_set():
            self.window = None
            self._work.save()

    def _event(self, batch: Batch, final: dict[str, bool] | None) -> dict[str, Any]:
        """Return the event for the function."""
        event: dict[str, Any] = {"Records": [record.event for record in batch.records]}
        if self.window is None:
            return event
        span = {
            "start": iso(self.window.start_ms, "seconds"),
            "end": iso(self.window.end_ms, "seconds"),
        }
        going_on = {"isFinalInvokeForWindow": False, "isWindowTerminatedEarly": False}
        return event | {
            "window": span,
            "state": self.window.state,
            "shardId": self._work.shard_id,
            "eventSourceARN": self._work.mapping.source_arn,
            **(final or going_on),
        }


def later(a: str | None, b: str | None) -> str | None:
    """Return the later of two sequence numbers; they are compared as numbers, not as text."""
    if a is None or b is None:
        return b if a is None else a
    return a if int(a) >= int(b) else b
