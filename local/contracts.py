"""Whether what is about to be deployed says what the contracts and the rules say."""

import os
import subprocess
import sys
from pathlib import Path

from local.errors import LocalError
from local.instance import ROOT


def refuse_stale(root: Path = ROOT) -> None:
    """Raise LocalError, naming each file, where `make schemas` would change or refuse one.

    The filters of yesterday's rules deploy without a word, and then no alert comes.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "contract", "--check"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": "layers/telemetry"},
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise LocalError(answer.stderr.strip() or f"`make schemas` ended with {answer.returncode}")
