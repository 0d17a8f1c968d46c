"""The files that `up` deploys, and their changes since the last deployment."""

from pathlib import Path

import pytest

from local.cli import main
from local.instance import Instance, State
from local.sources import changes, digests, listed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("template.yaml", "samconfig.toml", "rules.yaml", "functions/alert/handler.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "schemas/reading").mkdir(parents=True)
    (tmp_path / "schemas/reading/v1.avsc").write_text("{}")
    layer = tmp_path / "layers/telemetry"
    layer.mkdir(parents=True)
    (layer / "rules.yaml").symlink_to("../../rules.yaml")
    (layer / "schemas").symlink_to("../../schemas")
    (tmp_path / "stacks").mkdir()
    return tmp_path


def test_each_deployed_file_has_its_own_name(root: Path) -> None:
    assert sorted(digests(root)) == [
        "functions/alert/handler.py",
        "rules.yaml",
        "samconfig.toml",
        "schemas/reading/v1.avsc",
        "template.yaml",
    ]


def test_only_edited_added_and_removed_files_have_changed(root: Path) -> None:
    before = digests(root)
    assert changes(before, digests(root)) == []
    (root / "rules.yaml").write_text("others")
    (root / "functions/alert/more.py").write_text("")
    (root / "schemas/reading/v1.avsc").unlink()
    names = ["functions/alert/more.py", "rules.yaml", "schemas/reading/v1.avsc"]
    assert changes(before, digests(root)) == names


def test_compiled_python_is_not_deployed(root: Path) -> None:
    before = digests(root)
    (root / "functions/alert/__pycache__").mkdir()
    (root / "functions/alert/__pycache__/handler.cpython-311.pyc").write_bytes(b"1")
    assert digests(root) == before


def test_many_names_are_counted_from_the_seventh_on() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([*"abcdefgh"]) == "a, b, c, d, e, f and 2 more"


def test_a_check_with_undeployed_rules_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = State(is_deployed=True, sources=digests() | {"rules.yaml": "another"})
    monkeypatch.setattr(Instance, "deployed", lambda _self: state)
    assert main(["devices", "--check", "--for", "1s", "--name", "edited"]) == 1
    message = "rules.yaml has changed since it was deployed, and --check uses it"
    assert message in capsys.readouterr().err
