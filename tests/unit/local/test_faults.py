import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from emulator.errors import StepFailed, StepTimedOut
from local import commands, faults
from local.api import Api
from local.cli import main, parser
from local.errors import LocalError, NoAnswer
from local.instance import ROOT, Instance, existing, named
from local.session import telling_of_a_full_disk
from tests.waiting import Patience

INTERRUPT_AT = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
"""


@pytest.mark.parametrize(
    ("program", "module"),
    [("local", "httpx"), ("local", "local.commands"), ("ops", "boto3"), ("ops", "rich.console")],
)
def test_an_interrupt_while_importing_ends_without_a_traceback(
    program: str, module: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_AT)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "INTERRUPT_AT": module}
    done = subprocess.run(
        [sys.executable, "-m", program, "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -2  # ended by the signal: 130 for a shell
    assert (done.stdout, done.stderr) == ("", "")


def test_a_full_disk_is_reported_with_the_free_and_the_needed_space(tmp_path: Path) -> None:
    told = faults.fault_of(OSError(errno.ENOSPC, "No space left", str(tmp_path / "a" / "b")))
    assert told is not None
    assert told.startswith(f"{tmp_path}/a/b: the disk is full: ")
    assert f" are free at {tmp_path}, an instance takes 400 MB: make room" in told


def test_a_folder_that_is_not_writable_is_reported_in_a_sentence() -> None:
    told = faults.fault_of(PermissionError(errno.EACCES, "Permission denied", ".local"))
    assert told == (
        ".local: may not be written (Permission denied): use a checkout of your own, "
        "or change its owner or mode"
    )
    assert faults.fault_of(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(errno.EACCES, "Permission denied", ".local"), 1),
        (LocalError("wrong"), 1),
        (NoAnswer("GET /alerts: no answer"), 3),
        (StepTimedOut("`sam build` took longer than 900 s", Path("build.log")), 3),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1:1"), 3),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), 1),
    ],
)
def test_a_command_ends_with_a_sentence_and_a_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: Any) -> int:
        raise error

    monkeypatch.setattr(commands, "down", fail)
    assert main(["down"]) == code
    told = capsys.readouterr().err
    assert told.startswith("✗ ")
    assert "Traceback" not in told


@pytest.mark.parametrize("status", [429, 502, 504])
def test_a_command_whose_call_keeps_timing_out_ends_as_too_slow(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = httpx.MockTransport(lambda _: httpx.Response(status, json={"message": "late"}))
    api = Api("http://api/v1", "a.secret", patience_seconds=0, transport=late)
    monkeypatch.setattr(commands, "operator", lambda _options: api)
    assert main(["query", "alerts"]) == 3
    assert capsys.readouterr().err == f"✗ GET /alerts answered {status}: late\n"


def test_a_failure_by_a_full_disk_is_reported_as_one(tmp_path: Path) -> None:
    instance = Instance("a", tmp_path)
    log = tmp_path / "deploy.log"
    log.write_text("Failed to extract layer\n")
    with pytest.raises(StepFailed), telling_of_a_full_disk(instance):
        raise StepFailed("`sam deploy` failed with code 1", log)
    (tmp_path / "aws.log").write_text("OSError: [Errno 28] No space left on device\n")
    with (
        pytest.raises(LocalError, match="the disk is full, or was"),
        telling_of_a_full_disk(instance),
    ):
        raise StepFailed("`sam deploy` failed with code 1", log)


def test_too_little_room_is_reported_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faults.too_little_room(tmp_path / "not" / "there") is None
    monkeypatch.setattr(faults, "DISK_BYTES_NEEDED", 10**18)
    told = faults.too_little_room(tmp_path / "not" / "there")
    assert told is not None
    assert f"at {tmp_path}" in told


def test_a_failed_run_leaves_only_its_logs(tmp_path: Path) -> None:
    instance = Instance("a", tmp_path / "a")
    instance.create()
    for name in ("aws.log", "deploy.log", "state.json", "traces.jsonl", "mappings.sqlite3"):
        (instance.folder / name).write_text("x")
    (instance.folder / "tmp" / "worker").mkdir()
    instance.keep_logs()
    left = sorted(each.name for each in instance.folder.iterdir())
    assert left == ["aws.log", "deploy.log", "traces.jsonl"]


def test_an_instance_is_in_the_folder_that_the_link_leads_to(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "checkout"
    root.mkdir()
    (root / ".local").symlink_to(elsewhere)
    instance = named("main", root)
    assert instance.folder == elsewhere / "main"
    instance.create()
    assert existing(root) == [instance]


def test_a_wrong_option_is_reported_without_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--devices", "no"])
    assert capsys.readouterr().err.splitlines() == [
        "✗ argument --devices: 'no' isn't a whole number above 0",
        "  python -m local run --help says more",
    ]


def test_the_exit_codes_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "devices"):
        with pytest.raises(SystemExit):
            parser().parse_args([command, "--help"])
        assert "3    the machine was too slow to tell" in capsys.readouterr().out


def checkout(root: Path) -> None:
    """A checkout with a running instance, an ended one, and the other folders."""
    for name in ("up", "ended"):
        (root / ".local" / name).mkdir(parents=True)
        (root / ".local" / name / "lock").touch()
    for name in (".venv/bin", ".tools/sam", ".aws-sam/build", "local/__pycache__", "docs"):
        (root / name).mkdir(parents=True)


def clean(root: Path) -> str:
    command = [sys.executable, "-B", str(ROOT / "requirements/clean.py")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def left_in(root: Path) -> list[str]:
    return sorted(str(each.relative_to(root)) for each in root.rglob("*") if each.is_dir())


def test_cleaning_removes_ended_runs_but_no_running_instance(tmp_path: Path) -> None:
    checkout(tmp_path)
    with (tmp_path / ".local/up/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert clean(tmp_path) == (
            "instance 'up' is up: it and .venv, .tools are left; "
            "`python -m local down --name up` ends it\n"
        )
        assert left_in(tmp_path) == [
            ".local", ".local/up", ".tools", ".tools/sam", ".venv", ".venv/bin", "docs", "local",
        ]  # fmt: skip
    assert clean(tmp_path) == ""
    assert left_in(tmp_path) == ["docs", "local"]


def test_cleaning_leaves_a_link_to_a_folder_elsewhere(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    root.mkdir()
    (elsewhere / "run-1").mkdir(parents=True)
    (root / ".local").symlink_to(elsewhere)
    clean(root)
    assert (root / ".local").is_symlink()
    assert left_in(elsewhere) == []


SYNC = [sys.executable, str(ROOT / "requirements/sync.py"), ".tools/uv/stamp", "lock.txt"]


def test_a_checkout_that_is_not_writable_is_reported_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".tools").write_text("a file, so that nothing can be put there")
    done = subprocess.run(SYNC, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "✗ .tools: File exists: .tools/ here must be writable, with room for tools\n"
    )


def test_setting_tools_up_ends_at_an_interrupt_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").touch()
    (tmp_path / ".tools").mkdir()
    with (tmp_path / ".tools/lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # so that it waits
        waiting = subprocess.Popen(SYNC, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        process = psutil.Process(waiting.pid)
        patience = Patience(10)
        while not any(each.path.endswith(".tools/lock") for each in process.open_files()):
            assert not patience.is_over()
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate()
    assert (waiting.returncode, told) == (130, "")
