"""A command line's parser that reports a mistake in one line, without the usage before it."""

import argparse
from typing import NoReturn

USAGE_ERROR = 2


class Parser(argparse.ArgumentParser):
    """argparse's parser with a short error message; `--help` has the usage."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and a hint to --help; exit with code 2."""
        self.exit(USAGE_ERROR, f"✗ {message}\n  {self.prog} --help says more\n")
