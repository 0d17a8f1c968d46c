"""What can go wrong for a person at the terminal.

EmulatorError         shown as one message, never as a stack trace (`emulator.errors`)
├── StepFailed        a tool of a step failed: its last lines, and where its whole log is
└── LocalError        what was asked for can't be done: what is wrong, and what would be right
    ├── ApiFailed     the pipeline's API answered with an error
    └── NoAnswer      it didn't answer: whether it works can't be told
"""

from emulator.errors import EmulatorError


class LocalError(EmulatorError):
    """A message for the person at the terminal: what is wrong, and what would be right."""


class ApiFailed(LocalError):
    """The API's answer to a request of ours was an error."""

    def __init__(self, request: str, status: int, message: str) -> None:
        """Keep the status, so that a caller can tell one error from another."""
        super().__init__(f"{request} answered {status}: {message}")
        self.status = status


class NoAnswer(LocalError):
    """A request got no answer in time, so that nothing is known of what it asked for."""
