"""The protocol of transports to the pipeline."""

from collections.abc import Sequence
from typing import Protocol

from telemetry_client.answers import Verdict
from telemetry_client.errors import Invalid
from telemetry_client.reading import Queued

ANSWER_BYTES_MAX = 1_048_576


def check_host(field: str, host: str) -> str:
    """Return a host's name or address; raise Invalid if it can't be looked up."""
    try:
        is_right = bool(host.encode("idna"))
    except UnicodeError:
        is_right = False
    if not is_right:
        raise Invalid(field, host, "is not a host's name or address")
    return host


class Transport(Protocol):
    """Sends a batch, and returns the verdict on its readings."""

    max_bytes: int
    """Maximum size of a batch as JSON."""

    def deliver(self, device_id: str, readings: Sequence[Queued]) -> Verdict:
        """Send a batch and wait for the answer; failures on the way are in the verdict."""

    def close(self) -> None:
        """Close the connection."""
