"""MQTT on the wire: examples of the standards, and invalid packets."""

import io
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.mqtt import limits, packets, properties
from emulator.mqtt.packets import Connect, Malformed, Packet, Publish, Subscription


def read(data: bytes, bytes_max: int = 1000) -> Packet:
    """Return the first packet of received bytes, without waiting."""
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
def test_a_packet_that_is_too_long_is_refused_before_it_is_read(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


@pytest.mark.parametrize("length", [b"\x80\x00", b"\x81\x00", b"\x81\x80\x00", b"\x80\x80\x80\x00"])
def test_a_number_in_more_bytes_than_it_needs_is_refused(length: bytes) -> None:
    with pytest.raises(Malformed, match="more than it needs"):
        read(b"\x30" + length + b"x")
    with pytest.raises(Malformed, match="more than it needs"):
        packets.publish(Packet(3, 0b0010, b"\x00\x01t\x00\x0a" + length + b"hello"), 5)


def test_a_connect_has_a_client_id_and_a_keep_alive_time() -> None:
    body = b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x06pump-1"
    assert packets.connect(body) == Connect("MQTT", 4, "pump-1", 60)
    will = b"\x00\x04MQTT\x04\x2c\x00\x00\x00\x01a\x00\x01t\x00\x02by"
    wanted = Connect("MQTT", 4, "a", 0, False, Publish("t", b"by", 1, 0, True))
    assert packets.connect(will) == wanted
    with_name = b"\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01a\x00\x04?SDK\x00\x02\x00\xff"
    assert packets.connect(with_name) == Connect("MQTT", 4, "a", 60)


@pytest.mark.parametrize(
    ("name", "level"),
    [("MQTT", 6), ("MQTT", 3), ("MQIsdp", 3), ("MQIsdp", 4), ("hj", 4), ("hj", 5), ("mqtt", 4)],
)
def test_a_connect_of_another_protocol_is_read_no_further(name: str, level: int) -> None:
    found = packets.connect(text(name) + bytes([level]) + b"\x02\x00\x3c")
    assert (found.name, found.level, found.is_supported) == (name, level, False)


def text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def test_the_properties_of_version_5_are_read() -> None:
    of_connect = b"\x0b" + b"\x11\x00\x00\x00\x0a" + b"\x21\x00\x02" + b"\x22\x00\x05"
    of_will = b"\x05\x18\x00\x00\x00\x01" + b"\x00\x01t\x00\x02by"
    body = b"\x00\x04MQTT\x05\x0e\x00\x3c" + of_connect + b"\x00\x01a" + of_will
    told = {
        properties.SESSION_EXPIRY: 10,
        properties.RECEIVE_MAXIMUM: 2,
        properties.TOPIC_ALIAS_MAXIMUM: 5,
    }
    will = Publish("t", b"by", 1, 0, False, {properties.WILL_DELAY: 1})
    assert packets.connect(body) == Connect("MQTT", 5, "a", 60, True, will, told)
    long = b"\x80\x01" + b"\x26\x00\x01a\x00\x7a" + b"x" * 122  # a user property: 128 bytes
    message = Packet(3, 0b0010, b"\x00\x01t\x00\x0a" + long + b"hello")
    found = Publish("t", b"hello", 1, 10, False, {properties.USER: [("a", "x" * 122)]})
    assert packets.publish(message, 5) == found
    assert packets.unsubscribe(b"\x00\x0a\x00\x00\x01a\x00\x01b", 5) == (10, ["a", "b"])
    for body in (b"\x00\x01t\x00\x0a\x05", b"\x00\x01t\x00\x0a\xff\xff\xff\xff\x01"):
        with pytest.raises(Malformed):
            packets.publish(Packet(3, 0b0010, body), 5)


def test_a_subscription_of_version_5_has_options() -> None:
    body = b"\x00\x0a\x00" + b"\x00\x01a\x2d" + b"\x00\x0a$share/g/b\x11"
    wanted = [
        Subscription("a", 1, no_local=True, keeps_retained=True, retained=2),
        Subscription("$share/g/b", 1, retained=1),
    ]
    assert packets.subscribe(body, 5) == (10, wanted)
    assert [(each.group, each.matched) for each in wanted] == [("", "a"), ("g", "b")]


ALL = {
    properties.PAYLOAD_FORMAT: 1,
    properties.MESSAGE_EXPIRY: 604_800,
    properties.CONTENT_TYPE: "text",
    properties.RESPONSE_TOPIC: "a/b",
    properties.CORRELATION_DATA: b"\x00\xff",
    properties.USER: [("a", "1"), ("a", "2")],
}


def test_properties_read_as_they_were_written() -> None:
    sent = Publish("t", b"x", 1, 10, False, ALL)
    assert packets.publish(read(packets.message(sent, 5)), 5) == sent
    assert packets.publish(read(packets.message(sent, 4)), 4) == Publish("t", b"x", 1, 10)


@pytest.mark.parametrize(
    ("encoded", "code"),
    [
        (b"\x01\x01\x01\x00", 0x82),  # twice
        (b"\x01\x02", 0x82),  # neither 0 nor 1
        (b"\x08\x00\x03a/#", 0x82),  # a response to a filter
        (b"\x08\x00\x00", 0x82),  # and to nothing
        (b"\x0b\x01", 0x81),  # a subscription's
        (b"\x11\x00\x00\x00\x01", 0x81),  # CONNECT's
        (b"\x7f\x01", 0x81),  # unknown
        (b"\x02\x00\x00", 0x81),  # cut off
        (b"\x03\x00\x01\xff", 0x81),  # not UTF-8
    ],
)
def test_an_invalid_property_is_refused(encoded: bytes, code: int) -> None:
    body = b"\x00\x01t" + bytes([len(encoded)]) + encoded
    with pytest.raises(Malformed) as told:
        packets.publish(Packet(3, 0, body), 5)
    assert told.value.code == code


@pytest.mark.parametrize(
    "encoded", [b"\x21\x00\x00", b"\x27\x00\x00\x00\x00", b"\x17\x02", b"\x13\x00\x01"]
)
def test_an_invalid_property_of_connect_is_refused(encoded: bytes) -> None:
    body = b"\x00\x04MQTT\x05\x02\x00\x3c" + bytes([len(encoded)]) + encoded + b"\x00\x01a"
    with pytest.raises(Malformed):
        packets.connect(body)


def test_answers_of_version_5_have_reasons_and_properties() -> None:
    told = {properties.SERVER_KEEP_ALIVE: 1200, properties.MAXIMUM_QOS: 1}
    encoded = b"\x13\x04\xb0" + b"\x24\x01"
    assert packets.connack(0, 5, told) == b"\x20\x08\x00\x00\x05" + encoded
    assert packets.connack(0, 5, told, True)[2:4] == b"\x01\x00"
    assert packets.connack(0x87, 5) == b"\x20\x03\x00\x87\x00"
    assert packets.suback(10, [0x87, 1], 5) == b"\x90\x05\x00\x0a\x00\x87\x01"
    assert packets.unsuback(10, [False, True], 5) == b"\xb0\x05\x00\x0a\x00\x11\x00"
    assert packets.disconnect(0x8E) == b"\xe0\x01\x8e"


@pytest.mark.parametrize(
    ("body", "level", "leaves_will"),
    [(b"", 4, False), (b"", 5, False), (b"\x00", 5, False), (b"\x04", 5, True), (b"\x81", 5, True)],
)
def test_a_disconnect_drops_the_will_unless_it_keeps_it(
    body: bytes, level: int, leaves_will: bool
) -> None:
    assert packets.disconnected(body, level) == (leaves_will, {})


def test_a_disconnect_may_set_how_long_the_session_lasts() -> None:
    body = b"\x00\x05\x11\x00\x00\x00\x05"
    assert packets.disconnected(body, 5) == (False, {properties.SESSION_EXPIRY: 5})
    for wrong, level in ((b"\x00", 4), (b"\x00\x00x", 5)):
        with pytest.raises(Malformed):
            packets.disconnected(wrong, level)


def test_an_acknowledgement_names_a_packet() -> None:
    assert packets.acknowledged(b"\x00\x0a") == 10
    for body in (b"\x00\x0a", b"\x00\x0a\x10", b"\x00\x0a\x00\x00"):
        assert packets.acknowledged(body, 5) == 10
    for body, level in ((b"\x00\x00", 4), (b"\x00", 4), (b"\x00\x0a\x00", 4), (b"\x00\x00", 5)):
        with pytest.raises(Malformed):
            packets.acknowledged(body, level)


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
def test_an_invalid_publish_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        packets.publish(Packet(3, 0b0010, body))


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a",  # its reserved flag
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x01+\x00\x00",  # a will to a filter
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a\x00\x00\x00\x00",  # a will to nothing
        b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01a",  # the will is missing
        b"\x00\x04MQTT\x04\x1e\x00\x3c\x00\x01a\x00\x01t\x00\x00",  # a will of QoS 3
        b"\x00\x04MQTT\x04\x0a\x00\x3c\x00\x01a",  # a will's QoS without a will
        b"\x00\x04MQTT\x04\x22\x00\x3c\x00\x01a",  # a will's retain flag without a will
        b"\x00\x04MQTT\x04\x42\x00\x3c\x00\x01a\x00\x01p",  # a password without a user name
        b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a",  # the user name is missing
        b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01ax",  # bytes after its end
        b"\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01ax",
    ],
)
def test_an_invalid_connect_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        packets.connect(body)


