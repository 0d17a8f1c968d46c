"""A command line's parser that tells a mistake in one line, not below a dozen of usage."""

import argparse
from typing import NoReturn

USAGE_ERROR = 2


class Parser(argparse.ArgumentParser):
    """argparse's own, but for what it says of a mistake; `--help` has the usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where to read what would be right; end with code 2."""
        self.exit(USAGE_ERROR, f"✗ {message}\n  {self.prog} --help says more\n")
