"""`python -m ops`: the operators' commands, against a stack on AWS."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupted import ends without a traceback
    from ops.cli import main

    code = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # so does an interrupted exit
    sys.exit(code)
