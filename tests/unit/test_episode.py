"""An episode is a join: the same however often and in whatever order its breaches come."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.episode import SETTLE_MS, Breach, Episode, clear, join, recovery

# few instants and values, so that breaches meet each other and the clear
breaches = st.builds(
    Breach,
    st.integers(0, 9),
    st.sampled_from([-17.5, -2.0, 0.0, 38.5, 45.0]),  # a freezer's, too
    st.sampled_from([None, "1-a", "1-b"]),
)
groups = st.lists(breaches, min_size=1, max_size=8)
CLEARED = Episode(3, 2, 4, 41.0, "1-z", since_ms=1, cleared_ms=5)


@given(groups)
def test_an_episode_has_first_last_and_peak_of_its_breaches(group: list[Breach]) -> None:
    episode, change = join(None, group)
    assert change == "opened"
    first_ms = min(breach.at_ms for breach in group)
    traces = {breach.trace_id or "" for breach in group if breach.at_ms == first_ms}
    assert episode == Episode(
        1,
        first_ms,
        max(breach.at_ms for breach in group),
        max(breach.value for breach in group),
        min(traces) or None,
    )


@given(st.sampled_from([None, CLEARED]), groups, st.randoms(use_true_random=False), st.data())
def test_order_repetition_and_splits_change_nothing_and_open_it_once(
    before: Episode | None, group: list[Breach], random: Random, data: st.DataObject
) -> None:
    expected = join(before, group)
    repeated = group + data.draw(st.lists(st.sampled_from(group)))
    random.shuffle(repeated)
    episode, openings = before, 0
    while repeated:
        size = data.draw(st.integers(1, len(repeated)))
        episode, change = join(episode, repeated[:size])
        openings += change == "opened"
        repeated = repeated[size:]
    assert openings == (expected.change == "opened")
    assert episode == expected.state


@given(groups)
def test_breaches_that_are_in_it_change_nothing(group: list[Breach]) -> None:
    episode = join(None, group).state
    again = join(episode, group)
    assert again == (episode, "")
    assert again.state is episode  # so that nothing is written


def test_no_breaches_are_no_episode() -> None:
    assert join(None, []).state is None
    assert join(CLEARED, []).state is CLEARED


@pytest.mark.parametrize("at_ms", [0, 1])
def test_a_breach_of_the_time_before_the_episode_changes_nothing(at_ms: int) -> None:
    joined = join(CLEARED, [Breach(at_ms, 99.0)])
    assert joined.change == ""
    assert joined.state is CLEARED


@pytest.mark.parametrize("at_ms", [2, 4, 5])
def test_a_late_breach_joins_the_cleared_episode_and_opens_no_other(at_ms: int) -> None:
    episode, change = join(CLEARED, [Breach(at_ms, 99.0)])
    assert change == "extended"
    assert episode == Episode(3, 2, max(4, at_ms), 99.0, episode.trace_id, 1, 5)  # type: ignore[union-attr]
    assert not episode.is_open


def test_a_breach_after_the_clear_opens_the_next_episode() -> None:
    episode, change = join(CLEARED, [Breach(6, 39.0, "1-a")])
    assert change == "opened"
    assert episode == Episode(4, 6, 6, 39.0, "1-a", since_ms=5)
    assert episode.is_open


def test_late_breaches_of_the_episode_before_stay_out_of_the_next() -> None:
    late = [Breach(5, 99.0), Breach(7, 39.0), Breach(2, 88.0), Breach(6, 40.0)]
    for order in itertools.permutations(late):
        episode, change = join(CLEARED, order)
        assert change == "opened"
        assert episode == Episode(4, 6, 7, 40.0, None, since_ms=5)


OPEN = Episode(3, 6, 9, 41.0, None, since_ms=5)


@pytest.mark.parametrize("at_ms", [6, 9])
def test_an_episode_with_a_later_breach_is_not_cleared(at_ms: int) -> None:
    assert clear(OPEN, at_ms) == (OPEN, "")


def test_an_episode_is_cleared_once() -> None:
    cleared, change = clear(OPEN, 10)
    assert (cleared, change) == (OPEN._replace(cleared_ms=10), "cleared")
    assert clear(cleared, 11) == (cleared, "")
    assert clear(None, 10) == (None, "")


values = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([36.0, 37.0, 37.5, 39.0])))


@given(values, st.integers(0, 9), st.integers(0, 9))
def test_a_device_recovers_at_its_first_reading_below_the_clear_threshold_after_a_breach(
    seen: list[tuple[int, float]], last_breach_ms: int, settled_ms: int
) -> None:
    at_ms = recovery(seen, 37.0, last_breach_ms, settled_ms + SETTLE_MS)
    below = {at_ms for at_ms, value in seen if value == 36.0}
    due = range(last_breach_ms + 1, settled_ms + 1)
    assert at_ms == next((each for each in due if each in below), None)


@given(groups, groups, st.integers(0, 9), st.randoms(use_true_random=False))
def test_a_clear_and_breaches_that_race_come_to_one_episode_more_at_most(
    first: list[Breach], second: list[Breach], at_ms: int, random: Random
) -> None:
    episode: Episode | None = join(None, first).state
    changes: list[str] = []
    steps = [[breach] for breach in second]
    random.shuffle(steps)
    for index, step in enumerate(steps):
        if index == len(steps) // 2:
            episode, change = clear(episode, at_ms)
            changes.append(change)
        episode, change = join(episode, step)
        changes.append(change)
    assert changes.count("cleared") <= 1
    assert changes.count("opened") <= changes.count("cleared")
