"""Cut work into chunks that fit one call of a service, by entries and bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def chunks(
    things: Iterable[T], size_of: Callable[[T], int], most: int, bytes_most: int
) -> Iterator[list[T]]:
    """Yield `things` in order, in lists of up to `most` things and `bytes_most` bytes.

    A thing that is larger than that is alone in its list, for the service to refuse.
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
