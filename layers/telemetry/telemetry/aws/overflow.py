"""The overflow queue: where accepted readings wait while the stream doesn't take them."""

from collections.abc import Sequence
from typing import Any

from telemetry.aws.chunks import chunks
from telemetry.aws.quarantine import QuarantineEntry, device_in
from telemetry.aws.queue import BYTES_A_CALL, Queue
from telemetry.domain.reading import Reading, encode, shown
from telemetry.domain.validation import decode
from telemetry.errors import Rejected


class Overflow:
    """The overflow queue, with many readings in a message."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put(self, readings: Sequence[Reading]) -> list[Reading]:
        """Queue all, a line each; return those that couldn't be queued."""
        lines = [(reading, encode(reading).decode()) for reading in readings]
        groups = list(chunks(lines, _size, len(lines), BYTES_A_CALL))
        failed = self._queue.send(["\n".join(line for _, line in group) for group in groups])
        return [reading for index in sorted(failed) for reading, _ in groups[index]]


def _size(pair: tuple[Reading, str]) -> int:
    """Return the bytes of a reading's line, which is ASCII, with its line end."""
    return len(pair[1]) + 1


def overflowed(body: str) -> tuple[list[Reading], list[tuple[int, bytes, Rejected]]]:
    """Return the readings in an overflow message, and its other lines: number, bytes, reason."""
    readings, rejected = [], []
    for number, line in enumerate(body.encode(errors="surrogatepass").split(b"\n")):
        try:
            readings.append(decode(line).reading)
        except Rejected as error:
            rejected.append((number, line, error))
    return readings, rejected


def sent_at_ms(message: dict[str, Any]) -> int | None:
    """Return when an SQS message was queued, epoch ms; None if it doesn't say."""
    sent_at = message.get("attributes", {}).get("SentTimestamp")
    return int(sent_at) if sent_at else None


def entry_of_line(
    message: dict[str, Any], number: int, line: bytes, rejected: Rejected
) -> QuarantineEntry:
    """Return the quarantine entry of a line of an SQS message that isn't a reading."""
    return QuarantineEntry(
        f"overflow:{message['messageId']}:{number}",
        "drain",
        "overflow",
        rejected.reason,
        rejected.field,
        shown(rejected.value),
        None,
        None,
        message["messageId"],  # any partition will do
        sent_at_ms(message),
        line,
        device_id=device_in(line),
    )
