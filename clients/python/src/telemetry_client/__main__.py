"""`python -m telemetry_client` is `telemetry-client`."""

import sys

from telemetry_client.cli import main

sys.exit(main())
