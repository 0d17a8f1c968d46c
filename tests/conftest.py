"""Marks each test with its tier, the folder that it is in; the unit tier has no sockets at all."""

from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

# No deadline: a busy machine is slow, not wrong. A failure prints what replays it.
settings.register_profile("here", deadline=None, print_blob=True)
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=30, help="courses of events for the mappings")
    parser.addoption("--instance", help="run tests/pipeline on this one, which is up, and no own")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(TESTS).parts[0]
        if tier in {"unit", "functions", "contract", "template", "pipeline"}:
            item.add_marker(tier)
        if tier == "unit":
            item.add_marker("disable_socket")
