"""MQTT 3.1.1 on the wire: examples of the standard, and what isn't MQTT."""

import io
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.mqtt import limits, packets
from emulator.mqtt.packets import Connect, Malformed, Packet, Publish, Will


def read(data: bytes, bytes_max: int = 1000) -> Packet:
    """The first packet of what has come; nothing has to be waited for."""
    left = io.BytesIO(data)

    async def readexactly(count: int) -> bytes:
        return left.read(count)

    reader: Any = SimpleNamespace(readexactly=readexactly)
    with pytest.raises(StopIteration) as end:
        packets.read(reader, bytes_max).send(None)
    packet: Packet = end.value.value
    return packet


# Figures 2-1 and 3-6 of the standard: lengths of one and two bytes
@pytest.mark.parametrize(
    ("data", "length"), [(b"\xc0\x00", 0), (b"\x30\x7f", 127), (b"\x30\x80\x01", 128)]
)
def test_a_packet_has_its_length_before_it(data: bytes, length: int) -> None:
    assert read(data + b"x" * length) == Packet(data[0] >> 4, data[0] & 15, b"x" * length)


@pytest.mark.parametrize(
    "data", [b"\x30\xff\xff\xff\xff\x01", b"\x30\xff\xff\xff\x7f", b"\x30\xe9\x07"]
)
def test_what_is_longer_than_may_be_is_refused_before_it_is_read(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


def test_a_connect_says_who_and_how_long_it_may_be_silent() -> None:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x06pump-1"
    assert packets.connect(body) == Connect(4, "pump-1", 60, None)
    will = b"\x00\x04MQTT\x04\x2e\x00\x00\x00\x01a\x00\x01t\x00\x02by"
    assert packets.connect(will) == Connect(4, "a", 0, Will("t", b"by", 1, True))


@pytest.mark.parametrize(
    "body", [b"\x00\x04MQTT\x06\x02\x00\x3c", b"\x00\x06MQIsdp\x03\x02\x00\x3c"]
)
def test_of_another_version_only_that_is_read(body: bytes) -> None:
    assert packets.connect(body).level in (6, 3)


def test_of_version_5_the_properties_are_passed_over() -> None:
    properties = b"\x05\x11\x00\x00\x00\x0a"  # a session expiry of 10 s
    will = b"\x05\x18\x00\x00\x00\x01" + b"\x00\x01t\x00\x02by"
    body = b"\x00\x04MQTT\x05\x0e\x00\x3c" + properties + b"\x00\x01a" + will
    assert packets.connect(body) == Connect(5, "a", 60, Will("t", b"by", 1, False))
    long = b"\x80\x01" + b"\x26\x00\x01a\x00\x7a" + b"x" * 122  # a user property: 128 bytes
    message = Packet(3, 0b0010, b"\x00\x01t\x00\x0a" + long + b"hello")
    assert packets.publish(message, 5) == Publish("t", b"hello", 1, 10, False)
    assert packets.subscribe(b"\x00\x0a\x02\x0b\x01\x00\x01a\x2d", 5) == (10, {"a": 1})
    assert packets.unsubscribe(b"\x00\x0a\x00\x00\x01a\x00\x01b", 5) == (10, ["a", "b"])
    for body in (b"\x00\x01t\x00\x0a\x05", b"\x00\x01t\x00\x0a\xff\xff\xff\xff\x01"):
        with pytest.raises(Malformed):
            packets.publish(Packet(3, 0b0010, body), 5)


def test_answers_of_version_5_have_reasons_and_properties() -> None:
    told = b"\x11\x00\x00\x00\x00" + b"\x13\x04\xb0" + b"\x24\x01"
    assert packets.connack(0, 5, 1200) == b"\x20\x0d\x00\x00\x0a" + told
    assert packets.connack(5, 5)[:4] == b"\x20\x0d\x00\x87"
    assert packets.suback(10, [0x87, 1], 5) == b"\x90\x05\x00\x0a\x00\x87\x01"
    assert packets.unsuback(10, [False, True], 5) == b"\xb0\x05\x00\x0a\x00\x11\x00"
    assert packets.disconnect(0x8E) == b"\xe0\x01\x8e"
    assert packets.keeps_will(b"\x04", 5)
    assert not packets.keeps_will(b"", 5)
    assert not packets.keeps_will(b"\x00", 5)
    assert not packets.keeps_will(b"\x04", 4)


def test_a_message_has_topic_number_and_payload() -> None:
    body = b"\x00\x03a/b\x00\x0ahello"
    assert packets.publish(Packet(3, 0b0011, body)) == Publish("a/b", b"hello", 1, 10, True)
    at_most_once = packets.publish(Packet(3, 0, b"\x00\x03a/b"))
    assert at_most_once == Publish("a/b", b"", 0, 0, False)


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x00\x00\x01",  # no topic
        b"\x00\x03a/+\x00\x01",  # a filter
        b"\x00\x01#\x00\x01",
        b"\x00\x01a\x00\x00",  # no number
        b"\x00\x05a",  # cut off
        b"\x00\x02\xff\xfe\x00\x01",  # not UTF-8
        b"\x00\x03a\x00b\x00\x01",  # U+0000
    ],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        packets.publish(Packet(3, 0b0010, body))


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a",  # its reserved flag
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x01+\x00\x00",  # a will to a filter
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x00\x00\x00",  # a will to nothing
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a",  # a will that isn't there
    ],
)
def test_what_is_no_connect_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        packets.connect(body)


