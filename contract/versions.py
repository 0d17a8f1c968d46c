"""The contracts in `schemas/`: a folder for each contract, a file for each version."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Field = dict[str, Any]
FILE_NAME = re.compile(r"v([1-9][0-9]*)\.avsc")


class ContractBroken(Exception):
    """`schemas/` breaks rules; the message has a line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Version:
    """One version of a contract: its number, its file's path, and the file's content."""

    number: int
    file: str
    schema: dict[str, Any]

    @property
    def fields(self) -> dict[str, Field]:
        """The fields by name, in the file's order."""
        return {field["name"]: field for field in self.schema["fields"]}

    @property
    def device_fields(self) -> dict[str, Field]:
        """The fields that devices send; the pipeline stamps the others."""
        return {name: each for name, each in self.fields.items() if "stamped_by" not in each}

    @property
    def metrics(self) -> dict[str, Field]:
        """The fields that are metrics."""
        return {name: each for name, each in self.fields.items() if "unit" in each}


def load(root: Path) -> dict[str, list[Version]]:
    """Return the versions of each contract under `root`, the oldest first; raise ContractBroken."""
    folders = sorted(path for path in (root / "schemas").iterdir() if path.is_dir())
    problems: list[str] = []
    contracts = {folder.name: list(read(folder, problems)) for folder in folders}
    if problems:
        raise ContractBroken(problems)
    return contracts


def read(folder: Path, problems: list[str]) -> Iterator[Version]:
    """Yield each version of a contract; add files that can't be read to `problems`."""
    numbered: dict[int, Path] = {}
    for path in folder.iterdir():
        name = f"schemas/{folder.name}/{path.name}"
        if match := FILE_NAME.fullmatch(path.name):
            numbered[int(match[1])] = path
        else:
            problems.append(f"{name}: is not named for its version, as v1.avsc is")
    if not numbered:
        problems.append(f"schemas/{folder.name}: has no version; its first would be v1.avsc")
    for expected, (number, path) in enumerate(sorted(numbered.items()), 1):
        name = f"schemas/{folder.name}/{path.name}"
        if number != expected:
            problems.append(
                f"{name}: is number {expected} of the files; v{expected}.avsc is not there"
            )
            return
        try:
            schema = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            problems.append(f"{name}: is not JSON: {error}")
            continue
        if not is_record(schema):
            problems.append(f"{name}: is not an Avro record with a list of named fields")
        elif schema.get("version") != number:
            found = schema.get("version")
            problems.append(f"{name}: version is {found!r}; the file's name says {number}")
        else:
            yield Version(number, name, schema)


def is_record(schema: Any) -> bool:
    """Return whether a schema is a record whose fields have names and types."""
    return (
        isinstance(schema, dict)
        and schema.get("type") == "record"
        and isinstance(schema.get("fields"), list)
        and all(
            isinstance(each, dict) and isinstance(each.get("name"), str) and "type" in each
            for each in schema["fields"]
        )
    )
