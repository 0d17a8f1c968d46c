"""The monitor of `watch`, on a pipeline that ran before."""

from typing import Any

import pytest

from emulator.errors import EmulatorError
from local.api import Api
from local.instance import Instance, State
from local.trial import monitor as module
from local.trial.monitor import Monitor

COUNTED_BEFORE = 9_673


class Reader:
    """The pipeline's metrics; most were counted before the first look."""

    def __init__(self, *_arguments: Any) -> None:
        self.grown = [COUNTED_BEFORE, 0, 50]

    def read(self, tally: Any) -> None:
        tally.add({"ReadingsAccepted": float(self.grown.pop(0))}, 0.0)


class Mappings:
    """Mappings that count their reads."""

    looks = 0

    def __init__(self, _instance: Instance) -> None:
        pass

    def read(self) -> list[Any]:
        Mappings.looks += 1
        return []


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr(module, "LogReader", Reader)
    monkeypatch.setattr(module, "MappingReader", Mappings)
    monkeypatch.setattr(module, "client", lambda _state, _service: None)
    monkeypatch.setattr(Instance, "load", lambda _self: State(tokens={"operator": "a.b"}))
    monkeypatch.setattr(Api, "alerts", lambda _self, _status: [])
    return Monitor(Instance("main", None), since_ms=0)  # type: ignore[arg-type]


def look(monitor: Monitor, at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.trial.monitor.time.monotonic", lambda: at)
    monitor._look_at_metrics()


def test_counts_from_before_the_first_look_have_no_rate(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert monitor.per_second("posted") is None
    assert monitor.count("posted") == 0
    look(monitor, 10.0, monkeypatch)
    assert monitor.per_second("posted") is None
    assert monitor.count("posted") == COUNTED_BEFORE
    look(monitor, 11.0, monkeypatch)
    assert monitor.per_second("posted") == 0.0
    look(monitor, 12.0, monkeypatch)
    assert monitor.per_second("posted") == 25.0


def test_a_rate_is_known_even_if_looks_are_far_apart(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in (10.0, 20.0, 40.0):
        look(monitor, at, monkeypatch)
    assert monitor.per_second("posted") == 50 / 20


def test_drawing_makes_no_calls(monitor: Monitor) -> None:
    before = Mappings.looks
    assert monitor.mappings == []
    assert monitor.alerts == []
    assert Mappings.looks == before


def test_a_problem_of_one_look_stays_until_that_look_succeeds(monitor: Monitor) -> None:
    def fails() -> None:
        raise EmulatorError("no answer")

    monitor._see(fails)
    monitor._see(lambda: None)
    assert monitor.problem == "no answer"
