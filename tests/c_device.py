"""Compiles and runs the C device of docs/devices.md, if a compiler and libcurl are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "examples" / "device.c"
COMPILE_SECONDS, RUN_SECONDS = 120, 60


def compiled(folder: Path) -> Path:
    """Compile the example with warnings as errors; skip the test without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is there")
    program = folder / "device"
    probe = subprocess.run(
        [compiler, "-E", "-"],
        input="#include <curl/curl.h>",
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.returncode:
        pytest.skip("libcurl's headers aren't there (Debian: libcurl4-openssl-dev)")
    flags = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-O1"]
    command = [compiler, *flags, "-o", str(program), str(SOURCE), "-lcurl"]
    subprocess.run(command, check=True, timeout=COMPILE_SECONDS)
    return program


def run_device(
    program: Path, measurements: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Give the device its measurements, and wait for its end."""
    return subprocess.run(
        [program, *arguments],
        input=measurements,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
