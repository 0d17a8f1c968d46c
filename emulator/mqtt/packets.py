"""MQTT 3.1.1 and 5 on the wire: the packets that a server reads and writes.

https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html

A malformed packet or a protocol error is refused with a reason code of version 5. Version 3.1.1 has
no such code; its connection is closed.
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
"""The fixed flags of packet types whose flags aren't 0; PUBLISH's flags vary."""
NAME = "MQTT"
LEVELS = LEVEL_3_1_1, LEVEL_5 = 4, 5
LENGTH_BYTES_MAX = 4
MORE = 0x80
"""The bit of a byte of a length that says that another byte follows."""
QOS_MAX = 2
WILD = frozenset("+#")
SHARED = "$share/"

# Return codes of version 3.1.1 in CONNACK
ACCEPTED, WRONG_LEVEL, IDENTIFIER_REJECTED, NOT_AUTHORIZED = 0, 1, 2, 5

# Reason codes of version 5
WITH_WILL, NO_SUBSCRIPTION = 0x04, 0x11
UNSPECIFIED, MALFORMED, PROTOCOL_ERROR, BAD_IDENTIFIER = 0x80, 0x81, 0x82, 0x85
NOT_ALLOWED, BAD_AUTHENTICATION, KEEP_ALIVE_TIMEOUT, TAKEN_OVER = 0x87, 0x8C, 0x8D, 0x8E
BAD_FILTER, BAD_TOPIC, BAD_ALIAS, TOO_LARGE = 0x8F, 0x90, 0x94, 0x95
OVER_QUOTA, NO_QOS_2, NO_IDENTIFIERS = 0x97, 0x9B, 0xA1


class Malformed(Exception):
    """A packet isn't valid MQTT; the connection ends with `code`, a reason code of version 5."""

    def __init__(self, problem: str, code: int = MALFORMED) -> None:
        """Keep the problem and the reason code."""
        super().__init__(problem)
        self.code = code


class Packet(NamedTuple):
    """A packet: its type, its four flags, and the rest."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True)
class Publish:
    """A message."""

    topic: str
    """Empty if the message has an alias instead."""
    payload: bytes
    qos: int
    packet_id: int = 0
    is_retained: bool = False
    properties: Properties = field(default_factory=dict)
    is_duplicate: bool = False
    """Whether an earlier attempt may have reached the receiver: the DUP flag."""


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
        """Return whether its version is supported; nothing else is read of other versions."""
        return self.name == NAME and self.level in LEVELS


@dataclass(frozen=True)
class Subscription:
    """A client's subscription: a topic filter with its options."""

    topic_filter: str
    """As the client sent it, with `$share/<group>/` if it is shared."""
    qos: int
    no_local: bool = False
    """Whether messages that the client itself published are left out."""
    keeps_retained: bool = False
    """Whether messages are delivered with the retain flag that they came with."""
    retained: int = 0
    """When the retained message is sent: 0 always, 1 to a new subscription, 2 never."""

    @property
    def group(self) -> str:
        """The group that shares it; empty if it isn't shared."""
        is_shared = self.topic_filter.startswith(SHARED)
        return self.topic_filter.split("/", 2)[1] if is_shared else ""

    @property
    def matched(self) -> str:
        """The filter that topics are compared with."""
        return self.topic_filter.split("/", 2)[2] if self.group else self.topic_filter


async def read(reader: asyncio.StreamReader, bytes_max: int) -> Packet:
    """Read a packet; raise Malformed, or IncompleteReadError at the connection's end."""
    (first,) = await reader.readexactly(1)
    encoded = await reader.readexactly(1)
    while encoded[-1] & MORE and len(encoded) <= LENGTH_BYTES_MAX:
        encoded += await reader.readexactly(1)
    length = Cursor(encoded).variable()
    if length > bytes_max:
        raise Malformed(f"a packet of {length} bytes; {bytes_max} are the most", TOO_LARGE)
    packet = Packet(first >> 4, first & 0x0F, await reader.readexactly(length))
    if packet.kind != PUBLISH and packet.flags != FLAGS.get(packet.kind, 0):
        raise Malformed(f"a packet of type {packet.kind} with flags {packet.flags:04b}")
    return packet


