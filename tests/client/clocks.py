"""A clock that a test sets."""

NOW_MS = 1_800_000_000_000


class FakeClock:
    """A clock that stands still unless the test moves it; each read may add `step_ms`."""

    def __init__(self, now_ms: int = NOW_MS, boot: str = "boot-1", step_ms: int = 0) -> None:
        self.boot = boot
        self.wall_ms = now_ms
        self.up_ms = 5_000
        self.step_ms = step_ms

    def now_ms(self) -> int:
        self.wall_ms += self.step_ms
        self.up_ms += self.step_ms
        return self.wall_ms

    def uptime_ms(self) -> int:
        return self.up_ms

    def pass_ms(self, passed_ms: int) -> None:
        self.wall_ms += passed_ms
        self.up_ms += passed_ms
