"""The errors that this package raises.

ClientError
├── Invalid       an argument is wrong: field, value, and what would be right
│   └── Conflicting   another value was recorded for this instant and metric
├── StoreFull     the store is at its bound, and its options say to refuse
└── StoreFailed   the store's file can't be used: no space, another device's, a newer version's
"""

from typing import Any


class ClientError(Exception):
    """Base of all errors that this package raises on purpose."""


class Invalid(ClientError, ValueError):
    """An argument is wrong."""

    def __init__(self, field: str, value: Any, reason: str) -> None:
        """Keep the parts as attributes, for programs."""
        super().__init__(f"{field}: {value!r} {reason}")
        self.field = field
        self.value = value
        self.reason = reason


class Conflicting(Invalid):
    """A value differs from a recorded one of the same instant and metric.

    The pipeline keeps one value of a metric at an instant, so the other one would be lost.
    """


class StoreFull(ClientError):
    """Nothing was recorded, because the store is full."""


class StoreFailed(ClientError):
    """The store's file can't be used."""
