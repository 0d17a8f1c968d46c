"""CONNECT: what the broker accepts and refuses, and the properties of its CONNACK.

Faults found by Eclipse paho's interoperability suite are tested here and in test_mqtt_sessions.py.
"""

import uuid
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from emulator.mqtt import certificates, limits
from tests.contract.emulator.brokers import SECONDS_MAX, Device, Site, raw, received
from tests.waiting import eventually

V311, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
BOTH = pytest.mark.parametrize("version", [V311, V5])


def with_will(site: Site, version: MQTTProtocolVersion, topic: str, **options: Any) -> Device:
    device = Device(site, "pump-1", site.knows("pump-1"), protocol=version)
    device.client.will_set(topic, options.pop("payload", b"gone"), **options)
    return device.connect()


def goes_without_a_word(device: Device) -> None:
    connection: Any = device.client.socket()
    connection.close()
    device.end()


# Wills


@pytest.mark.parametrize(
    ("topic", "options", "reason"),
    [
        ("pump-1/gone", {"qos": 2}, "QoS not supported"),
        ("pump-1/gone", {"qos": 1, "retain": True}, "Not authorized"),
        ("pump-1/gone", {"qos": 0, "retain": True}, "Not authorized"),
        ("pump-2/gone", {"qos": 1}, "Not authorized"),
        ("pump-1/" + "a" * 250, {"qos": 1}, "Topic name invalid"),
        ("pump-1/1/2/3/4/5/6/7/8", {"qos": 1}, "Topic name invalid"),
    ],
)
@BOTH
def test_a_will_that_could_not_be_published_is_refused_at_once(
    site: Site,
    version: MQTTProtocolVersion,
    topic: str,
    options: dict[str, Any],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = with_will(site, version, topic, **options)
    assert eventually(lambda: "disconnected" in device.seen)
    # 3.1.1 has a return code for a missing permission, and none for other refusals
    heard = [reason] if version == V5 or reason == "Not authorized" else []
    assert device.seen == [*heard, "disconnected"]
    reported = "a client that isn't connected yet is disconnected: its will: "
    assert eventually(lambda: reported in caplog.text)
    device.end()
    assert site.taken == []


@BOTH
def test_a_will_is_published_when_a_device_leaves_without_disconnect(
    site: Site, version: MQTTProtocolVersion
) -> None:
    device = with_will(site, version, "pump-1/gone", qos=1)
    device.sees("Success")
    goes_without_a_word(device)
    assert eventually(lambda: [taken[:2] for taken in site.taken] == [("pump-1/gone", b"gone")])


def test_a_will_that_is_no_longer_allowed_is_not_published(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    device = with_will(site, V311, "pump-1/gone", qos=1)
    device.sees("Success")
    site.known.clear()
    goes_without_a_word(device)
    told = "the will of pump-1 wasn't published: iot:Publish on topic/pump-1/gone isn't allowed"
    assert eventually(lambda: told in caplog.text)
    assert site.taken == []


@BOTH
def test_a_device_that_sends_disconnect_has_no_will(
    site: Site, version: MQTTProtocolVersion
) -> None:
    device = with_will(site, version, "pump-1/gone", qos=1)
    device.sees("Success")
    device.end()
    device.sees("Success", "disconnected")
    other = site.device("pump-2")
    other.client.publish("pump-2/a", b"1", qos=1).wait_for_publish(SECONDS_MAX)
    other.end()
    assert [taken.topic for taken in site.taken] == ["pump-2/a"]


def test_a_device_of_version_5_may_leave_with_its_will(site: Site) -> None:
    device = with_will(site, V5, "pump-1/gone", qos=1)
    device.sees("Success")
    device.client.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, identifier=0x04))
    assert eventually(lambda: [taken[:2] for taken in site.taken] == [("pump-1/gone", b"gone")])
    device.end()


def test_a_will_is_retained_if_the_policy_allows_it(site: Site) -> None:
    site.knows("pump-1")
    site.allows("pump-1", "iot:RetainPublish")
    device = Device(site, "pump-1", certificates.device_files(site.folder, "pump-1"))
    device.client.will_set("pump-1/gone", b"gone", qos=1, retain=True)
    device.connect().sees("Success")
    goes_without_a_word(device)
    assert eventually(lambda: len(site.taken) == 1)
    other = site.device("pump-2")
    other.subscribes(("pump-1/gone", 1))
    assert eventually(lambda: other.got == [("pump-1/gone", b"gone", 1)])
    other.end()


