"""Runs all mappings: reads the shards of each, and follows changes of the mappings."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from emulator.event_pattern import InvalidPattern
from emulator.mappings import policy
from emulator.mappings.model import AT_TIMESTAMP, TRIM_HORIZON, Mapping, Shard, Start
from emulator.mappings.ports import OutsideProblem, Ports
from emulator.mappings.shard import Position, ShardReader

LOGGER = logging.getLogger(__name__)
FOLLOW_SECONDS = 1.0
"""The pause between two looks at the mappings and at the shards of their streams."""
NOTHING_YET = "No records processed"
PROBLEM = "PROBLEM: "
ENABLED, DISABLED = "Enabled", "Disabled"

ListMappings = Callable[[], Awaitable[list[Mapping]]]


class Engine:
    """Runs every enabled mapping of a stream by its current configuration."""

    def __init__(self, ports: Ports, list_mappings: ListMappings) -> None:
        """Run the mappings that `list_mappings` returns; it may raise OutsideProblem."""
        self._ports = ports
        self._list_mappings = list_mappings
        self._runners: dict[str, Runner] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Follow the mappings until `stop` is called; then let each finish its batches."""
        stopped = asyncio.create_task(self._stopping.wait())
        while not stopped.done():
            look = asyncio.create_task(self._look())
            await asyncio.wait([look, stopped], return_when=asyncio.FIRST_COMPLETED)
            if look.cancel():
                break
            await asyncio.wait([stopped], timeout=FOLLOW_SECONDS)
        await asyncio.gather(*[runner.end() for runner in self._runners.values()])
        await asyncio.gather(*self._ending.values())

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping.set()

    async def _look(self) -> None:
        """Follow changes of the mappings. An error is logged, and the next look tries again."""
        try:
            self._follow(await self._list_mappings())
        except OutsideProblem as problem:
            LOGGER.warning("the mappings can't be listed: %s", problem)
        except Exception:
            LOGGER.exception("a look at the mappings")
        for runner in self._runners.values():
            try:
                runner.look()
            except Exception:  # a full disk, for example; the other mappings still get their look
                LOGGER.exception("a look at mapping %s", runner.mapping.uuid)

    def _follow(self, listed: list[Mapping]) -> None:
        """Begin and end mappings that were created, changed or deleted since the last look."""
        wanted = {each.uuid: each for each in listed}
        known = self._ports.checkpoints.known()
        for uuid in sorted(self._runners.keys() | self._ending.keys() | known.keys()):
            self._end_if_changed(uuid, wanted.get(uuid))
        for uuid, mapping in wanted.items():
            if uuid not in self._runners and uuid not in self._ending:
                self._begin(mapping, known.get(uuid, ("", NOTHING_YET)))

    def _end_if_changed(self, uuid: str, mapping: Mapping | None) -> None:
        """End a runner whose mapping was changed or deleted; a changed one begins again later."""
        runner = self._runners.get(uuid)
        if runner and runner.mapping != mapping:
            del self._runners[uuid]
            self._ending[uuid] = asyncio.create_task(runner.end())
        if uuid in self._ending and self._ending[uuid].done():
            self._ending.pop(uuid).result()
        if mapping is None and uuid not in self._ending:
            self._ports.checkpoints.forget(uuid)

    def _begin(self, mapping: Mapping, known: tuple[str, str]) -> None:
        """Begin a mapping at its saved position; if that fails, save the error as its result."""
        state, last_result = known
        if not mapping.is_enabled:
            if state != DISABLED:
                self._ports.checkpoints.note(mapping.uuid, DISABLED, last_result)
            return
        try:
            self._runners[mapping.uuid] = Runner(mapping, self._ports, known)
        except Exception as error:
            LOGGER.exception("mapping %s", mapping.uuid)
            self._ports.checkpoints.note(mapping.uuid, ENABLED, f"{PROBLEM}{error!r}")


