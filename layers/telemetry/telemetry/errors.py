"""The pipeline's errors: two kinds, by what to do about them.

TelemetryError
├── Rejected              never retried: quarantine or refuse it, and count it as done
│   ├── NothingMeasured   all values of a reading stand for none (domain/validation.py)
│   ├── TooLarge          more bytes than a request may bring
│   ├── Undecodable       bytes that end or break the format within a request
│   └── Unsupported       a format or a compression that isn't read here
├── Unavailable           a retry can mend it: fail the batch from here
└── UnexpectedEvent       the function was invoked with an event of another kind
"""

from collections.abc import Sequence
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

    @classmethod
    def all_of(cls, errors: "Sequence[Rejected]") -> "Rejected":
        """One for several fields of a document: the first, with the others in its reason."""
        first, *others = errors
        reason = "; ".join([first.reason, *map(str, others)])
        return Rejected(reason, field=first.field, value=first.value)


class TooLarge(Rejected):
    """More than a request may bring."""


class Undecodable(Rejected):
    """Bytes that aren't what their format asks for; whatever is behind them can't be read either.

    `index` counts the request's documents from 0, `offset` the bytes of its body, unpacked.
    """

    def __init__(self, reason: str, *, index: int | None = None, offset: int | None = None) -> None:
        where = [f"record {index}"] if index is not None else []
        where += [f"byte {offset}"] if offset is not None else []
        super().__init__(f"{reason} ({', '.join(where)})" if where else reason, field="body")
        self.index = index
        self.offset = offset


class Unsupported(Rejected):
    """A content type or encoding that isn't read here."""


class UnexpectedEvent(TelemetryError):
    """An event that isn't the function's: whoever invokes it must be mended."""


class Unavailable(TelemetryError):
    """A service did not do its part in the bounded time it had; the same call may succeed later."""
