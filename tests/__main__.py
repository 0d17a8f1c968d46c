"""`make test`: every tier. The deployed pipeline's tests mostly wait; the others run beside them.

python -m tests                     all tiers
python -m tests tests/unit -x       what pytest is told
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import BinaryIO

PYTEST = (sys.executable, "-m", "pytest")
PIPELINE = "tests/pipeline"
INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Run them; 0 if all passed."""
    if arguments:
        return subprocess.call([*PYTEST, *arguments])
    with tempfile.TemporaryFile() as told:
        beside = begin(told)
        try:
            codes = [subprocess.call([*PYTEST, PIPELINE]), beside.wait()]
        except KeyboardInterrupt:  # which they got, too
            beside.wait()
            codes = [INTERRUPTED]
        told.seek(0)
        sys.stdout.buffer.write(told.read())
    return max(codes)


def begin(told: BinaryIO) -> "subprocess.Popen[bytes]":
    """Begin the tiers that keep a processor busy, behind those that must keep time."""
    command = ["nice", "-n", "10", *PYTEST, f"--ignore={PIPELINE}", "-p", "no:cacheprovider"]
    return subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
