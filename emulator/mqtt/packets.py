"""MQTT 3.1.1 and 5 on the wire, a server's half of it.

https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html

What both call malformed, or an error of the protocol, is refused with the reason code of version 5:
version 3.1.1 only ends the connection.
"""

import asyncio
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from emulator.mqtt import properties
from emulator.mqtt.properties import Kind, Properties, number

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
FLAGS = {SUBSCRIBE: 0b0010, UNSUBSCRIBE: 0b0010}
"""Of packets that don't have 0 there; those of PUBLISH say something."""
NAME = "MQTT"
LEVELS = LEVEL_3_1_1, LEVEL_5 = 4, 5
LENGTH_BYTES_MAX = 4
QOS_MAX = 2
WILD = frozenset("+#")
SHARED = "$share/"

# What version 3.1.1 answers to CONNECT
ACCEPTED, WRONG_LEVEL, IDENTIFIER_REJECTED, NOT_AUTHORIZED = 0, 1, 2, 5

# Reason codes of version 5
WITH_WILL, NO_SUBSCRIPTION = 0x04, 0x11
UNSPECIFIED, MALFORMED, PROTOCOL_ERROR, BAD_IDENTIFIER = 0x80, 0x81, 0x82, 0x85
NOT_ALLOWED, BAD_AUTHENTICATION, SILENT, TAKEN_OVER = 0x87, 0x8C, 0x8D, 0x8E
BAD_FILTER, BAD_TOPIC, BAD_ALIAS, TOO_LARGE = 0x8F, 0x90, 0x94, 0x95
OVER_QUOTA, NO_QOS_2, NO_IDENTIFIERS = 0x97, 0x9B, 0xA1


class Malformed(Exception):
    """What came isn't MQTT; the connection ends, with this reason code of version 5."""

    def __init__(self, what: str, code: int = MALFORMED) -> None:
        """Say what is wrong."""
        super().__init__(what)
        self.code = code


class Packet(NamedTuple):
    """A packet: its type, the four flags beside it, and the rest."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True)
class Publish:
    """A message."""

    topic: str
    """Empty where an alias stands for it."""
    payload: bytes
    qos: int
    packet_id: int = 0
    is_retained: bool = False
    properties: Properties = field(default_factory=dict)


@dataclass(frozen=True)
class Connect:
    """A client's first packet."""

    name: str
    level: int
    client_id: str = ""
    keep_alive_seconds: int = 0
    is_clean: bool = True
    will: Publish | None = None
    properties: Properties = field(default_factory=dict)

    @property
    def is_supported(self) -> bool:
        """Whether it is of a version that is spoken here; of another nothing else is read."""
        return self.name == NAME and self.level in LEVELS


