"""IoT Core's limits of a connection and a message, which can't be raised.

https://docs.aws.amazon.com/general/latest/gr/iot-core.html#message-broker-limits
"""

PAYLOAD_BYTES_MAX = 128 * 1024
TOPIC_BYTES_MAX = 256
SLASHES_MAX = 7
CLIENT_ID_BYTES_MAX = 128
PACKET_BYTES_MAX = PAYLOAD_BYTES_MAX + 65_535 + 4
"""So that a topic over its limit is read, and named in the log."""
KEEP_ALIVE_SECONDS = 30, 1200
BASIC_INGEST = "$aws/rules/"


class Exceeded(Exception):
    """What is over a limit; the connection ends."""


def check_message(topic: str, payload: bytes) -> None:
    """Raise Exceeded for a message that IoT Core wouldn't take."""
    counted = topic
    if topic.startswith(BASIC_INGEST):  # its first three levels aren't counted
        counted = topic.removeprefix(BASIC_INGEST).partition("/")[2]
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Exceeded(f"a payload of {len(payload)} bytes; {PAYLOAD_BYTES_MAX} are the most")
    if len(counted.encode()) > TOPIC_BYTES_MAX:
        raise Exceeded(f"a topic of {len(counted.encode())} bytes; {TOPIC_BYTES_MAX} are the most")
    if counted.count("/") > SLASHES_MAX:
        raise Exceeded(f"the topic {topic} has more than {SLASHES_MAX} slashes")


def check_client_id(client_id: str) -> None:
    """Raise Exceeded for a client id that IoT Core wouldn't take."""
    if len(client_id.encode()) > CLIENT_ID_BYTES_MAX:
        raise Exceeded(f"a client id of over {CLIENT_ID_BYTES_MAX} bytes")


def keep_alive_seconds(asked: int) -> int:
    """Return how often a client has to say something, by what it asks for; 0 asks for nothing."""
    least, most = KEEP_ALIVE_SECONDS
    return max(least, min(asked, most)) if asked else most
