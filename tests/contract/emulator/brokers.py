"""A broker of a test's own, over TLS on loopback, and a third-party client of it."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from emulator.embedded import free_port
from emulator.mqtt import certificates
from emulator.mqtt.aws import Principal
from emulator.mqtt.broker import Broker, MessageSink, tls_context
from emulator.mqtt.rules import Unreachable
from emulator.mqtt.spool import Published
from tests.waiting import eventually

ARN = "arn:aws:iot:us-east-1:123456789012:"
NAME = "${iot:Connection.Thing.ThingName}"
POLICY = {
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/{NAME}"},
        {
            "Effect": "Allow",
            "Action": "iot:Publish",
            "Resource": [f"{ARN}topic/{NAME}/*", f"{ARN}topic/$aws/certificates/*"],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Subscribe",
            "Resource": [
                f"{ARN}topicfilter/{each}" for each in ("pump-*", "+/b", "$aws/*", "$share/g*")
            ],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Receive",
            "Resource": [f"{ARN}topic/pump-*", f"{ARN}topic/$aws/certificates/create/*"],
        },
        {"Effect": "Deny", "Action": "iot:Receive", "Resource": f"{ARN}topic/pump-1/deaf"},
    ]
}
SECONDS_MAX = 10.0


class Site:
    """A broker, the certificates that it knows, and the messages that it accepted."""

    def __init__(self, folder: Path, sink: MessageSink | None = None) -> None:
        certificates.prepare(folder)
        self._sink = sink or self
        self.folder, self.port = folder, free_port()
        self.known: dict[str, Principal] = {}
        self.taken: list[Published] = []
        self.asked: list[Published] = []
        self.is_away = False
        self.pending = 0
        self.is_reachable = True
        self.refuses: Exception | None = None
        self.forgotten: list[str] = []
        self.takes = threading.Event()
        self.takes.set()
        self.devices: list[Device] = []
        self.connections: list[ssl.SSLSocket] = []
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        assert self._started.wait(SECONDS_MAX)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        broker = Broker(self, self._sink, self, lambda: 1_000)
        server = await broker.serve(self.port, tls_context(self.folder))
        self._started.set()
        await self._stop.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def end(self) -> None:
        """End the broker, its devices, and the raw connections to it.

        A test that fails leaves them open, and sockets that the garbage collector finds fail
        another test.
        """
        for device in self.devices:
            device.end()
        for connection in self.connections:
            connection.close()
        self.takes.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    # the broker's ports

    def principal(self, certificate_id: str) -> Principal:
        if not self.is_reachable:
            raise Unreachable("IoT is away")
        return self.known.get(certificate_id, Principal(certificate_id, False, (), ()))

    def forget(self, certificate_id: str) -> None:
        self.forgotten.append(certificate_id)

    def arn(self, kind: str, name: str) -> str:
        return f"{ARN}{kind}/{name}"

    def accept(self, message: Published) -> None:
        self.takes.wait(SECONDS_MAX)
        if self.refuses:
            raise self.refuses
        self.taken.append(message)

    def answer(self, message: Published) -> tuple[str, bytes] | None:
        self.asked.append(message)
        if self.is_away:
            raise Unreachable("away")
        return (f"{message.topic}/accepted", b"answer") if message.payload else None

    # devices

    def knows(self, device_id: str, is_active: bool = True) -> certificates.Pair:
        files = certificates.device(self.folder, device_id)
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        number = certificate.fingerprint(hashes.SHA256()).hex()
        self.known[number] = Principal(number, is_active, (device_id,), (POLICY,))
        return files

    def allows(self, device_id: str, *actions: str) -> None:
        """Allow a device an action beyond its policy, on any resource."""
        more = {"Statement": [{"Effect": "Allow", "Action": [*actions], "Resource": "*"}]}
        for number, known in self.known.items():
            if known.things == (device_id,):
                self.known[number] = known._replace(policies=(POLICY, more))

    def device(self, name: str, of: str = "", **options: Any) -> "Device":
        """Return a registered, connected device, if wanted with another device's certificate."""
        connecting = {
            each: options.pop(each) for each in ("properties", "clean_start") if each in options
        }
        made = Device(self, name, certificates.device(self.folder, of or name), **options)
        if not any(of or name in known.things for known in self.known.values()):
            self.knows(of or name)
        made.connect(**connecting).sees("Success")
        return made


class Device:
    """A client, and the events and messages that it got."""

    def __init__(self, site: Site, name: str, files: certificates.Pair, **options: Any) -> None:
        site.devices.append(self)
        self.seen: list[str] = []
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, name, reconnect_on_failure=False, **options
        )
        authority = certificates.pair(site.folder, certificates.AUTHORITY).certificate
        self.client.tls_set(str(authority), str(files.certificate), str(files.key))
        self.client.on_connect = lambda *details: self.seen.append(str(details[3]))
        self.client.on_disconnect = self.note_end
        self.client.on_subscribe = lambda *details: self.seen.append(f"subscribed: {details[3]}")
        self.client.on_message = self._on_message
        self.got: list[tuple[str, bytes, int]] = []
        self.messages: list[paho.MQTTMessage] = []
        self._port = site.port
        self.reason = ""

    def note_end(self, *details: Any) -> None:
        self.reason = str(details[3])
        self.seen.append("disconnected")

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.got.append((message.topic, bytes(message.payload), message.qos))
        self.messages.append(message)

    @property
    def payloads(self) -> list[bytes]:
        """The payloads that it got."""
        return [payload for _, payload, _ in self.got]

    def gets(self, *payloads: bytes) -> None:
        """Check that it got exactly these payloads so far, in this order."""
        assert eventually(lambda: len(self.got) >= len(payloads)), self.payloads
        assert self.payloads == [*payloads]

    def publishes(self, topic: str, payload: bytes, **options: Any) -> None:
        """Publish at QoS 1, and wait until that is acknowledged."""
        sent = self.client.publish(topic, payload, **{"qos": 1, **options})
        sent.wait_for_publish(SECONDS_MAX)
        assert sent.is_published()

    def vanishes(self) -> None:
        """Close the connection without DISCONNECT."""
        connection: Any = self.client.socket()
        connection.close()
        self.client.loop_stop()
        self.client._reset_sockets()

    def subscribes(self, *wanted: tuple[str, int | SubscribeOptions]) -> None:
        asked: Any = [*wanted]
        self.client.subscribe(asked)
        assert eventually(lambda: any(each.startswith("subscribed") for each in self.seen))
        self.seen = [each for each in self.seen if not each.startswith("subscribed")]

    def connect(self, **options: Any) -> "Device":
        self.client.connect("127.0.0.1", self._port, **options)
        self.client.loop_start()
        return self

    @property
    def speaks_5(self) -> bool:
        """Return whether it is of version 5, which gets the reason for a disconnection."""
        return self.client.protocol == MQTTProtocolVersion.MQTTv5

    def sees(self, *wanted: str) -> None:
        assert eventually(lambda: self.seen == list(wanted)), self.seen

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()  # those to wake its thread by


def raw(site: Site) -> ssl.SSLSocket:
    """A raw connection with pump-1's certificate, on which a test sends any bytes."""
    authority = certificates.pair(site.folder, certificates.AUTHORITY).certificate
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(*site.knows("pump-1"))
    plain = socket.create_connection(("127.0.0.1", site.port), SECONDS_MAX)
    connection = context.wrap_socket(plain, server_hostname="localhost")
    site.connections.append(connection)
    return connection


def received(connection: ssl.SSLSocket) -> bytes:
    try:
        return connection.recv(100)
    except (ssl.SSLEOFError, ConnectionResetError):
        return b""
