"""`make browser`: the tests of this folder, in a Chromium that is there.

python -m tests.browser             all of them
python -m tests.browser -k origin   what pytest is told

Ends with 3 where no Chromium is: nothing was looked at.
"""

import subprocess
import sys
from collections.abc import Sequence

from tests.browser.chromium import HOW_TO_INSTALL, NOT_LOOKED_AT, executable


def main(arguments: Sequence[str]) -> int:
    """Run them; 0 if all passed."""
    if executable() is None:
        print(HOW_TO_INSTALL, file=sys.stderr)
        return NOT_LOOKED_AT
    command = [sys.executable, "-m", "pytest", "tests/browser", *arguments]
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
