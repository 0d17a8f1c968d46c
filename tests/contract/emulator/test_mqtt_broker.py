"""Messages and connections that the broker accepts and refuses, with a third-party client."""

import asyncio
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from emulator.embedded import free_port
from emulator.mqtt import broker, certificates, limits, sql
from emulator.mqtt.broker import CONNECT_SECONDS_MAX, PENDING_MAX
from emulator.mqtt.limits import PAYLOAD_BYTES_MAX
from emulator.mqtt.rules import Rule, RulesEngine
from emulator.mqtt.spool import NotStored, Spool
from local.errors import NoAnswer
from local.fleet import over_mqtt
from local.fleet.ledger import Ledger
from tests.contract.emulator.brokers import SECONDS_MAX, Device, Site, raw, received
from tests.waiting import eventually


def test_a_message_of_qos_1_is_acknowledged_only_after_it_is_stored(
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


def test_a_message_of_qos_0_is_accepted_too(site: Site, device: Device) -> None:
    device.client.publish("pump-1/a", b"1", qos=0)
    assert eventually(lambda: [taken.payload for taken in site.taken] == [b"1"])


def test_a_message_of_128_kb_is_accepted_and_one_byte_more_is_refused(
    site: Site, device: Device
) -> None:
    device.client.publish("pump-1/a", b"x" * PAYLOAD_BYTES_MAX, qos=1).wait_for_publish(SECONDS_MAX)
    device.client.publish("pump-1/a", b"x" * (PAYLOAD_BYTES_MAX + 1), qos=1)
    device.sees("Success", "disconnected")
    assert [len(taken.payload) for taken in site.taken] == [PAYLOAD_BYTES_MAX]


@pytest.mark.parametrize(
    ("topic", "options", "reason"),
    [
        ("pump-2/a", {"qos": 1}, "Not authorized"),
        ("pump-1/a", {"qos": 2}, "QoS not supported"),  # which IoT Core doesn't have
        ("pump-1/a", {"qos": 1, "retain": True}, "Not authorized"),  # another permission
        ("pump-1/" + "a" * 250, {"qos": 1}, "Topic name invalid"),  # 257 bytes
        ("pump-1/b/c/d/e/f/g/h/i", {"qos": 1}, "Topic name invalid"),  # 8 slashes
    ],
)
def test_a_publish_that_is_not_allowed_ends_the_connection(
    site: Site, device: Device, topic: str, options: dict[str, Any], reason: str
) -> None:
    device.client.publish(topic, b"1", **options)
    device.sees("Success", "disconnected")
    assert device.reason == (reason if device.speaks_5 else "Unspecified error")
    assert site.taken == []


def test_a_subscriber_gets_messages_with_the_lower_qos_until_it_unsubscribes(
    site: Site, device: Device
) -> None:
    listener = Device(site, "pump-2", site.knows("pump-2")).connect()
    listener.sees("Success")
    listener.subscribes(("pump-2/a", 0), ("+/b", 1), ("pump-1/#", 1))
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
def test_a_refused_subscription_ends_the_connection_or_with_mqtt_5_gets_a_code(
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


def test_a_subscriber_gets_no_message_that_it_may_not_receive(site: Site, device: Device) -> None:
    device.subscribes(("pump-1/#", 1))
    for topic in ("pump-1/deaf", "pump-1/a"):
        device.client.publish(topic, b"1", qos=1).wait_for_publish(SECONDS_MAX)
    assert eventually(lambda: bool(device.got))
    assert [topic for topic, *_ in device.got] == ["pump-1/a"]
    assert len(site.taken) == 2


def test_a_request_to_a_service_is_answered_to_its_sender_and_goes_to_no_rule(
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


def test_a_device_gets_no_answer_that_it_may_not_receive(site: Site, device: Device) -> None:
    topics = [f"$aws/certificates/{each}/json" for each in ("create-from-csr", "create")]
    device.subscribes(*((f"{topic}/+", 1) for topic in topics))
    for topic in topics:
        device.client.publish(topic, b"{}", qos=1).wait_for_publish(SECONDS_MAX)
    assert eventually(lambda: len(site.asked) == 2 and bool(device.got))
    assert [topic for topic, *_ in device.got] == [f"{topics[1]}/accepted"]


def test_a_device_without_a_subscription_gets_no_answer_and_stays_connected(
    site: Site, device: Device
) -> None:
    def asks(payload: bytes) -> None:
        sent = device.client.publish("$aws/certificates/create/json", payload, qos=1)
        sent.wait_for_publish(SECONDS_MAX)

    asks(b"{}")
    assert eventually(lambda: len(site.asked) == 1)
    device.subscribes(("$aws/certificates/create/json/+", 0))
    asks(b"")  # no service answers that
    assert eventually(lambda: len(site.asked) == 2)
    site.is_away = True
    asks(b"{}")
    assert eventually(lambda: len(site.asked) == 3)
    site.is_away = False
    asks(b"{}")
    assert eventually(lambda: len(device.got) == 1)
    device.sees("Success")


def test_a_basic_ingest_message_goes_to_the_rules_and_to_no_subscriber(
    site: Site, device: Device
) -> None:
    site.allows("pump-1", "iot:Publish", "iot:Receive")
    device.subscribes(("$aws/rules/#", 1), ("pump-1/#", 1))
    device.publishes("$aws/rules/all/pump-1/a", b"1")
    device.publishes("pump-1/a", b"2")
    device.gets(b"2")
    assert [taken.payload for taken in site.taken] == [b"1", b"2"]


def test_a_topic_of_256_bytes_and_7_slashes_is_accepted(site: Site, device: Device) -> None:
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


def test_a_message_that_cannot_be_stored_is_not_acknowledged_and_the_next_connection_may_send_it(
    site: Site, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    site.refuses = NotStored("pump-1/a: database or disk is full")
    message = device.client.publish("pump-1/a", b"1", qos=1)
    device.sees("Success", "disconnected")
    assert not message.is_published()
    assert "pump-1 is disconnected: pump-1/a: database or disk is full" in caplog.text
    site.refuses = None
    again = Device(site, "pump-1", site.knows("pump-1")).connect()
    again.client.publish("pump-1/a", b"1", qos=1).wait_for_publish(SECONDS_MAX)
    assert [taken.payload for taken in site.taken] == [b"1"]
    again.end()


def test_while_the_spool_is_locked_no_message_is_acknowledged_and_then_all_goes_on(
    tmp_path: Path,
) -> None:
    class Noting:
        done: ClassVar[list[bytes]] = []

        def run(self, _rule: Rule, _action: Any, _message: sql.Message, data: bytes) -> None:
            self.done.append(data)

    rule = Rule("all", "arn", sql.parse("SELECT * FROM '#'"), [{"sqs": {}}], None)
    file = tmp_path / "mqtt.sqlite3"
    spool = Spool(file, locked_seconds=0.1)
    engine = RulesEngine(spool, lambda: [rule], Noting())
    engine.start()
    site = Site(tmp_path, engine)
    try:
        device = site.device("pump-1")
        device.publishes("pump-1/a", b'{"n":1}')
        assert eventually(lambda: spool.kept() == [])
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            sent = device.client.publish("pump-1/a", b'{"n":2}', qos=1)
            device.sees("Success", "disconnected")
            assert not sent.is_published()
        again = site.device("pump-1")
        for number in range(3, 20):
            again.publishes("pump-1/a", b'{"n":%d}' % number)
        again.end()
        assert eventually(lambda: spool.kept() == [])
        assert sorted(Noting.done) == sorted(b'{"n":%d}' % n for n in (1, *range(3, 20)))
    finally:
        site.end()
        assert engine.stop()
        spool.close()


def test_a_device_is_disconnected_while_its_policies_are_unknown(
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
    newer.sees("Success", "disconnected")  # the end of the first connection didn't drop it
    newest.end()
    newer.end()


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
        (b"\x20" + CONNECT[1:], b""),  # the body of a CONNECT in another packet
        (CONNECT + CONNECT, CONNACK),  # twice
        (CONNECT + b"\xf0\x00", CONNACK),  # MQTT 5's AUTH
        (b"\x10\x1e\x00\x04MQTT\x04\x06\x00\x3c\x00\x06pump-1\x00\x01#\x00\x07nothing", b""),
        (b"\x10\x90\x01\x00\x04MQTT\x04\x02\x00\x3c\x00\x84" + b"a" * 132, b"\x20\x02\x00\x02"),
    ],
)
def test_an_invalid_packet_ends_the_connection(site: Site, sent: bytes, answer: bytes) -> None:
    with raw(site) as connection:
        connection.sendall(sent)
        assert b"".join(iter(lambda: received(connection), b"")) == answer
    assert site.taken == []


@pytest.mark.parametrize("sent", [b"", CONNECT])
def test_a_client_that_is_silent_for_too_long_is_disconnected(
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
def test_a_client_with_an_unknown_identity_is_refused(
    site: Site, who: str, version: MQTTProtocolVersion
) -> None:
    files = site.knows("pump-1", is_active=who != "inactive")
    if who == "unknown":
        site.known.clear()
    name = "pump-2" if who == "another name" else "pump-1"
    device = Device(site, name, files, protocol=version).connect()
    device.sees("Not authorized", "disconnected")
    device.end()


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_a_client_without_a_certificate_of_this_authority_gets_no_connection(
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
            answer = secure.recv(1)  # with TLS 1.3 a client gets the refusal after its handshake
        except OSError:
            answer = b""
        assert answer == b""
        assert (
            time.monotonic() - started < CONNECT_SECONDS_MAX / 2
        )  # TLS refused it, not the timeout
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
                process.wait(SECONDS_MAX)
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
    expected = (
        nullcontext() if comes_up else pytest.raises(NoAnswer, match="let no more devices in")
    )
    try:
        with expected:
            asyncio.run(devices.start(Ledger()))
    finally:
        devices.close()


def test_only_their_owner_can_read_keys(site: Site) -> None:
    site.knows("pump-1")
    files = [*(site.folder / certificates.FOLDER).iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (site.folder / certificates.FOLDER).stat().st_mode & 0o777 == 0o700
    assert len(files) == 6  # the authority's, the broker's, the device's
