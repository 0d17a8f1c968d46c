"""What a command is: how it is added to a command line, and what it does when it is given."""

import argparse
from collections.abc import Callable
from typing import TypeAlias

from rich.console import Console

from ops.target import Target

# argparse has no public name for it
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001
Command = Callable[[argparse.Namespace, Target, Console], int]
"""What a command does: its options, the stack, where to tell; gives the exit code."""
Add = Callable[[Subparsers], list[argparse.ArgumentParser]]
"""Adds a command; gives its parsers, each with `does` set to a Command."""
