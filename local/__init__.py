"""The local run: the real template deployed whole to an embedded AWS on this machine.

Nothing here knows the pipeline's code. `local` reaches it as anything else would: it deploys
`template.yaml` with the SAM CLI and then talks to its API. Its simulated devices use the device
client, as it is in `clients/python`, without an installation.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "clients/python/src"))
