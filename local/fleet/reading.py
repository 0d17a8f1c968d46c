"""A reading as a device has it, before it is sent."""

import json
import re
from typing import NamedTuple, Protocol

from local.instance import ROOT

MINUTE_MS = 60_000


def newest_metrics() -> tuple[str, ...]:
    """Return the metrics of the newest version of a reading, which are what has a unit."""
    files = (ROOT / "schemas/reading").glob("v*.avsc")
    newest = max(files, key=lambda path: int(re.sub(r"\D", "", path.stem)))
    fields = json.loads(newest.read_text("utf-8"))["fields"]
    return tuple(field["name"] for field in fields if "unit" in field)


METRICS = newest_metrics()


class Reading(NamedTuple):
    """One measurement: the metrics that were taken, by name, at one time."""

    device_id: str
    recorded_at_ms: int
    metrics: dict[str, float]
    version: int | None = None
    """Of the reading schema that its device writes Avro by; None: it writes JSON."""

    def body(self) -> dict[str, str | int | float]:
        """Return it as the API takes it."""
        return {"device_id": self.device_id, "recorded_at": self.recorded_at_ms, **self.metrics}


class Source(Protocol):
    """Where readings come from: simulated devices (`simulated`) or a file (`recorded`)."""

    left_out: int
    """How many readings it has that can't be sent, since others have their device and time."""

    @property
    def devices(self) -> list[str]:
        """The ids of its devices."""

    def due(self, now_ms: int, limit: int) -> list[Reading]:
        """Take the readings that are to be sent by now, oldest first, at most `limit`."""

    def held(self) -> list[Reading]:
        """Take the late readings and duplicates that are still held back, at the end of a run."""

    def next_due_ms(self) -> int | None:
        """Tell when the next reading is to be sent; None when there is none any more."""
