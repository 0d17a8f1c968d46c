"""The device's two clocks: the wall clock, which may be wrong and may jump, and the uptime."""

import time
import uuid
from functools import cache
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """The clocks that the store needs."""

    boot: str
    """An id of the machine's boot, from which `uptime_ms` counts."""

    def now_ms(self) -> int:
        """Return epoch ms; they are wrong while the clock isn't set."""

    def uptime_ms(self) -> int:
        """Return the ms since the boot; they never jump."""


class SystemClock:
    """The machine's clocks. If the machine has no id of its boot, each process has one."""

    def __init__(self) -> None:
        """Read the boot's id."""
        self.boot = boot_id()

    def now_ms(self) -> int:
        """Return epoch ms by the machine's clock."""
        return time.time_ns() // 1_000_000

    def uptime_ms(self) -> int:
        """Return the ms since the boot, with the time asleep if the system has such a clock."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return time.monotonic_ns() // 1_000_000


@cache
def boot_id() -> str:
    """Return the kernel's id of this boot, or else an id of this process."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return str(uuid.uuid4())
