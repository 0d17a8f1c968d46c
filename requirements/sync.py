"""Installs exactly the packages of a lock into an environment: `sync.py STAMP LOCK` (Makefile).

The environment is the stamp's folder. This file needs python3 alone, without packages.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "Python 3.11 or newer is needed; %s is %d.%d. Name another: make ... PYTHON=python3.13"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )

import fcntl
import os
import subprocess
import time
from pathlib import Path

UV = Path(".tools/uv")


def commands(environment: Path, lock: Path, *, new: bool) -> list[list[str]]:
    """Return the commands that make `environment`, if it is new, and install `lock` into it."""
    python = f"{environment}/bin/python"
    if environment == UV:  # pip installs uv; uv installs all other environments
        create = [sys.executable, *f"-m venv --clear {environment}".split()]
        pip = f"{python} -m pip install -qq --disable-pip-version-check --only-binary :all:"
        install = f"{pip} --require-hashes --requirement {lock}".split()
    else:
        uv = f"{UV}/bin/uv"
        create = [*f"{uv} venv --quiet --clear {environment} --python".split(), sys.executable]
        install = f"{uv} pip sync --quiet --require-hashes --python {python} {lock}".split()
    return [create, install] if new else [install]


def main(stamp: Path, lock: Path) -> None:
    environment = stamp.parent
    Path(".tools").mkdir(exist_ok=True)
    with Path(".tools/lock").open("w") as turn:  # a second `make` waits here meanwhile
        fcntl.flock(turn, fcntl.LOCK_EX)
        new = not stamp.exists()
        if not new and stamp.stat().st_mtime >= lock.stat().st_mtime:
            return  # it is up to date
        stamp.unlink(missing_ok=True)  # if interrupted from here on, the next run starts anew
        print(f"set up {environment} ", end="", file=sys.stderr, flush=True)
        started = time.monotonic()
        for command in commands(environment, lock, new=new):
            subprocess.run(command, check=True, env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"})
        stamp.touch()
        print(f"in {time.monotonic() - started:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except subprocess.CalledProcessError as failed:
        sys.exit(f"failed: {' '.join(failed.cmd)}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as fault:  # the folder isn't writable, or the disk is full
        place = fault.filename or Path.cwd()
        sys.exit(f"✗ {place}: {fault.strerror}: .tools/ here must be writable, with room for tools")
