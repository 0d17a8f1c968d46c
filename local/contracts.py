"""Checks that generated files match the schemas and rules before they are deployed."""

import os
import subprocess
import sys
from pathlib import Path

from local.errors import LocalError
from local.instance import ROOT


def refuse_stale(root: Path = ROOT) -> None:
    """Raise LocalError if `make schemas` would change or refuse a file; name each such file.

    Otherwise a changed rule would deploy with its old filter, without an error and without alerts.
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
