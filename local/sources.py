"""The files of this checkout that are deployed, with digests that show which have changed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from local.instance import ROOT

FILES = ("template.yaml", "samconfig.toml")
FOLDERS = ("functions", "layers", "stacks")
SHOWN_MAX = 6


def digests(root: Path = ROOT) -> dict[str, str]:
    """Return the SHA-256 digest of each deployed file, by its path in the checkout.

    Links are followed: the layer links to rules.yaml, influx.yaml and schemas/.
    """
    found = {root / name for name in FILES}
    for folder in FOLDERS:
        found |= {path.resolve() for path in inside(root / folder)}
    return {
        path.relative_to(root.resolve()).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(path.resolve() for path in found)
    }


def inside(folder: Path) -> Iterator[Path]:
    """Return the files in a folder and its subfolders; links are followed."""
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and path.name != "__pycache__":
            yield from inside(path)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return the names that were added, removed or changed."""
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name) != after.get(name)]


def listed(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = len(names) - SHOWN_MAX
    return ", ".join(names[:SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