class Cursor:
    """A packet's rest, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte of `data`."""
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if self.at + count > len(self.data):
            raise Malformed("the packet ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, size: int = 2) -> int:
        """Return the next bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def variable(self) -> int:
        """Return the next number of variable length, one to four bytes, and no more than needed.

        MQTT 5, 1.5.5-1. Version 3.1.1 (2.2.3) gives each length one encoding, too.
        """
        result = 0
        for index in range(LENGTH_BYTES_MAX):
            (byte,) = self.take(1)
            result |= (byte & ~MORE) << (7 * index)
            if not byte and index:
                raise Malformed(f"the number {result} in {index + 1} bytes, more than it needs")
            if not byte & MORE:
                return result
        raise Malformed("a number of more than four bytes")

    def packet_id(self) -> int:
        """Return the next two bytes as a packet id."""
        identifier = self.number()
        if not identifier:
            raise Malformed("packet id 0", PROTOCOL_ERROR)
        return identifier

    def binary(self) -> bytes:
        """Return the next bytes, whose count comes before them."""
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
        """Return the next text as a topic filter, which may be shared."""
        topic_filter = self.text()
        matched = topic_filter
        if topic_filter.startswith(SHARED):
            group, _, matched = topic_filter.removeprefix(SHARED).partition("/")
            if not group or WILD & set(group) or not matched:
                told = f"'{topic_filter}', which is no $share/<group>/<topic filter>"
                raise Malformed(told, BAD_FILTER)
        levels = matched.split("/")
        is_wrong = "#" in levels[:-1] or any(WILD & set(each) and each[1:] for each in levels)
        if not topic_filter or is_wrong:
            raise Malformed(f"'{topic_filter}', which is no topic filter", BAD_FILTER)
        return topic_filter

    def topic(self) -> str:
        """Return the next text as the topic of a message."""
        topic = self.text()
        if WILD & set(topic):
            raise Malformed(f"a message to '{topic}', which is no topic", BAD_TOPIC)
        return topic

    def properties(self, level: int, allowed: frozenset[int]) -> dict[int, Any]:
        """Return the properties here; none for version 3.1.1."""
        values = dict[int, Any]()
        if level != LEVEL_5:
            return values
        inner = Cursor(self.take(self.variable()))
        while inner.at < len(inner.data):
            identifier = inner.variable()
            if identifier not in allowed:
                raise Malformed(f"property {identifier:#04x}, which doesn't belong here")
            value = inner.value(properties.KINDS[identifier])
            if identifier == properties.USER:
                values.setdefault(identifier, []).append(value)
                continue
            if identifier in values:
                raise Malformed(f"property {identifier:#04x} twice", PROTOCOL_ERROR)
            check_property(identifier, value)
            values[identifier] = value
        return values

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
        """Return all remaining bytes."""
        return self.take(len(self.data) - self.at)

    def end(self) -> None:
        """Raise Malformed if bytes remain."""
        if self.at < len(self.data):
            raise Malformed(f"{len(self.data) - self.at} bytes after the packet's end")


def check_property(identifier: int, value: Any) -> None:
    """Raise Malformed for an invalid value of a property."""
    wrong = (
        (identifier in properties.FLAGS and value > 1)
        or (identifier in properties.NOT_ZERO and value == 0)
        or (identifier == properties.RESPONSE_TOPIC and (not value or WILD & set(value)))
    )
    if wrong:
        raise Malformed(f"property {identifier:#04x} of value {value!r}", PROTOCOL_ERROR)


def connect(body: bytes) -> Connect:
    """Return a CONNECT; of versions other than 3.1.1 and 5, only protocol and version."""
    cursor = Cursor(body)
    name, (level, flags) = cursor.text(), cursor.take(2)
    parsed = Connect(name, level)
    if not parsed.is_supported:
        return parsed
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
        cursor.text()  # the user name isn't used: the certificate identifies the client
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
    given = cursor.properties(level, properties.OF_PUBLISH)
    if not topic and properties.TOPIC_ALIAS not in given:
        raise Malformed("a message to no topic", PROTOCOL_ERROR)
    return Publish(topic, cursor.rest(), qos, packet_id, bool(packet.flags & 1), given)


def acknowledged(body: bytes, level: int = LEVEL_3_1_1) -> int:
    """Return the packet id of a PUBACK; its reason code has no effect."""
    cursor = Cursor(body)
    packet_id = cursor.packet_id()
    if level == LEVEL_5 and cursor.at < len(body):
        cursor.take(1)
        if cursor.at < len(body):
            cursor.properties(level, properties.OF_PUBACK)
    cursor.end()
    return packet_id


def subscribe(body: bytes, level: int = LEVEL_3_1_1) -> tuple[int, list[Subscription]]:
    """Return a SUBSCRIBE's packet id and subscriptions."""
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
    """Return whether the will is to be published after a DISCONNECT, and its properties."""
    cursor, reason, given = Cursor(body), 0, dict[int, Any]()
    if level == LEVEL_5 and body:
        (reason,) = cursor.take(1)
        if cursor.at < len(body):
            given = cursor.properties(level, properties.OF_DISCONNECT)
    cursor.end()
    return reason != ACCEPTED, given


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Return a packet: type and flags, length, body."""
    return bytes([kind << 4 | flags]) + number(len(body)) + body


def connack(
    code: int,
    level: int = LEVEL_3_1_1,
    given: Properties | None = None,
    is_session_present: bool = False,
) -> bytes:
    """Return the answer to CONNECT; `given`: its properties for version 5."""
    body = bytes([is_session_present, code])
    return packet(CONNACK, body + properties.encode(given or {}) if level == LEVEL_5 else body)


def puback(packet_id: int) -> bytes:
    """Return the answer to a PUBLISH of QoS 1."""
    return packet(PUBACK, struct.pack("!H", packet_id))


def message(sent: Publish, level: int = LEVEL_3_1_1) -> bytes:
    """Return a PUBLISH of QoS 0 or 1; QoS 1 has a packet id."""
    body = properties.with_length(sent.topic.encode())
    body += struct.pack("!H", sent.packet_id) if sent.qos else b""
    body += properties.encode(sent.properties) if level == LEVEL_5 else b""
    flags = sent.is_duplicate << 3 | sent.qos << 1 | sent.is_retained
    return packet(PUBLISH, body + sent.payload, flags)


def suback(packet_id: int, codes: list[int], level: int = LEVEL_3_1_1) -> bytes:
    """Return the answer to SUBSCRIBE: for each topic filter, the granted QoS or a reason code."""
    return packet(SUBACK, struct.pack("!H", packet_id) + no_properties(level) + bytes(codes))


def unsuback(packet_id: int, was_subscribed: list[bool], level: int = LEVEL_3_1_1) -> bytes:
    """Return the answer to UNSUBSCRIBE; version 5 gets a code for each topic filter."""
    codes = bytes(ACCEPTED if each else NO_SUBSCRIPTION for each in was_subscribed)
    rest = no_properties(level) + codes if level == LEVEL_5 else b""
    return packet(UNSUBACK, struct.pack("!H", packet_id) + rest)


def no_properties(level: int) -> bytes:
    """Return an empty list of properties for version 5, nothing for 3.1.1."""
    return b"\x00" if level == LEVEL_5 else b""


def disconnect(reason: int) -> bytes:
    """Return a server's DISCONNECT, which only version 5 has."""
    return packet(DISCONNECT, bytes([reason]))


PINGRESP_BYTES = packet(PINGRESP, b"")
