"""A device's program, to be killed: it records without end, and writes down each `record()`.

    python -m tests.client.device STORE JOURNAL URL LIFE TIMEOUT

The token is in the environment. A line on standard input makes it stop recording, send the waiting
readings and end; it then prints the result. A reading's metrics identify it: the life of the
program, and the number within it.
"""

import logging
import os
import random
import sys
import threading
import time

from telemetry_client import Client, ClientOptions, Https, StoreOptions
from telemetry_client.pace import PaceOptions

DEVICE_ID_VARIABLE = "DEVICE_ID"
PAUSE_SECONDS = 0.01
DRAIN_SECONDS = 60.0
PACE = PaceOptions(first_s=0.02, most_s=0.5, refused_first_s=0.1, refused_most_s=0.5)


def metrics(life: int, number: int) -> dict[str, float]:
    """Return metrics that no other reading of the device has."""
    return {"temperature": -90 + life / 10, "pressure": 300 + number / 100}


def await_line(is_over: threading.Event) -> None:
    sys.stdin.readline()
    is_over.set()


def main(store: str, journal: str, url: str, life: int, timeout_s: float) -> int:
    """Record until a line comes on standard input."""
    logging.getLogger("telemetry_client").setLevel(logging.ERROR)  # troubles are what it is for
    options = ClientOptions(
        batch_max=50,
        batch_age_s=0.05,
        pace=PACE,
        store=StoreOptions(synchronous="normal"),  # a kill is no loss of power
    )
    transport = Https(url, os.environ["TELEMETRY_TOKEN"], timeout_s=timeout_s, proxy=None)
    client = Client(store, os.environ[DEVICE_ID_VARIABLE], transport, options)
    client.start()
    is_over = threading.Event()
    threading.Thread(target=await_line, args=(is_over,), daemon=True).start()
    chance = random.Random(life)
    with open(journal, "ab", buffering=0) as notes:  # noqa: PTH123 - one write a line
        number = 0
        while not is_over.is_set():
            at_ms = client.record(metrics(life, number))
            notes.write(f"{at_ms} {life} {number}\n".encode())
            number += 1
            time.sleep(chance.random() * PAUSE_SECONDS)
    is_sent = client.flush(DRAIN_SECONDS)
    client.close()
    return 0 if is_sent else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
