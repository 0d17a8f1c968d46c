"""What can go wrong for a person at the terminal.

LocalError            shown as one message, never as a stack trace
├── StepFailed        a tool of a step failed: its last lines, and where its whole log is
└── ApiFailed         the pipeline's API answered with an error
"""

from pathlib import Path

TAIL_LINES = 12


class LocalError(Exception):
    """A message for the person at the terminal: what is wrong, and what would be right."""


class StepFailed(LocalError):
    """A tool that a step ran ended with an error."""

    def __init__(self, what: str, log: Path) -> None:
        """Keep the end of `log`, so that the cause is on the screen."""
        super().__init__(what)
        self.log = log
        self.tail = last_lines(log)


class ApiFailed(LocalError):
    """The API's answer to a request of ours was an error."""

    def __init__(self, request: str, status: int, message: str) -> None:
        """Keep the status, so that a caller can tell one error from another."""
        super().__init__(f"{request} answered {status}: {message}")
        self.status = status


def last_lines(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log that aren't empty."""
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
