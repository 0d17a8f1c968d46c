"""The checkpoints of the mappings' engine: the file does as the ones in memory do."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from emulator.mappings.checkpoints import SqliteCheckpoints
from emulator.mappings.memory import MemoryCheckpoints
from emulator.mappings.ports import Checkpoints


@pytest.fixture(params=["file", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoints]:
    if request.param == "memory":
        yield MemoryCheckpoints()
        return
    with closing(SqliteCheckpoints(tmp_path / "mappings.sqlite3")) as file:
        yield file


def test_the_last_text_of_each_shard_is_kept_for_its_mapping(checkpoints: Checkpoints) -> None:
    checkpoints.save("a", [("shard-1", "1")])
    checkpoints.save("a", [("shard-1", "2"), ("shard-2", "3")])
    checkpoints.save("b", [("shard-1", "4")])
    assert checkpoints.load("a") == {"shard-1": "2", "shard-2": "3"}
    assert checkpoints.load("b") == {"shard-1": "4"}
    assert checkpoints.load("c") == {}


def test_a_forgotten_shard_leaves_the_others(checkpoints: Checkpoints) -> None:
    checkpoints.save("a", [("shard-1", "1"), ("shard-2", "2")])
    checkpoints.save("b", [("shard-1", "3")])
    checkpoints.forget_shard("a", "shard-1")
    checkpoints.forget_shard("a", "shard-9")
    assert checkpoints.load("a") == {"shard-2": "2"}
    assert checkpoints.load("b") == {"shard-1": "3"}


def test_a_forgotten_mapping_leaves_the_others(checkpoints: Checkpoints) -> None:
    for uuid in ("a", "b"):
        checkpoints.save(uuid, [("shard-1", "1")])
        checkpoints.note(uuid, "Enabled", "OK")
    checkpoints.note("b", "Disabled", "No records processed")
    checkpoints.forget("a")
    checkpoints.forget("c")
    assert checkpoints.known() == {"b": ("Disabled", "No records processed")}
    assert (checkpoints.load("a"), checkpoints.load("b")) == ({}, {"shard-1": "1"})


def test_the_file_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "mappings.sqlite3"
    with closing(SqliteCheckpoints(path)) as file:
        file.save("a", [("shard-1", "1"), ("shard-2", "2")])
        file.note("a", "Enabled", "OK")
    with closing(SqliteCheckpoints(path)) as file:
        assert file.load("a") == {"shard-1": "1", "shard-2": "2"}
        assert file.known() == {"a": ("Enabled", "OK")}


def test_a_copy_in_memory_sees_no_later_write() -> None:
    first = MemoryCheckpoints()
    first.save("a", [("shard-1", "1")])
    copy = first.copy()
    first.save("a", [("shard-1", "2")])
    first.note("a", "Enabled", "OK")
    assert (copy.load("a"), copy.known()) == ({"shard-1": "1"}, {})
