"""Athena's part, played by DuckDB: the archive's views over lines, or over what Firehose wrote.

Athena's SQL is Trino's. sqlglot reads it as Trino's and writes it as DuckDB's, so the views are run
that are deployed; Trino itself isn't. Where DuckDB knows more JSON than Trino (NaN, a comma before
a brace), it proves nothing.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import sqlglot

# Of a view's definition in Glue.
BEFORE, AFTER = "/* Presto View: ", " */"
LINE_BYTES = 20 * 1024 * 1024  # a record has 10 MiB at most


def definition(view_original_text: str) -> dict[str, Any]:
    """What a view in Glue says: its query, its columns, and where it looks."""
    assert view_original_text.startswith(BEFORE)
    encoded = view_original_text.removeprefix(BEFORE).removesuffix(AFTER)
    found: dict[str, Any] = json.loads(base64.b64decode(encoded, validate=True))
    return found


def translated(sql: str) -> str:
    """A query of Trino's in DuckDB's SQL; raises sqlglot.errors.SqlglotError."""
    level = sqlglot.ErrorLevel.RAISE
    (query,) = sqlglot.transpile(
        sql, read="trino", write="duckdb", error_level=level, unsupported_level=level
    )
    return query


class Athena:
    """The archive's database: the table `records`, and views by their names, in their order."""

    def __init__(self, views: Mapping[str, str]) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")  # as Athena's is
        self._connection.execute("CREATE TABLE records (line VARCHAR, day VARCHAR, hour VARCHAR)")
        for name, sql in views.items():
            self._connection.execute(f"CREATE VIEW {name} AS {translated(sql)}")

    def close(self) -> None:
        self._connection.close()

    def keep(self, lines: Iterable[tuple[str, str, str]]) -> None:
        """Have these records, and no others: line, day and hour of each."""
        self._connection.execute("DELETE FROM records")
        if columns := [list(column) for column in zip(*lines, strict=True)]:
            rows = "SELECT unnest(?), unnest(?), unnest(?)"
            self._connection.execute(f"INSERT INTO records {rows}", columns)

    def keep_objects(self, folder: Path) -> None:
        """Have the records of a bucket's objects, which lie in a folder as Firehose named them."""
        self._connection.execute("DELETE FROM records")
        self._connection.execute(
            """
            INSERT INTO records SELECT line, day, hour FROM read_csv(
                ?, columns = {'line': 'VARCHAR'}, header = false, auto_detect = false,
                delim = '\x01', quote = '', escape = '', compression = 'gzip',
                hive_partitioning = true, hive_types_autocast = false,
                ignore_errors = true, strict_mode = false, max_line_size = ?
            )
            """,
            [f"{folder}/readings/*/*/*", LINE_BYTES],
        )

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows that a query of Athena's gives."""
        cursor = self._connection.execute(translated(sql))
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def columns(self, view: str) -> list[tuple[str, str]]:
        """Name and DuckDB's type of each column."""
        described = self._connection.execute(f"DESCRIBE {view}").fetchall()
        return [(name, kind) for name, kind, *_ in described]
