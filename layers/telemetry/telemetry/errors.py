"""The pipeline's errors: two kinds, by what to do about them.

TelemetryError
├── Rejected      never retried: quarantine or refuse it, and count it as done
└── Unavailable   a retry can mend it: fail the batch from here
"""

from typing import Any


class TelemetryError(Exception):
    """Anything the pipeline raises on purpose."""


class Rejected(TelemetryError):
    """Data that no retry makes valid.

    `field` is where (None: the whole document), `value` what was there, `reason` what is wrong
    with it and what would be right.
    """

    def __init__(self, reason: str, *, field: str | None = None, value: Any = None) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.value = value
        self.reason = reason


class Unavailable(TelemetryError):
    """A service did not do its part in the bounded time it had; the same call may succeed later."""
