"""The local run: the real template deployed whole to an embedded AWS on this machine.

Nothing here imports the pipeline's code. `local` deploys `template.yaml` with the SAM CLI and then
calls its API, as any other program would. Its simulated devices import the device client from
`clients/python`, so that it needn't be installed.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "clients/python/src"))
