import textwrap

import pytest

from tests import waiting
from tests.__main__ import verdict
from tests.waiting import TOO_SLOW, Patience, TooSlow

pytest_plugins = ["pytester"]


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    return clock


def test_on_an_idle_machine_patience_is_over_when_its_time_is(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "slowness", lambda: 1.0)
    patience = Patience(10)
    clock.now = 9.9
    assert not patience.is_over()
    clock.now = 10
    assert patience.is_over()


def test_on_a_slow_machine_it_is_as_many_times_longer_and_then_nothing_is_told(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "slowness", lambda: 5.0)
    patience = Patience(10)
    for second in (10, 30, 49):
        clock.now = second
        assert not patience.is_over()
    clock.now = 50
    with pytest.raises(TooSlow, match=r"in 50 s, on a machine 5\.0 times slower"):
        patience.is_over()


def test_patience_begins_anew_where_something_moves(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "slowness", lambda: 1.0)
    patience = Patience(10)
    clock.now = 8
    patience.progressed()
    clock.now = 17
    assert not patience.is_over()
    clock.now = 18
    assert patience.is_over()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([0, TOO_SLOW], 3), ([TOO_SLOW, 1], 1), ([0, 1], 1), ([2], 1)],
)
def test_a_failure_counts_more_than_what_a_slow_machine_cannot_tell(
    codes: list[int], expected: int
) -> None:
    assert verdict(codes) == expected


@pytest.mark.parametrize(
    ("failing", "code"), [("slow", TOO_SLOW), ("wrong", 1), ("wrong or slow", 1), ("right", 0)]
)
def test_pytest_ends_with_a_code_of_its_own_where_the_machine_was_too_slow(
    failing: str, code: int, pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> None:
    plugin = request.config.rootpath / "tests" / "conftest.py"
    pytester.makeconftest(
        plugin.read_text("utf-8").replace("item.path.relative_to(TESTS)", "item.path")
    )
    pytester.makepyfile(
        test_some=textwrap.dedent("""
        from tests.waiting import TooSlow
        def test_slow(): raise TooSlow
        def test_wrong(): assert False
        def test_right(): pass
        """)
    )
    assert pytester.runpytest_inprocess("-p", "no:timeout", "-k", failing).ret == code
