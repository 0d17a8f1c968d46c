"""The tools in `.tools`, which `make` installs, each in an environment of its own."""

from pathlib import Path

from local.errors import LocalError
from local.instance import ROOT

TOOLS = {"sam": "sam", "uv": "uv", "aws": "python"}
"""The program of each environment."""


def tool(environment: str, program: str) -> Path:
    """Return the path of a program in `.tools`; raise LocalError if it isn't installed."""
    path = ROOT / ".tools" / environment / "bin" / program
    if not path.exists():
        raise LocalError(
            f"{path.relative_to(ROOT)} is missing: `make up` or `make run` installs it"
        )
    return path
