"""Generations of windows: which one readers see, and which ones writers write.

A rebuild makes all of a region's windows again, beside those that are there. They differ only in
the generation in their keys, and each region has a pointer that says which generation counts:

    begin   a new generation is being built; from now on writers write it too
    switch  it is the current one; the one before is still written, for readers who don't know yet
    settle  the one before is written no more, and may be deleted

Numbers only grow: a generation that isn't in the pointer never comes back into it. So whoever still
writes one, because he read the pointer long ago, does no harm, and deleting one is always safe.
"""

from typing import NamedTuple

from telemetry.errors import Rejected


class Pointer(NamedTuple):
    """What counts in one region."""

    current: int = 0
    building: int | None = None
    retiring: int | None = None
    newest: int = 0  # the highest number ever given

    @property
    def written(self) -> tuple[int, ...]:
        """The generations that a reading goes into, the current one first."""
        others = (self.building, self.retiring)
        return (self.current, *(number for number in others if number is not None))


FIRST = Pointer()


def begin(pointer: Pointer, anew: bool = False) -> Pointer:
    """Build another generation: the one that was begun, if one was and it isn't to be `anew`."""
    if pointer.building is not None and not anew:
        return pointer
    number = pointer.newest + 1
    return pointer._replace(building=number, newest=number)


def check_built(pointer: Pointer, number: int) -> None:
    """Raise Rejected for a generation that neither is being built nor was, and is current."""
    if number not in (pointer.building, pointer.current):
        reason = f"is not being built: the region's pointer is {pointer._asdict()}"
        raise Rejected(reason, field="generation", value=number)


def switch(pointer: Pointer, number: int) -> Pointer:
    """Make the generation that was built the current one; raises Rejected for any other."""
    check_built(pointer, number)
    if pointer.current == number:
        return pointer
    return pointer._replace(current=number, building=None, retiring=pointer.current)


def give_up(pointer: Pointer) -> Pointer:
    """Build no other generation, and write none that was begun."""
    return pointer if pointer.building is None else pointer._replace(building=None)


def settle(pointer: Pointer, number: int) -> Pointer:
    """Write the generation before `number` no more.

    Where another was switched to since, `number` itself is retiring, and has readers to wait for.
    """
    return pointer._replace(retiring=None) if pointer.current == number else pointer
