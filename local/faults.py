"""Faults of the machine, told by their cause: a full disk, a folder that may not be written."""

import errno
import re
import shutil
from pathlib import Path

DISK_BYTES_NEEDED = 400_000_000
"""What an instance writes: 70 MB when it is up, and more with each worker and reading."""
IS_FULL = re.compile(
    rb"No space left on device|\[Errno 28\]|ENOSPC|database or disk is full|Disk quota exceeded"
)
FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
EXHAUSTED = {errno.EMFILE, errno.ENFILE}
LOGS = "*.log"


def fault_of(error: OSError) -> str | None:
    """Return what an error of the system means for a person; None where it may be ours."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return f"{where}the disk is full: {room(Path(str(error.filename or '.')))}"
    if error.errno in FORBIDDEN:
        return (
            f"{where}may not be written ({error.strerror}): use a checkout that is yours, "
            "or change its owner or mode"
        )
    if error.errno in EXHAUSTED:
        return f"{where}too many files are open: raise the limit, `ulimit -n 4096`"
    return None


def room(folder: Path) -> str:
    """Return how much room there is and how much is needed, and how to come by it."""
    there = existing(folder)
    return (
        f"{megabytes(shutil.disk_usage(there).free)} are free at {there}, an instance takes "
        f"{megabytes(DISK_BYTES_NEEDED)}: make room, or make .local a link to a folder elsewhere"
    )


def too_little_room(folder: Path) -> str | None:
    """Return what lacks where an instance's folder hasn't room enough; None where it has."""
    if shutil.disk_usage(existing(folder)).free >= DISK_BYTES_NEEDED:
        return None
    return f"there is too little room on the disk: {room(folder)}"


def full_disk(folder: Path) -> str | None:
    """Return in which logs of an instance the disk is full, and what to do; None if in none."""
    full = [log.name for log in sorted(folder.glob(LOGS)) if IS_FULL.search(log.read_bytes())]
    if not full:
        return None
    return f"the disk is full, or was ({', '.join(full)} in {folder}): {room(folder)}"


def existing(folder: Path) -> Path:
    """Return the folder, or the first above it that is there."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def megabytes(count: int) -> str:
    """Return a number of bytes for a person."""
    return f"{count / 1e6:,.0f} MB"
