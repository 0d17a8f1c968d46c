"""Generations: what is written and shown while a region's windows are built again."""

import pytest
from telemetry.domain import generation_pointer
from telemetry.domain.generation_pointer import FIRST, Pointer
from telemetry.errors import Rejected


def test_a_new_generation_is_written_beside_the_current_one_until_readers_have_left_that() -> None:
    begun = generation_pointer.begin(FIRST)
    assert (begun.current, begun.written) == (0, (0, 1))
    switched = generation_pointer.switch(begun, 1)
    assert (switched.current, switched.written) == (1, (1, 0))
    settled = generation_pointer.settle(switched, 1)
    assert (settled.current, settled.written) == (1, (1,))


def test_every_step_done_twice_changes_nothing() -> None:
    pointer = generation_pointer.begin(FIRST)
    assert generation_pointer.begin(pointer) == pointer
    pointer = generation_pointer.switch(pointer, 1)
    assert generation_pointer.switch(pointer, 1) == pointer
    pointer = generation_pointer.settle(pointer, 1)
    assert generation_pointer.settle(pointer, 1) == pointer
    assert generation_pointer.switch(pointer, 1) == pointer


def test_a_generation_that_was_given_up_is_never_switched_to_and_its_number_never_used() -> None:
    given_up = generation_pointer.begin(FIRST)
    anew = generation_pointer.begin(given_up, anew=True)
    assert anew.written == (0, 2)
    with pytest.raises(Rejected, match="generation: is not being built"):
        generation_pointer.switch(anew, 1)
    assert generation_pointer.begin(generation_pointer.switch(anew, 2)).building == 3


def test_a_rebuild_that_is_given_up_leaves_what_there_was() -> None:
    begun = generation_pointer.begin(FIRST)
    given_up = generation_pointer.give_up(begun)
    assert (given_up.current, given_up.written) == (0, (0,))
    assert generation_pointer.give_up(given_up) == given_up
    assert generation_pointer.begin(given_up).building == 2
    with pytest.raises(Rejected):
        generation_pointer.switch(given_up, 1)
    switched = generation_pointer.switch(begun, 1)
    assert generation_pointer.give_up(switched) == switched  # too late: it is the current one


def test_a_rebuild_may_begin_before_the_last_one_has_settled() -> None:
    switched = generation_pointer.switch(generation_pointer.begin(FIRST), 1)
    begun = generation_pointer.begin(switched)
    assert begun == Pointer(current=1, building=2, retiring=0, newest=2)
    assert generation_pointer.settle(begun, 1).written == (1, 2)
    assert generation_pointer.switch(begun, 2) == Pointer(2, None, 1, 2)


def test_a_rebuild_lets_no_generation_go_that_another_has_just_switched_from() -> None:
    first = generation_pointer.switch(generation_pointer.begin(FIRST), 1)
    second = generation_pointer.switch(generation_pointer.begin(first), 2)
    assert generation_pointer.settle(second, 1) == second  # some still read 1
    assert generation_pointer.settle(second, 2).written == (2,)
