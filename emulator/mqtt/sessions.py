"""Connections and sessions: what a client has subscribed to, and what is on its way to it.

A session ends with its connection, unless the client asks for more: then for as long as it asks,
up to an hour, and messages of QoS 1 wait for it. Sessions are in memory: they end with the broker,
and the client is told so, by `session present`.
https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html#mqtt-persistent-sessions
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from emulator.mqtt import limits, packets, properties, sql
from emulator.mqtt.packets import Publish, Subscription

UNREAD_BYTES_MAX = 8 * 1024 * 1024
"""Of a subscriber that doesn't keep up; then its connection ends."""


@dataclass
class Client:
    """A connected client."""

    client_id: str
    certificate_id: str
    writer: asyncio.StreamWriter
    level: int
    """Of MQTT: 4 is 3.1.1, 5 is 5."""
    will: Publish | None
    keep_alive_seconds: int
    """How often it has to say something; it is waited for one and a half times as long."""
    unacknowledged_max: int = limits.UNACKNOWLEDGED_MAX
    """How many messages of QoS 1 may be on their way to it at once."""
    packet_bytes_max: int | None = None
    """The longest packet that it takes."""
    aliases: dict[int, str] = field(default_factory=dict)
    """Topics by the numbers that it uses for them."""
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    """Under way."""

    def send(self, message: Publish) -> bool:
        """Send a message; return whether it is short enough for this client."""
        packet = packets.message(message, self.level)
        if self.packet_bytes_max is not None and len(packet) > self.packet_bytes_max:
            return False
        self.writer.write(packet)
        if self.writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.writer.transport.abort()
        return True


@dataclass(frozen=True)
class Outgoing:
    """A message on its way to a client, and when it is too old for it."""

    message: Publish
    expires_at: float | None = None

    def at(self, now: float) -> Publish | None:
        """Return the message with the time that it has left, None if it has none."""
        if self.expires_at is None:
            return self.message
        if now >= self.expires_at:
            return None
        left = {properties.MESSAGE_EXPIRY: int(self.expires_at - now)}
        return replace(self.message, properties={**self.message.properties, **left})


@dataclass
class Session:
    """What outlives a connection."""

    client_id: str
    certificate_id: str
    client: Client | None
    expiry_seconds: int
    """How long it outlives its connection."""
    ends_at: float | None = None
    """When it ends; None while its client is connected."""
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    waiting: deque[Outgoing] = field(default_factory=deque)
    """Messages of QoS 1 to be sent, in order."""
    sent: dict[int, Outgoing] = field(default_factory=dict)
    """Those that the client hasn't acknowledged, by packet id."""
    _packet_id: int = 0

    def matching(self, topic: str, publisher: str) -> Subscription | None:
        """Return the subscription of its own by which it gets a message, the one of highest QoS."""
        found = [
            each
            for each in self.subscriptions.values()
            if not each.group
            and not (each.no_local and publisher == self.client_id)
            and sql.matches(each.matched, topic)
        ]
        return max(found, key=lambda each: (each.qos, each.keeps_retained), default=None)

    def offer(self, outgoing: Outgoing, now: float) -> None:
        """Send a message, or keep it for later; QoS 0 is sent now or never."""
        if outgoing.message.qos:
            if len(self.waiting) < limits.QUEUED_MAX:
                self.waiting.append(outgoing)
            self.flush(now)
        elif self.client and (message := outgoing.at(now)):
            self.client.send(message)

    def flush(self, now: float) -> None:
        """Send what waits, as much as may be on its way at once."""
        while self.client and self.waiting and len(self.sent) < self.client.unacknowledged_max:
            outgoing = self.waiting.popleft()
            message = outgoing.at(now)
            number = self._free_packet_id()
            if message and self.client.send(replace(message, packet_id=number)):
                self.sent[number] = outgoing

    def acknowledge(self, packet_id: int, now: float) -> None:
        """Forget a message that has arrived, and send the next."""
        self.sent.pop(packet_id, None)
        self.flush(now)

    def _free_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % 65_535 + 1
            if self._packet_id not in self.sent:
                return self._packet_id


class Sessions:
    """The sessions of all clients, connected or not; none after it has expired."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin with none; the clock is in seconds."""
        self._clock = clock
        self._by_id: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        """Go through those that there are, for as long as none is opened or closed."""
        now = self._clock()
        over = [
            each.client_id
            for each in self._by_id.values()
            if each.ends_at is not None and each.ends_at <= now
        ]
        for client_id in over:
            del self._by_id[client_id]
        return iter([*self._by_id.values()])

    def connected(self, client_id: str) -> Client | None:
        """Return who is connected by a client id."""
        found = self._by_id.get(client_id)
        return found.client if found else None

    def open(self, client: Client, expiry_seconds: int, is_clean: bool) -> tuple[Session, bool]:
        """Return the session of a connection that begins, and whether it was there before."""
        found = next((each for each in self if each.client_id == client.client_id), None)
        if found is None or is_clean:
            found = Session(client.client_id, client.certificate_id, client, expiry_seconds)
            self._by_id[client.client_id] = found
            return found, False
        self._rest(found)  # its connection before this one may not have ended yet
        found.client, found.certificate_id = client, client.certificate_id
        found.expiry_seconds, found.ends_at = expiry_seconds, None
        return found, True

    def close(self, client: Client) -> None:
        """End a connection, and its session with it unless it is to last."""
        found = self._by_id.get(client.client_id)
        if found is None or found.client is not client:
            return  # another connection has its client id now
        self._rest(found)
        found.client, found.ends_at = None, self._clock() + found.expiry_seconds
        if not found.expiry_seconds:
            del self._by_id[client.client_id]

    @staticmethod
    def _rest(session: Session) -> None:
        """Have sent again what wasn't acknowledged: before what has come since, in order."""
        session.waiting.extendleft(reversed(session.sent.values()))
        session.sent.clear()

    def groups(self, topic: str) -> list[list[tuple[Session, Subscription]]]:
        """Return the members of each group that shares a message, in the order to be asked.

        Whoever is connected comes first, in random order.
        https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html#mqtt5-shared-subscription
        """
        found: dict[str, list[tuple[Session, Subscription]]] = {}
        for session in self:
            for each in session.subscriptions.values():
                if each.group and sql.matches(each.matched, topic):
                    found.setdefault(each.topic_filter, []).append((session, each))
        for members in found.values():
            random.shuffle(members)
            members.sort(key=lambda member: member[0].client is None)
        return [*found.values()]
