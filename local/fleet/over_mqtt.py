"""Devices that post over MQTT: one connection per device, one message per reading.

The IoT policy demands the connection per device. A reading counts as accepted when the broker has
acknowledged it. After a reconnection the client sends unacknowledged messages again.
"""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from emulator.mqtt import certificates
from local.errors import LocalError, NoAnswer
from local.fleet.ledger import Ledger
from local.fleet.reading import Reading

CONNECTIONS_MAX = 250
"""A device costs a thread and a TLS session here, and one each in the broker."""
CONNECTORS = 8
CONNECT_SECONDS_MAX = 120.0
"""A killed broker starts again in seconds. A busy machine takes a minute for 200 devices."""
OUTSTANDING_MAX = 2_000
LOOK_SECONDS = 0.02
RETRY_SECONDS = 0.2


def speakers(devices: Sequence[str], share: float) -> list[str]:
    """Return the first devices, a share of all: they speak MQTT. Raise LocalError for too many."""
    count = math.ceil(len(devices) * share)
    if count > CONNECTIONS_MAX:
        raise LocalError(
            f"--mqtt: {count} devices would speak MQTT, a connection each; at most "
            f"{CONNECTIONS_MAX} can: --mqtt {CONNECTIONS_MAX / len(devices):.2g} is a share "
            "that fits"
        )
    return list(devices[:count])


class MqttDevices:
    """The connections of devices, and their messages that aren't acknowledged yet."""

    def __init__(self, folder: Path, port: int, devices: Sequence[str]) -> None:
        """Connect to an instance's broker with the certificates in its folder."""
        self.devices = frozenset(devices)
        self._folder = folder
        self._port = port
        self._clients: dict[str, paho.Client] = {}
        self._outstanding: dict[tuple[str, int], Reading] = {}
        self.last_answer_at: float | None = None

    async def start(self, ledger: Ledger) -> None:
        """Connect all devices; raise LocalError if one can't connect in time."""
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(CONNECTORS) as pool:
            made = [self._loop.run_in_executor(pool, self._connect, each) for each in self.devices]
            await asyncio.gather(*made)
        deadline = time.monotonic() + CONNECT_SECONDS_MAX
        while not all(client.is_connected() for client in self._clients.values()):
            if time.monotonic() > deadline:
                raise self._not_let_in()
            await asyncio.sleep(LOOK_SECONDS)

    def _not_let_in(self) -> LocalError:
        log = self._folder / "mqtt.log"
        return NoAnswer(
            f"the MQTT broker let no more devices in for {CONNECT_SECONDS_MAX:.0f} s: "
            f"{log} may say why"
        )

    def _connect(self, device_id: str) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2, device_id)
        authority = certificates.pair(self._folder, certificates.AUTHORITY).certificate
        files = certificates.device_files(self._folder, device_id)
        client.tls_set(str(authority), str(files.certificate), str(files.key))
        client.reconnect_delay_set(1, 4)

        def acknowledged(_client: Any, _data: Any, number: int, *_details: Any) -> None:
            self._loop.call_soon_threadsafe(self._taken, (device_id, number))

        client.on_publish = acknowledged
        deadline = time.monotonic() + CONNECT_SECONDS_MAX
        while True:
            try:
                client.connect("127.0.0.1", self._port)
                break
            except OSError as error:  # the broker may be starting again, which takes a second
                if time.monotonic() > deadline:
                    raise self._not_let_in() from error
                time.sleep(RETRY_SECONDS)
        client.loop_start()
        self._clients[device_id] = client

    async def send(self, reading: Reading) -> None:
        """Publish a reading; wait first while too many messages aren't acknowledged."""
        while len(self._outstanding) > OUTSTANDING_MAX:
            await asyncio.sleep(LOOK_SECONDS)
        body = {name: value for name, value in reading.body().items() if name != "device_id"}
        sent = self._clients[reading.device_id].publish(
            f"telemetry/{reading.device_id}/readings", json.dumps(body), qos=1
        )
        self._ledger.counts.posted += 1
        self._outstanding[reading.device_id, sent.mid] = reading  # before `_taken` can run

    def _taken(self, key: tuple[str, int]) -> None:
        """Record an acknowledgement once: after a reconnection there may be two."""
        reading = self._outstanding.pop(key, None)
        if reading is not None:
            self.last_answer_at = time.monotonic()
            self._ledger.accept([reading])

    async def settle(self, gives_up: asyncio.Event) -> None:
        """Wait until all messages are acknowledged, or `gives_up` is set."""
        while self._outstanding and not gives_up.is_set():
            await asyncio.sleep(LOOK_SECONDS)
        self._ledger.give_up(self._outstanding.values())
        self._outstanding.clear()

    def close(self) -> None:
        """Disconnect."""
        for client in self._clients.values():
            client.disconnect()
        for client in self._clients.values():
            client.loop_stop()
