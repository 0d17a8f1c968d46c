"""The rules engine after a full disk, a locked file and a worker's unexpected end."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from emulator.mqtt import rules, sql
from emulator.mqtt.rules import WORKERS, Rule, RulesEngine, Task
from emulator.mqtt.spool import NotStored, Published, Spool
from tests.waiting import eventually

RULE = Rule.from_api(
    "arn:readings",
    {
        "ruleName": "readings",
        "sql": "SELECT * FROM '#'",
        "actions": [{"sqs": {"queueUrl": "q", "roleArn": "r"}}],
        "awsIotSqlVersion": sql.VERSION,
    },
)


def message(number: int, size: int = 0) -> Published:
    return Published("a", b'{"n":%d}' % number + b" " * size, "pump-1", "cert-1", 1_000)


def number_of(data: bytes) -> int:
    return int(data.removeprefix(b'{"n":').split(b"}")[0])


class Noting:
    """Actions that record their calls, unless `fail` raises."""

    def __init__(self, fail: Callable[[int], None] = lambda _number: None) -> None:
        self.done: list[int] = []
        self._fail = fail

    def run(self, _rule: Rule, _action: Mapping[str, Any], _: sql.Message, data: bytes) -> None:
        self._fail(number_of(data))
        self.done.append(number_of(data))


@contextmanager
def running(spool: Spool, actions: Noting) -> Iterator[RulesEngine]:
    assert RULE
    known = [RULE]
    engine = RulesEngine(spool, lambda: known, actions)
    with closing(spool):
        engine.start()
        try:
            yield engine
            assert eventually(lambda: engine.pending == 0 and spool.kept() == [])
        finally:
            assert engine.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "AGAIN_SECONDS", (0.02, 0.1))


def test_on_a_full_disk_no_message_is_accepted_and_afterwards_all_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool, actions = Spool(tmp_path / "spool"), Noting()
    (pages,) = spool._database.execute("PRAGMA page_count").fetchone()
    with running(spool, actions) as engine:
        engine.accept(message(1))
        assert eventually(lambda: actions.done == [1] and spool.kept() == [])
        spool._database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk
        for number in (2, 3):
            with pytest.raises(NotStored, match="a: database or disk is full"):
                engine.accept(message(number, size=50_000))
        spool._database.execute(f"PRAGMA max_page_count = {pages + 100}")
        engine.accept(message(4, size=50_000))
        engine.accept(message(5))
        assert eventually(lambda: sorted(actions.done) == [1, 4, 5])
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "messages can't be stored and aren't acknowledged: a: database or disk is full",
        "messages are stored again; 2 were refused",
    ]


def test_while_another_process_has_locked_the_file_no_message_is_accepted(tmp_path: Path) -> None:
    spool, actions = Spool(tmp_path / "spool", locked_seconds=0.05), Noting()
    other = sqlite3.connect(tmp_path / "spool", isolation_level=None)
    with closing(other), running(spool, actions) as engine:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotStored, match="a: database is locked"):
            engine.accept(message(1))
        other.execute("ROLLBACK")
        engine.accept(message(2))
        assert eventually(lambda: actions.done == [2])


def test_the_refusal_of_a_locked_file_does_not_wait_for_the_workers_too(tmp_path: Path) -> None:
    """Each worker waited for the file in its turn, and a refusal after all of them: 9 times."""
    spool, actions = Spool(tmp_path / "spool", locked_seconds=0.5), Noting()
    other = sqlite3.connect(tmp_path / "spool", isolation_level=None)
    is_locked, waiting = threading.Event(), threading.Semaphore(0)

    def fail(_number: int) -> None:
        waiting.release()
        assert is_locked.wait(10)

    actions = Noting(fail)
    with closing(other), running(spool, actions) as engine:
        for number in range(WORKERS):
            engine.accept(message(number))
        assert all(waiting.acquire(timeout=10) for _ in range(WORKERS))
        other.execute("BEGIN IMMEDIATE")
        is_locked.set()
        assert eventually(
            lambda: len(actions.done) == WORKERS
        )  # now they all want to remove theirs
        began = time.monotonic()
        with pytest.raises(NotStored, match="a: database is locked"):
            engine.accept(message(WORKERS))
        waited = time.monotonic() - began
        other.execute("ROLLBACK")
    assert waited < 5 * 0.5


def test_a_lock_that_is_soon_gone_is_waited_for(tmp_path: Path) -> None:
    spool, actions = Spool(tmp_path / "spool"), Noting()
    other = sqlite3.connect(tmp_path / "spool", isolation_level=None, check_same_thread=False)
    with closing(other), running(spool, actions) as engine:
        other.execute("BEGIN IMMEDIATE")
        unlock = threading.Timer(0.2, other.execute, ["ROLLBACK"])
        unlock.start()
        engine.accept(message(1))
        assert eventually(lambda: actions.done == [1])
        unlock.join()


def test_a_message_that_cannot_be_removed_is_processed_once_and_removed_later(
    tmp_path: Path,
) -> None:
    class Stuck(Spool):
        is_stuck = True

        def done(self, number: int) -> None:
            if self.is_stuck:
                raise sqlite3.OperationalError("database or disk is full")
            super().done(number)

    spool, actions = Stuck(tmp_path / "spool"), Noting()
    with running(spool, actions) as engine:
        for number in range(2 * WORKERS):
            engine.accept(message(number))
        assert eventually(lambda: len(actions.done) == 2 * WORKERS)
        time.sleep(0.1)
        assert len(spool.kept()) == 2 * WORKERS
        spool.is_stuck = False
    assert sorted(actions.done) == [*range(2 * WORKERS)]


@pytest.mark.parametrize("error", [ZeroDivisionError, MemoryError, SystemExit, KeyboardInterrupt])
def test_after_any_error_of_a_worker_the_message_is_retried_without_a_restart(
    tmp_path: Path, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[int] = []

    def fail(number: int) -> None:
        if failed.count(number) < 2:
            failed.append(number)
            raise error

    actions = Noting(fail)
    with running(Spool(tmp_path / "spool"), actions) as engine:
        for number in range(2 * WORKERS):  # each worker meets it
            engine.accept(message(number))
        assert eventually(lambda: sorted(actions.done) == [*range(2 * WORKERS)])
    assert len(failed) == 4 * WORKERS
    assert "is tried again in 0.02 s" in caplog.text


def test_a_message_that_always_fails_delays_no_other(tmp_path: Path) -> None:
    is_mended = threading.Event()

    def fail(number: int) -> None:
        if number < 3 * WORKERS and not is_mended.is_set():
            raise ZeroDivisionError

    actions = Noting(fail)
    with running(Spool(tmp_path / "spool"), actions) as engine:
        for number in range(3 * WORKERS + 1):
            engine.accept(message(number))
        assert eventually(lambda: actions.done == [3 * WORKERS])
        assert engine.pending > 0
        is_mended.set()


def test_a_stopped_engine_leaves_no_thread_and_its_messages_in_the_spool(tmp_path: Path) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def wait(_number: int) -> None:
        begun.set()
        goes_on.wait(10)

    actions = Noting(wait)
    before = set(threading.enumerate())
    with closing(Spool(tmp_path / "spool")) as spool:
        engine = RulesEngine(spool, lambda: [RULE] if RULE else [], actions)
        engine.start()
        assert len(set(threading.enumerate()) - before) == WORKERS
        engine.accept(message(1))
        assert begun.wait(10)
        assert not engine.stop(0.05)  # one has a message in work
        engine.accept(message(2))
        goes_on.set()
        assert engine.stop()
        assert set(threading.enumerate()) <= before
        assert [number_of(kept.payload) for _, kept in spool.kept()] == [2]


def test_an_engine_stops_while_its_rules_can_not_be_read(tmp_path: Path) -> None:
    def rules_of() -> list[Rule]:
        raise rules.Unreachable("away")

    with closing(Spool(tmp_path / "spool")) as spool:
        engine = RulesEngine(spool, rules_of, Noting(), lambda _seconds: time.sleep(0.01))
        engine.start()
        engine.accept(message(1))
        assert engine.stop()
        assert len(spool.kept()) == 1


def test_each_failure_doubles_the_pause_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rules, "AGAIN_SECONDS", (0.5, 3.0))
    waits = [Task(1, message(1), tries=tries).wait_seconds for tries in (0, 1, 2, 3, 4, 5)]
    assert waits == [0, 0.5, 1, 2, 3, 3]
