"""Generations of windows: readers see one, writers may write several.

A rebuild makes a new copy of all windows of a region, a generation, from the archive. The copies
differ in the generation number of their keys. Each region has a pointer that names its generations:

    begin   a new generation is being built; from now on writers write it, too
    switch  it becomes the current one; writers still write the old one, because some readers
            still use the old pointer
    settle  the old one isn't written any more, and may be deleted

Numbers only grow: a generation that has left the pointer never comes back into it. So a writer with
an outdated pointer that still writes such a generation does no harm, and deleting it is safe.
"""

from typing import NamedTuple

from telemetry.errors import Rejected


class Pointer(NamedTuple):
    """A region's generations, by number."""

    current: int = 0
    building: int | None = None
    retiring: int | None = None
    newest: int = 0  # the highest number ever used

    @property
    def written(self) -> tuple[int, ...]:
        """The generations that writers write, the current one first."""
        others = (self.building, self.retiring)
        return (self.current, *(number for number in others if number is not None))


FIRST = Pointer()


def begin(pointer: Pointer, anew: bool = False) -> Pointer:
    """Begin a generation; keep one that is being built already, unless `anew`."""
    if pointer.building is not None and not anew:
        return pointer
    number = pointer.newest + 1
    return pointer._replace(building=number, newest=number)


def check_built(pointer: Pointer, number: int) -> None:
    """Raise Rejected unless the generation is being built, or was built and is now current."""
    if number not in (pointer.building, pointer.current):
        reason = f"is not being built: the region's pointer is {pointer._asdict()}"
        raise Rejected(reason, field="generation", value=number)


def switch(pointer: Pointer, number: int) -> Pointer:
    """Make the generation that was built the current one; raise Rejected for any other."""
    check_built(pointer, number)
    if pointer.current == number:
        return pointer
    return pointer._replace(current=number, building=None, retiring=pointer.current)


def give_up(pointer: Pointer) -> Pointer:
    """Drop the generation that is being built, if any."""
    return pointer if pointer.building is None else pointer._replace(building=None)


def settle(pointer: Pointer, number: int) -> Pointer:
    """Stop writing the generation before `number`, if `number` is still current.

    After a later switch `number` itself is retiring, and readers may still use it.
    """
    return pointer._replace(retiring=None) if pointer.current == number else pointer
