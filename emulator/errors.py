"""What can go wrong with the embedded AWS, for the person who started it.

EmulatorError         shown as one message: what is wrong, and what would be right
└── StepFailed        a tool failed: its last lines, and where its whole log is
    └── NotInTime     it was still at work when its time was over: too slow, or it hangs
"""

from pathlib import Path

TAIL_LINES = 12


class EmulatorError(Exception):
    """A message for a person: what is wrong, and what would be right."""


class StepFailed(EmulatorError):
    """A tool that a step ran ended with an error."""

    def __init__(self, what: str, log: Path) -> None:
        """Keep the end of `log`, so that the cause is on the screen."""
        super().__init__(what)
        self.log = log
        self.tail = last_lines(log)


class NotInTime(StepFailed):
    """A tool was still at work when its time was over."""


def last_lines(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log that aren't empty."""
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
