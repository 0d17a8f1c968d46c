"""A layer is unpacked once, and every worker finds it whole in its own folder."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.gaps.layers import share_layers


@pytest.fixture
def runtime(tmp_path: Path) -> Any:
    emulator = SimpleNamespace(zipfile=zipfile)
    share_layers(emulator, tmp_path / "layers")
    return emulator


def archive(path: Path, **texts: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in texts.items():
            file.writestr(f"python/{name}.py", text)
    return path


def extract(runtime: Any, source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    with runtime.zipfile.ZipFile(source) as file:
        file.extractall(target)
    return target / "python"


def test_two_workers_find_the_same_files(runtime: Any, tmp_path: Path) -> None:
    layer = archive(tmp_path / "layer.zip", a="1", b="2")
    one = extract(runtime, layer, tmp_path / "w1" / "layer_0")
    two = extract(runtime, layer, tmp_path / "w2" / "layer_0")
    assert (one / "a.py").read_text() == (two / "a.py").read_text() == "1"
    assert (one / "b.py").samefile(two / "b.py")


def test_another_layer_has_files_of_its_own(runtime: Any, tmp_path: Path) -> None:
    old = extract(runtime, archive(tmp_path / "1.zip", a="1"), tmp_path / "w1" / "layer_0")
    new = extract(runtime, archive(tmp_path / "2.zip", a="2"), tmp_path / "w2" / "layer_0")
    assert ((old / "a.py").read_text(), (new / "a.py").read_text()) == ("1", "2")


def test_a_worker_that_goes_takes_nothing_from_the_others(runtime: Any, tmp_path: Path) -> None:
    layer = archive(tmp_path / "layer.zip", a="1")
    extract(runtime, layer, tmp_path / "w1" / "layer_0")
    two = extract(runtime, layer, tmp_path / "w2" / "layer_0")
    shutil.rmtree(tmp_path / "w1")
    assert (two / "a.py").read_text() == "1"


def test_a_functions_own_code_is_unpacked_for_each_worker(runtime: Any, tmp_path: Path) -> None:
    code = archive(tmp_path / "code.zip", handler="1")
    one = extract(runtime, code, tmp_path / "w1" / "code")
    two = extract(runtime, code, tmp_path / "w2" / "code")
    assert not (one / "handler.py").samefile(two / "handler.py")
