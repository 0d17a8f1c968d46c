"""Entry point of `python -m telemetry_client`, which is the command `telemetry-client`."""

import sys

from telemetry_client.cli import main

sys.exit(main())
