"""Calls in threads that neither Ctrl-C nor the end of the process waits for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begun(call: Callable[[], T]) -> "Future[T]":
    """Begin a call in a daemon thread; return its future.

    The threads of `concurrent.futures` are joined at the end of the process, however long a call's
    answer takes.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future
