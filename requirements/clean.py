"""Removes environments, builds, caches and ended runs from the checkout: for `make clean`.

An instance that is up stays, and so do the environments that it uses. This file needs python3
alone, without packages.
"""

import fcntl
import shutil
import sys
from pathlib import Path

ENVIRONMENTS = (".venv", ".tools")
CACHES = (".aws-sam", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")
INSTANCES = ".local"


def is_up(folder: Path) -> bool:
    """Return whether an instance's process runs, or a command brings the instance up."""
    return is_locked(folder / "lock") or is_locked(folder.with_name(f".{folder.name}.up"))


def is_locked(path: Path) -> bool:
    """Return whether a process holds a file's lock.

    The look takes a shared lock for a moment, so it doesn't keep another look from its answer.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def clean(root: Path) -> list[str]:
    """Remove the files; return the names of the instances that are up."""
    instances = root / INSTANCES
    folders = sorted(each for each in instances.glob("*") if each.is_dir())
    running = [each.name for each in folders if is_up(each)]
    for each in folders:
        if each.name not in running:
            shutil.rmtree(each)
    if instances.is_dir() and not instances.is_symlink() and not any(instances.iterdir()):
        instances.rmdir()
    for name in (*CACHES, *(() if running else ENVIRONMENTS)):
        shutil.rmtree(root / name, ignore_errors=True)
    kept = {root / name for name in (*ENVIRONMENTS, INSTANCES)}
    for cache in [each for each in root.rglob("__pycache__") if not kept & set(each.parents)]:
        shutil.rmtree(cache, ignore_errors=True)
    return running


def main() -> int:
    """Clean the folder that it is called in, and say what it has left."""
    try:
        running = clean(Path.cwd())
    except OSError as fault:
        sys.stderr.write(f"✗ {fault.filename}: {fault.strerror}\n")
        return 1
    for name in running:
        sys.stdout.write(
            f"instance '{name}' is up: it and {', '.join(ENVIRONMENTS)} are left; "
            f"`python -m local down --name {name}` ends it\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
