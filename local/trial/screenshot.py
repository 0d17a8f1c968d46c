"""A picture of what a terminal shows, for the documentation."""

import io
import re
from pathlib import Path

from rich.console import Console, RenderableType

FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Rich's picture loads its font from elsewhere; a reader's own monospaced one does as well."""


def take_screenshot(shown: RenderableType, size: tuple[int, int], file: Path) -> None:
    """Write as SVG what a terminal of `size` (columns, lines) shows."""
    columns, lines = size
    console = Console(
        record=True,
        width=columns,
        height=lines,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(shown)
    picture = console.export_svg(title=f"python -m local watch, {columns}×{lines}")
    file.write_text(FONT_FACES.sub("", picture), "utf-8")
