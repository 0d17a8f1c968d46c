"""Simulated devices: one seed decides all their readings and the times at which they are sent.

Each device measures at the fleet's rate, with a phase of its own. Some devices overheat once
(anomalies). Some readings are sent twice (duplicates) or late. Some devices write Avro, every
second of these by the first version of the reading schema, which had fewer metrics. The same
options give the same readings, however fast the pipeline takes them.
"""

import heapq
import math
import random
from dataclasses import dataclass
from itertools import cycle

from local.errors import LocalError
from local.fleet import firmware
from local.fleet.reading import Reading

TEMPERATURE_CALM_MAX = 36.5
TEMPERATURE_LIMIT = 38.0
HOT_MAX = 55.0
ONSET_SECONDS = (0.5, 8.0)
OVERHEATING_SECONDS = (5.0, 30.0)
DUPLICATE_AFTER_MS = (0, 3000)
RATE_MAX = 100  # a window holds 6,000 readings of a device's minute


@dataclass(frozen=True)
class FleetOptions:
    """Options of a fleet; the same options give the same readings."""

    devices: int = 200
    rate: float = 1.0
    """Readings per second and device."""
    seed: int = 1
    anomalies: float = 0.05
    """Share of the devices that overheat."""
    duplicates: float = 0.01
    """Share of the readings that are sent twice."""
    late: float = 0.01
    """Share of the readings that are sent late."""
    late_seconds: float = 10.0
    avro: float = 0.5
    """Share of the devices that write Avro."""
    prefix: str = "device-"

    def __post_init__(self) -> None:
        """Raise LocalError for an option out of its range."""
        if not 1 <= self.devices <= 100_000:
            raise LocalError(f"--devices: {self.devices} isn't from 1 to 100000")
        if not 0 < self.rate <= RATE_MAX:
            raise LocalError(
                f"--rate: {self.rate:g} isn't above 0 and at most {RATE_MAX} readings a second"
            )


class Device:
    """One simulated device."""

    def __init__(
        self, options: FleetOptions, index: int, is_anomalous: bool, version: int | None = None
    ) -> None:
        """Draw the device's character from the seed and its index."""
        self.version = version
        self.random = random.Random(f"{options.seed}/{index}")
        self.device_id = f"{options.prefix}{index + 1:04d}"
        self.period_ms = 1000 / options.rate
        self.phase_ms = self.random.uniform(0, self.period_ms)
        self.base = self.random.uniform(15, 30)
        self.wave_seconds = self.random.uniform(60, 600)
        self.pressure = self.random.uniform(980, 1030)
        self.battery = self.random.uniform(11.5, 12.8)
        self.onset = self.random.uniform(*ONSET_SECONDS) if is_anomalous else math.inf
        self.cooled = self.onset + self.random.uniform(*OVERHEATING_SECONDS)
        self.hottest = self.random.uniform(TEMPERATURE_LIMIT + 2, HOT_MAX)

    def elapsed_ms(self, number: int) -> int:
        """Return the time of the device's reading of that number, in ms from the fleet's start."""
        return int(self.phase_ms + number * self.period_ms)

    def measure(self, elapsed_ms: int) -> dict[str, float]:
        """Return the metrics at a time; each call draws from the device's random numbers."""
        noise = self.random.gauss
        measured = {
            "temperature": round(self.temperature(elapsed_ms / 1000, noise(0, 0.3)), 2),
            "humidity": round(min(100.0, max(0.0, 50 + noise(0, 8))), 1),
            "pressure": round(self.pressure + noise(0, 0.4), 1),
            "battery": round(self.battery - elapsed_ms / 1000 * 1e-5, 3),
        }
        known = firmware.metrics(self.version or firmware.NEWEST)
        return {name: value for name, value in measured.items() if name in known}

    def temperature(self, seconds: float, noise: float) -> float:
        """Return a slow wave or, while overheating, a rise from exactly the limit and a fall."""
        calm = self.base + 3 * math.sin(seconds / self.wave_seconds * math.tau) + noise
        if not self.onset <= seconds < self.cooled:
            return min(calm, TEMPERATURE_CALM_MAX)
        share = (seconds - self.onset) / (self.cooled - self.onset)
        rise = math.sin(share * math.pi) * (self.hottest - TEMPERATURE_LIMIT)
        return TEMPERATURE_LIMIT + max(0.0, rise + noise)


class Fleet:
    """The source of all devices' readings, in the order in which they are sent."""

    left_out = 0

    def __init__(self, options: FleetOptions, start_ms: int) -> None:
        """Make the devices; their first readings are due from `start_ms`."""
        self.options = options
        self.start_ms = start_ms
        chance = random.Random(f"{options.seed}/anomalies")
        anomalous = math.ceil(options.devices * options.anomalies)
        hot = set(chance.sample(range(options.devices), anomalous))
        writing_avro = chance.sample(range(options.devices), round(options.devices * options.avro))
        versions = dict(zip(writing_avro, cycle((firmware.OLDEST, firmware.NEWEST)), strict=False))
        self._devices = [
            Device(options, index, index in hot, versions.get(index))
            for index in range(options.devices)
        ]
        self._next = [
            (device.elapsed_ms(0), index, 0) for index, device in enumerate(self._devices)
        ]
        heapq.heapify(self._next)
        self._delayed: list[tuple[int, int, Reading]] = []
        self._delayed_count = 0

    @property
    def devices(self) -> list[str]:
        """The ids of its devices."""
        return [device.device_id for device in self._devices]

    def take_due(self, now_ms: int, limit: int) -> list[Reading]:
        """Take the readings that are due by now, at most `limit`."""
        elapsed_ms = now_ms - self.start_ms
        ready: list[Reading] = []
        while len(ready) < limit:
            next_ms, is_delayed = self._next_elapsed_ms()
            if next_ms > elapsed_ms:
                break
            if is_delayed:
                ready.append(heapq.heappop(self._delayed)[2])
            else:
                ready += self._take_reading()
        return ready

    def take_remaining(self) -> list[Reading]:
        """Take the late readings and duplicates that aren't sent yet."""
        remaining = [reading for _, _, reading in sorted(self._delayed)]
        self._delayed.clear()
        return remaining

    def next_due_ms(self) -> int | None:
        """Return the time at which the next reading is due; there is always one more."""
        return self.start_ms + self._next_elapsed_ms()[0]

    def _next_elapsed_ms(self) -> tuple[int, bool]:
        new_ms = self._next[0][0]
        if self._delayed and self._delayed[0][0] <= new_ms:
            return self._delayed[0][0], True
        return new_ms, False

    def _take_reading(self) -> list[Reading]:
        """Let the next device measure; delay late readings and duplicates."""
        elapsed_ms, index, number = self._next[0]
        device = self._devices[index]
        heapq.heapreplace(self._next, (device.elapsed_ms(number + 1), index, number + 1))
        at_ms = self.start_ms + elapsed_ms
        reading = Reading(device.device_id, at_ms, device.measure(elapsed_ms), device.version)
        chance = device.random.random
        if chance() < self.options.duplicates:
            self._delay(elapsed_ms + device.random.randint(*DUPLICATE_AFTER_MS), reading)
        if chance() < self.options.late:
            self._delay(elapsed_ms + int(self.options.late_seconds * 1000), reading)
            return []
        return [reading]

    def _delay(self, until_ms: int, reading: Reading) -> None:
        self._delayed_count += 1
        heapq.heappush(self._delayed, (until_ms, self._delayed_count, reading))
