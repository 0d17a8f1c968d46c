"""Commands on an instance that another command is bringing up, and a start that fails."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from emulator import embedded, launcher
from emulator.errors import StepFailed
from local import commands, deployment, session
from local.errors import LocalError
from local.instance import ROOT, Instance, State

OPTIONS = Namespace(name="main", retention_days=None, all=False)
HOLDING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance that no real tool is used for; it is the commands' `main`."""
    made = Instance("main", tmp_path / ".local" / "main")
    made.create()
    monkeypatch.setattr(commands, "named", lambda _name: made)
    monkeypatch.setattr(session, "prepared", lambda _steps: {"aws": Path("aws")})
    monkeypatch.setattr(session, "digests", dict)
    return made


@pytest.fixture
def holds() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Return a function that starts a process that holds a file's lock."""
    holding: list[subprocess.Popen[str]] = []

    def hold(path: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLDING, str(path)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        holding.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in holding:
        process.communicate()


def log(instance: Instance) -> Path:
    """Write the state and a log, as a command does that brings the instance up."""
    (instance.folder / "state.json").write_text("{}")
    (instance.folder / "aws.log").write_text("started\n")
    return instance.folder


def test_a_refused_second_up_leaves_the_first_ones_folder(instance: Instance) -> None:
    folder = log(instance)
    console = Console(file=StringIO())
    with instance.brought_up_alone():
        with pytest.raises(LocalError, match="'main' is being brought up by another command"):
            commands.up(OPTIONS, console)
        assert sorted(each.name for each in folder.iterdir()) == ["aws.log", "state.json", "tmp"]


@pytest.mark.parametrize(
    ("error", "left"),
    [(StepFailed("ended", Path("aws.log")), ["aws.log"]), (KeyboardInterrupt(), [])],
)
def test_a_failed_up_cleans_its_folder_before_another_command_may_take_it(
    instance: Instance, monkeypatch: pytest.MonkeyPatch, error: BaseException, left: list[str]
) -> None:
    seen: list[bool] = []
    keep_logs, remove = Instance.keep_logs, Instance.remove

    def noted(clean: Callable[[Instance], None]) -> Callable[[Instance], None]:
        def note(which: Instance) -> None:
            seen.append(which.is_being_brought_up())
            clean(which)

        return note

    def fail(which: Instance, *_arguments: object) -> None:
        log(which)
        raise error

    monkeypatch.setattr(Instance, "keep_logs", noted(keep_logs))
    monkeypatch.setattr(Instance, "remove", noted(remove))
    monkeypatch.setattr(deployment, "build", lambda *_: None)
    monkeypatch.setattr(session, "started", fail)
    with pytest.raises(type(error)):
        commands.up(OPTIONS, Console(file=StringIO()))
    assert seen == [True, True]  # to make the folder, and in the end
    assert [each.name for each in instance.folder.glob("*")] == left


def test_a_start_that_is_not_its_own_is_not_cleaned(
    instance: Instance, holds: Callable[[Path], "subprocess.Popen[str]"]
) -> None:
    folder = log(instance)
    holds(folder / "lock")
    with pytest.raises(LocalError, match="'main' is up already"):
        commands.up(OPTIONS, Console(file=StringIO()))
    assert (folder / "state.json").exists()


@pytest.mark.parametrize(
    ("code", "told"), [(None, "no instance"), (-9, "'main' ended while it was brought up: `down`")]
)
def test_an_error_after_the_instances_end_is_told_as_its_end(
    instance: Instance, code: int | None, told: str
) -> None:
    process: Any = SimpleNamespace(poll=lambda: code)
    aws = embedded.EmbeddedAws(process, 1, embedded.new_key())
    with pytest.raises(LocalError, match=told), session.telling_of_its_end(instance, aws):
        instance.load()


def test_down_ends_an_instance_that_is_starting(
    instance: Instance, holds: Callable[[Path], "subprocess.Popen[str]"]
) -> None:
    process = holds(instance.folder / "lock")
    with instance.brought_up_alone():
        instance.save(State(pid=process.pid))
        said = StringIO()
        assert commands.down(OPTIONS, Console(file=said)) == 0
    assert said.getvalue() == "main: ended\n"
    assert process.wait() == -9
    assert not instance.folder.exists()


def test_an_instance_without_a_process_yet_is_left_to_the_command_that_brings_it_up(
    instance: Instance,
) -> None:
    with instance.brought_up_alone():
        for command in (commands.down, commands.query_alerts, commands.env):
            with pytest.raises(LocalError, match="'main' is being brought up by another command"):
                command(OPTIONS, Console(file=StringIO()))
        assert instance.folder.exists()
    assert commands.down(OPTIONS, Console(file=StringIO())) == 0
    assert not instance.folder.exists()


def test_the_process_is_known_before_it_answers(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    monkeypatch.setattr(
        embedded, "wait_until_healthy", lambda *_: known.append(instance.load().pid)
    )
    monkeypatch.setattr(embedded, "free_port", lambda: 1)
    monkeypatch.setattr(embedded, "LAUNCHER", "-c")
    aws = embedded.start(instance, Path("/bin/cat"))
    aws.stop()
    assert known == [aws.process.pid]


@pytest.mark.parametrize("module", ["emulator", "requirements/clean.py"])
def test_looks_at_a_lock_do_not_break_it_or_another_look(instance: Instance, module: str) -> None:
    """A look that holds the lock for a moment made a starting instance end, or seem to be up."""
    lock = instance.folder / "lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a look that takes its time
        if module == "emulator":
            assert not instance.is_running()
        else:
            line = "import clean, pathlib, sys; print(clean.is_up(pathlib.Path(sys.argv[1])))"
            done = subprocess.run(
                [sys.executable, "-B", "-c", line, instance.folder],
                cwd=ROOT / "requirements",
                capture_output=True,
                text=True,
                check=True,
            )
            assert done.stdout == "False\n"
        later = threading.Timer(0.2, fcntl.flock, [file, fcntl.LOCK_UN])
        later.start()
        held = launcher.hold_lock(instance.folder)
        later.join()
    assert instance.is_running()
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        launcher.hold_lock(instance.folder)
    assert time.monotonic() - began >= 1.0
    os.close(held)


def test_cleaning_leaves_an_instance_that_is_being_brought_up(instance: Instance) -> None:
    root = instance.folder.parent.parent
    command = [sys.executable, "-B", str(ROOT / "requirements/clean.py")]
    with instance.brought_up_alone():
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        assert "instance 'main' is up" in done.stdout
        assert instance.folder.exists()
    subprocess.run(command, cwd=root, check=True)
    assert not instance.folder.exists()