@dataclass(frozen=True)
class Subscription:
    """What a client wants messages of, and how."""

    topic_filter: str
    """As the client says it, with `$share/<group>/` before it."""
    qos: int
    no_local: bool = False
    """Not those that the client itself has published."""
    keeps_retained: bool = False
    """A message that came as one to be retained goes on as one."""
    retained: int = 0
    """Whether what is retained is sent: 0 always, 1 to a new subscription, 2 never."""

    @property
    def group(self) -> str:
        """The group that shares it; empty where none does."""
        is_shared = self.topic_filter.startswith(SHARED)
        return self.topic_filter.split("/", 2)[1] if is_shared else ""

    @property
    def matched(self) -> str:
        """The filter that topics are held against."""
        return self.topic_filter.split("/", 2)[2] if self.group else self.topic_filter


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
        raise Malformed(f"a packet of {length} bytes; {bytes_max} are the most", TOO_LARGE)
    packet = Packet(first >> 4, first & 0x0F, await reader.readexactly(length))
    if packet.kind != PUBLISH and packet.flags != FLAGS.get(packet.kind, 0):
        raise Malformed(f"a packet of type {packet.kind} with flags {packet.flags:04b}")
    return packet


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

    def number(self, size: int = 2) -> int:
        """Return the next bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def variable(self) -> int:
        """Return the next number of one to four bytes."""
        found = 0
        for index in range(LENGTH_BYTES_MAX):
            (byte,) = self.take(1)
            found |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return found
        raise Malformed("a number of more than four bytes")

    def packet_id(self) -> int:
        """Return the next two bytes, which name a packet."""
        found = self.number()
        if not found:
            raise Malformed("packet id 0", PROTOCOL_ERROR)
        return found

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
        """Return the next text as a topic filter, which a group may share."""
        found = self.text()
        matched = found
        if found.startswith(SHARED):
            group, _, matched = found.removeprefix(SHARED).partition("/")
            if not group or WILD & set(group) or not matched:
                told = f"'{found}', which is no $share/<group>/<topic filter>"
                raise Malformed(told, BAD_FILTER)
        levels = matched.split("/")
        is_wrong = "#" in levels[:-1] or any(WILD & set(each) and each[1:] for each in levels)
        if not found or is_wrong:
            raise Malformed(f"'{found}', which is no topic filter", BAD_FILTER)
        return found

    def topic(self) -> str:
        """Return the next text, which a message can go to."""
        topic = self.text()
        if WILD & set(topic):
            raise Malformed(f"a message to '{topic}', which is no topic", BAD_TOPIC)
        return topic

    def properties(self, level: int, allowed: frozenset[int]) -> dict[int, Any]:
        """Return the properties, which version 5 has here."""
        found = dict[int, Any]()
        if level != LEVEL_5:
            return found
        inner = Cursor(self.take(self.variable()))
        while inner.at < len(inner.data):
            identifier = inner.variable()
            if identifier not in allowed:
                raise Malformed(f"property {identifier:#04x}, which doesn't belong here")
            value = inner.value(properties.KINDS[identifier])
            if identifier == properties.USER:
                found.setdefault(identifier, []).append(value)
                continue
            if identifier in found:
                raise Malformed(f"property {identifier:#04x} twice", PROTOCOL_ERROR)
            check_property(identifier, value)
            found[identifier] = value
        return found

    def value(self, kind: Kind) -> Any:
        """Return the next value of a property."""
        match kind:
            case Kind.VARIABLE:
                return self.variable()
            case Kind.TEXT:
                return self.text()
            case Kind.BINARY:
                return self.binary()
            case Kind.PAIR:
                return self.text(), self.text()
            case _:
                return self.number(kind.value)

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        """Raise Malformed unless nothing is left."""
        if self.at < len(self.data):
            raise Malformed(f"{len(self.data) - self.at} bytes behind a packet's end")


def check_property(identifier: int, value: Any) -> None:
    """Raise Malformed for a value that a property can't have."""
    wrong = (
        (identifier in properties.FLAGS and value > 1)
        or (identifier in properties.NOT_ZERO and value == 0)
        or (identifier == properties.RESPONSE_TOPIC and (not value or WILD & set(value)))
    )
    if wrong:
        raise Malformed(f"property {identifier:#04x} of value {value!r}", PROTOCOL_ERROR)


def connect(body: bytes) -> Connect:
    """Return what a CONNECT says; of another version than 3.1.1 and 5, that only."""
    cursor = Cursor(body)
    name, (level, flags) = cursor.text(), cursor.take(2)
    found = Connect(name, level)
    if not found.is_supported:
        return found
    has_will, will_qos, will_is_retained = flags & 0b100, flags >> 3 & 0b11, flags & 0b100000
    has_name, has_password = flags & 0x80, flags & 0x40
    if flags & 1 or will_qos > QOS_MAX or (not has_will and (will_qos or will_is_retained)):
        raise Malformed(f"CONNECT with flags {flags:08b}")
    if has_password and not has_name and level == LEVEL_3_1_1:
        raise Malformed("CONNECT with a password and no user name")
    keep_alive_seconds = cursor.number()
    of_connect = cursor.properties(level, properties.OF_CONNECT)
    client_id = cursor.text()
    will = None
    if has_will:
        of_will = cursor.properties(level, properties.OF_WILL)
        topic = cursor.topic()
        if not topic:
            raise Malformed("a will to no topic", BAD_TOPIC)
        will = Publish(topic, cursor.binary(), will_qos, 0, bool(will_is_retained), of_will)
    if has_name:
        cursor.text()  # it tells nothing here: the certificate says who it is
    if has_password:
        cursor.binary()
    cursor.end()
    is_clean = bool(flags & 0b10)
    return Connect(name, level, client_id, keep_alive_seconds, is_clean, will, of_connect)


def publish(packet: Packet, level: int = LEVEL_3_1_1) -> Publish:
    """Return the message in a PUBLISH."""
    cursor, qos = Cursor(packet.body), packet.flags >> 1 & 0b11
    if qos > QOS_MAX or (packet.flags & 0b1000 and not qos):
        raise Malformed(f"PUBLISH with flags {packet.flags:04b}")
    topic = cursor.topic()
    packet_id = cursor.packet_id() if qos else 0
    found = cursor.properties(level, properties.OF_PUBLISH)
    if not topic and properties.TOPIC_ALIAS not in found:
        raise Malformed("a message to no topic", PROTOCOL_ERROR)
    return Publish(topic, cursor.rest(), qos, packet_id, bool(packet.flags & 1), found)


def acknowledged(body: bytes, level: int = LEVEL_3_1_1) -> int:
    """Return the packet id of a PUBACK; why a client refuses a message changes nothing."""
    cursor = Cursor(body)
    packet_id = cursor.packet_id()
    if level == LEVEL_5 and cursor.at < len(body):
        cursor.take(1)
        if cursor.at < len(body):
            cursor.properties(level, properties.OF_PUBACK)
    cursor.end()
    return packet_id


