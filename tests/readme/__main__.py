"""Run the README's ten lines as they are written, in a fresh clone of what is committed here.

`make first-hour` prints each line with its output. It fails when a line fails, or when the reading
that it posts doesn't come out as a window, an alert and a notice.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADING = "## Ten lines to an alert of your own"
BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
SECONDS_MAX = 1_200
TRACE = re.compile(r"\++ ")
"""The beginning of a line in which `bash -x` prints a command: it isn't output."""
EXPECTED = {
    "the answer to the post": r'^\{.*"accepted": ?1\b',
    "the window's mean": r"\btemperature +1 +39\.50\b",
    "the alert": r"^1 alert, open$",
    "the notice": r"\bopened +overheating .*\b39\.5\b",
    "the fleet's readings": r"\breadings accepted from 20 devices\b",
}


def ten_lines(readme: str) -> str:
    """Return the shell commands below the heading; raises ValueError where there are none."""
    _, found, section = readme.partition(HEADING)
    block = BLOCK.search(section)
    if not found or block is None:
        raise ValueError(f"README.md has no ```sh block below {HEADING!r}")
    return block.group(1)


def missing(output: str) -> list[str]:
    """Return the names of the results that the output lacks; printed commands aren't output."""
    lines = "\n".join(line for line in output.splitlines() if not TRACE.match(line))
    return [name for name, text in EXPECTED.items() if not re.search(text, lines, re.MULTILINE)]


def main() -> int:
    """Clone, run, compare; return the exit code."""
    commands = ten_lines((ROOT / "README.md").read_text("utf-8"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        try:
            result = subprocess.run(
                ["bash", "-euxo", "pipefail", "-c", commands],
                cwd=clone,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SECONDS_MAX,
                check=False,
            )
        finally:
            down = "[ ! -x .venv/bin/python ] || .venv/bin/python -m local down --all"
            subprocess.run(["bash", "-c", down], cwd=clone, check=False, capture_output=True)
    sys.stdout.write(result.stdout)
    lacks = missing(result.stdout)
    if result.returncode or lacks:
        sys.stdout.write(f"✗ exit code {result.returncode}; missing: {', '.join(lacks) or '-'}\n")
        return 1
    sys.stdout.write(f"✓ the README's ten lines, in {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
