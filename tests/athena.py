"""DuckDB in place of Athena: runs the archive's views over lines, or over Firehose's objects.

Athena's SQL is Trino's. sqlglot translates it into DuckDB's, so the deployed views are run, but not
by Trino. DuckDB takes more JSON than Trino (NaN, a comma before a brace, a name twice), so Python
parses it here.
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
JSON_PARSE = "trino_json_parse"
LINE_BYTES = 20 * 1024 * 1024  # a record has 10 MiB at most


def definition(view_original_text: str) -> dict[str, Any]:
    """Return a Glue view's query, columns and location."""
    assert view_original_text.startswith(BEFORE)
    encoded = view_original_text.removeprefix(BEFORE).removesuffix(AFTER)
    found: dict[str, Any] = json.loads(base64.b64decode(encoded, validate=True))
    return found


def translated(sql: str) -> str:
    """Return a Trino query in DuckDB's SQL; raise sqlglot.errors.SqlglotError."""
    level = sqlglot.ErrorLevel.RAISE
    query = sqlglot.parse_one(sql, read="trino", error_level=level)
    for parsing in query.find_all(sqlglot.exp.ParseJSON):
        parsing.set("this", sqlglot.exp.func(JSON_PARSE, parsing.this))
    return query.sql("duckdb", unsupported_level=level)


def json_parse(text: str) -> str:
    """Return a JSON text as Trino's json_parse leaves it; raise ValueError where that has an error.

    It keeps the last of two values of a name, and sorts names, since it reads maps and writes them
    sorted. Python reads no number of over 4,300 digits; Trino's bound depends on its version.
    """
    value = json.loads(text, parse_constant=refuse)
    written = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    written.encode()  # raises for a lone surrogate
    return written


def refuse(constant: str) -> None:
    """Raise ValueError for NaN and the infinities, which JSON doesn't have."""
    raise ValueError(constant)


class Athena:
    """The archive's database: the table `records`, and the views in their order."""

    def __init__(self, views: Mapping[str, str]) -> None:
        self._connection = duckdb.connect()
        self._connection.create_function(
            JSON_PARSE,
            json_parse,
            ["varchar"],
            "varchar",
            exception_handling=duckdb.PythonExceptionHandling.RETURN_NULL,
        )
        self._connection.execute("SET TimeZone = 'UTC'")  # as Athena's is
        self._connection.execute("CREATE TABLE records (line VARCHAR, day VARCHAR, hour VARCHAR)")
        for name, sql in views.items():
            self._connection.execute(f"CREATE VIEW {name} AS {translated(sql)}")

    def close(self) -> None:
        self._connection.close()

    def keep(self, lines: Iterable[tuple[str, str, str]]) -> None:
        """Have exactly these records: line, day and hour of each."""
        self._connection.execute("DELETE FROM records")
        if columns := [list(column) for column in zip(*lines, strict=True)]:
            rows = "SELECT unnest(?), unnest(?), unnest(?)"
            self._connection.execute(f"INSERT INTO records {rows}", columns)

    def keep_objects(self, folder: Path) -> None:
        """Have the records of a bucket's objects, in a folder with Firehose's names."""
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
        """Return the rows of an Athena query."""
        cursor = self._connection.execute(translated(sql))
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def columns(self, view: str) -> list[tuple[str, str]]:
        """Return the name and DuckDB's type of each column."""
        described = self._connection.execute(f"DESCRIBE {view}").fetchall()
        return [(name, kind) for name, kind, *_ in described]
