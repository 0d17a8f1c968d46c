"""The overflow queue: where accepted readings wait while the stream doesn't take them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from telemetry.aws.chunks import chunks
from telemetry.aws.quarantine import QuarantineEntry, device_in
from telemetry.aws.queue import BYTES_A_CALL, Queue
from telemetry.domain.reading import Reading, encode, shown
from telemetry.domain.validation import NothingMeasured, decode
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


class Overflowed(NamedTuple):
    """The content of an overflow message.

    `lines` has readings of which the code, or metrics.yaml, now refuses a value that `ingest`
    accepted: their devices and bytes. `rejected` has the lines that aren't readings: number, bytes
    and reason.
    """

    readings: list[Reading]
    lines: list[tuple[str, bytes]]
    rejected: list[tuple[int, bytes, Rejected]]


def overflowed(body: str) -> Overflowed:
    """Return the content of an overflow message."""
    found = Overflowed([], [], [])
    for number, line in enumerate(body.encode(errors="surrogatepass").split(b"\n")):
        try:
            parsed = decode(line)
        except NothingMeasured as error:
            found.lines.append((error.reading.device_id, line))
        except Rejected as error:
            found.rejected.append((number, line, error))
        else:
            if parsed.refused or parsed.left_out:
                found.lines.append((parsed.reading.device_id, line))
            else:
                found.readings.append(parsed.reading)
    return found


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
