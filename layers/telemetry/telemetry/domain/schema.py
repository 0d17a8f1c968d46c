"""The contracts in `schemas/`: each version is an Avro file; the code follows the newest."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "schemas"
Schema = dict[str, Any]


@cache
def versions(name: str) -> tuple[Schema, ...]:
    """Return all versions of a contract (`reading`, `window`, `alert`), the oldest first."""
    schemas = [json.loads(path.read_text("utf-8")) for path in (FOLDER / name).glob("v*.avsc")]
    return tuple(sorted(schemas, key=lambda schema: int(schema["version"])))


def latest(name: str) -> Schema:
    """Return the newest version of a contract."""
    return versions(name)[-1]
