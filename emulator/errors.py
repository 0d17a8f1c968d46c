"""Errors of the embedded AWS, for the person who started it.

EmulatorError         one message: the problem and its remedy
└── StepFailed        a tool failed; shows its last lines and the path of its log
    └── StepTimedOut  a tool was still running at its deadline: it is slow, or it hangs
"""

from pathlib import Path

TAIL_LINES = 12


class EmulatorError(Exception):
    """A message for a person: the problem and its remedy."""


class StepFailed(EmulatorError):
    """A tool that a step ran ended with an error."""

    def __init__(self, what: str, log: Path) -> None:
        """Keep the end of `log`, so that the cause is on the screen."""
        super().__init__(what)
        self.log = log
        self.tail = last_lines(log)


class StepTimedOut(StepFailed):
    """A tool was still running at its deadline."""


def last_lines(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last non-empty lines of a log, at most `lines` of them."""
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
