"""What a way to the pipeline does."""

from collections.abc import Sequence
from typing import Protocol

from telemetry_client.answers import Verdict
from telemetry_client.errors import Invalid
from telemetry_client.reading import Queued

ANSWER_BYTES_MAX = 1_048_576


def check_host(field: str, host: str) -> str:
    """A host's name or address that can be looked up, or Invalid."""
    try:
        is_right = bool(host.encode("idna"))
    except UnicodeError:
        is_right = False
    if not is_right:
        raise Invalid(field, host, "is not a host's name or address")
    return host


class Transport(Protocol):
    """Sends a batch, and tells what became of each reading."""

    max_bytes: int
    """Of a batch, as JSON, at most."""

    def deliver(self, device_id: str, readings: Sequence[Queued]) -> Verdict:
        """Send, and wait for the answer; what goes wrong on the way is in the verdict."""

    def close(self) -> None:
        """Give up the connection."""
