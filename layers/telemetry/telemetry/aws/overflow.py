"""The overflow queue: where accepted readings wait while the stream doesn't take them."""

from collections.abc import Iterable, Sequence

from telemetry.aws.queue import BYTES_A_CALL, Queue
from telemetry.domain.reading import Reading, encode
from telemetry.domain.validation import decode


class Overflow:
    """Where accepted readings wait while the stream doesn't take them: many a message."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def put(self, readings: Sequence[Reading]) -> list[Reading]:
        """Queue all; returns those that couldn't be."""
        groups = list(_grouped(readings))
        failed = self._queue.send([body for _, body in groups])
        return [reading for index in sorted(failed) for reading in groups[index][0]]


def _grouped(readings: Sequence[Reading]) -> Iterable[tuple[list[Reading], str]]:
    """Readings with the message that holds them: canonical JSON, one a line."""
    group: list[Reading] = []
    lines: list[str] = []
    size = 0
    for reading in readings:
        line = encode(reading).decode()
        if group and size + len(line) > BYTES_A_CALL - len(lines):
            yield group, "\n".join(lines)
            group, lines, size = [], [], 0
        group.append(reading)
        lines.append(line)
        size += len(line)
    if group:
        yield group, "\n".join(lines)


def overflowed(body: str) -> list[Reading]:
    """The readings in an overflow message."""
    return [decode(line.encode()) for line in body.split("\n")]
