"""MQTT 3.1.1 and 5 on the wire, a server's half of it.

https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html

Of a client's properties (5) none is looked at; topic aliases aren't announced, so there are none.
"""

import asyncio
import struct
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
LEVELS = LEVEL_3_1_1, LEVEL_5 = 4, 5
ACCEPTED, WRONG_LEVEL, NOT_AUTHORIZED = 0, 1, 5
LENGTH_BYTES_MAX = 4
QOS_MAX = 2
WILD = frozenset("+#")

# Reason codes and properties of version 5
WITH_WILL = 0x04
NO_SUBSCRIPTION, MALFORMED, NOT_ALLOWED, TAKEN_OVER = 0x11, 0x81, 0x87, 0x8E
SESSION_EXPIRY, SERVER_KEEP_ALIVE, MAXIMUM_QOS = 0x11, 0x13, 0x24


class Malformed(Exception):
    """What came isn't MQTT; the connection ends."""


class Packet(NamedTuple):
    """A packet: its type, the four flags beside it, and the rest."""

    kind: int
    flags: int
    body: bytes


class Will(NamedTuple):
    """What is to be published when a connection ends without a word."""

    topic: str
    payload: bytes
    qos: int
    is_retained: bool


class Connect(NamedTuple):
    """A client's first packet."""

    level: int
    client_id: str
    keep_alive_seconds: int
    will: Will | None


class Publish(NamedTuple):
    """A message."""

    topic: str
    payload: bytes
    qos: int
    packet_id: int
    is_retained: bool


async def read(reader: asyncio.StreamReader, bytes_max: int) -> Packet:
    """Read a packet; raise Malformed, or IncompleteReadError at the connection's end."""
    (first,) = await reader.readexactly(1)
    length = 0
    for index in range(LENGTH_BYTES_MAX):
        (byte,) = await reader.readexactly(1)
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    else:
        raise Malformed("a length of more than four bytes")
    if length > bytes_max:
        raise Malformed(f"a packet of {length} bytes; {bytes_max} are the most")
    return Packet(first >> 4, first & 0x0F, await reader.readexactly(length))


class Cursor:
    """A packet's rest, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        """Begin at the beginning."""
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if self.at + count > len(self.data):
            raise Malformed("a packet that ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """Return the next two bytes as a number."""
        return int.from_bytes(self.take(2), "big")

    def binary(self) -> bytes:
        """Return the next bytes with their count before them."""
        return self.take(self.number())

    def text(self) -> str:
        """Return the next text."""
        try:
            text = self.binary().decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"a text that isn't UTF-8: {error}") from None
        if "\0" in text:
            raise Malformed("a text with U+0000")
        return text

    def topic_filter(self) -> str:
        """Return the next text as a topic filter."""
        found = self.text()
        levels = found.split("/")
        if not found or "#" in levels[:-1] or any(WILD & set(each) and each[1:] for each in levels):
            raise Malformed(f"'{found}', which is no topic filter")
        return found

    def topic(self) -> str:
        """Return the next text, which a message can go to."""
        topic = self.text()
        if not topic or "+" in topic or "#" in topic:
            raise Malformed(f"a message to '{topic}', which is no topic")
        return topic

    def skip_properties(self, level: int) -> None:
        """Go on behind the properties, which version 5 has here."""
        if level == LEVEL_5:
            length = 0
            for index in range(LENGTH_BYTES_MAX):
                (byte,) = self.take(1)
                length |= (byte & 0x7F) << (7 * index)
                if byte < 0x80:
                    break
            self.take(length)

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self.data) - self.at)


def connect(body: bytes) -> Connect:
    """Return what a CONNECT says; of another level than 3.1.1 and 5, that only."""
    cursor = Cursor(body)
    protocol, (level, flags) = cursor.text(), cursor.take(2)
    if protocol != "MQTT" or level not in LEVELS:
        return Connect(level, "", 0, None)
    if flags & 1:
        raise Malformed("CONNECT with its reserved flag")
    keep_alive_seconds = cursor.number()
    cursor.skip_properties(level)
    client_id = cursor.text()
    will = None
    if flags & 0b100:
        cursor.skip_properties(level)
        will = Will(cursor.topic(), cursor.binary(), flags >> 3 & 0b11, bool(flags & 0b100000))
    return Connect(level, client_id, keep_alive_seconds, will)  # names and passwords tell nothing


def publish(packet: Packet, level: int = LEVEL_3_1_1) -> Publish:
    """Return the message in a PUBLISH."""
    cursor, qos = Cursor(packet.body), packet.flags >> 1 & 0b11
    topic = cursor.topic()
    packet_id = cursor.number() if qos else 0
    if qos and not packet_id:
        raise Malformed("a message of QoS 1 without a packet id")
    cursor.skip_properties(level)
    return Publish(topic, cursor.rest(), qos, packet_id, bool(packet.flags & 1))


def subscribe(body: bytes, level: int = LEVEL_3_1_1) -> tuple[int, dict[str, int]]:
    """Return a SUBSCRIBE's packet id, and the QoS asked for by topic filter."""
    cursor = Cursor(body)
    packet_id, wanted = cursor.number(), dict[str, int]()
    cursor.skip_properties(level)
    while cursor.at < len(body):
        topic_filter, (options,) = cursor.topic_filter(), cursor.take(1)
        qos = options & 0b11 if level == LEVEL_5 else options
        if qos > QOS_MAX:
            raise Malformed(f"SUBSCRIBE with QoS {qos}")
        wanted[topic_filter] = qos
    if not wanted:
        raise Malformed("SUBSCRIBE without a topic filter")
    return packet_id, wanted


