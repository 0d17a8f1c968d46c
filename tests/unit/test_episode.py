"""An episode is a join: the same however often and in whatever order its breaches come."""

import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.episode import Breach, Episode, join

# few instants and values, so that breaches meet each other and the clear
breaches = st.builds(
    Breach,
    st.integers(0, 9),
    st.sampled_from([38.5, 40.0, 45.0]),
    st.sampled_from([None, "1-a", "1-b"]),
)
groups = st.lists(breaches, min_size=1, max_size=8)
CLEARED = Episode(3, 1, 4, 41.0, "1-z", cleared_ms=5)


@given(groups)
def test_an_episode_has_first_last_and_peak_of_its_breaches(group: list[Breach]) -> None:
    episode, opened = join(None, group)
    assert opened
    first_ms = min(breach.at_ms for breach in group)
    traces = {breach.trace_id or "" for breach in group if breach.at_ms == first_ms}
    assert episode == Episode(
        1,
        first_ms,
        max(breach.at_ms for breach in group),
        max(breach.value for breach in group),
        min(traces) or None,
        None,
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
        episode, opened = join(episode, repeated[:size])
        openings += opened
        repeated = repeated[size:]
    assert episode == expected.state
    assert openings == expected.opened


@given(groups)
def test_breaches_that_are_in_it_change_nothing(group: list[Breach]) -> None:
    episode = join(None, group).state
    again = join(episode, group)
    assert again.state is episode  # so that nothing is written
    assert not again.opened


def test_no_breaches_are_no_episode() -> None:
    assert join(None, []) == (None, False)
    assert join(CLEARED, []) == (CLEARED, False)


@pytest.mark.parametrize("at_ms", [0, 4, 5])
def test_a_breach_not_newer_than_the_clear_changes_nothing(at_ms: int) -> None:
    joined = join(CLEARED, [Breach(at_ms, 99.0)])
    assert joined.state is CLEARED
    assert not joined.opened


def test_a_breach_after_the_clear_opens_the_next_episode() -> None:
    episode, opened = join(CLEARED, [Breach(6, 39.0, "1-a")])
    assert opened
    assert episode == Episode(4, 6, 6, 39.0, "1-a", cleared_ms=5)
    assert episode.is_open


def test_late_breaches_of_the_episode_before_stay_out_of_the_next() -> None:
    late = [Breach(5, 99.0), Breach(7, 39.0), Breach(2, 88.0), Breach(6, 40.0)]
    for order in itertools.permutations(late):
        episode, opened = join(CLEARED, order)
        assert opened
        assert episode == Episode(4, 6, 7, 40.0, None, cleared_ms=5)


@pytest.mark.parametrize(
    ("cleared_ms", "is_open"), [(None, True), (9, True), (10, False), (12, False)]
)
def test_an_episode_is_open_unless_it_was_cleared_at_its_first_breach_or_later(
    cleared_ms: int | None, is_open: bool
) -> None:
    assert Episode(1, 10, 12, 40.0, None, cleared_ms).is_open is is_open
