"""A copy of the repository with one more metric and a rule on it: all that a new metric takes.

The metric is made up. Only a schema version and a rule are written by hand; `make schemas` does the
rest.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
METRIC = {
    "name": "wobble",
    "type": ["null", "double"],
    "default": None,
    "doc": "Velocity of a bearing, root mean square",
    "unit": "mm/s",
    "minimum": 0.0,
    "maximum": 500.0,
}
RULE = """
  - name: shaking
    metric: wobble
    above: 7.1         # mm/s
    clears_below: 4.5
    severity: warning
"""


def copied_to(folder: Path) -> Path:
    """Copy the committed files and those that would be; return `folder`."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


class Added(NamedTuple):
    """The version that the metric came with, and its field number."""

    version: int
    number: int


def add_metric(folder: Path) -> Added:
    """Write the schema's next version, and a rule on the new metric."""
    version = len(list((folder / "schemas/reading").glob("v*.avsc"))) + 1
    newest = folder / f"schemas/reading/v{version - 1}.avsc"
    schema = json.loads(newest.read_text("utf-8"))
    number = max(field.get("number", 0) for field in schema["fields"]) + 1
    schema["version"] = version
    schema["fields"].append(METRIC | {"number": number})
    (folder / f"schemas/reading/v{version}.avsc").write_text(json.dumps(schema), "utf-8")
    with (folder / "rules.yaml").open("a") as rules:
        rules.write(RULE)
    return Added(version, number)


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the copy's code, as its Makefile does, without this repository on the path."""
    environment = os.environ | {"PYTHONPATH": "layers/telemetry"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
