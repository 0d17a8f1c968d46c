"""What `make first-hour` takes from the README, and what it misses in an output."""

import pytest

from tests.readme.__main__ import EXPECTED, HEADING, ROOT, missing, ten_lines


def test_the_readme_has_its_lines_and_no_fixed_date() -> None:
    lines = ten_lines((ROOT / "README.md").read_text("utf-8"))
    assert lines.startswith("make up")
    assert "date +%s" in lines
    assert "20" + "26-" not in lines


def test_a_readme_without_the_block_is_told() -> None:
    with pytest.raises(ValueError, match="no ```sh block"):
        ten_lines(f"{HEADING}\nnothing here\n")


def test_each_result_that_an_output_lacks_is_named() -> None:
    whole = '{"accepted": 1}\nmean 39.5\noverheating opened\n60 readings accepted\n'
    assert missing(whole) == []
    assert missing(whole.replace("39.5", "39.4")) == ["the window's mean"]
    assert missing("") == list(EXPECTED)
