"""IoT Core's fixed limits of a connection and a message.

https://docs.aws.amazon.com/general/latest/gr/iot-core.html#message-broker-limits

The properties of its CONNACK for version 5 come from logs of AWS's own SDK: Receive Maximum 100,
Maximum QoS 1, Retain Available, Maximum Packet Size 149504, Topic Alias Maximum 8, wildcards and
shared subscriptions but no subscription identifiers, Server Keep Alive 1200.
"""

from emulator.mqtt.packets import BAD_FILTER, BAD_IDENTIFIER, BAD_TOPIC, OVER_QUOTA, SHARED

PAYLOAD_BYTES_MAX = 128 * 1024
PACKET_BYTES_MAX = 149_504
TOPIC_BYTES_MAX = 256
SLASHES_MAX = 7
CLIENT_ID_BYTES_MAX = 128
GROUP_LENGTH_MAX = 128
FILTERS_OF_REQUEST_MAX = 8
SUBSCRIPTIONS_MAX = 50
UNACKNOWLEDGED_MAX = 100
"""Unacknowledged messages of QoS 1, in each direction."""
ALIASES_MAX = 8
QUEUED_MAX = 1000
"""Messages that wait for a client; further ones are lost. AWS limits their rate instead."""
KEEP_ALIVE_SECONDS = 30, 1200
SESSION_SECONDS_MAX = 3600
"""AWS's default; AWS raises it for an account on request."""
EXPIRY_SECONDS = 1, 604_800
BASIC_INGEST = "$aws/rules/"


class Exceeded(Exception):
    """A limit is exceeded; the connection ends with `code`, a reason code of version 5."""

    def __init__(self, problem: str, code: int = OVER_QUOTA) -> None:
        """Keep the value with its limit, and the reason code."""
        super().__init__(problem)
        self.code = code


def check_message(topic: str, payload: bytes) -> None:
    """Raise Exceeded for a message that IoT Core would refuse."""
    counted = topic
    if topic.startswith(BASIC_INGEST):  # its first three levels don't count
        counted = topic.removeprefix(BASIC_INGEST).partition("/")[2]
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Exceeded(f"a payload of {len(payload)} bytes; {PAYLOAD_BYTES_MAX} are the most")
    check_length("topic", counted, topic, BAD_TOPIC)


def check_filter(topic_filter: str) -> None:
    """Raise Exceeded for a topic filter that IoT Core would refuse."""
    counted = topic_filter
    if topic_filter.startswith(SHARED):  # `$share` and the group don't count
        group, _, counted = topic_filter.removeprefix(SHARED).partition("/")
        if len(group) > GROUP_LENGTH_MAX:
            text = f"a group of {len(group)} characters; {GROUP_LENGTH_MAX} are the most"
            raise Exceeded(text, BAD_FILTER)
    check_length("topic filter", counted, topic_filter, BAD_FILTER)


def check_length(name: str, counted: str, whole: str, code: int) -> None:
    """Raise Exceeded for a topic or filter that is too long or has too many levels."""
    size = len(counted.encode())
    if size > TOPIC_BYTES_MAX:
        raise Exceeded(f"a {name} of {size} bytes; {TOPIC_BYTES_MAX} are the most", code)
    if counted.count("/") > SLASHES_MAX:
        raise Exceeded(f"the {name} {whole} has more than {SLASHES_MAX} slashes", code)


def check_subscriptions(asked: int, subscribed: int) -> None:
    """Raise Exceeded for too many topic filters in a request or on a connection."""
    if asked > FILTERS_OF_REQUEST_MAX:
        raise Exceeded(f"{asked} topic filters at once; {FILTERS_OF_REQUEST_MAX} are the most")
    if subscribed > SUBSCRIPTIONS_MAX:
        raise Exceeded(f"{subscribed} subscriptions; {SUBSCRIPTIONS_MAX} are the most")


def check_client_id(client_id: str) -> None:
    """Raise Exceeded for a client id that IoT Core would refuse."""
    if len(client_id.encode()) > CLIENT_ID_BYTES_MAX:
        raise Exceeded(f"a client id of over {CLIENT_ID_BYTES_MAX} bytes", BAD_IDENTIFIER)


def keep_alive_seconds(asked: int) -> int:
    """Return the keep-alive time in seconds for a client that asks for `asked`; 0: no wish."""
    least, most = KEEP_ALIVE_SECONDS
    return max(least, min(asked, most)) if asked else most


def expiry_seconds(asked: int) -> int:
    """Return a message's expiry in seconds for a sender that asks for `asked`."""
    least, most = EXPIRY_SECONDS
    return max(least, min(asked, most))
