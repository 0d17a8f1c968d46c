"""The overflow queue: where accepted readings wait while the stream doesn't take them."""

from collections.abc import Sequence

from telemetry.aws.chunks import chunks
from telemetry.aws.queue import BYTES_A_CALL, Queue
from telemetry.domain.reading import Reading, encode
from telemetry.domain.validation import decode


class Overflow:
    """Where accepted readings wait while the stream doesn't take them: many a message."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put(self, readings: Sequence[Reading]) -> list[Reading]:
        """Queue all, one to a line of a message; returns those that couldn't be."""
        lines = [(reading, encode(reading).decode()) for reading in readings]
        groups = list(chunks(lines, _size, len(lines), BYTES_A_CALL))
        failed = self._queue.send(["\n".join(line for _, line in group) for group in groups])
        return [reading for index in sorted(failed) for reading, _ in groups[index]]


def _size(pair: tuple[Reading, str]) -> int:
    """Bytes of a reading's line, which is ASCII, and its end."""
    return len(pair[1]) + 1


def overflowed(body: str) -> list[Reading]:
    """The readings in an overflow message."""
    return [decode(line.encode()) for line in body.split("\n")]
