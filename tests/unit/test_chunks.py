"""Chunks: what one call of a service takes, nothing lost between the calls."""

from hypothesis import given
from hypothesis import strategies as st
from telemetry.aws.chunks import chunks

MOST, BYTES_MOST = 3, 10


@given(st.lists(st.text("ab", max_size=12)))
def test_nothing_is_lost_or_reordered_and_no_call_is_too_large(things: list[str]) -> None:
    cut = list(chunks(things, len, MOST, BYTES_MOST))
    assert [thing for chunk in cut for thing in chunk] == things
    for chunk in cut:
        assert 1 <= len(chunk) <= MOST
        assert sum(map(len, chunk)) <= BYTES_MOST or len(chunk) == 1


def test_a_call_is_filled_before_the_next_is_begun() -> None:
    sizes = [4, 6, 1, 1, 1, 1, 11, 2]
    assert list(chunks(sizes, lambda size: size, MOST, BYTES_MOST)) == [
        [4, 6],
        [1, 1, 1],
        [1],
        [11],
        [2],
    ]
