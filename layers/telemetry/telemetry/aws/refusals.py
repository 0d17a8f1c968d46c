"""What is refused of what devices send, as an operator finds it in the log: by device and field.

A line is `{"message": "refused", "device_id", "field", "reason", "value", "count", "via", "poster",
"left_out"}`; docs/operations.md has the queries. A device that sends one wrong value sends more of
its kind, so a line stands for all that an invocation refuses of a device's field, and an execution
environment writes so many lines a minute, and no more. `left_out` says how many refusals had no
line of their own since the line before.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from telemetry.aws.observe import log
from telemetry.aws.quarantine import QuarantineEntry
from telemetry.domain.reading import DEVICE_FIELDS, shown

LINES_A_CALL, LINES_A_MINUTE, MINUTE_SECONDS = 5, 60, 60.0
SEARCHED = 1_000  # characters of a text, more than a log shows of it
# A token, wherever it stands: in a text somebody has put into the wrong place.
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}\.(?=[0-9-]*[A-Za-z_])[A-Za-z0-9_-]{20,128}")
Refusal = Mapping[str, Any]  # device_id, field, value, reason; what isn't known is None


class Refusals:
    """Writes refusals to the log, within bounds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minute = float("-inf")
        self._lines = self._left_out = 0

    def tell(self, refused: Iterable[Refusal], via: str, poster: str | None = None) -> None:
        """Log what an invocation refused: `via` is how it came, `poster` whose token it came by."""
        groups: dict[tuple[Any, Any], list[Refusal]] = {}
        for each in refused:
            groups.setdefault((_shown(each["device_id"]), _shown(each["field"])), []).append(each)
        told = list(groups.items())[: min(LINES_A_CALL, self._lines_left())]
        self._lines += len(told)
        self._left_out += sum(map(len, groups.values())) - sum(len(group) for _, group in told)
        for index, ((device_id, field), group) in enumerate(told):
            first = group[0]
            # a field that isn't a reading's may hold anything
            value = _shown(first["value"]) if first["field"] in DEVICE_FIELDS else None
            line = {"device_id": device_id, "field": field, "reason": _shown(first["reason"])}
            line |= {"value": value, "count": len(group), "via": via, "poster": poster}
            if index == len(told) - 1:
                line["left_out"], self._left_out = self._left_out, 0
            log.warning("refused", extra=line)

    def _lines_left(self) -> int:
        """How many lines this minute still has."""
        now = self._clock()
        if now - self._minute >= MINUTE_SECONDS:
            self._minute, self._lines = now, 0
        return LINES_A_MINUTE - self._lines


def refusal(device_id: str | None, field: str | None, reason: str, value: Any = None) -> Refusal:
    """One refusal, as `log_refused` takes it."""
    return {"device_id": device_id, "field": field, "reason": reason, "value": value}


def refusal_of_entry(entry: QuarantineEntry) -> Refusal:
    """The refusal of what went to quarantine."""
    return refusal(entry.device_id, entry.field, entry.reason, entry.value)


def _shown(value: Any) -> Any:
    """A value as a log may have it: cut, and without what might be a token."""
    if isinstance(value, str):
        value = TOKEN.sub("[token]", value[:SEARCHED])
    value = shown(value)
    return TOKEN.sub("[token]", value) if isinstance(value, str) else value


_refusals = Refusals()


def log_refused(refused: Iterable[Refusal], via: str, poster: str | None = None) -> None:
    """Log what this invocation refused, within the bounds of its environment."""
    _refusals.tell(refused, via, poster)
