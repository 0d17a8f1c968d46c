"""MQTT transport to AWS IoT Core, QoS 1: a reading is taken once the broker has acknowledged it.

There is no answer about single readings: the pipeline puts refused ones into its quarantine.
"""

import ssl
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from telemetry_client.answers import Remedy, Verdict
from telemetry_client.errors import Invalid
from telemetry_client.formats import Body, Format, Json
from telemetry_client.reading import Queued
from telemetry_client.transport import check_host

if TYPE_CHECKING:
    from paho.mqtt.client import Client as PahoClient
    from paho.mqtt.client import MQTTMessageInfo

INFLIGHT_MAX = 100  # IoT Core's limit of a connection: unacknowledged messages, and per second
KEEPALIVE_S = 60
POLL_S = 0.02
ENDED = (
    "the connection ended: the network failed, the certificate's policy doesn't let it connect or "
    "publish under the device's name, or that name is connected elsewhere"
)


class Mqtt:
    """Publishes to the device's own topics. Needs the extra `mqtt`."""

    max_bytes = 114_688  # IoT Core takes 128 KiB

    def __init__(
        self,
        host: str,
        port: int = 8883,
        *,
        ca_file: str | Path | None = None,
        client_certificate: tuple[str, str] | None = None,
        body_format: Format | None = None,
        topics: Literal["batch", "readings"] = "batch",
        timeout_s: float = 30.0,
        tls: bool = True,
    ) -> None:
        """Take the broker's address; raise Invalid for a wrong argument.

        `client_certificate`: the files of the device's certificate and its key.
        `topics`: `batch` sends a batch per message, `readings` one JSON reading per message.
        """
        if topics not in {"batch", "readings"}:
            raise Invalid("topics", topics, "is neither 'batch' nor 'readings'")
        if topics == "readings" and body_format not in {None, Json()}:
            raise Invalid("body_format", body_format, "is not JSON, which topic `readings` needs")
        try:
            import paho.mqtt.client  # noqa: F401, PLC0415 - an extra
        except ImportError:
            reason = "needs paho-mqtt: pip install 'telemetry-client[mqtt]'"
            raise Invalid("transport", "mqtt", reason) from None
        if not 0 < port < 65_536:
            raise Invalid("port", port, "is not from 1 to 65535")
        self._address = check_host("host", host), port
        self._topics = topics
        self._format = body_format or Json(gzip=topics == "batch")
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
            if client_certificate:
                self._tls.load_cert_chain(*client_certificate)
        self._client: PahoClient | None = None
        self._device_id: str | None = None
        self._next_burst = 0.0

    def deliver(self, device_id: str, readings: Sequence[Queued]) -> Verdict:
        """Publish the readings, and wait until the broker has acknowledged each message."""
        everything = list(range(len(readings)))
        deadline = time.monotonic() + self._timeout_s
        try:
            client = self._connected(device_id, deadline)
        except PermissionError as error:
            return Verdict(again=everything, remedy=Remedy.PERSON, problem=str(error))
        except OSError as error:
            return Verdict(again=everything, remedy=Remedy.LESS, problem=f"no answer: {error!r}")
        published = self._publish(client, self._messages(device_id, readings))
        acknowledged = [self._is_acknowledged(each, client, deadline) for each in published]
        if all(acknowledged):
            return Verdict(taken=everything)
        problem = "no acknowledgement" if client.is_connected() else ENDED
        self.close()  # otherwise paho would publish unacknowledged messages again by itself
        if self._topics == "batch":
            return Verdict(again=everything, remedy=Remedy.LESS, problem=problem)
        again = [index for index in everything if not acknowledged[index]]
        taken = [index for index in everything if acknowledged[index]]
        return Verdict(taken, [], again, Remedy.LESS, problem)

    def close(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client:
            client.disconnect()
            client.loop_stop()

    def _messages(self, device_id: str, readings: Sequence[Queued]) -> list[tuple[str, bytes]]:
        if self._topics == "readings":
            topic = f"telemetry/{device_id}/readings"
            single = [self._format.encode(device_id, [each]).data for each in readings]
            return [(topic, data[1:-1]) for data in single]  # the list's only element
        body: Body = self._format.encode(device_id, readings)
        return [(f"telemetry/{device_id}/batch/{body.name}", body.data)]

    def _publish(
        self, client: "PahoClient", messages: list[tuple[str, bytes]]
    ) -> list["MQTTMessageInfo"]:
        published = []
        for index, each in enumerate(messages):
            if index % INFLIGHT_MAX == 0 and len(messages) > 1:
                time.sleep(max(0.0, self._next_burst - time.monotonic()))
                self._next_burst = time.monotonic() + 1.0  # IoT Core's limit is per second
            published.append(client.publish(*each, qos=1))
        return published

    @staticmethod
    def _is_acknowledged(
        published: "MQTTMessageInfo", client: "PahoClient", deadline: float
    ) -> bool:
        if published.rc != 0:
            return False  # the connection had ended; `is_published` would raise
        while not published.is_published():
            if not client.is_connected() or time.monotonic() > deadline:
                return False
            published.wait_for_publish(POLL_S)
        return True

    def _connected(self, device_id: str, deadline: float) -> "PahoClient":
        """Return the connection; raise PermissionError if the broker refuses it, else OSError."""
        if self._client and self._client.is_connected() and self._device_id == device_id:
            return self._client
        self.close()
        from paho.mqtt.client import Client as NewClient  # noqa: PLC0415 - an extra
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        answers: list[Any] = []
        answered = threading.Event()

        def note(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            answers.append(reason)
            answered.set()

        def note_end(*_details: Any) -> None:
            answered.set()

        client = NewClient(CallbackAPIVersion.VERSION2, device_id, reconnect_on_failure=False)
        client.max_inflight_messages_set(INFLIGHT_MAX)
        client.connect_timeout = self._timeout_s
        client.on_connect = note
        client.on_disconnect = note_end
        if self._tls:
            client.tls_set_context(self._tls)
        client.connect(*self._address, keepalive=KEEPALIVE_S)
        client.loop_start()
        self._client, self._device_id = client, device_id
        is_in_time = answered.wait(max(0.0, deadline - time.monotonic()))
        if answers and not answers[0].is_failure:
            return client
        self.close()
        if not answers:
            raise ConnectionError(ENDED if is_in_time else "the broker didn't answer CONNECT")
        if answers[0] == "Server unavailable":
            raise ConnectionError(str(answers[0]))
        raise PermissionError(f"the broker refuses {device_id}: {answers[0]}")
