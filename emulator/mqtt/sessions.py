"""Connections and sessions: a client's subscriptions, and the messages on their way to it.

A session ends with its connection, unless the client asks for a longer one, up to an hour. Until it
ends, messages of QoS 1 wait in it. Sessions are in memory and end with the broker; a client sees
that in `session present`.
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
"""The most unsent bytes for a subscriber; above it, its connection ends."""


@dataclass
class Client:
    """A connected client."""

    client_id: str
    certificate_id: str
    writer: asyncio.StreamWriter
    level: int
    """The protocol level: 4 for MQTT 3.1.1, 5 for MQTT 5."""
    will: Publish | None
    keep_alive_seconds: int
    """The longest time between its packets; after one and a half times that, it is disconnected."""
    unacknowledged_max: int = limits.UNACKNOWLEDGED_MAX
    """How many messages of QoS 1 may be on their way to it at once."""
    packet_bytes_max: int | None = None
    """The longest packet that it accepts."""
    aliases: dict[int, str] = field(default_factory=dict)
    """Its topics by alias."""
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    """Answers of services that are still to come."""

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
    """A message on its way to a client, and the time when it expires."""

    message: Publish
    expires_at: float | None = None

    def at(self, now: float) -> Publish | None:
        """Return the message with its remaining expiry; None if it has expired."""
        if self.expires_at is None:
            return self.message
        if now >= self.expires_at:
            return None
        left = {properties.MESSAGE_EXPIRY: int(self.expires_at - now)}
        return replace(self.message, properties={**self.message.properties, **left})


@dataclass
class Session:
    """A client's state that may outlive its connection."""

    client_id: str
    certificate_id: str
    client: Client | None
    expiry_seconds: int
    """For how many seconds it outlives its connection."""
    ends_at: float | None = None
    """The time when it ends; None while its client is connected."""
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    waiting: deque[Outgoing] = field(default_factory=deque)
    """Messages of QoS 1 to send, in order."""
    sent: dict[int, Outgoing] = field(default_factory=dict)
    """Sent messages that the client hasn't acknowledged, by packet id, in order."""
    _unrepeated: deque[int] = field(default_factory=deque)
    """Packet ids of messages that were sent on an earlier connection, but not yet on this one."""
    _packet_id: int = 0

    def matching(self, topic: str, publisher: str) -> Subscription | None:
        """Return its unshared subscription of highest QoS that matches a topic; None if none."""
        candidates = [
            each
            for each in self.subscriptions.values()
            if not each.group
            and not (each.no_local and publisher == self.client_id)
            and sql.matches(each.matched, topic)
        ]
        return max(candidates, key=lambda each: (each.qos, each.keeps_retained), default=None)

    def offer(self, outgoing: Outgoing, now: float) -> None:
        """Send a message or queue it; a message of QoS 0 is sent now or never."""
        if outgoing.message.qos:
            if len(self.waiting) >= limits.QUEUED_MAX:
                self.waiting = deque(each for each in self.waiting if each.at(now))
            if len(self.waiting) < limits.QUEUED_MAX:
                self.waiting.append(outgoing)
            self.flush(now)
        elif self.client and (message := outgoing.at(now)):
            self.client.send(message)

    def reconnect(self, client: Client) -> None:
        """Go on with a new connection; all unacknowledged messages have to be sent on it again."""
        self.client, self.certificate_id = client, client.certificate_id
        self._unrepeated = deque(self.sent)

    def flush(self, now: float) -> None:
        """Send messages, as many as may be unacknowledged at once on a connection.

        Unacknowledged messages of an earlier connection come first, in order, with the DUP flag and
        their packet ids: MQTT 3.1.1 and 5, 4.4-1 and 3.3.1-1. AWS documents that the broker may
        choose another packet id in rare cases, so the ids are otherwise kept.
        https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html#mqtt-differences
        """
        while self.client and (self._unrepeated or self.waiting):
            if len(self.sent) - len(self._unrepeated) >= self.client.unacknowledged_max:
                return
            is_again = bool(self._unrepeated)
            number = self._unrepeated.popleft() if is_again else self._free_packet_id()
            outgoing = self.sent[number] if is_again else self.waiting.popleft()
            message = outgoing.at(now)
            if message:
                message = replace(message, packet_id=number, is_duplicate=is_again)
            if message and self.client.send(message):
                self.sent[number] = outgoing
            else:  # it has expired, or is too long for this client
                self.sent.pop(number, None)

    def acknowledge(self, packet_id: int, now: float) -> None:
        """Forget an acknowledged message, and send the next."""
        if self.sent.pop(packet_id, None) and packet_id in self._unrepeated:
            self._unrepeated.remove(packet_id)
        self.flush(now)

    def _free_packet_id(self) -> int:
        while True:
            self._packet_id = self._packet_id % 65_535 + 1
            if self._packet_id not in self.sent:
                return self._packet_id


class Sessions:
    """The sessions of all clients, connected or not, without expired ones."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin without sessions; the clock is in seconds."""
        self._clock = clock
        self._by_id: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions; none may be opened or closed meanwhile."""
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
        """Return the connected client of a client id; None if there is none."""
        session = self._by_id.get(client_id)
        return session.client if session else None

    def open(self, client: Client, expiry_seconds: int, is_clean: bool) -> tuple[Session, bool]:
        """Return the session of a new connection, and whether it existed before."""
        session = next((each for each in self if each.client_id == client.client_id), None)
        if session is None or is_clean:
            session = Session(client.client_id, client.certificate_id, client, expiry_seconds)
            self._by_id[client.client_id] = session
            return session, False
        session.reconnect(client)  # its previous connection may not have ended yet
        session.expiry_seconds, session.ends_at = expiry_seconds, None
        return session, True

    def close(self, client: Client) -> None:
        """End a connection, and its session unless that may outlive it."""
        session = self._by_id.get(client.client_id)
        if session is None or session.client is not client:
            return  # another connection has its client id now
        session.client, session.ends_at = None, self._clock() + session.expiry_seconds
        if not session.expiry_seconds:
            del self._by_id[client.client_id]

    def groups(self, topic: str) -> list[list[tuple[Session, Subscription]]]:
        """Return the members of each group that shares a topic, in the order to try them.

        Connected members come first, in random order.
        https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html#mqtt5-shared-subscription
        """
        members_by_filter: dict[str, list[tuple[Session, Subscription]]] = {}
        for session in self:
            for each in session.subscriptions.values():
                if each.group and sql.matches(each.matched, topic):
                    members_by_filter.setdefault(each.topic_filter, []).append((session, each))
        for members in members_by_filter.values():
            random.shuffle(members)
            members.sort(key=lambda member: member[0].client is None)
        return [*members_by_filter.values()]
