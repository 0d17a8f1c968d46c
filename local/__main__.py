"""Entry point of `python -m local`."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupted import ends without a traceback
    from local.cli import main

    code = main()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupted exit, too
    sys.exit(code)