class Runner:
    """Runs one mapping, with a reader for each shard whose parents are finished."""

    def __init__(self, mapping: Mapping, ports: Ports, known: tuple[str, str]) -> None:
        """Go on at the mapping's saved position; `known` is its state and last result."""
        self.mapping = mapping
        self._ports = ports
        self._source = ports.source_of(mapping)
        self._noted = known
        self._positions = {
            shard_id: Position.from_text(text)
            for shard_id, text in ports.checkpoints.load(mapping.uuid).items()
        }
        self._is_new = not self._positions
        self._readers: dict[str, ShardReader] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Look at the stream's shards, unless the last look is still running; save the figures."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        for shard_id in self._tasks:
            self._readers[shard_id].save()

    async def end(self) -> None:
        """Begin no further batch, and return once the running invocations are answered."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        for reader in self._readers.values():
            reader.stop()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._note(None, DISABLED)

    async def _look(self) -> None:
        """Adopt new shards and start their readers. An error is saved as the mapping's result."""
        try:
            policy.filter_of(self.mapping)
            shards = await self._source.shards()
            if self._is_new:
                await self._begin(shards)
            self._adopt(shards)
            for shard_id, task in list(self._tasks.items()):
                if task.done():
                    self._collect(shard_id, task)
            for shard in shards:
                if shard.shard_id not in self._readers and self._may_begin(shard):
                    self._read(shard.shard_id)
            self._note(None)
        except (InvalidPattern, OutsideProblem) as problem:
            self._note(f"{PROBLEM}{problem}")
        except Exception as error:
            LOGGER.exception("mapping %s", self.mapping.uuid)
            self._note(f"{PROBLEM}{error!r}")

    async def _begin(self, shards: list[Shard]) -> None:
        """Set where each shard of a new mapping is read from; later shards are read whole.

        All positions are saved at once: a shard without a position counts as a later one.
        """
        for shard in shards:
            if shard.shard_id not in self._positions:
                start = await self._start(shard)
                is_finished = self.mapping.starting_position == "LATEST" and shard.is_closed
                self._positions[shard.shard_id] = Position(start, is_finished=is_finished)
        self._save_positions(shards)
        self._is_new = False

    async def _start(self, shard: Shard) -> Start:
        if self.mapping.starting_position == "LATEST":
            return await self._source.latest(shard.shard_id)
        if self.mapping.starting_position == AT_TIMESTAMP:
            return Start(AT_TIMESTAMP, self.mapping.starting_at_ms or 0)
        return TRIM_HORIZON

    def _save_positions(self, shards: list[Shard]) -> None:
        self._ports.checkpoints.save(
            self.mapping.uuid,
            [(each.shard_id, self._positions[each.shard_id].to_text({})) for each in shards],
        )

    def _adopt(self, shards: list[Shard]) -> None:
        """Add shards that came by a split or a merge, and forget those that are gone.

        A shard that was finished and is open belongs to a stream that was deleted and made again.
        """
        new = [
            each
            for each in shards
            if each.shard_id not in self._positions
            or (not each.is_closed and self._is_finished(each.shard_id))
        ]
        for shard in new:
            self._positions[shard.shard_id] = Position()
            self._readers.pop(shard.shard_id, None)
        if new:
            self._save_positions(new)
        gone = self._positions.keys() - {each.shard_id for each in shards}
        for shard_id in sorted(gone):
            if shard_id in self._tasks:
                self._readers[shard_id].read_no_further()
            else:
                del self._positions[shard_id]
                self._readers.pop(shard_id, None)
                self._ports.checkpoints.forget_shard(self.mapping.uuid, shard_id)

    def _may_begin(self, shard: Shard) -> bool:
        """Return whether a shard's parents are finished or have left the stream (inferred)."""
        return all(
            parent not in self._positions or self._is_finished(parent) for parent in shard.parents
        )

    def _is_finished(self, shard_id: str) -> bool:
        reader = self._readers.get(shard_id)
        return reader.is_finished if reader else self._positions[shard_id].is_finished

    def _read(self, shard_id: str, problem: str = "") -> None:
        ports = self._ports

        def save(text: str) -> None:
            ports.checkpoints.save(self.mapping.uuid, [(shard_id, text)])

        reader = ShardReader(
            self.mapping, shard_id, self._positions[shard_id], self._source, ports, save
        )
        reader.problem = problem
        self._readers[shard_id] = reader
        self._tasks[shard_id] = asyncio.create_task(reader.run())

    def _collect(self, shard_id: str, task: asyncio.Task[None]) -> None:
        """Drop a reader that has ended; one that failed begins again at its saved position."""
        del self._tasks[shard_id]
        error = task.exception()
        if error is not None:
            LOGGER.error("shard %s of %s", shard_id, self.mapping.uuid, exc_info=error)
            text = self._ports.checkpoints.load(self.mapping.uuid)[shard_id]
            self._positions[shard_id] = Position.from_text(text)
            self._read(shard_id, f"{PROBLEM}{error!r}")

    def _note(self, last_result: str | None, state: str = ENABLED) -> None:
        """Save the mapping's state and a last result of its shards, if either has changed."""
        reading = [self._readers[shard_id].last_result for shard_id in self._tasks]
        results = [result for result in reading if result]
        problems = [result for result in results if result.startswith(PROBLEM)]
        before = NOTHING_YET if self._noted[1].startswith(PROBLEM) else self._noted[1]
        last_result = last_result or next(iter(problems or results), before)
        if (state, last_result) != self._noted:
            self._noted = (state, last_result)
            self._ports.checkpoints.note(self.mapping.uuid, state, last_result)
