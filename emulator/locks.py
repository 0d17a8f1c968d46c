"""Locks on files, which end with the process that holds them, and looks at such a lock."""

import fcntl
import os
import time
from pathlib import Path

LOOKS_SECONDS = 1.0
"""How long a lock waits for processes that only look whether it is held."""
PAUSE_SECONDS = 0.01


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file; False if there is no such file.

    The look takes a shared lock for a moment, so looks don't disturb each other.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock(descriptor: int) -> None:
    """Lock an open file alone; raise BlockingIOError if another process keeps its lock.

    A process that only looks whether the file is locked doesn't keep it.
    """
    deadline = time.monotonic() + LOOKS_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
