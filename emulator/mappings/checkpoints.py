"""Checkpoints in a small SQLite file.

A write is with the operating system when it returns, so it survives any end of the engine. It isn't
forced to the disk: if the machine fails, the embedded AWS loses its streams, too.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

SCHEMA = """
    CREATE TABLE IF NOT EXISTS mapping (
        uuid TEXT PRIMARY KEY, state TEXT NOT NULL, last_result TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS shard (
        uuid TEXT, shard_id TEXT, position TEXT NOT NULL, PRIMARY KEY (uuid, shard_id)
    ) WITHOUT ROWID;
"""
BUSY_SECONDS = 5.0


class SqliteCheckpoints:
    """The position of each shard and the state of each mapping, in a file."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        """Open the file, or make it."""
        self._database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def load(self, uuid: str) -> dict[str, str]:
        """Return the position of each of a mapping's shards."""
        query = "SELECT shard_id, position FROM shard WHERE uuid = ? ORDER BY shard_id"
        return dict(self._database.execute(query, [uuid]))

    def save(self, uuid: str, shards: Sequence[tuple[str, str]]) -> None:
        """Save the positions of shards: all of them or none."""
        statement = "INSERT OR REPLACE INTO shard VALUES (?, ?, ?)"
        if len(shards) == 1:
            self._database.execute(statement, [uuid, *shards[0]])
            return
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany(statement, [(uuid, *each) for each in shards])

    def forget_shard(self, uuid: str, shard_id: str) -> None:
        """Drop one shard."""
        self._database.execute(
            "DELETE FROM shard WHERE uuid = ? AND shard_id = ?", [uuid, shard_id]
        )

    def note(self, uuid: str, state: str, last_result: str) -> None:
        """Save a mapping's state and last result."""
        self._database.execute(
            "INSERT OR REPLACE INTO mapping VALUES (?, ?, ?)", [uuid, state, last_result]
        )

    def known(self) -> dict[str, tuple[str, str]]:
        """Return each mapping's state and last result."""
        rows = self._database.execute("SELECT uuid, state, last_result FROM mapping ORDER BY uuid")
        return {uuid: (state, last_result) for uuid, state, last_result in rows}

    def forget(self, uuid: str) -> None:
        """Drop a mapping with its shards."""
        self._database.execute("DELETE FROM shard WHERE uuid = ?", [uuid])
        self._database.execute("DELETE FROM mapping WHERE uuid = ?", [uuid])