@pytest.mark.parametrize("flags", [0b0110, 0b0111, 0b1000, 0b1110])
def test_a_publish_with_invalid_flags_is_refused(flags: int) -> None:
    with pytest.raises(Malformed, match="PUBLISH with flags"):  # QoS 3, or sent again at QoS 0
        packets.publish(Packet(3, flags, b"\x00\x01a\x00\x01"))


@pytest.mark.parametrize("first", [0x80, 0x8A, 0xA0, 0xC1, 0x11, 0x41, 0xE2])
def test_a_packet_with_the_wrong_fixed_flags_is_refused(first: int) -> None:
    with pytest.raises(Malformed, match="with flags"):
        read(bytes([first, 0]))


def test_a_subscribe_without_a_topic_filter_is_refused() -> None:
    for parse in (packets.subscribe, packets.unsubscribe):
        for body in (b"\x00\x0a", b"\x00\x00\x00\x01a\x00"):  # and one of packet id 0
            with pytest.raises(Malformed):
                parse(body)


@pytest.mark.parametrize(
    ("options", "level"), [(0x04, 4), (0x80, 4), (0x40, 5), (0x80, 5), (0x30, 5), (0x03, 5)]
)
def test_a_subscription_with_unknown_options_is_refused(options: int, level: int) -> None:
    body = b"\x00\x0a" + packets.no_properties(level) + b"\x00\x01a"
    with pytest.raises(Malformed):
        packets.subscribe(body + bytes([options]), level)


