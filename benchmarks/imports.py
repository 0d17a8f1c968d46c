"""Measures the imports of each handler at a cold start, by package.

Figures are milliseconds, the best of three starts by `python -X importtime` with compiled bytecode.
Tracing adds to them, and they are this machine's: compare handlers by them, not Lambda's cold
starts.
"""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
STARTS = 3
PACKAGES_SHOWN = 5
IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)")  # its own µs, package


def import_us(function: Path) -> Counter[str]:
    """Return the microseconds of one start, by top-level package."""
    command = [sys.executable, "-X", "importtime", "-c", "import handler"]
    path = {"PYTHONPATH": f"{function}:{ROOT / 'layers/telemetry'}"}
    done = subprocess.run(command, env=path, capture_output=True, text=True, check=True)
    spent: Counter[str] = Counter()
    for own_us, package in IMPORTED.findall(done.stderr):
        spent[package if package not in sys.stdlib_module_names else "stdlib"] += int(own_us)
    return spent


def main() -> None:
    print(f"{'function':<11}{'ms':>5}  of which")
    for handler in sorted(ROOT.glob("functions/*/handler.py")):
        starts = [import_us(handler.parent) for _ in range(STARTS + 1)][1:]  # the first compiles
        best = min(starts, key=Counter.total)
        parts = (f"{package} {us / 1000:.0f}" for package, us in best.most_common(PACKAGES_SHOWN))
        print(f"{handler.parent.name:<11}{best.total() / 1000:>5.0f}  {', '.join(parts)}")


if __name__ == "__main__":
    main()
