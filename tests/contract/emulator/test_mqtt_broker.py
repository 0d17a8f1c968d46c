"""The broker, over TLS on loopback, with a client that isn't ours: what it takes and refuses."""

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from emulator.embedded import free_port
from emulator.mqtt import broker, certificates, limits
from emulator.mqtt.aws import Principal
from emulator.mqtt.broker import CONNECT_SECONDS_MAX, PENDING_MAX, Broker, tls_context
from emulator.mqtt.limits import PAYLOAD_BYTES_MAX
from emulator.mqtt.rules import Unreachable
from emulator.mqtt.spool import Published
from local.errors import LocalError
from local.fleet import over_mqtt
from local.fleet.ledger import Ledger
from tests.waiting import Patience

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
            "Resource": [f"{ARN}topicfilter/{each}" for each in ("pump-*", "+/b", "$aws/*")],
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
    """A broker, who is known to it, and what it has taken."""

    def __init__(self, folder: Path) -> None:
        certificates.prepare(folder)
        self.folder, self.port = folder, free_port()
        self.known: dict[str, Principal] = {}
        self.taken: list[Published] = []
        self.asked: list[Published] = []
        self.is_away = False
        self.pending = 0
        self.is_reachable = True
        self.forgotten: list[str] = []
        self.takes = threading.Event()
        self.takes.set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        assert self._started.wait(SECONDS_MAX)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        broker = Broker(self, self, self, lambda: 1_000)
        server = await broker.serve(self.port, tls_context(self.folder))
        self._started.set()
        await self._stop.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    # what the broker asks

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


