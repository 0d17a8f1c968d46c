"""Writes a terminal's content as a picture, for the documentation."""

import io
import re
from pathlib import Path

from rich.console import Console, RenderableType

FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich's picture loads fonts from the web. They are removed: any monospaced font will do."""


def take_screenshot(content: RenderableType, size: tuple[int, int], file: Path) -> None:
    """Write content as the SVG of a terminal of `size` (columns, lines)."""
    columns, lines = size
    console = Console(
        record=True,
        width=columns,
        height=lines,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(content)
    picture = console.export_svg(title=f"python -m local watch, {columns}×{lines}")
    file.write_text(FONT_FACES.sub("", picture), "utf-8")
