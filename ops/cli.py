"""The operators' command line: `python -m ops COMMAND --env ENVIRONMENT`.

A function adds each command. `python -m local` has the commands in COMMANDS, too, for the stack of
a local instance. It doesn't have those in ON_AWS, or has them under another name.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from ops import adopt, devices, quarantine, redrive, replay
from ops.arguments import Parser
from ops.command_types import Add
from ops.errors import OpsError
from ops.target import on_aws

INTERRUPTED = 130
DEFAULT_ENVIRONMENT = "default"

COMMANDS: tuple[Add, ...] = (redrive.add, quarantine.add, replay.add)
ON_AWS: tuple[Add, ...] = (adopt.add, devices.add)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    whole: argparse.ArgumentParser = Parser(
        prog="python -m ops", description="Operators' commands for a stack on AWS."
    )
    added = whole.add_subparsers(metavar="COMMAND", required=True)
    for add in (*COMMANDS, *ON_AWS):
        for each in add(added):
            each.add_argument(
                "--env",
                default=DEFAULT_ENVIRONMENT,
                metavar="ENVIRONMENT",
                help=f"the environment of samconfig.toml (default: {DEFAULT_ENVIRONMENT})",
            )
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not earlier: see `__main__`
    try:
        done: int = options.does(options, on_aws(options.env), Console())
    except OpsError as error:
        Console(stderr=True).print(f"[red]✗[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return done
