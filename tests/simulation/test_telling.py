import subprocess
import sys

import pytest

from local.instance import ROOT
from tests.simulation import __main__ as program


def test_a_sweep_shows_its_progress_even_while_no_seed_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = program.Progress(100)
    for second, done in ((5, 0), (29, 0), (30, 0), (34, 1), (35, 2), (36, 3), (40, 3), (69, 3)):
        now[0] = second
        progress.tell(done)
    assert capsys.readouterr().out.splitlines() == [
        "0 of 100 seeds in 30 s, 0.0 a second",
        "2 of 100 seeds in 35 s, 0.1 a second",
        "3 of 100 seeds in 40 s, 0.1 a second",
    ]


def test_a_wrong_option_is_reported_without_the_usage() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "many"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "✗ argument --seeds: invalid int value: 'many'",
        "  python -m tests.simulation --help says more",
    ]
