"""The device's two clocks: the wall's, which may be wrong and may jump, and the uptime's."""

import time
import uuid
from functools import cache
from pathlib import Path
from typing import Protocol

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What the store asks of time."""

    boot: str
    """Names the start of the machine that `uptime_ms` counts from."""

    def now_ms(self) -> int:
        """Epoch ms, as far as the device knows them."""

    def uptime_ms(self) -> int:
        """Milliseconds since the boot; never jumps."""


class SystemClock:
    """The machine's own. Where it can't name its boot, each process is a boot of its own."""

    def __init__(self) -> None:
        """Read which boot this is."""
        self.boot = boot_id()

    def now_ms(self) -> int:
        """Epoch ms by the machine's clock."""
        return time.time_ns() // 1_000_000

    def uptime_ms(self) -> int:
        """Sleep counts, where the machine can tell."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return time.monotonic_ns() // 1_000_000


@cache
def boot_id() -> str:
    """The kernel's name for this boot, or one for this process."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return str(uuid.uuid4())
