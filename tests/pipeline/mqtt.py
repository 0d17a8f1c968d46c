"""A device that speaks MQTT, with a client of others."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from emulator.mqtt.certificates import Pair
from local.fleet.credentials import issue_certificates, mqtt_authority
from tests.pipeline.deployed import Pipeline
from tests.waiting import Patience

ANSWER_SECONDS_MAX = 60.0


class MqttDevice:
    """A connection with a device's certificate."""

    def __init__(
        self, pipeline: Pipeline, device_id: str, client_id: str = "", files: Pair | None = None
    ) -> None:
        files = files or issue_certificates(pipeline.instance, [device_id])[device_id]
        self.seen: list[str] = []
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id or device_id, reconnect_on_failure=False
        )
        self.client.tls_set(
            str(mqtt_authority(pipeline.instance.folder)), str(files.certificate), str(files.key)
        )
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.connect("127.0.0.1", pipeline.state.mqtt_port)
        self.client.loop_start()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self.seen.append(f"connected: {reason}")

    def _on_disconnect(self, *_details: Any) -> None:
        self.seen.append("disconnected")

    def end(self) -> None:
        """Close all sockets."""
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()  # those to wake its thread by

    def waits_for(self, *seen: str) -> None:
        """Wait until exactly these events of the connection were seen."""
        patience = Patience(ANSWER_SECONDS_MAX)
        while self.seen != list(seen) and not patience.is_over():
            time.sleep(0.02)
        assert self.seen == list(seen)

    def publish(self, topic: str, document: Any) -> None:
        """Publish, and wait until the broker has taken it."""
        payload = document if isinstance(document, bytes) else json.dumps(document)
        message = self.client.publish(topic, payload, qos=1)
        message.wait_for_publish(ANSWER_SECONDS_MAX)
        assert message.is_published()


@contextmanager
def connected(
    pipeline: Pipeline, device_id: str, files: Pair | None = None
) -> Iterator[MqttDevice]:
    """Yield a connected device; it gets a certificate if it has none."""
    device = MqttDevice(pipeline, device_id, files=files)
    try:
        device.waits_for("connected: Success")
        yield device
    finally:
        device.end()
