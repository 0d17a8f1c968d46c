"""The engine's process: `python -m emulator.mappings --endpoint … --file …`.

`emulator.launcher` starts it beside the embedded AWS, and restarts it when it dies. It ends with
the launcher, because its standard input closes then.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from emulator.mappings.aws import AwsDestination, Endpoint, LambdaSink, source_of
from emulator.mappings.checkpoints import SqliteCheckpoints
from emulator.mappings.engine import Engine
from emulator.mappings.ports import Ports
from emulator.sigv4 import Key

LOGGER = logging.getLogger(__name__)
CALLS_MAX = 32
INVOCATIONS_MAX = 256
"""Enough threads for every lane of several mappings to wait for its function."""


def now_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


async def serve(url: str, region: str, file: Path) -> None:
    """Run the mappings of an AWS endpoint until SIGINT or SIGTERM."""
    calls, invocations = ThreadPoolExecutor(CALLS_MAX), ThreadPoolExecutor(INVOCATIONS_MAX)
    endpoint = Endpoint(url, region, root_key(), calls, invocations)
    ports = Ports(
        partial(source_of, endpoint),
        LambdaSink(endpoint),
        AwsDestination(endpoint),
        SqliteCheckpoints(file),
        now_ms,
    )
    engine = Engine(ports, endpoint.mappings)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, engine.stop)
    await engine.run()


def root_key() -> Key:
    """Return the key of the account's root, which `emulator.launcher` puts in the environment."""
    return Key(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])


def end_with_starter() -> None:
    """End this process when the launcher is gone, and with it the embedded AWS."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def end_with_any_thread() -> None:
    """End this process when any of its threads dies of an exception; the launcher restarts it.

    Otherwise it would go on without the work of that thread.
    """

    def end(failure: threading.ExceptHookArgs) -> None:
        LOGGER.critical("a thread has died", exc_info=failure.exc_value)
        os._exit(1)

    threading.excepthook = end


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m emulator.mappings", description=__doc__)
    parser.add_argument("--endpoint", required=True, help="address of the AWS services")
    parser.add_argument("--region", required=True)
    parser.add_argument("--file", required=True, type=Path, help="where the checkpoints are kept")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    end_with_any_thread()
    threading.Thread(target=end_with_starter, daemon=True).start()
    try:
        asyncio.run(serve(options.endpoint, options.region, options.file))
    except BaseException:
        LOGGER.exception("the engine ends")
        os._exit(1)  # at once: waiting for running functions would delay the restart


if __name__ == "__main__":
    main()
