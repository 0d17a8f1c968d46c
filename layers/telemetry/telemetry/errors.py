"""The pipeline's errors: two main kinds, by how callers handle them.

TelemetryError
├── Rejected              never retried: quarantine or refuse the data, and count it as done
│   ├── NothingMeasured   every value of a reading stands for no measurement (domain/validation.py)
│   ├── Doubled           an object has a name twice (domain/decoders/text.py)
│   ├── TooLarge          more bytes than a request may have
│   ├── Undecodable       bytes that break their format, or end too early
│   └── Unsupported       a format or compression that the pipeline doesn't read
├── Unavailable           a retry may succeed: fail the batch from here
└── UnexpectedEvent       the function was invoked with another kind of event
"""

from collections.abc import Sequence
from typing import Any


class TelemetryError(Exception):
    """Anything the pipeline raises on purpose."""


class Rejected(TelemetryError):
    """Data that no retry makes valid.

    `field` is the place (None: the whole document), `value` the wrong value. `reason` says what is
    wrong and what would be right. `device_id` is the device that the data names, where an error is
    all that is left of the data.
    """

    def __init__(
        self, reason: str, *, field: str | None = None, value: Any = None, device_id: Any = None
    ) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.value = value
        self.reason = reason
        self.device_id = device_id

    @classmethod
    def all_of(cls, errors: "Sequence[Rejected]") -> "Rejected":
        """Return one error for several fields: the first one, with the others in its reason."""
        first, *others = errors
        reason = "; ".join([first.reason, *map(str, others)])
        return Rejected(reason, field=first.field, value=first.value)


class TooLarge(Rejected):
    """A request has more than it may."""


class Undecodable(Rejected):
    """Bytes that break their format; the bytes after them can't be read either.

    `index` counts the request's documents from 0. `offset` is in bytes of the unpacked body.
    """

    def __init__(self, reason: str, *, index: int | None = None, offset: int | None = None) -> None:
        where = [f"record {index}"] if index is not None else []
        where += [f"byte {offset}"] if offset is not None else []
        super().__init__(f"{reason} ({', '.join(where)})" if where else reason, field="body")
        self.index = index
        self.offset = offset


class Unsupported(Rejected):
    """A content type or encoding that the pipeline doesn't read."""


class UnexpectedEvent(TelemetryError):
    """An event of another kind than the function takes: its caller is misconfigured."""


class Unavailable(TelemetryError):
    """A service failed, or was too slow; the same call may succeed later."""
