"""Changes to the embedded AWS (ministack) where it differs from AWS: one module for each gap.

The first line of a module names its gap. Its function `close` changes ministack's modules in
ministack's process. `emulator.launcher` lists all modules in the order in which they are applied.
They run in an interpreter that has ministack but not this project's dependencies, so they import
only the standard library, ministack and one another.

"The emulator" in their docstrings is ministack; the number behind it is ministack's version.
"""

import importlib
from pathlib import Path
from typing import Any


class Modules:
    """The emulator's modules by name, and facts about the instance.

    `python`: the interpreter with the project's dependencies, for processes beside the emulator;
    None if there are none. `root`: the folder of the package `emulator`.
    """

    def __init__(self, folder: Path, root: Path, python: str | None) -> None:
        """Use the instance in this folder."""
        self.folder = folder
        self.root = root
        self.python = python

    def service(self, name: str) -> Any:
        """Return the module of an AWS service."""
        return importlib.import_module(f"ministack.services.{name}")

    def core(self, name: str) -> Any:
        """Return a module that several services share."""
        return importlib.import_module(f"ministack.core.{name}")

    @property
    def app(self) -> Any:
        """The module that receives requests and has the event loop."""
        return importlib.import_module("ministack.app")
