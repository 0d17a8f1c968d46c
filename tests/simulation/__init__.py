"""The pipeline under faults, simulated: one process, virtual time, decided by a seed.

Real: the domain, the adapters, every handler's `run`, the event source mappings' engine.
Simulated: devices, the services (stream, global tables, queues, buckets, Lambda), and their faults.
`python -m tests.simulation --seed N` replays a seed and prints its history.
"""

import sys
from pathlib import Path

# As pytest's `pythonpath` has it: here it also runs by itself, and in processes of its own.
LAYER = str(Path(__file__).parents[2] / "layers" / "telemetry")
if LAYER not in sys.path:
    sys.path.insert(0, LAYER)
