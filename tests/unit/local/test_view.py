import io
import time
from dataclasses import replace
from typing import Any, cast

import pytest
from rich.console import Console

from emulator.errors import StepFailed
from local.trial.mapping_state import COUNTS, MappingState, ShardState
from local.trial.monitor import Monitor, Snapshot
from local.trial.watch import PlainLines, live_table, plain_line, sparkline
from local.view import Steps, show_error

SHARD = ShardState(
    "shardId-000000000003",
    "12345678901234567890",
    is_finished=False,
    lag_records=1_234,
    lag_ms=2_500,
    last_result="PROBLEM: Function call failed",
    counts=dict.fromkeys(COUNTS, 100_000),
)
MAPPING = MappingState(
    "uuid", "telemetry-aggregate", "telemetry-readings", "Enabled", SHARD.last_result, [SHARD]
)


class Seen:
    """A monitor that has seen readings and two alerts, as the API shows them."""

    problem = None
    latest = Snapshot(time.monotonic(), 12_345, 12_300, 45, 7, 11_000, 200, 3, 11_203, 850.0)
    history = [Snapshot(latest.at - 1), latest]  # noqa: RUF012
    alerts = [  # noqa: RUF012
        {"device_id": device, "rule": "overheating", "first_breach_at": at, "peak": 41.26}
        for device, at in (("device-1", "2026-11-21T01:30:05Z"), ("device-2", "2026-11-21T01:31Z"))
    ]

    stack = "telemetry"
    mappings = [MAPPING]  # noqa: RUF012

    def count(self, name: str) -> int:
        counted: int = getattr(self.latest, name)
        return counted

    def per_second(self, _name: str) -> float:
        return 1000.4


MONITOR = cast("Monitor", Seen())


def shown(what: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return cast("io.StringIO", console.file).getvalue()


def test_the_live_table_has_every_count_and_the_open_alerts_on_80_columns() -> None:
    text = shown(live_table(MONITOR, "telemetry", "12 s of 30 s"))
    for part in ("12,345", "12,300", "11,000", "200", "1,000", "850 ms", "in overflow"):
        assert part in text
    assert "2 open alerts" in text
    assert text.index("device-2") < text.index("device-1")  # the newest first
    assert "01:30:05" in text
    [mapping] = [line for line in text.splitlines() if line.strip().startswith("aggregate")]
    assert mapping.split() == ["aggregate", "2.5", "s", "1,234", *["100,000"] * 4]
    assert "41.3" in text
    assert max(map(len, text.splitlines())) <= 80


def test_where_there_is_no_terminal_the_same_is_one_line() -> None:
    line = plain_line(MONITOR, "12 s")
    assert line == (
        "12 s: posted 12,345, accepted 12,300, rejected 45, stored 11,000, duplicate 200, "
        "quarantined 3, open alerts 2, lag 850 ms"
    )


def test_a_log_gets_a_line_only_where_something_has_changed() -> None:
    console = Console(file=io.StringIO(), width=200)
    lines, seen = PlainLines(console), Seen()
    monitor = cast("Monitor", seen)
    for second in range(5):
        lines.tell(monitor, f"{second} s", is_clock=True)
    for _ in range(18):
        lines.tell(monitor, "checking", is_clock=False)
    seen.latest = replace(seen.latest, lag_ms=12_000.0)
    lines.tell(monitor, "checking", is_clock=False)
    seen.latest = replace(seen.latest, stored=11_001)
    lines.tell(monitor, "checking", is_clock=False)
    told = cast("io.StringIO", console.file).getvalue().splitlines()
    assert [line.partition(":")[0] for line in told] == ["0 s", "checking", "checking"]
    assert "stored 11,001" in told[-1]


def test_a_long_step_shows_in_a_log_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.view.LONG_SECONDS", 0.01)
    console = Console(file=io.StringIO(), width=120)
    with Steps(console).step("deploy", "sam deploy"):
        while "…" not in cast("io.StringIO", console.file).getvalue():
            time.sleep(0.01)
    told = [
        " ".join(line.split()[:3])
        for line in cast("io.StringIO", console.file).getvalue().splitlines()
    ]
    assert told == ["… deploy: sam", "✓ deploy sam"]


def test_a_step_is_a_line_with_its_time() -> None:
    console = Console(file=io.StringIO(), width=120)
    steps = Steps(console)
    steps.done("build", "sam build", 4.21)
    text = cast("io.StringIO", console.file).getvalue()
    assert " ".join(text.split()) == "✓ build sam build 4.2 s"
    assert steps.seconds == {"build": 4.21}


def test_a_failed_tool_is_shown_with_its_last_lines_and_where_its_log_is(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    log = tmp_path_factory.mktemp("a") / "deploy.log"
    log.write_text("first\nError: no [bucket]\n", "utf-8")
    console = Console(file=io.StringIO(), width=60)
    show_error(console, StepFailed("`sam deploy` failed with code 1", log))
    text = cast("io.StringIO", console.file).getvalue()
    assert "`sam deploy` failed with code 1" in text
    assert "│ Error: no [bucket]" in text
    assert str(log) in text


def test_a_sparkline_shows_how_a_total_grew() -> None:
    assert sparkline([0, 0, 4, 12]) == " ▄█"
