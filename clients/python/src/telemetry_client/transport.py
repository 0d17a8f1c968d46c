"""What a way to the pipeline does."""

from collections.abc import Sequence
from typing import Protocol

from telemetry_client.answers import Verdict
from telemetry_client.reading import Queued

ANSWER_BYTES_MAX = 1_048_576


class Transport(Protocol):
    """Sends a batch, and tells what became of each reading."""

    max_bytes: int
    """Of a batch, as JSON, at most."""

    def deliver(self, device_id: str, readings: Sequence[Queued]) -> Verdict:
        """Send, and wait for the answer; what goes wrong on the way is in the verdict."""

    def close(self) -> None:
        """Give up the connection."""
