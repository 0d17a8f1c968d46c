"""What the embedded AWS (ministack) does otherwise than AWS, closed: a module for each gap.

The first line of each says which; its `close` changes the emulator's modules in its own process.
`emulator.launcher` names them all, in the order in which they are closed. They run in the
interpreter that has the emulator and nothing of the project, so they import the standard library,
the emulator and one another.
"""

import importlib
from pathlib import Path
from typing import Any


class Modules:
    """The emulator's modules by name, and what a gap needs to know of the instance.

    `python`: an interpreter that has the project's packages, for what runs beside the emulator;
    None where nothing does. `root`: the folder that has the package `emulator`.
    """

    def __init__(self, folder: Path, root: Path, python: str | None) -> None:
        """Of the instance whose folder this is."""
        self.folder = folder
        self.root = root
        self.python = python

    def service(self, name: str) -> Any:
        """Return the module that is a service of AWS's."""
        return importlib.import_module(f"ministack.services.{name}")

    def core(self, name: str) -> Any:
        """Return a module that several services share."""
        return importlib.import_module(f"ministack.core.{name}")

    @property
    def app(self) -> Any:
        """The module that takes requests and knows the event loop."""
        return importlib.import_module("ministack.app")
