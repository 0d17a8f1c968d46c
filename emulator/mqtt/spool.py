"""Messages that the broker has acknowledged, on disk until every rule has processed them.

A write survives the death of the process, as checkpoints do (`emulator/mappings/checkpoints.py`).
If the disk is full or another process has locked the file, a message is refused with `NotStored`,
and the broker must not acknowledge it.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

TABLE = """CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,
    client_id TEXT NOT NULL, principal TEXT NOT NULL, at_ms INTEGER NOT NULL)"""
LOCKED_SECONDS = 5.0
"""How long a write waits for its turn, and then for another process that has locked the file."""


class NotStored(Exception):
    """A message couldn't be written; the text says why."""


class Published(NamedTuple):
    """A message that a device published, with its time in ms since 1970."""

    topic: str
    payload: bytes
    client_id: str
    principal: str
    at_ms: int


class Spool:
    """Messages in an SQLite file; safe for several threads."""

    def __init__(self, file: Path, locked_seconds: float = LOCKED_SECONDS) -> None:
        """Open or make the file; a write waits up to `locked_seconds` in all."""
        self._locked_seconds = locked_seconds
        self._turn = threading.Lock()
        self._database = sqlite3.connect(
            file, locked_seconds, check_same_thread=False, isolation_level=None
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(TABLE)

    def add(self, message: Published) -> int:
        """Store a message; return its number, for `done`. Raise NotStored."""
        statement = (
            "INSERT INTO messages (topic, payload, client_id, principal, at_ms)"
            " VALUES (?, ?, ?, ?, ?)"
        )
        try:
            with self._writing():
                return int(self._database.execute(statement, message).lastrowid or 0)
        except sqlite3.Error as error:
            raise NotStored(f"{message.topic}: {error}") from error

    def done(self, number: int) -> None:
        """Remove a message; raise sqlite3.Error if the file can't be written."""
        with self._writing():
            self._database.execute("DELETE FROM messages WHERE id = ?", (number,))

    def kept(self) -> list[tuple[int, Published]]:
        """Return (number, message) of all stored messages, in order."""
        with self._turn:
            rows = self._database.execute(
                "SELECT id, topic, payload, client_id, principal, at_ms FROM messages ORDER BY id"
            ).fetchall()
        return [(row[0], Published(*row[1:])) for row in rows]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Wait for the other threads and for the file's lock, up to `locked_seconds` together.

        While another process has locked the file, each thread that has its turn waits for it. A
        thread whose time is over by then doesn't wait again. Raise sqlite3.OperationalError.
        """
        deadline = time.monotonic() + self._locked_seconds
        if not self._turn.acquire(timeout=self._locked_seconds):
            raise sqlite3.OperationalError("database is locked")
        try:
            left_ms = max(0.0, deadline - time.monotonic()) * 1000
            self._database.execute(f"PRAGMA busy_timeout = {left_ms:.0f}")
            yield
        finally:
            self._turn.release()

    def close(self) -> None:
        """Close the file."""
        self._database.close()
