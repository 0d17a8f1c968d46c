"""Links between documents lead to existing pages and headings."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def pages() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return sorted({each for each in listed.stdout.splitlines() if (ROOT / each).exists()})


def anchor(heading: str) -> str:
    """Return GitHub's name of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    text = FENCE.sub("", page.read_text())
    return frozenset(anchor(each) for each in re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading."""
    wrong = []
    for of_text, of_picture in LINK.findall(FENCE.sub("", text)):
        target = of_text or of_picture
        if re.match(r"[a-z]+:", target):
            continue
        path, _, name = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (name and name not in anchors(file)):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_a_file_and_a_heading(page: str) -> None:
    assert broken(ROOT / page, (ROOT / page).read_text()) == []


def test_a_link_that_leads_nowhere_is_seen() -> None:
    text = "[a](README.md) [b](gone.md) ![c](gone.svg) [d](#no-such-heading) [e](https://x.y/)"
    assert broken(ROOT / "README.md", text) == ["gone.md", "gone.svg", "#no-such-heading"]


def test_every_page_of_docs_is_in_the_reading_order() -> None:
    order = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in order, page.name