class Device:
    """A client, and what it has seen."""

    def __init__(self, site: Site, name: str, files: certificates.Pair, **options: Any) -> None:
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
        self._port = site.port
        self.reason = ""

    def note_end(self, *details: Any) -> None:
        self.reason = str(details[3])
        self.seen.append("disconnected")

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.got.append((message.topic, bytes(message.payload), message.qos))

    def subscribes(self, *wanted: tuple[str, int]) -> None:
        self.client.subscribe(list(wanted))
        assert eventually(lambda: any(each.startswith("subscribed") for each in self.seen))
        self.seen = [each for each in self.seen if not each.startswith("subscribed")]

    def connect(self) -> "Device":
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        return self

    @property
    def speaks_5(self) -> bool:
        """Whether it hears why a connection ends."""
        return self.client.protocol == MQTTProtocolVersion.MQTTv5

    def sees(self, *wanted: str) -> None:
        assert eventually(lambda: self.seen == list(wanted)), self.seen

    def end(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()  # those to wake its thread by


def eventually(is_so: Callable[[], bool]) -> bool:
    patience = Patience(SECONDS_MAX)
    while not is_so() and not patience.is_over():
        time.sleep(0.01)
    return is_so()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(params=[MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def device(site: Site, request: pytest.FixtureRequest) -> Iterator[Device]:
    files = site.knows("pump-1")
    made = Device(site, "pump-1", files, protocol=request.param).connect()
    made.sees("Success")
    yield made
    made.end()


def test_a_message_of_qos_1_is_acknowledged_when_it_is_kept_and_not_before(
    site: Site, device: Device
) -> None:
    site.takes.clear()
    message = device.client.publish("pump-1/a", b"\x00\xff", qos=1)
    time.sleep(0.3)
    assert not message.is_published()
    site.takes.set()
    assert eventually(message.is_published)
    (taken,) = site.taken
    assert taken[:3] == ("pump-1/a", b"\x00\xff", "pump-1")
    assert (taken.principal, taken.at_ms) == (next(iter(site.known)), 1_000)


def test_a_certificate_is_looked_up_anew_for_a_connection_and_not_for_a_message(
    site: Site, device: Device
) -> None:
    for _ in range(3):
        device.client.publish("pump-1/a", b"1", qos=1).wait_for_publish(SECONDS_MAX)
    assert site.forgotten == [*site.known]


def test_a_message_of_qos_0_is_taken_too(site: Site, device: Device) -> None:
    device.client.publish("pump-1/a", b"1", qos=0)
    assert eventually(lambda: [taken.payload for taken in site.taken] == [b"1"])


def test_a_message_of_128_kb_is_taken_and_of_a_byte_more_is_not(site: Site, device: Device) -> None:
    device.client.publish("pump-1/a", b"x" * PAYLOAD_BYTES_MAX, qos=1).wait_for_publish(SECONDS_MAX)
    device.client.publish("pump-1/a", b"x" * (PAYLOAD_BYTES_MAX + 1), qos=1)
    device.sees("Success", "disconnected")
    assert [len(taken.payload) for taken in site.taken] == [PAYLOAD_BYTES_MAX]


@pytest.mark.parametrize(
    ("topic", "options"),
    [
        ("pump-2/a", {"qos": 1}),
        ("pump-1/a", {"qos": 2}),  # which IoT Core doesn't have
        ("pump-1/a", {"qos": 1, "retain": True}),  # another permission
        ("pump-1/" + "a" * 250, {"qos": 1}),  # 257 bytes
        ("pump-1/b/c/d/e/f/g/h/i", {"qos": 1}),  # 8 slashes
    ],
)
def test_what_a_device_may_not_publish_ends_its_connection(
    site: Site, device: Device, topic: str, options: dict[str, Any]
) -> None:
    device.client.publish(topic, b"1", **options)
    device.sees("Success", "disconnected")
    assert device.reason == ("Not authorized" if device.speaks_5 else "Unspecified error")
    assert site.taken == []


def test_who_subscribes_gets_messages_by_the_lower_qos_until_it_unsubscribes(
    site: Site, device: Device
) -> None:
    listener = Device(site, "pump-2", site.knows("pump-2")).connect()
    listener.sees("Success")
    listener.subscribes(("pump-2/a", 0), ("+/b", 1), ("pump-1/#", 2))
    for topic, qos in (("pump-1/a", 0), ("pump-1/b", 1), ("pump-1/c", 1)):
        device.client.publish(topic, topic.encode(), qos=qos).wait_for_publish(SECONDS_MAX)
    wanted = [("pump-1/a", b"pump-1/a", 0), ("pump-1/b", b"pump-1/b", 1)]
    wanted += [("pump-1/c", b"pump-1/c", 1)]
    assert eventually(lambda: listener.got == wanted), listener.got
    listener.client.unsubscribe(["pump-1/#"])
    listener.client.publish("pump-2/x", b"", qos=1).wait_for_publish(SECONDS_MAX)  # it is through
    for topic in ("pump-1/d", "pump-1/b"):
        device.client.publish(topic, b"2", qos=1).wait_for_publish(SECONDS_MAX)
    wanted += [("pump-1/b", b"2", 1)]
    assert eventually(lambda: len(listener.got) >= len(wanted))
    listener.end()
    assert listener.got == wanted


@pytest.mark.parametrize("topic_filter", ["secret/a", "#"])
def test_who_subscribes_to_what_it_may_not_is_disconnected_or_with_mqtt_5_told(
    device: Device, topic_filter: str
) -> None:
    device.client.subscribe([(topic_filter, 1), ("pump-1/a", 1)])
    if not device.speaks_5:
        device.sees("Success", "disconnected")
        return
    codes = "ReasonCode(Suback, 'Not authorized'), ReasonCode(Suback, 'Granted QoS 1')"
    device.sees("Success", f"subscribed: [{codes}]")
    device.client.publish("pump-1/a", b"1", qos=1)
    assert eventually(lambda: device.got == [("pump-1/a", b"1", 1)])


def test_what_a_subscriber_may_not_receive_it_does_not_get(site: Site, device: Device) -> None:
    device.subscribes(("pump-1/#", 1))
    for topic in ("pump-1/deaf", "pump-1/a"):
        device.client.publish(topic, b"1", qos=1).wait_for_publish(SECONDS_MAX)
    assert eventually(lambda: bool(device.got))
    assert [topic for topic, *_ in device.got] == ["pump-1/a"]
    assert len(site.taken) == 2


def test_what_is_asked_of_a_service_is_answered_to_who_asked_and_goes_to_no_rule(
    site: Site, device: Device
) -> None:
    other = Device(site, "pump-2", site.knows("pump-2")).connect()
    for each in (device, other):
        each.sees("Success")
        each.subscribes(("$aws/certificates/create/json/+", 1))
    device.client.publish("$aws/certificates/create/json", b"{}", qos=1)
    wanted = [("$aws/certificates/create/json/accepted", b"answer", 1)]
    assert eventually(lambda: device.got == wanted)
    assert (other.got, site.taken) == ([], [])
    (asked,) = site.asked
    assert (asked.payload, asked.client_id) == (b"{}", "pump-1")
    other.end()


def test_an_answer_that_a_device_may_not_receive_it_does_not_get(
    site: Site, device: Device
) -> None:
    topics = [f"$aws/certificates/{each}/json" for each in ("create-from-csr", "create")]
    device.subscribes(*((f"{topic}/+", 1) for topic in topics))
    for topic in topics:
        device.client.publish(topic, b"{}", qos=1).wait_for_publish(SECONDS_MAX)
    assert eventually(lambda: len(site.asked) == 2 and bool(device.got))
    assert [topic for topic, *_ in device.got] == [f"{topics[1]}/accepted"]


def test_who_has_not_subscribed_to_an_answer_gets_none_and_no_answer_ends_nothing(
    site: Site, device: Device
) -> None:
    def asks(payload: bytes) -> None:
        sent = device.client.publish("$aws/certificates/create/json", payload, qos=1)
        sent.wait_for_publish(SECONDS_MAX)

    asks(b"{}")
    assert eventually(lambda: len(site.asked) == 1)
    device.subscribes(("$aws/certificates/create/json/+", 0))
    asks(b"")  # nobody answers that
    assert eventually(lambda: len(site.asked) == 2)
    site.is_away = True
    asks(b"{}")
    assert eventually(lambda: len(site.asked) == 3)
    site.is_away = False
    asks(b"{}")
    assert eventually(lambda: len(device.got) == 1)
    device.sees("Success")


def test_a_topic_of_256_bytes_and_7_slashes_is_taken(site: Site, device: Device) -> None:
    for topic in ("pump-1/" + "a" * 249, "pump-1/b/c/d/e/f/g/h"):
        device.client.publish(topic, b"1", qos=1).wait_for_publish(SECONDS_MAX)
    assert len(site.taken) == 2


def test_a_message_waits_while_too_many_wait_for_the_rules(site: Site, device: Device) -> None:
    site.pending = PENDING_MAX + 1
    message = device.client.publish("pump-1/a", b"1", qos=1)
    time.sleep(0.2)
    assert (message.is_published(), site.taken) == (False, [])
    site.pending = 0
    assert eventually(message.is_published)


def test_a_device_is_disconnected_while_nobody_knows_what_it_may(
    site: Site, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    site.is_reachable = False
    device.client.publish("pump-1/a", b"1", qos=1)
    device.sees("Success", "disconnected")
    assert site.taken == []
    assert "pump-1 is disconnected: IoT is away" in caplog.text


def test_the_newer_connection_of_a_client_id_wins(site: Site, device: Device) -> None:
    newer = Device(site, "pump-1", site.knows("pump-1")).connect()
    newer.sees("Success")
    device.sees("Success", "disconnected")
    assert device.reason == ("Session taken over" if device.speaks_5 else "Unspecified error")
    newer.client.publish("pump-1/a", b"1", qos=1).wait_for_publish(SECONDS_MAX)
    newest = Device(site, "pump-1", site.knows("pump-1")).connect()
    newest.sees("Success")
    newer.sees("Success", "disconnected")  # the end of the first didn't make it forgotten
    newest.end()
    newer.end()


@pytest.mark.parametrize("asks_for", ["its own", "another's"])
def test_a_will_is_published_when_a_device_goes_without_a_word_if_it_might_have_been(
    site: Site, asks_for: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(site, "pump-1", site.knows("pump-1"))
    topic = "pump-1/gone" if asks_for == "its own" else "pump-2/gone"
    device.client.will_set(topic, b"gone", qos=1)
    device.connect().sees("Success")
    connection: Any = device.client.socket()
    connection.close()
    device.end()
    if asks_for == "its own":
        assert eventually(lambda: [taken[:2] for taken in site.taken] == [("pump-1/gone", b"gone")])
    else:
        told = "the will of pump-1 isn't published: iot:Publish on topic/pump-2/gone isn't allowed"
        assert eventually(lambda: told in caplog.text)
        assert site.taken == []


def test_a_device_that_takes_its_leave_has_no_will(site: Site) -> None:
    device = Device(site, "pump-1", site.knows("pump-1"))
    device.client.will_set("pump-1/gone", b"gone", qos=1)
    device.connect().sees("Success")
    device.end()
    device.sees("Success", "disconnected")
    time.sleep(0.2)
    assert site.taken == []


def raw(site: Site) -> ssl.SSLSocket:
    """A connection of pump-1's certificate, on which a test says what it likes."""
    authority = certificates.pair(site.folder, certificates.AUTHORITY).certificate
    context = ssl.create_default_context(cafile=str(authority))
    context.load_cert_chain(*site.knows("pump-1"))
    plain = socket.create_connection(("127.0.0.1", site.port), SECONDS_MAX)
    return context.wrap_socket(plain, server_hostname="localhost")


CONNECT = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x01\x00\x06pump-1"  # silent for a second at most
CONNACK = b"\x20\x02\x00\x00"


def test_a_ping_is_answered(site: Site) -> None:
    with raw(site) as connection:
        connection.sendall(CONNECT + b"\xc0\x00")
        assert connection.recv(4) + connection.recv(2) == CONNACK + b"\xd0\x00"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\xc0\x00", b""),  # a ping before CONNECT
        (b"\x30\x0a\x00\x08pump-1/a", b""),  # a message before it
        (b"\x20" + CONNECT[1:], b""),  # what a CONNECT says, in another packet
        (CONNECT + CONNECT, CONNACK),  # twice
        (CONNECT + b"\xf0\x00", CONNACK),  # MQTT 5's AUTH
        (b"\x10\x1e\x00\x04MQTT\x04\x06\x00\x3c\x00\x06pump-1\x00\x01#\x00\x07nothing", b""),
        (b"\x10\x90\x01\x00\x04MQTT\x04\x02\x00\x3c\x00\x84" + b"a" * 132, b""),
    ],
)
def test_what_is_not_said_so_ends_the_connection(site: Site, sent: bytes, answer: bytes) -> None:
    with raw(site) as connection:
        connection.sendall(sent)
        assert b"".join(iter(lambda: received(connection), b"")) == answer
    assert site.taken == []


def received(connection: ssl.SSLSocket) -> bytes:
    try:
        return connection.recv(100)
    except (ssl.SSLEOFError, ConnectionResetError):
        return b""


@pytest.mark.parametrize("sent", [b"", CONNECT])
def test_who_is_silent_for_too_long_is_disconnected(
    site: Site, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "CONNECT_SECONDS_MAX", 0.3)
    monkeypatch.setattr(limits, "KEEP_ALIVE_SECONDS", (0.3, 1200))
    with raw(site) as connection:
        connection.sendall(sent)
        started = time.monotonic()
        while received(connection):
            pass
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
@pytest.mark.parametrize("who", ["inactive", "unknown", "another name"])
def test_who_is_not_known_so_is_not_let_in(
    site: Site, who: str, version: MQTTProtocolVersion
) -> None:
    files = site.knows("pump-1", is_active=who != "inactive")
    if who == "unknown":
        site.known.clear()
    name = "pump-2" if who == "another name" else "pump-1"
    device = Device(site, name, files, protocol=version).connect()
    device.sees("Not authorized", "disconnected")
    device.end()


def test_version_5_is_told_what_there_is_and_may_leave_with_its_will(site: Site) -> None:
    files, told = site.knows("pump-1"), list[Any]()
    device = Device(site, "pump-1", files, protocol=MQTTProtocolVersion.MQTTv5)
    device.client.on_connect = lambda *details: told.append((details[2], details[4]))
    device.client.will_set("pump-1/gone", b"gone", qos=1)
    device.client.connect("127.0.0.1", site.port, keepalive=5)
    device.client.loop_start()
    assert eventually(lambda: bool(told))
    ((flags, properties),) = told
    assert flags.session_present is False
    assert (properties.MaximumQoS, properties.ServerKeepAlive) == (1, 30)
    assert properties.SessionExpiryInterval == 0
    with_will = ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message")
    device.client.disconnect(reasoncode=with_will)
    assert eventually(lambda: [taken[:2] for taken in site.taken] == [("pump-1/gone", b"gone")])
    device.end()


def test_another_version_of_mqtt_is_refused(site: Site) -> None:
    files = site.knows("pump-1")
    device = Device(site, "pump-1", files, protocol=MQTTProtocolVersion.MQTTv31).connect()
    assert eventually(lambda: "disconnected" in device.seen)
    assert "Success" not in device.seen
    device.end()


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_who_has_no_certificate_of_this_authority_gets_no_connection(
    site: Site, tmp_path: Path, who: str
) -> None:
    authority = certificates.pair(site.folder, certificates.AUTHORITY).certificate
    context = ssl.create_default_context(cafile=str(authority))
    if who == "a stranger":
        (tmp_path / "other").mkdir()
        certificates.prepare(tmp_path / "other")
        context.load_cert_chain(*certificates.device(tmp_path / "other", "pump-1"))
    with (
        socket.create_connection(("127.0.0.1", site.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        started = time.monotonic()
        try:
            answer = secure.recv(1)  # with TLS 1.3 a client hears of it after its handshake
        except OSError:
            answer = b""
        assert answer == b""
        assert time.monotonic() - started < CONNECT_SECONDS_MAX / 2  # by TLS, not by patience
    assert site.taken == []


@pytest.mark.parametrize("ends_by", ["SIGTERM", "its starter"])
def test_the_brokers_process_ends_while_a_device_is_connected(tmp_path: Path, ends_by: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "emulator.mqtt", "--endpoint", "http://127.0.0.1:1"]
    command += ["--region", "us-east-1", "--folder", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin
        try:
            assert eventually(lambda: can_connect(port))
            with socket.create_connection(("127.0.0.1", port)):
                if ends_by == "SIGTERM":
                    process.send_signal(signal.SIGTERM)
                else:
                    process.stdin.close()
                process.wait(5)
        finally:
            process.kill()


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("comes_up", [True, False])
def test_simulated_devices_wait_for_a_broker_that_is_starting_and_not_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch, comes_up: bool
) -> None:
    monkeypatch.setattr(over_mqtt, "CONNECT_SECONDS_MAX", 5.0 if comes_up else 0.3)
    site.knows("pump-1")
    devices, dead = over_mqtt.MqttDevices(site.folder, site.port, ["pump-1"]), free_port()
    ports = iter([dead, dead]) if comes_up else iter(lambda: dead, None)
    connect = paho.Client.connect

    def connect_later(client: paho.Client, host: str, port: int) -> Any:
        return connect(client, host, next(ports, port))

    monkeypatch.setattr(paho.Client, "connect", connect_later)
    expected = nullcontext() if comes_up else pytest.raises(LocalError, match="lets devices in no")
    try:
        with expected:
            asyncio.run(devices.start(Ledger()))
    finally:
        devices.close()


def test_keys_are_their_owners_alone(site: Site) -> None:
    site.knows("pump-1")
    files = [*(site.folder / certificates.FOLDER).iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (site.folder / certificates.FOLDER).stat().st_mode & 0o777 == 0o700
    assert len(files) == 6  # the authority's, the broker's, the device's
