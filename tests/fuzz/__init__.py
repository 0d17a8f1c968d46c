"""Posts damaged requests in every format to a deployed pipeline."""

import sys
from pathlib import Path

# As pytest's `pythonpath` has it: here it also runs by itself.
LAYER = str(Path(__file__).parents[2] / "layers" / "telemetry")
if LAYER not in sys.path:
    sys.path.insert(0, LAYER)
