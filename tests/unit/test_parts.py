"""`make test` runs every test once, whichever parts it is cut into."""

from pathlib import Path

import pytest

from tests.__main__ import ALONE, BESIDE, BROWSER, PIPELINE, WITH_OTHERS, Part, Runs

ROOT = Path(__file__).parents[2]
EVERY_FILE = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py"))
FILES = [name for name in EVERY_FILE if not name.startswith(f"{BROWSER}/")]  # `make browser`'s
NOT_ALONE = ("-m", "not alone")


def selects(part: Part, file: str) -> bool:
    """Whether pytest, told this, looks for tests in a file."""
    ignored = [each.removeprefix("--ignore=") for each in part.arguments if "--ignore=" in each]
    given = [each for each in part.arguments if each.startswith("tests")]
    return is_in(file, given) and not is_in(file, ignored)


def is_in(file: str, paths: list[str]) -> bool:
    return any(f"{file}/".startswith(f"{path}/") for path in paths)


@pytest.mark.parametrize("file", FILES)
def test_each_file_is_in_one_part_and_the_pipelines_twice(file: str) -> None:
    found = [part for part in (*BESIDE, *WITH_OTHERS) if selects(part, file)]
    assert len(found) == 1
    if is_in(file, [PIPELINE]):  # once for the tests that go on beside others, once for the rest
        assert found[0].arguments[-2:] == NOT_ALONE
        assert selects(ALONE, file)
        assert ALONE.arguments[-2:] == ("-m", "alone")


def test_a_part_that_fails_is_told_of_with_all_that_pytest_wrote(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "test_wrong.py").write_text("def test_wrong(): assert 17 + 4 == 22\n")
    (tmp_path / "test_right.py").write_text("def test_right(): pass\n")
    with Runs() as runs:
        begun = [runs.begin(Part(name, (str(tmp_path), "-k", name))) for name in ("wrong", "right")]
        assert [each.result() for each in begun] == [1, 0]
    told = capfd.readouterr().out
    assert "17 + 4" in told
    assert sorted(line[:7] for line in told.splitlines() if line[:1] in {"✓", "✗"}) == [
        "✓ right",
        "✗ wrong",
    ]
