import textwrap

import pytest

from tests import waiting
from tests.__main__ import verdict
from tests.waiting import TOO_SLOW, Patience, TooSlow, eventually

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


@pytest.fixture
def slow_or_wrong(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    """Tests under this folder's plugin: one too slow to tell, one wrong, one right."""
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
    return pytester


@pytest.mark.parametrize(
    ("failing", "code"), [("slow", TOO_SLOW), ("wrong", 1), ("wrong or slow", 1), ("right", 0)]
)
def test_pytest_ends_with_a_code_of_its_own_where_the_machine_was_too_slow(
    failing: str, code: int, slow_or_wrong: pytest.Pytester
) -> None:
    assert slow_or_wrong.runpytest_inprocess("-p", "no:timeout", "-k", failing).ret == code


@pytest.mark.parametrize("failing", ["slow", "right"])
def test_a_file_that_can_not_be_collected_is_not_explained_by_a_slow_machine(
    failing: str, slow_or_wrong: pytest.Pytester
) -> None:
    slow_or_wrong.makepyfile(test_broken="import no_such_module")
    options = ("-p", "no:timeout", "--continue-on-collection-errors", "-k", failing)
    assert slow_or_wrong.runpytest_inprocess(*options).ret == 1


def test_a_wait_ends_when_it_is_so_or_patience_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([False, False, True])
    assert eventually(lambda: next(looks))
    monkeypatch.setattr(waiting, "slowness", lambda: 1.0)
    assert not eventually(lambda: False, seconds=0.01)
    monkeypatch.setattr(waiting, "slowness", lambda: 5.0)
    with pytest.raises(TooSlow):
        eventually(lambda: False, seconds=0.01)
