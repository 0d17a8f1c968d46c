"""The broker's process: `python -m emulator.mqtt --endpoint … --folder … --port …`.

`emulator.launcher` starts it beside the embedded AWS, and restarts it when it dies. It ends with
the launcher, because its standard input closes then.
"""

import argparse
import asyncio
import logging
import os
import signal
import threading
import time
from pathlib import Path

from emulator.mappings.__main__ import end_with_any_thread, end_with_starter, root_key
from emulator.mqtt import certificates
from emulator.mqtt.aws import AwsActions, Iot, endpoint_at
from emulator.mqtt.broker import Broker, tls_context
from emulator.mqtt.rules import RulesEngine
from emulator.mqtt.services import AwsServices
from emulator.mqtt.spool import Spool

LOGGER = logging.getLogger(__name__)
END_SECONDS = 2.0
"""How long the process waits for messages in work; the spool keeps them."""


def now_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


async def serve(url: str, region: str, folder: Path, port: int) -> None:
    """Serve devices until SIGINT or SIGTERM."""
    certificates.prepare(folder)
    endpoint = endpoint_at(url, region, root_key())
    iot = Iot(endpoint)
    spool = Spool(folder / "mqtt.sqlite3")
    rules = RulesEngine(spool, iot.rules, AwsActions(endpoint))
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    broker = Broker(iot, rules, AwsServices(endpoint), now_ms)
    server = await broker.serve(port, tls_context(folder))
    rules.start()
    await stopped.wait()
    server.close()  # without waiting for it, which would last until the last device leaves
    if rules.stop(END_SECONDS):
        spool.close()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m emulator.mqtt", description=__doc__)
    parser.add_argument("--endpoint", required=True, help="address of the AWS services")
    parser.add_argument("--region", required=True)
    parser.add_argument("--folder", required=True, type=Path, help="folder of the instance")
    parser.add_argument("--port", required=True, type=int, help="port of the broker on 127.0.0.1")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    end_with_any_thread()
    threading.Thread(target=end_with_starter, daemon=True).start()
    try:
        asyncio.run(serve(options.endpoint, options.region, options.folder, options.port))
    except BaseException:
        LOGGER.exception("the broker ends")
        os._exit(1)
    os._exit(0)  # at once, without waiting for threads: unfinished messages are in the spool


if __name__ == "__main__":
    main()