def test_a_subscription_to_nothing_is_refused() -> None:
    for parse in (packets.subscribe, packets.unsubscribe):
        with pytest.raises(Malformed):
            parse(b"\x00\x0a")


@pytest.mark.parametrize(
    ("asked", "seconds"), [(0, 1200), (1, 30), (29, 30), (31, 31), (1200, 1200), (65_535, 1200)]
)
def test_a_client_is_waited_for_between_half_a_minute_and_twenty(asked: int, seconds: int) -> None:
    assert limits.keep_alive_seconds(asked) == seconds


@pytest.mark.parametrize(
    "topic", ["$aws/rules/rule/" + "a" * 256, "$aws/rules/rule/1/2/3/4/5/6/7/8", "/1/2/3/4/5/6/7"]
)
def test_the_rule_of_basic_ingest_does_not_count_in_a_topic(topic: str) -> None:
    limits.check_message(topic, b"")
    with pytest.raises(limits.Exceeded):
        limits.check_message(f"{topic}{'/' if topic[-1] != 'a' else 'a'}", b"")


def test_answers_are_as_the_standard_has_them() -> None:
    assert packets.connack(5) == b"\x20\x02\x00\x05"
    assert packets.puback(0x0A0B) == b"\x40\x02\x0a\x0b"
    subscribe = b"\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02"
    assert packets.subscribe(subscribe) == (10, {"a/b": 1, "c/d": 2})
    assert packets.suback(10, [1, 0]) == b"\x90\x04\x00\x0a\x01\x00"
    assert packets.unsubscribe(b"\x00\x0c\x00\x03a/b\x00\x03c/d") == (12, ["a/b", "c/d"])
    assert packets.unsuback(10, [True, False]) == b"\xb0\x02\x00\x0a"


@pytest.mark.parametrize("level", packets.LEVELS)
@pytest.mark.parametrize("packet_id", [0, 10])
@pytest.mark.parametrize("count", [0, 121, 122, 123, 20_000])
def test_a_message_that_is_sent_reads_as_it_was(packet_id: int, count: int, level: int) -> None:
    sent = packets.message("a/b", b"x" * count, packet_id, level)
    found = packets.publish(read(sent, 30_000), level)
    assert found == Publish("a/b", b"x" * count, min(packet_id, 1), packet_id, False)


@pytest.mark.parametrize(
    "topic_filter", ["#", "+", "+/b", "a/+/#", "$aws/certificates/create/json/+"]
)
def test_a_wildcard_is_a_whole_level(topic_filter: str) -> None:
    body = b"\x00\x0a" + len(topic_filter).to_bytes(2, "big") + topic_filter.encode() + b"\x00"
    assert packets.subscribe(body) == (10, {topic_filter: 0})


@pytest.mark.parametrize("topic_filter", ["", "a#", "#/a", "a+/b", "++", "##"])
def test_a_wildcard_elsewhere_makes_no_topic_filter(topic_filter: str) -> None:
    body = b"\x00\x0a" + len(topic_filter).to_bytes(2, "big") + topic_filter.encode() + b"\x00"
    with pytest.raises(Malformed, match="no topic filter"):
        packets.subscribe(body)


def test_a_subscription_of_a_qos_that_is_none_is_malformed() -> None:
    with pytest.raises(Malformed, match="QoS 3"):
        packets.subscribe(b"\x00\x0a\x00\x03a/b\x03")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    messages = [Packet(3, flags, data) for flags in range(4)]
    with suppress(Malformed):
        packets.connect(data)
    for level in packets.LEVELS:
        for parse in (packets.subscribe, packets.unsubscribe):
            with suppress(Malformed):
                parse(data, level)
        for each in messages:
            with suppress(Malformed):
                packets.publish(each, level)
