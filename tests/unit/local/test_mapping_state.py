"""A person sees the state that the mappings' engine has saved."""

import asyncio
import io
from contextlib import closing
from pathlib import Path

from rich.console import Console

from emulator.mappings.checkpoints import SqliteCheckpoints
from emulator.mappings.lane import Counts
from local.trial.mapping_state import COUNTS, MappingState, saved_shards, shards_table
from local.trial.poison import Isolation
from tests.mapping_rig import UUID, Rig, failing_on, run


def test_a_missing_file_gives_no_shards(tmp_path: Path) -> None:
    assert saved_shards(tmp_path / "mappings.sqlite3", now_ms=0) == {}


def test_every_count_of_the_engine_is_shown() -> None:
    assert set(COUNTS) == set(vars(Counts()))


def test_position_lag_and_counts_are_read_while_the_engine_is_at_work(tmp_path: Path) -> None:
    folder = tmp_path / "a folder #1?"
    folder.mkdir()
    file = folder / "mappings.sqlite3"

    async def story(rig: Rig) -> None:
        await rig.kill()
        rig.ports.checkpoints = checkpoints
        rig.put(0, 1, 2, 3)
        rig.start()
        await asyncio.sleep(10.5)
        [shard] = saved_shards(file, rig.loop.now_ms())[UUID]
        records = rig.stream.by_id[shard.shard_id].records
        assert shard.position == records[1].sequence
        assert (shard.lag_records, shard.lag_ms, shard.is_finished) == (2, 10_000, False)
        assert shard.counts["retries"] > 2
        mapping = MappingState(UUID, "alert", "readings", "Enabled", "OK", [shard])
        assert (mapping.lag_records, mapping.lag_ms) == (2, 10_000)
        shown = Console(file=io.StringIO(), width=160)
        shown.print(shards_table(mapping))
        assert f"…{records[1].sequence[-8:]}" in shown.file.getvalue()  # type: ignore[attr-defined]

    with closing(SqliteCheckpoints(file)) as checkpoints:
        run(story, failing_on(2), batch_size=1)


def test_a_lag_is_unknown_once_the_engine_no_longer_looks(tmp_path: Path) -> None:
    file = tmp_path / "mappings.sqlite3"

    async def story(rig: Rig) -> None:
        await rig.kill()
        rig.ports.checkpoints = checkpoints
        rig.start()
        await asyncio.sleep(3)
        rig.change(is_enabled=False)
        rig.put(1)
        await asyncio.sleep(10)
        [shard] = saved_shards(file, rig.loop.now_ms())[UUID]
        mapping = MappingState(UUID, "alert", "readings", "Disabled", "OK", [shard])
        assert (mapping.lag_records, mapping.lag_ms) == (None, None)

    with closing(SqliteCheckpoints(file)) as checkpoints:
        run(story)


def test_a_finished_shard_has_no_lag_and_keeps_its_last_result_over_a_restart(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mappings.sqlite3"

    async def story(rig: Rig) -> None:
        await rig.kill()
        rig.ports.checkpoints = checkpoints
        rig.put(1)
        rig.start()
        await asyncio.sleep(2)
        rig.stream.add_shard("shardId-000000000000")
        await asyncio.sleep(2)
        await rig.stop()
        rig.start()
        await asyncio.sleep(30)
        finished, open_shard = saved_shards(file, rig.loop.now_ms())[UUID]
        assert (finished.is_finished, finished.lag_records, finished.lag_ms) == (True, 0, 0)
        assert finished.last_result == "OK"
        assert (open_shard.lag_records, open_shard.lag_ms) == (0, 0)

    with closing(SqliteCheckpoints(file)) as checkpoints:
        run(story)


def test_an_isolation_lists_its_problems() -> None:
    right = Isolation(100, 7, 3, 400, 400, 0, 1, is_payload_whole=True, is_announced=True)
    assert right.problems() == []
    wrong = Isolation(100, 8, 2, 399, 400, 1, 4, is_payload_whole=False, is_announced=False)
    assert len(wrong.problems()) == 7
    assert wrong.problems()[0] == "it was isolated in 8 splits, not 7 at most"