def test_a_subscription_with_an_identifier_is_refused_and_a_group_has_no_local_messages() -> None:
    with pytest.raises(Malformed) as told:
        packets.subscribe(b"\x00\x0a\x02\x0b\x01\x00\x01a\x01", 5)
    assert told.value.code == packets.NO_IDENTIFIERS
    with pytest.raises(Malformed) as told:
        packets.subscribe(b"\x00\x0a\x00\x00\x0a$share/g/b\x05", 5)
    assert told.value.code == packets.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("asked", "seconds"), [(0, 1200), (1, 30), (29, 30), (31, 31), (1200, 1200), (65_535, 1200)]
)
def test_the_keep_alive_time_is_between_half_a_minute_and_twenty_minutes(
    asked: int, seconds: int
) -> None:
    assert limits.keep_alive_seconds(asked) == seconds


@pytest.mark.parametrize(
    "topic", ["$aws/rules/rule/" + "a" * 256, "$aws/rules/rule/1/2/3/4/5/6/7/8", "/1/2/3/4/5/6/7"]
)
def test_the_rule_of_basic_ingest_does_not_count_in_a_topic(topic: str) -> None:
    limits.check_message(topic, b"")
    with pytest.raises(limits.Exceeded):
        limits.check_message(f"{topic}{'/' if topic[-1] != 'a' else 'a'}", b"")


