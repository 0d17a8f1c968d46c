"""MQTT 3.1.1 on the wire: examples of the standard, and what isn't MQTT."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.mqtt import limits, packets
from local.mqtt.packets import Connect, Malformed, Packet, Publish, Will


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
    "body", [b"\x00\x04MQTT\x05\x02\x00\x3c", b"\x00\x06MQIsdp\x03\x02\x00\x3c"]
)
def test_of_another_version_only_that_is_read(body: bytes) -> None:
    assert packets.connect(body).level in (5, 3)


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
    with pytest.raises(Malformed):
        packets.subscribe(b"\x00\x0a")


@pytest.mark.parametrize(
    ("asked", "seconds"), [(0, 1800), (1, 45), (29, 45), (31, 46.5), (1200, 1800), (65_535, 1800)]
)
def test_a_client_may_be_silent_for_one_and_a_half_times_what_it_asks_for(
    asked: int, seconds: float
) -> None:
    assert limits.patience_seconds(asked) == seconds


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
    assert packets.unsuback(10) == b"\xb0\x02\x00\x0a"


@pytest.mark.parametrize("packet_id", [0, 10])
@pytest.mark.parametrize("count", [0, 121, 122, 123, 20_000])
def test_a_message_that_is_sent_reads_as_it_was(packet_id: int, count: int) -> None:
    sent = packets.message("a/b", b"x" * count, packet_id)
    found = packets.publish(read(sent, 30_000))
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
    for parse in (packets.connect, packets.subscribe, packets.unsubscribe):
        try:
            parse(data)
        except Malformed:
            continue
    for flags in range(4):
        try:
            packets.publish(Packet(3, flags, data))
        except Malformed:
            continue
