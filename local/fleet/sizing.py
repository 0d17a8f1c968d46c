"""How many devices this machine takes: measured when a run begins, unless they are asked for.

The pipeline's functions run in processes here, and what bounds them is how much of the processors
they get. A burst of such work tells: JSON, as the functions read and write it, for half a second.
Other work on the machine takes its share of that, and so does a slow processor.
"""

import json
import os
import time
from typing import NamedTuple

from local.fleet.simulated import FleetOptions

BURST_SECONDS = 0.5
REFERENCE_PER_SECOND = 44_000.0
"""Rounds of a burst on one idle processor that takes a fleet of the full size, measured."""
DEVICES_MIN = 10
DOCUMENTS = [{"device_id": "device-0001", "recorded_at": 1, "temperature": 21.5}] * 10


class Machine(NamedTuple):
    """What a burst has found of a machine."""

    processors: float
    """How many the pipeline gets, each as fast as the reference."""

    @property
    def devices(self) -> int:
        """The size of a fleet that it takes, each device sending a reading a second."""
        most = FleetOptions.devices
        return max(DEVICES_MIN, min(most, round(most * self.processors)))

    def text(self) -> str:
        """Say it in a line."""
        return (
            f"{self.devices} devices, a reading a second each: "
            f"{self.processors:.1f} processors are free"
        )


def measured(seconds: float = BURST_SECONDS) -> Machine:
    """Measure this machine, as busy as it is now."""
    rounds, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < seconds:
        json.loads(json.dumps(DOCUMENTS))
        rounds += 1
    return Machine(rounds / took / REFERENCE_PER_SECOND * processors())


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
