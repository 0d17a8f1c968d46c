"""Metrics start at nothing in each test, which may read what was counted."""

from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws import observe, refusals


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., float]:
    """What was counted under a metric's name, in a minute (its start) or in all of them.

    What a function writes at once is kept here too.
    """
    monkeypatch.setattr(observe, "_flush", lambda: None)
    observe._metrics.clear_metrics()
    observe._metrics_of_minute.clear()

    def read(name: str, minute_ms: int | None = None) -> float:
        minutes = observe._metrics_of_minute
        wanted = list(minutes.values()) if minute_ms is None else [minutes[minute_ms]]
        sets = [metrics.metric_set for metrics in wanted]
        sets += [observe._metrics.metric_set] if minute_ms is None else []
        values = [found[name]["Value"] for found in sets if name in found]
        if not values:
            raise KeyError(name)
        return float(sum(map(sum, values)))

    return read


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict[str, Any]]]:
    """What was logged with a message: the extra fields of each line."""
    lines: list[tuple[str, dict[str, Any]]] = []

    def keep(message: str, extra: dict[str, Any] | None = None, **_more: Any) -> None:
        lines.append((message, dict(extra or {})))

    for level in ("info", "warning", "error"):
        monkeypatch.setattr(observe.log, level, keep)
    monkeypatch.setattr(refusals, "_refusals", refusals.Refusals())  # no line of this minute yet
    return lambda message: [extra for text, extra in lines if text == message]
