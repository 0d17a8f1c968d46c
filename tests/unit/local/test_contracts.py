"""With a file that `make schemas` would change, nothing is built or started."""

import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from local import session
from local.contracts import refuse_stale
from local.errors import LocalError
from local.instance import ROOT, Instance
from local.view import Steps

USERS = ("rules.yaml", "metrics.yaml", "influx.yaml")
READ = ("contract", "layers", "schemas", *USERS, "template.yaml", "stacks")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files that `make schemas` needs."""
    root = tmp_path_factory.mktemp("checkout")
    derived = ("docs/metrics.md", "clients/python/src")
    listed = subprocess.check_output(["git", "ls-files", *READ, *derived], cwd=ROOT, text=True)
    for name in listed.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (root / name).symlink_to((ROOT / name).readlink())
        else:
            (root / name).write_bytes((ROOT / name).read_bytes())
    return root


@pytest.fixture
def rules(checkout: Path) -> Path:
    path = checkout / "rules.yaml"
    path.write_bytes((ROOT / "rules.yaml").read_bytes())
    return path


def changed(path: Path, old: str, new: str) -> None:
    assert old in path.read_text("utf-8")
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")


def test_files_that_make_schemas_would_not_change_may_be_deployed(rules: Path) -> None:
    refuse_stale(rules.parent)


def test_a_rule_that_is_not_compiled_yet_names_the_stale_file_and_the_command(rules: Path) -> None:
    changed(rules, "above: 38", "above: 37.5")
    with pytest.raises(LocalError) as refused:
        refuse_stale(rules.parent)
    sources = "schemas/, rules.yaml and metrics.yaml"
    told = f"template.yaml: is not what {sources} say; run `make schemas`"
    assert str(refused.value) == told


def test_a_rule_that_can_never_fire_is_not_deployed(rules: Path) -> None:
    changed(rules, "above: 38", "above: 150")
    with pytest.raises(LocalError, match=r"rules\[0\]\.above: nothing is ever above 150"):
        refuse_stale(rules.parent)


def test_nothing_is_started_with_a_stale_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise LocalError("template.yaml: is stale")

    monkeypatch.setattr(session, "refuse_stale", refuse)
    monkeypatch.setattr(session, "tool", lambda _environment, program: Path(program))
    instance = Instance("never-up", tmp_path / "never-up")
    steps = Steps(Console(file=StringIO()))
    with pytest.raises(LocalError, match="is stale"), session.brought_up(instance, steps, {}):
        pass
    assert not instance.folder.exists()
