"""Metrics start at nothing in each test, which may read what was counted."""

from collections.abc import Callable

import pytest
from telemetry.aws import observe


@pytest.fixture(autouse=True)
def counted() -> Callable[[str], float]:
    """What was counted under a metric's name."""
    observe._metrics.clear_metrics()

    def read(name: str) -> float:
        return float(sum(observe._metrics.metric_set[name]["Value"]))

    return read