# Protocols and client ids


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


@pytest.mark.parametrize(
    ("name", "level"),
    [("hj", 4), ("hj", 5), ("MQIsdp", 3), ("MQIsdp", 4), ("MQTT", 3), ("MQTT", 6)],
)
def test_another_protocol_is_refused(site: Site, name: str, level: int) -> None:
    body = text(name) + bytes([level]) + b"\x02\x00\x3c" + b"\x00" * (level == 5) + text("pump-1")
    with raw(site) as connection:
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        answer = b"".join(iter(lambda: received(connection), b""))
    assert answer == b"\x20\x02\x00\x01"  # unacceptable protocol version
    assert site.forgotten == []  # its certificate wasn't looked up


def test_another_version_of_mqtt_is_refused(site: Site) -> None:
    files = site.knows("pump-1")
    device = Device(site, "pump-1", files, protocol=MQTTProtocolVersion.MQTTv31).connect()
    assert eventually(lambda: "disconnected" in device.seen)
    assert "Success" not in device.seen
    device.end()


def test_a_client_of_version_5_without_an_id_gets_a_unique_one(site: Site) -> None:
    site.knows("pump-1")
    site.allows("pump-1", "iot:Connect", "iot:Publish")
    told: list[Any] = []
    clients = []
    for _ in range(2):
        device = Device(site, "", certificates.device_files(site.folder, "pump-1"), protocol=V5)
        device.client.on_connect = lambda *details: told.append(details[4])
        clients.append(device.connect())
    assert eventually(lambda: len(told) == 2)
    names = {each.AssignedClientIdentifier for each in told}
    assert len({uuid.UUID(name) for name in names}) == 2
    for each in clients:  # neither has ended the other
        each.client.publish("a", b"1", qos=1).wait_for_publish(SECONDS_MAX)
    assert {taken.client_id for taken in site.taken} == names
    for each in clients:
        each.end()


def test_without_an_id_version_3_1_1_gets_one_unless_its_session_is_persistent(
    site: Site,
) -> None:
    site.knows("pump-1")
    site.allows("pump-1", "iot:Connect", "iot:Publish")
    connects = {
        clean: b"\x10\x0c\x00\x04MQTT\x04" + bytes([clean]) + b"\x00\x3c\x00\x00"
        for clean in (2, 0)
    }
    with raw_of(site) as connection, raw_of(site) as other:
        for each in (connection, other):
            each.sendall(connects[2] + b"\x32\x05\x00\x01a\x00\x01")
            assert each.recv(4) + each.recv(4) == b"\x20\x02\x00\x00\x40\x02\x00\x01"
    assert len({uuid.UUID(taken.client_id) for taken in site.taken}) == 2
    with raw_of(site) as connection:
        connection.sendall(connects[0])
        assert b"".join(iter(lambda: received(connection), b"")) == b"\x20\x02\x00\x02"


def raw_of(site: Site) -> Any:
    """A raw connection whose device keeps its permissions."""
    allowed = dict(site.known)
    connection = raw(site)
    site.known.update(allowed)
    return connection


@BOTH
def test_a_client_without_an_id_is_checked_against_the_policy(
    site: Site, version: MQTTProtocolVersion
) -> None:
    device = Device(site, "", site.knows("pump-1"), protocol=version).connect()
    device.sees("Not authorized", "disconnected")
    device.end()


@BOTH
def test_a_client_id_of_over_128_bytes_is_refused(site: Site, version: MQTTProtocolVersion) -> None:
    files = site.knows("pump-1")
    site.allows("pump-1", "iot:Connect")
    device = Device(site, "a" * 129, files, protocol=version).connect()
    device.sees("Client identifier not valid", "disconnected")
    device.end()


def test_a_client_with_an_authentication_method_is_refused(site: Site) -> None:
    device = Device(site, "pump-1", site.knows("pump-1"), protocol=V5)
    wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    wanted.AuthenticationMethod = "SCRAM"
    device.connect(properties=wanted)
    device.sees("Bad authentication method", "disconnected")
    device.end()


