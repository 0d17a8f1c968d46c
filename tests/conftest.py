"""Marks each test with its tier, which is its folder; the unit tier may open no sockets."""

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.waiting import TOO_SLOW, TooSlow

TESTS = Path(__file__).parent
FAILURES = pytest.StashKey[list[bool]]()

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record for each failure whether it only means that the machine was too slow to tell."""
    report = yield
    if report.failed:
        is_too_slow = call.excinfo is not None and call.excinfo.errisinstance(TooSlow)
        item.session.stash.setdefault(FAILURES, []).append(is_too_slow)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Record a failed collection: a slow machine can't explain it."""
    report = yield
    if report.failed:
        collector.session.stash.setdefault(FAILURES, []).append(False)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End with a code of its own if all failures are from a machine too slow to tell."""
    failures = session.stash.get(FAILURES, [])
    if session.exitstatus == pytest.ExitCode.TESTS_FAILED and failures and all(failures):
        session.exitstatus = TOO_SLOW