def test_answers_are_those_of_the_standard() -> None:
    assert packets.connack(5) == b"\x20\x02\x00\x05"
    assert packets.puback(0x0A0B) == b"\x40\x02\x0a\x0b"
    subscribe = b"\x00\x0a\x00\x03a/b\x01\x00\x03c/d\x02"
    wanted = [Subscription("a/b", 1), Subscription("c/d", 2)]
    assert packets.subscribe(subscribe) == (10, wanted)
    assert packets.suback(10, [1, 0]) == b"\x90\x04\x00\x0a\x01\x00"
    assert packets.unsubscribe(b"\x00\x0c\x00\x03a/b\x00\x03c/d") == (12, ["a/b", "c/d"])
    assert packets.unsuback(10, [True, False]) == b"\xb0\x02\x00\x0a"


@pytest.mark.parametrize("level", packets.LEVELS)
@pytest.mark.parametrize("packet_id", [0, 10])
@pytest.mark.parametrize("count", [0, 121, 122, 123, 20_000])
def test_a_sent_message_reads_back_unchanged(packet_id: int, count: int, level: int) -> None:
    sent = Publish("a/b", b"x" * count, min(packet_id, 1), packet_id)
    assert packets.publish(read(packets.message(sent, level), 30_000), level) == sent


@pytest.mark.parametrize(
    "topic_filter",
    ["#", "+", "+/b", "a/+/#", "$aws/certificates/create/json/+", "$share/g/#", "$shared"],
)
def test_a_wildcard_is_a_whole_level(topic_filter: str) -> None:
    body = b"\x00\x0a" + len(topic_filter).to_bytes(2, "big") + topic_filter.encode() + b"\x00"
    assert packets.subscribe(body) == (10, [Subscription(topic_filter, 0)])


@pytest.mark.parametrize(
    "topic_filter",
    [
        "",
        "a#",
        "#/a",
        "a+/b",
        "++",
        "##",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/g#/a",
        "$share/g/a#",
    ],
)
def test_a_wildcard_within_a_level_is_not_a_topic_filter(topic_filter: str) -> None:
    body = b"\x00\x0a" + len(topic_filter).to_bytes(2, "big") + topic_filter.encode() + b"\x00"
    with pytest.raises(Malformed, match="which is no"):
        packets.subscribe(body)


def test_a_subscription_with_an_unknown_qos_is_malformed() -> None:
    with pytest.raises(Malformed, match="QoS 3"):
        packets.subscribe(b"\x00\x0a\x00\x03a/b\x03")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    messages = [Packet(3, flags, data) for flags in range(16)]
    for level in packets.LEVELS:
        for body in (data, b"\x00\x04MQTT" + bytes([level]) + data):
            with suppress(Malformed):
                packets.connect(body)
    for level in packets.LEVELS:
        parsers: list[Any] = [packets.subscribe, packets.unsubscribe]
        parsers += [packets.acknowledged, packets.disconnected]
        for parse in parsers:
            with suppress(Malformed):
                parse(data, level)
        for each in messages:
            with suppress(Malformed):
                packets.publish(each, level)