def subscribe(body: bytes, level: int = LEVEL_3_1_1) -> tuple[int, list[Subscription]]:
    """Return a SUBSCRIBE's packet id, and what it asks for."""
    cursor = Cursor(body)
    packet_id, wanted = cursor.packet_id(), list[Subscription]()
    if properties.SUBSCRIPTION_IDENTIFIER in cursor.properties(level, properties.OF_SUBSCRIBE):
        raise Malformed("SUBSCRIBE with a subscription identifier", NO_IDENTIFIERS)
    while cursor.at < len(body):
        topic_filter, (options,) = cursor.topic_filter(), cursor.take(1)
        qos, known = options & 0b11, 0b111111 if level == LEVEL_5 else 0b11
        no_local, keeps_retained, retained = options & 4, options & 8, options >> 4
        if options & ~known or qos > QOS_MAX:
            raise Malformed(f"SUBSCRIBE with QoS {qos}, or options {options:08b}")
        if retained > 2 or (no_local and topic_filter.startswith(SHARED)):
            raise Malformed(f"SUBSCRIBE with options {options:08b}", PROTOCOL_ERROR)
        wanted.append(
            Subscription(topic_filter, qos, bool(no_local), bool(keeps_retained), retained)
        )
    if not wanted:
        raise Malformed("SUBSCRIBE without a topic filter", PROTOCOL_ERROR)
    return packet_id, wanted


def unsubscribe(body: bytes, level: int = LEVEL_3_1_1) -> tuple[int, list[str]]:
    """Return an UNSUBSCRIBE's packet id and topic filters."""
    cursor = Cursor(body)
    packet_id, unwanted = cursor.packet_id(), list[str]()
    cursor.properties(level, properties.OF_UNSUBSCRIBE)
    while cursor.at < len(body):
        unwanted.append(cursor.topic_filter())
    if not unwanted:
        raise Malformed("UNSUBSCRIBE without a topic filter", PROTOCOL_ERROR)
    return packet_id, unwanted


def disconnected(body: bytes, level: int) -> tuple[bool, Properties]:
    """Return whether a DISCONNECT leaves its will to be published, and its properties."""
    cursor, reason, found = Cursor(body), 0, dict[int, Any]()
    if level == LEVEL_5 and body:
        (reason,) = cursor.take(1)
        if cursor.at < len(body):
            found = cursor.properties(level, properties.OF_DISCONNECT)
    cursor.end()
    return reason != ACCEPTED, found


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return a packet, its length before its body."""
    return bytes([kind << 4 | flags]) + number(len(body)) + body


def connack(
    code: int,
    level: int = LEVEL_3_1_1,
    told: Properties | None = None,
    is_session_present: bool = False,
) -> bytes:
    """Return the answer to CONNECT; version 5 is told by properties what there is."""
    body = bytes([is_session_present, code])
    return packet(CONNACK, body + properties.encode(told or {}) if level == LEVEL_5 else body)


def puback(packet_id: int) -> bytes:
    """Return the answer to a PUBLISH of QoS 1."""
    return packet(PUBACK, struct.pack("!H", packet_id))


def message(sent: Publish, level: int = LEVEL_3_1_1) -> bytes:
    """Return a PUBLISH: of QoS 1, or of QoS 0 without a packet id."""
    body = properties.with_length(sent.topic.encode())
    body += struct.pack("!H", sent.packet_id) if sent.qos else b""
    body += properties.encode(sent.properties) if level == LEVEL_5 else b""
    return packet(PUBLISH, body + sent.payload, sent.qos << 1 | sent.is_retained)


def suback(packet_id: int, codes: list[int], level: int = LEVEL_3_1_1) -> bytes:
    """Return the answer to SUBSCRIBE: the QoS granted, by topic filter; or why it isn't."""
    return packet(SUBACK, struct.pack("!H", packet_id) + no_properties(level) + bytes(codes))


def unsuback(packet_id: int, found: list[bool], level: int = LEVEL_3_1_1) -> bytes:
    """Return the answer to UNSUBSCRIBE: version 5 hears which of its filters were subscribed to."""
    codes = bytes(ACCEPTED if each else NO_SUBSCRIPTION for each in found)
    rest = no_properties(level) + codes if level == LEVEL_5 else b""
    return packet(UNSUBACK, struct.pack("!H", packet_id) + rest)


def no_properties(level: int) -> bytes:
    """Return what version 5 has where properties would be."""
    return b"\x00" if level == LEVEL_5 else b""


def disconnect(reason: int) -> bytes:
    """Return the word of a server that ends a connection, which only version 5 has."""
    return packet(DISCONNECT, bytes([reason]))


PINGRESP_BYTES = packet(PINGRESP, b"")
