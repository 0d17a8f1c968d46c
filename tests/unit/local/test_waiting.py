"""`--wait` of commands that show something."""

from collections.abc import Iterator

import pytest

from local import commands
from local.errors import LocalError


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return a time that passes only by sleeping."""
    clock = [0.0]
    monkeypatch.setattr("local.commands.time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("local.commands.time.sleep", sleep)


def test_wait_looks_until_there_is_something() -> None:
    looks = iter([[], [], ["alert"]])
    assert commands.waited_for(lambda: next(looks), 60) == ["alert"]


def test_nothing_within_the_time_is_an_error() -> None:
    with pytest.raises(LocalError, match=r"^nothing came in 10\.0 s$"):
        commands.waited_for(list, 10)


def test_without_wait_one_look_may_find_nothing() -> None:
    looks: Iterator[list[str]] = iter([[]])
    assert commands.waited_for(lambda: next(looks), 0) == []
