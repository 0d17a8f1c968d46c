"""MQTT 3.1.1 on the wire, a server's half of it.

https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
"""

import asyncio
import struct
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
LEVEL_3_1_1 = 4
ACCEPTED, WRONG_LEVEL, NOT_AUTHORIZED = 0, 1, 5
LENGTH_BYTES_MAX = 4
QOS_MAX = 2
WILD = frozenset("+#")


class Malformed(Exception):
    """What came isn't MQTT 3.1.1; the connection ends."""


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

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self.data) - self.at)


def connect(body: bytes) -> Connect:
    """Return what a CONNECT says; of another level than 3.1.1, that only."""
    cursor = Cursor(body)
    protocol, (level, flags) = cursor.text(), cursor.take(2)
    if protocol != "MQTT" or level != LEVEL_3_1_1:
        return Connect(level, "", 0, None)
    if flags & 1:
        raise Malformed("CONNECT with its reserved flag")
    keep_alive_seconds, client_id = cursor.number(), cursor.text()
    will = None
    if flags & 0b100:
        will = Will(cursor.topic(), cursor.binary(), flags >> 3 & 0b11, bool(flags & 0b100000))
    return Connect(level, client_id, keep_alive_seconds, will)  # names and passwords tell nothing


def publish(packet: Packet) -> Publish:
    """Return the message in a PUBLISH."""
    cursor, qos = Cursor(packet.body), packet.flags >> 1 & 0b11
    topic = cursor.topic()
    packet_id = cursor.number() if qos else 0
    if qos and not packet_id:
        raise Malformed("a message of QoS 1 without a packet id")
    return Publish(topic, cursor.rest(), qos, packet_id, bool(packet.flags & 1))


def subscribe(body: bytes) -> tuple[int, dict[str, int]]:
    """Return a SUBSCRIBE's packet id, and the QoS asked for by topic filter."""
    cursor = Cursor(body)
    packet_id, wanted = cursor.number(), dict[str, int]()
    while cursor.at < len(body):
        topic_filter, (qos,) = cursor.topic_filter(), cursor.take(1)
        if qos > QOS_MAX:
            raise Malformed(f"SUBSCRIBE with QoS {qos}")
        wanted[topic_filter] = qos
    if not wanted:
        raise Malformed("SUBSCRIBE without a topic filter")
    return packet_id, wanted


def unsubscribe(body: bytes) -> tuple[int, list[str]]:
    """Return an UNSUBSCRIBE's packet id and topic filters."""
    cursor = Cursor(body)
    packet_id, unwanted = cursor.number(), list[str]()
    while cursor.at < len(body):
        unwanted.append(cursor.topic_filter())
    return packet_id, unwanted


def connack(code: int) -> bytes:
    """Return the answer to CONNECT; there are no sessions to resume."""
    return bytes([CONNACK << 4, 2, 0, code])


def puback(packet_id: int) -> bytes:
    """Return the answer to a PUBLISH of QoS 1."""
    return struct.pack("!BBH", PUBACK << 4, 2, packet_id)


def message(topic: str, payload: bytes, packet_id: int) -> bytes:
    """Return a PUBLISH: of QoS 1, or of QoS 0 with packet id 0."""
    name, number = topic.encode(), struct.pack("!H", packet_id) if packet_id else b""
    body = struct.pack("!H", len(name)) + name + number + payload
    return bytes([PUBLISH << 4 | (0b10 if packet_id else 0)]) + length(len(body)) + body


def length(count: int) -> bytes:
    """Return a packet's length as it goes before it."""
    encoded = b""
    while True:
        count, low = divmod(count, 0x80)
        if not count:
            return encoded + bytes([low])
        encoded += bytes([low | 0x80])


def suback(packet_id: int, granted: list[int]) -> bytes:
    """Return the answer to SUBSCRIBE: the QoS granted, by topic filter."""
    return struct.pack("!BBH", SUBACK << 4, 2 + len(granted), packet_id) + bytes(granted)


def unsuback(packet_id: int) -> bytes:
    """Return the answer to UNSUBSCRIBE."""
    return struct.pack("!BBH", UNSUBACK << 4, 2, packet_id)


PINGRESP_BYTES = bytes([PINGRESP << 4, 0])
