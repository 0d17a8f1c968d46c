"""What the checks have in common: running a tool, and what it found."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent
BUILD = Path(".aws-sam/scan")  # from ROOT, where every tool runs

Json = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """A fault that a tool reports.

    `rule` and `place` name it in accepted.yaml, so neither changes when lines move. `message` is
    the tool's text: what is wrong or what would be right, and the exact place where it has one.
    """

    rule: str
    place: str
    message: str


@dataclass(frozen=True)
class Report:
    """How much a check looked at ("166 resources"), and what it found there."""

    looked_at: str
    findings: list[Finding] = field(default_factory=list)


class NotDone(Exception):
    """This machine can't do the check: no network, no npm. The text: what wasn't done, and why."""


class Broken(Exception):
    """The tool, or what it should read, is broken. The text is what the tool said."""


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and its output."""

    code: int
    out: str
    err: str

    def broken(self) -> Broken:
        said = self.err.strip() or self.out.strip()
        return Broken(said or f"ended with exit code {self.code} and said nothing")


class Run(Protocol):
    """Runs a command in the repository's root; what its exit code means is the caller's to know."""

    def __call__(self, words: str, *more: str | Path) -> Ran:
        """`words` are split at spaces, `more` are not."""


def run(words: str, *more: str | Path) -> Ran:
    """A `Run` that runs it."""
    command = [*words.split(), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def repository(run: Run, *patterns: str) -> list[str]:
    """The files that are, or would be, committed: those that fit `patterns`, as git has them."""
    done = run("git ls-files --cached --others --exclude-standard --", *patterns)
    if done.code:
        raise done.broken()
    return sorted(name for name in set(done.out.splitlines()) if (ROOT / name).is_file())
