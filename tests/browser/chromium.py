"""The Chromium that is on this machine: none is downloaded."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

NOT_LOOKED_AT = 3
"""The exit code where there is none; `python -m scan` has it for the same."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
HOW_TO_INSTALL = (
    "no Chromium is on this machine, so no page was looked at. Install one:\n"
    "  Debian, Ubuntu   sudo apt-get install chromium\n"
    "  Fedora           sudo dnf install chromium\n"
    "  macOS            brew install --cask chromium\n"
    "or name one that is elsewhere: CHROMIUM=/path/to/chromium make browser"
)


def executable(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of a Chromium, or of a browser made of it; None where there is none.

    CHROMIUM names one, and then no other is looked for.
    """
    named = environment.get("CHROMIUM")
    if named:
        return shutil.which(named)
    path = environment.get("PATH")
    found = [shutil.which(name, path=path) for name in NAMES]
    found += [place for place in PLACES if Path(place).exists()]
    return next(filter(None, found), None)