# Properties of CONNACK


@pytest.mark.parametrize(("asked", "seconds"), [(5, 30), (0, 1200), (60, 60)])
def test_version_5_gets_awss_properties_in_connack(site: Site, asked: int, seconds: int) -> None:
    told = list[Any]()
    device = Device(site, "pump-1", site.knows("pump-1"), protocol=V5)
    device.client.on_connect = lambda *details: told.append((details[2], details[4]))
    device.connect(keepalive=asked)
    assert eventually(lambda: bool(told))
    device.end()
    ((flags, found),) = told
    assert flags.session_present is False
    assert found.json() == {
        "ReceiveMaximum": 100,
        "MaximumQoS": 1,
        "RetainAvailable": 1,
        "MaximumPacketSize": 149_504,
        "TopicAliasMaximum": 8,
        "WildcardSubscriptionAvailable": 1,
        "SubscriptionIdentifierAvailable": 0,
        "SharedSubscriptionAvailable": 1,
        "ServerKeepAlive": seconds,
    }


# Reasons that version 5 gets when its connection ends

CONNECT_5 = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x06pump-1"
SUBACK = b"\x90\x04\x00\x01\x00"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (CONNECT_5, 0x82),  # twice
        (b"\xf0\x00", 0x82),  # AUTH
        (b"\x50\x02\x00\x01", 0x82),  # PUBREC
        (b"\x20\x02\x00\x00", 0x82),  # a server's packet
        (b"\xc0\x01\x00", 0x82),  # a ping with a body
        (b"\x36\x0d\x00\x08pump-1/a\x00\x01\x00", 0x81),  # QoS 3
        (b"\x34\x0d\x00\x08pump-1/a\x00\x01\x00", 0x9B),  # QoS 2
        (b"\x32\x0d\x00\x08pump-1/a\x00\x00\x00", 0x82),  # packet id 0
        (b"\x30\x06\x00\x00\x03\x23\x00\x00", 0x94),  # topic alias 0
        (b"\x30\x06\x00\x00\x03\x23\x00\x09", 0x94),  # a topic alias above the maximum
        (b"\x30\x06\x00\x00\x03\x23\x00\x01", 0x82),  # a topic alias without a topic
        (b"\x30\x03\x00\x00\x00", 0x82),  # no topic
        (b"\x30\x06\x00\x03a/+\x00", 0x90),
        (b"\x80\x08\x00\x01\x00\x00\x02pa\x01", 0x81),  # flags
        (b"\x82\x08\x00\x01\x00\x00\x02pa\x02", 0x9B),  # QoS 2
        (b"\x82\x0a\x00\x01\x02\x0b\x01\x00\x02pa\x01", 0xA1),  # a subscription identifier
        (b"\x82\x0c\x00\x01\x00\x00\x06$share\x43", 0x81),  # reserved options
        (b"\x82\x0f\x00\x01\x00\x00\x09$share/g/\x01", 0x8F),
        (b"\x82\x12\x00\x01\x00\x00\x0c$share/g/pum\x05", 0x82),  # no local, shared
        (b"\x82\x03\x00\x01\x00", 0x82),  # without a topic filter
        (
            b"\xe0\x07\x00\x05\x11\x00\x00\x00\x05",
            0x82,
        ),  # asks for a session that CONNECT didn't ask for
        (b"\x30\xff\xff\x7f", 0x95),  # longer than any packet may be
    ],
)
def test_version_5_gets_the_reason_for_the_end_of_its_connection(
    site: Site, sent: bytes, reason: int
) -> None:
    with raw(site) as connection:
        connection.sendall(CONNECT_5 + sent)
        answer = b"".join(iter(lambda: received(connection), b""))
    assert answer[:1] == b"\x20"
    assert answer[answer[1] + 2 :] == b"\xe0\x01" + bytes([reason])
    assert site.taken == []


def test_version_5_gets_the_reason_keep_alive_timeout(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEEP_ALIVE_SECONDS", (0.2, 1200))
    with raw(site) as connection:
        connection.sendall(CONNECT_5.replace(b"\x02\x00\x3c", b"\x02\x00\x01"))
        answer = b"".join(iter(lambda: received(connection), b""))
    assert answer[-3:] == b"\xe0\x01\x8d"
