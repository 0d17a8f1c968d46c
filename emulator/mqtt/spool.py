"""What the broker has taken responsibility for: on disk until every rule has done with it.

A write survives the death of the process, as checkpoints do (`emulator/mappings/checkpoints.py`).
"""

import sqlite3
import threading
from pathlib import Path
from typing import NamedTuple

TABLE = """CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,
    client_id TEXT NOT NULL, principal TEXT NOT NULL, at_ms INTEGER NOT NULL)"""


class Published(NamedTuple):
    """A message that a device has published, and when."""

    topic: str
    payload: bytes
    client_id: str
    principal: str
    at_ms: int


class Spool:
    """Messages in an SQLite file; safe to use from several threads."""

    def __init__(self, file: Path) -> None:
        """Open the file, or make it."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(TABLE)

    def add(self, message: Published) -> int:
        """Keep a message; return the number by which it is done with."""
        with self._lock:
            cursor = self._database.execute(
                "INSERT INTO messages (topic, payload, client_id, principal, at_ms)"
                " VALUES (?, ?, ?, ?, ?)",
                message,
            )
            return int(cursor.lastrowid or 0)

    def done(self, number: int) -> None:
        """Forget a message."""
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
