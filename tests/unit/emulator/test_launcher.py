"""The launcher's threads and processes go on after the disk was full for a while."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator import launcher


class Over(BaseException):
    """Raised to end an endless loop."""


def test_segments_are_collected_again_once_they_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "is_own", lambda _sender: True)
    path = tmp_path / "later" / "traces.jsonl"

    def datagrams() -> Iterator[bytes]:
        yield b'{"format":"json"}\n{"id":1}'
        path.parent.mkdir()  # until here nothing could be written
        yield b'{"format":"json"}\n{"id":2}'
        raise Over

    coming = datagrams()
    receiver: Any = SimpleNamespace(recvfrom=lambda _size: (next(coming), ("127.0.0.1", 5000)))
    with pytest.raises(Over):
        launcher.collect_segments(receiver, path)
    assert path.read_bytes() == b'{"id":2}\n'
    assert "launcher: an X-Ray segment wasn't written: [Errno 2]" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["folder", "pid"])
def test_a_process_beside_the_emulator_is_restarted_after_any_failed_write(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    folder = tmp_path / "instance"
    if missing == "pid":
        (folder / "nothing.pid.new").mkdir(parents=True)  # no file can be written there
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            folder.mkdir(exist_ok=True)
        if len(pauses) == 4:
            raise Over

    monkeypatch.setattr(launcher, "time", SimpleNamespace(sleep=sleep))
    with pytest.raises(Over):
        launcher.keep_running(folder, "nothing", sys.executable)
    started = (folder / "nothing.log").read_text().count("No module named emulator.nothing")
    told = capsys.readouterr().err
    if missing == "folder":
        assert (started, told.count("emulator.nothing wasn't started: [Errno 2]")) == (2, 2)
        assert (folder / "nothing.pid").read_text().isdigit()
    else:
        assert (started, told.count("nothing.pid wasn't written: [Errno 21]")) == (4, 4)
