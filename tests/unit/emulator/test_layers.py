"""A layer is unpacked once, and every worker finds it whole in its own folder."""

import io
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.gaps.layers import share_layers


class Runtime:
    """The part of the emulator that the gap changes: starting workers, and layers by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: dict[str, bytes] = {}
        self.service = SimpleNamespace(_resolve_layer_zip=self.layers.get)
        self.runtime = SimpleNamespace(zipfile=zipfile, Worker=self.worker_class())
        share_layers(self.runtime, self.service, folder / "layers")

    def worker_class(self) -> Any:
        service: Callable[[], Any] = lambda: self.service  # noqa: E731
        zipped: Callable[[], Any] = lambda: self.runtime.zipfile  # noqa: E731

        class Worker:
            def __init__(self, folder: Path, layer: str) -> None:
                self.folder, self.layer = folder, layer

            def _spawn(self) -> None:
                target = self.folder / "layer_0"
                target.mkdir(parents=True)
                archive = self.folder / "layer_0.zip"
                archive.write_bytes(service()._resolve_layer_zip(self.layer))
                with zipped().ZipFile(archive) as layer:
                    layer.extractall(target)

        return Worker

    def start(self, worker: str, layer: str) -> Path:
        """Start a worker; return the folder of the layer's packages."""
        self.runtime.Worker(self.folder / worker, layer)._spawn()
        return self.folder / worker / "layer_0" / "python"


@pytest.fixture
def emulator(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


def archive(**texts: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        for name, text in texts.items():
            file.writestr(f"python/{name}.py", text)
    return written.getvalue()


def test_workers_that_start_at_once_find_the_same_files(emulator: Runtime) -> None:
    emulator.layers["one"] = archive(a="1", b="2")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: emulator.start(name, "one"), "abcd"))
    assert [(each / "a.py").read_text() for each in found] == ["1"] * 4
    assert all((each / "b.py").samefile(found[0] / "b.py") for each in found)
    assert len(list((emulator.folder / "layers").iterdir())) == 1


def test_another_layer_has_its_own_files(emulator: Runtime) -> None:
    emulator.layers |= {"old": archive(a="1"), "new": archive(a="2")}
    old, new = emulator.start("w1", "old"), emulator.start("w2", "new")
    assert ((old / "a.py").read_text(), (new / "a.py").read_text()) == ("1", "2")


def test_a_worker_that_ends_leaves_the_others_files(emulator: Runtime) -> None:
    emulator.layers["one"] = archive(a="1")
    emulator.start("w1", "one")
    two = emulator.start("w2", "one")
    shutil.rmtree(emulator.folder / "w1")
    assert (two / "a.py").read_text() == "1"


def test_a_caller_that_starts_no_worker_gets_the_layer_itself(emulator: Runtime) -> None:
    emulator.layers["one"] = archive(a="1")
    emulator.start("w1", "one")
    assert emulator.service._resolve_layer_zip("one") == emulator.layers["one"]
    assert emulator.service._resolve_layer_zip("none") is None


def test_a_functions_own_code_is_unpacked_for_each_worker(emulator: Runtime) -> None:
    code = emulator.folder / "code.zip"
    code.write_bytes(archive(handler="1"))
    for worker in ("w1", "w2"):
        with emulator.runtime.zipfile.ZipFile(code) as own:
            own.extractall(emulator.folder / worker)
    handlers = [emulator.folder / worker / "python/handler.py" for worker in ("w1", "w2")]
    assert not handlers[0].samefile(handlers[1])
    assert handlers[0].read_text() == "1"
