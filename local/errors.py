"""The errors that a person at the terminal sees.

EmulatorError         shown as one message, never as a stack trace (`emulator.errors`)
├── StepFailed        a step's tool failed: has its last lines and the path of its log
└── LocalError        a command can't be done: says what is wrong and what would be right
    ├── ApiFailed     the pipeline's API answered with an error
    └── NoAnswer      the API didn't answer in time, or only with errors that a retry may end, such
                      as 504: nobody knows whether it did the work
"""

from emulator.errors import EmulatorError


class LocalError(EmulatorError):
    """A message for the person at the terminal: what is wrong, and what would be right."""


class ApiFailed(LocalError):
    """The API answered a request with an error."""

    def __init__(self, request: str, status: int, message: str) -> None:
        """Keep the status, so that a caller can tell one error from another."""
        super().__init__(f"{request} answered {status}: {message}")
        self.status = status


class NoAnswer(LocalError):
    """A request got no answer in time: nobody knows whether it was carried out."""
