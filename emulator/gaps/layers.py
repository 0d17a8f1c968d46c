"""Closes a gap of the embedded AWS: a function starts with unpacked layers, as on Lambda.

The emulator (1.5.33) unpacks all layers for each worker, in its own process, and each worker
compiles them again: two seconds of CPU at every cold start. Reading the names in an archive alone
takes 0.15 s. Here a layer is unpacked once into the instance's folder. A worker that starts gets an
empty archive, whose comment names that folder, and unpacking it makes links to the folder.
"""

import io
import tempfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

UNPACKED_AT = b"unpacked at "


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    share_layers(
        modules.core("lambda_runtime"), modules.service("lambda_svc"), modules.folder / "layers"
    )


def share_layers(lambda_runtime: Any, lambda_svc: Any, folder: Path) -> None:
    """Make `ministack.core.lambda_runtime` unpack each layer once, into `folder`.

    A worker that starts gets the archives of its layers from `ministack.services.lambda_svc`.
    """
    starting = threading.local()  # .is_worker: whether this thread is starting a worker
    layers = Layers(folder)
    spawn, resolve = lambda_runtime.Worker._spawn, lambda_svc._resolve_layer_zip

    class LinkingZipFile(zipfile.ZipFile):
        """An archive that is unpacked by links to a folder, if its comment names one."""

        def extractall(self, path: Any = None, *args: Any) -> None:
            if self.comment.startswith(UNPACKED_AT):
                link(Path(self.comment.removeprefix(UNPACKED_AT).decode()), Path(path))
            else:
                super().extractall(path, *args)

    def spawn_with_links(self: Any) -> None:
        starting.is_worker = True
        try:
            spawn(self)
        finally:
            starting.is_worker = False

    def resolve_for_worker(attachment: Any) -> bytes | None:
        archive: bytes | None = resolve(attachment)
        is_worker = getattr(starting, "is_worker", False)
        return layers.reference(archive) if archive and is_worker else archive

    lambda_runtime.Worker._spawn = spawn_with_links
    lambda_svc._resolve_layer_zip = resolve_for_worker
    lambda_runtime.zipfile = SimpleNamespace(
        ZipFile=LinkingZipFile,
        BadZipFile=zipfile.BadZipFile,
        LargeFileError=zipfile.LargeZipFile,  # the emulator's name for it
    )


class Layers:
    """Unpacked layers, each in its own folder."""

    def __init__(self, folder: Path) -> None:
        """Unpack into folders in `folder`."""
        self._folder = folder
        self._lock = threading.Lock()  # several workers often start at once
        self._known: dict[int, tuple[bytes, bytes]] = {}
        """An archive and its substitute, by the archive's `id`."""

    def reference(self, archive: bytes) -> bytes:
        """Return the empty archive in place of this one; unpack this one the first time."""
        with self._lock:
            if id(archive) not in self._known:
                self._known[id(archive)] = archive, standing_for(self._unpacked(archive))
            return self._known[id(archive)][1]

    def _unpacked(self, archive: bytes) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(dir=self._folder))
        with zipfile.ZipFile(io.BytesIO(archive)) as whole:
            whole.extractall(own)
        return own


def standing_for(folder: Path) -> bytes:
    """Return an empty archive whose comment names the folder of an unpacked one."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.comment = UNPACKED_AT + str(folder).encode()
    return written.getvalue()


def link(source: Path, target: Path) -> None:
    """Link the top entries of `source` into `target`."""
    for each in source.iterdir():
        (target / each.name).symlink_to(each)
