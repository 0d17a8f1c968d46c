"""`python -m ops`: the operators' commands, against a stack on AWS."""

import sys

from ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
