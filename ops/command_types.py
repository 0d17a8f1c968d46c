"""The types of a command: the function that adds it to a command line, and the one that runs it."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from rich.console import Console

from ops.target import Target

# argparse has no public name for it
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
Command = Callable[[argparse.Namespace, Target, Console], int]
"""Runs a command with its options, a stack and a console; returns the exit code."""
Add = Callable[[Subparsers], list[argparse.ArgumentParser]]
"""Adds a command; returns its parsers, each with `does` set to a Command."""
