"""What the broker has taken responsibility for: on disk until every rule has done with it.

A write survives the death of the process, as checkpoints do (`emulator/mappings/checkpoints.py`).
A message that can't be written, because the disk is full or another process has locked the file,
is refused with `NotKept`: the broker must not acknowledge it.
"""

import sqlite3
import threading
from pathlib import Path
from typing import NamedTuple

TABLE = """CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,
    client_id TEXT NOT NULL, principal TEXT NOT NULL, at_ms INTEGER NOT NULL)"""
LOCKED_SECONDS = 5.0
"""How long a write waits for another process that has locked the file."""


class NotKept(Exception):
    """A message couldn't be written; it says why."""


class Published(NamedTuple):
    """A message that a device has published, and when."""

    topic: str
    payload: bytes
    client_id: str
    principal: str
    at_ms: int


class Spool:
    """Messages in an SQLite file; safe to use from several threads."""

    def __init__(self, file: Path, locked_seconds: float = LOCKED_SECONDS) -> None:
        """Open the file, or make it; a write waits so long for who has locked it."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            file, locked_seconds, check_same_thread=False, isolation_level=None
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(TABLE)

    def add(self, message: Published) -> int:
        """Keep a message; return the number by which it is done with. Raise NotKept."""
        statement = (
            "INSERT INTO messages (topic, payload, client_id, principal, at_ms)"
            " VALUES (?, ?, ?, ?, ?)"
        )
        with self._lock:
            try:
                return int(self._database.execute(statement, message).lastrowid or 0)
            except sqlite3.Error as error:
                raise NotKept(f"{message.topic}: {error}") from error

    def done(self, number: int) -> None:
        """Forget a message; raise sqlite3.Error where the file can't be written."""
        with self._lock:
            self._database.execute("DELETE FROM messages WHERE id = ?", (number,))

    def kept(self) -> list[tuple[int, Published]]:
        """Return all that a broker before this one has left, in order."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id, topic, payload, client_id, principal, at_ms FROM messages ORDER BY id"
            ).fetchall()
        return [(row[0], Published(*row[1:])) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
