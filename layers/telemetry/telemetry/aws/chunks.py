"""Cutting work to what one call of a service takes: so many entries, so many bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def chunks(
    things: Iterable[T], size_of: Callable[[T], int], most: int, bytes_most: int
) -> Iterator[list[T]]:
    """`things` in order, in lists of up to `most` that have up to `bytes_most` bytes together.

    One thing that is larger than that is alone in its list: the service says what it thinks of it.
    """
    chunk: list[T] = []
    size = 0
    for thing in things:
        thing_size = size_of(thing)
        if chunk and (len(chunk) == most or size + thing_size > bytes_most):
            yield chunk
            chunk, size = [], 0
        chunk.append(thing)
        size += thing_size
    if chunk:
        yield chunk
