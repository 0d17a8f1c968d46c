"""Common parts of the checks: running a tool, findings, reports."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent
BUILD = Path(".aws-sam/scan")  # relative to ROOT, in which every tool runs

Json = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """A fault that a tool reports.

    `rule` and `place` name it in accepted.yaml, so they don't change when lines move. `message` is
    the tool's text: the fault or its fix, and the exact place if the tool gives one.
    """

    rule: str
    place: str
    message: str


@dataclass(frozen=True)
class Report:
    """The findings of a check, and how much it looked at ("166 resources")."""

    looked_at: str
    findings: list[Finding] = field(default_factory=list)


class NotDone(Exception):
    """This machine can't do the check: no network, no npm. The message says what and why."""


class Broken(Exception):
    """The tool or its input is broken. The message is the tool's."""


@dataclass(frozen=True)
class Ran:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    def broken(self) -> Broken:
        text = self.err.strip() or self.out.strip()
        return Broken(text or f"ended with exit code {self.code} and no output")


class Run(Protocol):
    """Runs a command in the repository's root; the caller interprets its exit code."""

    def __call__(self, words: str, *more: str | Path) -> Ran:
        """`words` are split at spaces, `more` are not."""


def run(words: str, *more: str | Path) -> Ran:
    """Run a command as a subprocess; it is a `Run`."""
    command = [*words.split(), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def repository(run: Run, *patterns: str) -> list[str]:
    """Return the files that are committed or would be, and that match git's `patterns`."""
    done = run("git ls-files --cached --others --exclude-standard --", *patterns)
    if done.code:
        raise done.broken()
    return sorted(name for name in set(done.out.splitlines()) if (ROOT / name).is_file())
