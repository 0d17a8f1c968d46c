import time
from typing import Any

import pytest
from rich.console import Console

from local import commands
from local.cli import parser
from local.fleet import sizing
from local.fleet.sizing import Machine, measured
from local.view import Steps


@pytest.mark.parametrize(
    ("processors", "devices"), [(2.0, 200), (1.0, 200), (0.5, 100), (0.2, 40), (0.01, 10)]
)
def test_a_fleet_is_as_large_as_the_processors_that_are_free(
    processors: float, devices: int
) -> None:
    assert Machine(processors).devices == devices
    assert Machine(processors).text() == (
        f"{devices} devices, a reading a second each; room for {processors:.1f} × 200"
    )


def test_half_of_the_processor_time_counts_as_half_a_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sizing, "processors", lambda: 2)

    def found(seconds_a_round: float) -> float:
        clock = iter(round_ * seconds_a_round for round_ in range(1_000_000))
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda: next(clock))
            return measured().processors

    assert found(1 / sizing.REFERENCE_PER_SECOND) == pytest.approx(2.0, rel=0.01)
    assert found(2 / sizing.REFERENCE_PER_SECOND) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("line", "devices", "is_measured"),
    [
        ([], 40, True),
        (["--devices", "300"], 300, False),
        (["--rate", "4"], 200, False),
        (["--csv", "a.csv"], 200, False),
    ],
)
def test_a_given_number_of_devices_is_not_measured(
    line: list[str],
    devices: int,
    is_measured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commands, "measured", lambda: Machine(0.2))
    options: Any = parser().parse_args(["run", *line])
    assert commands.sized(options, Steps(Console(width=120))) == devices
    assert ("✓ fleet" in capsys.readouterr().out) is is_measured
