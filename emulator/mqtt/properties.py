"""The properties of MQTT 5: their encoding, and the ones that each packet of a client may have.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901027

Properties are a dictionary by identifier; the value of USER is a list of pairs.
"""

import struct
from collections.abc import Mapping
from enum import Enum
from typing import Any

PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE = 0x01, 0x02, 0x03
RESPONSE_TOPIC, CORRELATION_DATA, SUBSCRIPTION_IDENTIFIER = 0x08, 0x09, 0x0B
SESSION_EXPIRY, ASSIGNED_CLIENT_IDENTIFIER, SERVER_KEEP_ALIVE = 0x11, 0x12, 0x13
AUTHENTICATION_METHOD, AUTHENTICATION_DATA, REQUEST_PROBLEM = 0x15, 0x16, 0x17
WILL_DELAY, REQUEST_RESPONSE, REASON_STRING = 0x18, 0x19, 0x1F
RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM, TOPIC_ALIAS = 0x21, 0x22, 0x23
MAXIMUM_QOS, RETAIN_AVAILABLE, USER, MAXIMUM_PACKET_SIZE = 0x24, 0x25, 0x26, 0x27
WILDCARDS_AVAILABLE, IDENTIFIERS_AVAILABLE, SHARED_AVAILABLE = 0x28, 0x29, 0x2A

Properties = Mapping[int, Any]


class Kind(Enum):
    """The encoding of a value."""

    BYTE = 1
    TWO_BYTES = 2
    FOUR_BYTES = 4
    VARIABLE = "a number of one to four bytes"
    TEXT = "text"
    BINARY = "binary"
    PAIR = "two texts"


KINDS = {
    **dict.fromkeys((PAYLOAD_FORMAT, REQUEST_PROBLEM, REQUEST_RESPONSE, MAXIMUM_QOS), Kind.BYTE),
    **dict.fromkeys((RETAIN_AVAILABLE, WILDCARDS_AVAILABLE), Kind.BYTE),
    **dict.fromkeys((IDENTIFIERS_AVAILABLE, SHARED_AVAILABLE), Kind.BYTE),
    **dict.fromkeys((SERVER_KEEP_ALIVE, RECEIVE_MAXIMUM), Kind.TWO_BYTES),
    **dict.fromkeys((TOPIC_ALIAS_MAXIMUM, TOPIC_ALIAS), Kind.TWO_BYTES),
    **dict.fromkeys((MESSAGE_EXPIRY, SESSION_EXPIRY), Kind.FOUR_BYTES),
    **dict.fromkeys((WILL_DELAY, MAXIMUM_PACKET_SIZE), Kind.FOUR_BYTES),
    **dict.fromkeys((CONTENT_TYPE, RESPONSE_TOPIC, REASON_STRING), Kind.TEXT),
    **dict.fromkeys((ASSIGNED_CLIENT_IDENTIFIER, AUTHENTICATION_METHOD), Kind.TEXT),
    **dict.fromkeys((CORRELATION_DATA, AUTHENTICATION_DATA), Kind.BINARY),
    SUBSCRIPTION_IDENTIFIER: Kind.VARIABLE,
    USER: Kind.PAIR,
}

OF_MESSAGE = frozenset(
    {PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, USER}
)
"""The properties that are passed on to subscribers."""
OF_CONNECT = frozenset(
    {SESSION_EXPIRY, RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, TOPIC_ALIAS_MAXIMUM, USER}
    | {REQUEST_RESPONSE, REQUEST_PROBLEM, AUTHENTICATION_METHOD, AUTHENTICATION_DATA}
)
OF_WILL = OF_MESSAGE | {WILL_DELAY}
OF_PUBLISH = OF_MESSAGE | {TOPIC_ALIAS}
OF_PUBACK = frozenset({REASON_STRING, USER})
OF_SUBSCRIBE = frozenset({SUBSCRIPTION_IDENTIFIER, USER})
OF_UNSUBSCRIBE = frozenset({USER})
OF_DISCONNECT = frozenset({SESSION_EXPIRY, REASON_STRING, USER})

FLAGS = frozenset({PAYLOAD_FORMAT, REQUEST_PROBLEM, REQUEST_RESPONSE})
"""Properties whose value is 0 or 1."""
NOT_ZERO = frozenset({RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, SUBSCRIPTION_IDENTIFIER})


def encode(properties: Properties) -> bytes:
    """Return properties as bytes, with their length first."""
    encoded = b"".join(
        bytes([identifier]) + encode_value(KINDS[identifier], each)
        for identifier, value in properties.items()
        for each in (value if KINDS[identifier] is Kind.PAIR else [value])
    )
    return number(len(encoded)) + encoded


def encode_value(kind: Kind, value: Any) -> bytes:
    """Return one value as bytes."""
    match kind:
        case Kind.VARIABLE:
            return number(value)
        case Kind.TEXT:
            return with_length(value.encode())
        case Kind.BINARY:
            return with_length(value)
        case Kind.PAIR:
            return b"".join(with_length(each.encode()) for each in value)
        case _:
            return int(value).to_bytes(kind.value, "big")


def with_length(data: bytes) -> bytes:
    """Return bytes with their count in front."""
    return struct.pack("!H", len(data)) + data


def number(count: int) -> bytes:
    """Return a number in MQTT's variable-length encoding."""
    encoded = b""
    while True:
        count, low = divmod(count, 0x80)
        if not count:
            return encoded + bytes([low])
        encoded += bytes([low | 0x80])
