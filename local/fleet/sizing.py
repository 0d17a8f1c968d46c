"""Measures how many simulated devices this machine can run, when no number is given.

The pipeline's functions run in processes here, so processor time bounds them. The measurement is
half a second of similar work: JSON, written and read. A busy machine or a slow processor does less
of it.
"""

import json
import os
import time
from typing import NamedTuple

from local.fleet.simulated import FleetOptions

BURST_SECONDS = 0.5
REFERENCE_PER_SECOND = 44_000.0
"""Measured: rounds a second on one idle processor that can run a fleet of the full size."""
DEVICES_MIN = 10
DOCUMENTS = [{"device_id": "device-0001", "recorded_at": 1, "temperature": 21.5}] * 10


class Machine(NamedTuple):
    """The measured speed of a machine."""

    processors: float
    """Free processors, in units of the reference processor."""

    @property
    def devices(self) -> int:
        """The number of devices that it can run, at a reading a second each."""
        most = FleetOptions.devices
        return max(DEVICES_MIN, min(most, round(most * self.processors)))

    def text(self) -> str:
        """Return the result as a line of text."""
        most = FleetOptions.devices
        return (
            f"{self.devices} devices, a reading a second each; "
            f"room for {self.processors:.1f} × {most}"
        )


def measured(seconds: float = BURST_SECONDS) -> Machine:
    """Measure this machine, as busy as it is now."""
    rounds, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < seconds:
        json.loads(json.dumps(DOCUMENTS))
        rounds += 1
    return Machine(rounds / took / REFERENCE_PER_SECOND * processors())


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
