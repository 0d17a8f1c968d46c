"""Runs blocking code in virtual time: a process stops inside a call and goes on later.

The functions are ordinary code; each of their calls to a service takes time, in which others run.
A process is a greenlet, which can stop anywhere, driven by a coroutine, which can wait.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class Crash(BaseException):
    """The process is gone: no error handler sees it."""


async def running(code: Callable[[], T]) -> T:
    """Run code that calls `wait`; return its result, or raise its error."""
    process = greenlet(code)
    step = process.switch()
    while not process.dead:
        try:
            value = await step
        except BaseException as error:  # noqa: BLE001 - it is the process's to handle
            step = process.throw(error)
        else:
            step = process.switch(value)
    result: T = step
    return result


def wait(thing: Awaitable[T]) -> T:
    """Wait for an awaitable inside a process, while others go on."""
    driver = getcurrent().parent
    if driver is None:
        raise RuntimeError("only a process can wait")
    result: Any = driver.switch(thing)
    value: T = result
    return value
