"""Refused documents and metrics in the log, by device and field, for operators.

A line is `{"message": "refused", "device_id", "field", "reason", "value", "count", "via", "poster",
"left_out"}`; docs/operations.md has the queries. A device that sends one wrong value usually sends
more. So one line stands for all refusals of a device's field in an invocation, and an execution
environment writes a limited number of lines a minute. `left_out` counts the refusals without a
line since the line before.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from telemetry.aws.observe import log
from telemetry.aws.quarantine import QuarantineEntry
from telemetry.domain.reading import DEVICE_FIELDS, shown

LINES_A_CALL, LINES_A_MINUTE, MINUTE_SECONDS = 5, 60, 60.0
SEARCHED = 1_000  # characters of a text searched for tokens, more than a log shows
# A token anywhere in a text: somebody may have put it in the wrong place.
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}\.(?=[0-9-]*[A-Za-z_])[A-Za-z0-9_-]{20,128}")
Refusal = Mapping[str, Any]  # device_id, field, value, reason; each may be None


class Refusals:
    """Writes refusals to the log, within bounds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._minute = float("-inf")
        self._lines = self._left_out = 0

    def log(self, refused: Iterable[Refusal], via: str, poster: str | None = None) -> None:
        """Log an invocation's refusals; `via` is the way in, `poster` the token's subject."""
        groups: dict[tuple[Any, Any], list[Refusal]] = {}
        for each in refused:
            groups.setdefault((_shown(each["device_id"]), _shown(each["field"])), []).append(each)
        logged = list(groups.items())[: min(LINES_A_CALL, self._lines_left())]
        self._lines += len(logged)
        self._left_out += sum(map(len, groups.values())) - sum(len(group) for _, group in logged)
        for index, ((device_id, field), group) in enumerate(logged):
            first = group[0]
            # a field that isn't a reading's may hold anything, secrets too
            value = _shown(first["value"]) if first["field"] in DEVICE_FIELDS else None
            line = {"device_id": device_id, "field": field, "reason": _shown(first["reason"])}
            line |= {"value": value, "count": len(group), "via": via, "poster": poster}
            if index == len(logged) - 1:
                line["left_out"], self._left_out = self._left_out, 0
            log.warning("refused", extra=line)

    def _lines_left(self) -> int:
        """Return how many lines may still be written in this minute."""
        now = self._clock()
        if now - self._minute >= MINUTE_SECONDS:
            self._minute, self._lines = now, 0
        return LINES_A_MINUTE - self._lines


def refusal(device_id: str | None, field: str | None, reason: str, value: Any = None) -> Refusal:
    """Return one refusal for `log_refused`."""
    return {"device_id": device_id, "field": field, "reason": reason, "value": value}


def refusal_of_entry(entry: QuarantineEntry) -> Refusal:
    """Return the refusal that a quarantine entry stands for."""
    return refusal(entry.device_id, entry.field, entry.reason, entry.value)


def _shown(value: Any) -> Any:
    """Return a value as a log may show it: cut, and without tokens."""
    if isinstance(value, str):
        value = TOKEN.sub("[token]", value[:SEARCHED])
    value = shown(value)
    return TOKEN.sub("[token]", value) if isinstance(value, str) else value


_refusals = Refusals()


def log_refused(refused: Iterable[Refusal], via: str, poster: str | None = None) -> None:
    """Log this invocation's refusals, within its execution environment's limits."""
    _refusals.log(refused, via, poster)