def unsubscribe(body: bytes, level: int = LEVEL_3_1_1) -> tuple[int, list[str]]:
    """Return an UNSUBSCRIBE's packet id and topic filters."""
    cursor = Cursor(body)
    packet_id, unwanted = cursor.number(), list[str]()
    cursor.skip_properties(level)
    while cursor.at < len(body):
        unwanted.append(cursor.topic_filter())
    if not unwanted:
        raise Malformed("UNSUBSCRIBE without a topic filter")
    return packet_id, unwanted


def connack(code: int, level: int = LEVEL_3_1_1, keep_alive_seconds: int = 0) -> bytes:
    """Return the answer to CONNECT; there are no sessions to resume.

    Version 5 is told so, and that there is no QoS 2, and how often to send something.
    """
    if level != LEVEL_5:
        return bytes([CONNACK << 4, 2, 0, code])
    told = SESSION_EXPIRY, 0, SERVER_KEEP_ALIVE, keep_alive_seconds, MAXIMUM_QOS, 1
    properties = struct.pack("!BIBHBB", *told)
    body = bytes([0, NOT_ALLOWED if code else ACCEPTED, len(properties)]) + properties
    return bytes([CONNACK << 4, len(body)]) + body


def puback(packet_id: int) -> bytes:
    """Return the answer to a PUBLISH of QoS 1."""
    return struct.pack("!BBH", PUBACK << 4, 2, packet_id)


def message(topic: str, payload: bytes, packet_id: int, level: int = LEVEL_3_1_1) -> bytes:
    """Return a PUBLISH: of QoS 1, or of QoS 0 with packet id 0."""
    name, number = topic.encode(), struct.pack("!H", packet_id) if packet_id else b""
    body = struct.pack("!H", len(name)) + name + number + no_properties(level) + payload
    return bytes([PUBLISH << 4 | (0b10 if packet_id else 0)]) + length(len(body)) + body


def length(count: int) -> bytes:
    """Return a packet's length as it goes before it."""
    encoded = b""
    while True:
        count, low = divmod(count, 0x80)
        if not count:
            return encoded + bytes([low])
        encoded += bytes([low | 0x80])


def no_properties(level: int) -> bytes:
    """Return what version 5 has where properties would be."""
    return b"\x00" if level == LEVEL_5 else b""


def suback(packet_id: int, codes: list[int], level: int = LEVEL_3_1_1) -> bytes:
    """Return the answer to SUBSCRIBE: the QoS granted, by topic filter; or why it isn't."""
    rest = no_properties(level) + bytes(codes)
    return struct.pack("!BBH", SUBACK << 4, 2 + len(rest), packet_id) + rest


def unsuback(packet_id: int, found: list[bool], level: int = LEVEL_3_1_1) -> bytes:
    """Return the answer to UNSUBSCRIBE: version 5 hears which of its filters were subscribed to."""
    codes = bytes(ACCEPTED if each else NO_SUBSCRIPTION for each in found)
    rest = no_properties(level) + codes if level == LEVEL_5 else b""
    return struct.pack("!BBH", UNSUBACK << 4, 2 + len(rest), packet_id) + rest


def keeps_will(body: bytes, level: int) -> bool:
    """Return whether a DISCONNECT asks for the will to be published all the same."""
    return level == LEVEL_5 and body[:1] == bytes([WITH_WILL])


def disconnect(reason: int) -> bytes:
    """Return the word of a server that ends a connection, which only version 5 has."""
    return bytes([DISCONNECT << 4, 1, reason])


PINGRESP_BYTES = bytes([PINGRESP << 4, 0])
