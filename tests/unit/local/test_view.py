import io
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from emulator.errors import StepFailed
from local.trial.mapping_state import COUNTS, MappingState, ShardState
from local.trial.monitor import Monitor, Snapshot
from local.trial.screenshot import take_screenshot
from local.trial.watch import LiveView, PlainLines, bars_line, plain_line, sparkline
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
    """A monitor with readings and two alerts, in the API's form."""

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

    rate: float | None = 1000.4

    def per_second(self, _name: str) -> float | None:
        return self.rate


MONITOR = cast("Monitor", Seen())


def shown(monitor: Any, width: int = 80, height: int = 24) -> list[str]:
    """Return the lines that a terminal of this size shows."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    console.print(LiveView(monitor, "telemetry", "12 s of 30 s"))
    text = cast("io.StringIO", console.file).getvalue()
    return re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")


def alerting(alerts: int) -> Seen:
    """Return a monitor with this number of open alerts; the last one has the newest breach."""
    seen = Seen()
    seen.alerts = [
        {
            "device_id": f"device-{number:04}",
            "rule": "overheating",
            "severity": "critical",
            "region": "us-east-1",
            "first_breach_at": f"2026-11-21T01:30:{number:02}Z",
            "last_breach_at": f"2026-11-21T01:31:{number:02}Z",
            "trace_id": "1-6b09e5ae-79722d79ecab48f9551ad6a8",
            "peak": 41.26,
        }
        for number in range(alerts)
    ]
    return seen


def test_the_live_view_has_every_count_and_the_open_alerts_on_80_columns() -> None:
    lines = shown(MONITOR)
    text = "\n".join(lines)
    for part in ("12,345", "12,300", "11,000", "200", "1,000", "850 ms", "in overflow"):
        assert part in text
    assert "2 open alerts" in text
    assert text.index("device-2") < text.index("device-1")  # the newest first
    assert "01:30:05" in text
    [mapping] = [line for line in lines if line.startswith("aggregate")]
    assert mapping.split()[:8] == ["aggregate", "2.5", "s", "1,234", *["100,000"] * 4]
    assert "41.3" in text


SIZES = [(80, 24), (160, 50), (200, 50), (60, 15), (40, 12), (20, 5), (1, 1)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_view_fits_any_terminal_size(width: int, height: int) -> None:
    for alerts in (0, 1, 7, 60):
        lines = shown(alerting(alerts), width, height)
        assert max(map(len, lines)) <= width
        assert len(lines) <= height


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (200, 50), (60, 15)])
def test_the_important_columns_are_legible(width: int, height: int) -> None:
    lines = shown(alerting(60), width, height)
    text = "\n".join(lines)
    for name in ("posted", "accepted", "rejected", "stored", "duplicate", "quarantined", "lag"):
        assert name in text
    assert "per s" in text
    assert "60 open alerts" in text
    assert "device-0059" in text
    assert any(line.startswith("aggregate") for line in lines)
    is_wide = width >= 80
    assert ("overheating" in text) == is_wide
    assert ("1-6b09e5ae-79722d79ecab48f9551ad6a8" in text) == (width >= 160)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50), (60, 15)])
def test_alerts_that_do_not_fit_are_counted(width: int, height: int) -> None:
    text = "\n".join(shown(alerting(60), width, height))
    [more] = re.findall(r"and (\d+) more", text)
    assert text.count("device-") + int(more) == 60


def test_a_screen_with_room_for_all_alerts_has_no_count_of_more() -> None:
    text = "\n".join(shown(alerting(10), 160, 50))
    assert text.count("device-") == 10
    assert "more" not in text


def test_before_the_second_look_no_rate_is_shown() -> None:
    seen = Seen()
    seen.rate = None
    [stored] = [line for line in shown(seen) if line.startswith("stored ") and "per s" not in line]
    assert stored.split()[:3] == ["stored", "11,000", "-"]


def test_an_unreadable_alert_is_shown_with_its_known_fields() -> None:
    seen = Seen()
    seen.alerts = [{"device_id": "a", "rule": "hot", "unreadable": "why", "first_breach_at": None}]
    assert any("hot" in line and "?" in line for line in shown(seen))


def test_a_picture_has_what_the_terminal_shows_and_loads_nothing(tmp_path: Path) -> None:
    file = tmp_path / "watch.svg"
    take_screenshot(LiveView(MONITOR, "telemetry", "live"), (80, 24), file)
    picture = file.read_text("utf-8")
    for part in ("12,345", "quarantined", "80×24"):
        assert part in picture
    assert not re.search(r"url\(\W*http|@import|@font-face", picture)


def test_without_a_terminal_the_view_is_one_line() -> None:
    line = plain_line(MONITOR, "12 s")
    assert line == (
        "12 s: posted 12,345, accepted 12,300, rejected 45, stored 11,000, duplicate 200, "
        "quarantined 3, open alerts 2, lag 850 ms"
    )


def test_a_log_gets_a_line_only_at_a_change() -> None:
    console = Console(file=io.StringIO(), width=200)
    lines, seen = PlainLines(console), Seen()
    monitor = cast("Monitor", seen)
    for second in range(5):
        lines.print(monitor, f"{second} s", is_clock=True)
    for _ in range(18):
        lines.print(monitor, "checking", is_clock=False)
    seen.latest = replace(seen.latest, lag_ms=12_000.0)
    lines.print(monitor, "checking", is_clock=False)
    seen.latest = replace(seen.latest, stored=11_001)
    lines.print(monitor, "checking", is_clock=False)
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
    assert sparkline([0, 4, 8]) == " ▄█"
    assert sparkline([0, 0]) == "  "
    looks = [Snapshot(at=at, stored=stored) for at, stored in ((0, 0), (2, 8), (3, 8), (4, 10))]
    text = bars_line(looks, 80).plain
    assert text.split() == ["stored", "per", "s", "█", "▄", "most", "4"]
    assert len(bars_line([Snapshot(at=at, stored=at * at) for at in range(500)], 60)) <= 60
