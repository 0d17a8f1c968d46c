"""A device's reading before it is sent, and the protocol of its sources."""

import json
import re
from typing import NamedTuple, Protocol

from local.instance import ROOT

MINUTE_MS = 60_000


def newest_metrics() -> tuple[str, ...]:
    """Return the metrics of the newest reading schema: the fields with a unit."""
    files = (ROOT / "schemas/reading").glob("v*.avsc")
    newest = max(files, key=lambda path: int(re.sub(r"\D", "", path.stem)))
    fields = json.loads(newest.read_text("utf-8"))["fields"]
    return tuple(field["name"] for field in fields if "unit" in field)


METRICS = newest_metrics()


class Reading(NamedTuple):
    """A device's metrics, by name, at one time."""

    device_id: str
    recorded_at_ms: int
    metrics: dict[str, float]
    version: int | None = None
    """Version of the reading schema, if its device writes Avro. None: JSON."""

    def body(self) -> dict[str, str | int | float]:
        """Return the reading as the API's JSON document."""
        return {"device_id": self.device_id, "recorded_at": self.recorded_at_ms, **self.metrics}


class Source(Protocol):
    """A source of readings: simulated devices (`simulated`) or a file (`recorded`)."""

    left_out: int
    """Number of readings that can't be sent, because another one has their device and time."""

    @property
    def devices(self) -> list[str]:
        """The ids of its devices."""

    def take_due(self, now_ms: int, limit: int) -> list[Reading]:
        """Take the readings that are due by now, oldest first, at most `limit`."""

    def take_remaining(self) -> list[Reading]:
        """Take the late readings and duplicates that aren't sent yet, at the end of a run."""

    def next_due_ms(self) -> int | None:
        """Return the time at which the next reading is due; None after the last one."""
