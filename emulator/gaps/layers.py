"""A gap of the embedded AWS, closed: a function that starts finds its layers, as on Lambda.

The emulator (1.5.33) unpacks all layers anew for each worker, in its own process, and each worker
compiles them again: two seconds of CPU at every cold start. Here a layer is unpacked once into the
instance's folder, and workers get a link to it.
"""

import hashlib
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LAYER = "layer_"
"""What the folder's name begins with that a worker's layer is unpacked into."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    share_layers(modules.core("lambda_runtime"), modules.folder / "layers")


def share_layers(lambda_runtime: Any, folder: Path) -> None:
    """Have `ministack.core.lambda_runtime` unpack each layer once, into `folder`."""

    class SharingZipFile(zipfile.ZipFile):
        """An archive that is unpacked by linking to what is there of an equal one."""

        def extractall(self, path: Any = None, *args: Any) -> None:
            if Path(path).name.startswith(LAYER):
                link(unpacked(self, folder), Path(path))
            else:
                super().extractall(path, *args)

    lambda_runtime.zipfile = SimpleNamespace(
        ZipFile=SharingZipFile,
        BadZipFile=zipfile.BadZipFile,
        LargeFileError=zipfile.LargeZipFile,  # as the emulator calls it
    )


def unpacked(archive: zipfile.ZipFile, folder: Path) -> Path:
    """Return the folder in which the archive's files are; unpack them if they are not yet."""
    parts = [f"{each.filename} {each.CRC} {each.file_size}" for each in archive.infolist()]
    found = folder / hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(dir=folder))
        zipfile.ZipFile.extractall(archive, own)
        with suppress(OSError):  # another worker's start was faster
            own.rename(found)
    return found


def link(source: Path, target: Path) -> None:
    """Make what is at the top of one folder appear in another."""
    for each in source.iterdir():
        (target / each.name).symlink_to(each)
