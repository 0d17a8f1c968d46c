"""Explains faults of the machine by their cause: a full disk, a folder that isn't writable."""

import errno
import re
import shutil
from pathlib import Path

DISK_BYTES_NEEDED = 400_000_000
"""Space that an instance needs: 70 MB when it is up, more with each worker and reading."""
IS_FULL = re.compile(
    rb"No space left on device|\[Errno 28\]|ENOSPC|database or disk is full|Disk quota exceeded"
)
FULL = {errno.ENOSPC, errno.EDQUOT}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
EXHAUSTED = {errno.EMFILE, errno.ENFILE}
LOGS = "*.log"


def fault_of(error: OSError) -> str | None:
    """Explain an error of the operating system; return None if it may be a bug of ours."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in FULL:
        return f"{where}the disk is full: {room(Path(str(error.filename or '.')))}"
    if error.errno in FORBIDDEN:
        return (
            f"{where}may not be written ({error.strerror}): use a checkout of your own, "
            "or change its owner or mode"
        )
    if error.errno in EXHAUSTED:
        return f"{where}too many files are open: raise the limit, `ulimit -n 4096`"
    return None


def room(folder: Path) -> str:
    """Return a text: how much space is free, how much is needed, and how to get it."""
    there = existing(folder)
    return (
        f"{megabytes(shutil.disk_usage(there).free)} are free at {there}, an instance takes "
        f"{megabytes(DISK_BYTES_NEEDED)}: make room, or make .local a link to a folder elsewhere"
    )


def too_little_room(folder: Path) -> str | None:
    """Return an error message if the disk has too little space for an instance, else None."""
    if shutil.disk_usage(existing(folder)).free >= DISK_BYTES_NEEDED:
        return None
    return f"there is too little room on the disk: {room(folder)}"


def full_disk(folder: Path) -> str | None:
    """Return an error message if an instance's logs report a full disk, else None."""
    full = [log.name for log in sorted(folder.glob(LOGS)) if IS_FULL.search(log.read_bytes())]
    if not full:
        return None
    return f"the disk is full, or was ({', '.join(full)} in {folder}): {room(folder)}"


def existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def megabytes(count: int) -> str:
    """Return a number of bytes as text: 400 MB."""
    return f"{count / 1e6:,.0f} MB"
