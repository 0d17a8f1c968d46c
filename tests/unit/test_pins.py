"""The environments' locks: one version of a package in all, but where a reason is written down."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LOCKS = (*(ROOT / "requirements").glob("*.txt"), ROOT / "layers/telemetry/requirements.txt")
PINNED = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


def faults(locks: Iterable[str], reasons: Mapping[str, str]) -> list[str]:
    """Packages that differ without a reason, and reasons for what doesn't differ.

    A lock may have several versions of a package, for several Pythons; another with the same ones
    doesn't differ from it.
    """
    versions: dict[str, set[frozenset[str]]] = {}
    for lock in locks:
        pinned: dict[str, set[str]] = {}
        for name, version in PINNED.findall(lock):
            pinned.setdefault(name, set()).add(version)
        for name, found in pinned.items():
            versions.setdefault(name, set()).add(frozenset(found))
    different = {name for name, found in versions.items() if len(found) > 1}
    unexplained = [
        f"{name}: {sorted(map(sorted, versions[name]))}" for name in different - reasons.keys()
    ]
    return sorted(unexplained) + [
        f"{name}: is the same" for name in sorted(reasons.keys() - different)
    ]


def test_an_environments_versions_differ_only_where_a_reason_is_written_down() -> None:
    reasons = yaml.safe_load((ROOT / "requirements/differences.yaml").read_text("utf-8"))
    assert faults([lock.read_text("utf-8") for lock in LOCKS], reasons) == []


def test_a_difference_and_a_reason_without_one_are_told() -> None:
    locks = ["a==1 \\\n    --hash=x\nb==2 ; python_version<'3.12'\nb==3\n", "a==2\nb==2\nb==3\n"]
    assert faults(locks, {}) == ["a: [['1'], ['2']]"]
    assert faults(locks, {"a": "so", "b": "so"}) == ["b: is the same"]


def test_no_lock_names_a_registry() -> None:
    assert [lock.name for lock in LOCKS if "://" in lock.read_text("utf-8")] == []
