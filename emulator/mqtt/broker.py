"""The broker: connections of devices, what their policies let them do, and acknowledgements.

As IoT Core: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html. A client that does
what its policy doesn't allow is disconnected. Subscriptions end with their connection.
"""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from emulator.mqtt import certificates, limits, packets, policy, sql
from emulator.mqtt.aws import Principal
from emulator.mqtt.limits import PACKET_BYTES_MAX, Exceeded
from emulator.mqtt.packets import Malformed, Packet, Publish, Will
from emulator.mqtt.rules import Unreachable
from emulator.mqtt.spool import NotKept, Published

LOGGER = logging.getLogger(__name__)
CONNECT_SECONDS_MAX = 10.0
PENDING_MAX = 10_000
PENDING_LOOK_SECONDS = 0.05
UNREAD_BYTES_MAX = 8 * 1024 * 1024
"""Of a subscriber that doesn't keep up; then its connection ends."""
SERVICES = ("$aws/certificates/", "$aws/provisioning-templates/")
"""Messages to these topics are answered, on the connection that they came on."""


class Registry(Protocol):
    """What is known of certificates."""

    def principal(self, certificate_id: str) -> Principal:
        """Return a certificate; raise Unreachable."""

    def forget(self, certificate_id: str) -> None:
        """Have a certificate looked up anew."""

    def arn(self, kind: str, name: str) -> str:
        """Return the name of what policies are about."""


class Taker(Protocol):
    """Who takes responsibility for messages."""

    @property
    def pending(self) -> int:
        """How many wait."""

    def accept(self, message: Published) -> None:
        """Take one; raise NotKept where it can't be, and must not be acknowledged."""


class Services(Protocol):
    """Who answers messages."""

    def answer(self, message: Published) -> tuple[str, bytes] | None:
        """Return topic and payload of the answer, None if there is none; raise Unreachable."""


class Refused(Exception):
    """A client may not do this; its connection ends."""


REFUSALS = Exceeded, Refused, Unreachable, NotKept, policy.PolicyUnsupported


@dataclass
class Client:
    """A connected client."""

    client_id: str
    certificate_id: str
    writer: asyncio.StreamWriter
    will: Will | None
    keep_alive_seconds: int
    """How often it has to say something; it is waited for one and a half times as long."""
    level: int
    """Of MQTT: 4 is 3.1.1, 5 is 5."""
    subscriptions: dict[str, int] = field(default_factory=dict)
    """The QoS granted, by topic filter."""
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    """Under way."""
    _packet_id: int = 0

    def granted(self, topic: str) -> int | None:
        """Return the QoS by which it gets messages of a topic, None if it doesn't."""
        found = (qos for each, qos in self.subscriptions.items() if sql.matches(each, topic))
        return max(found, default=None)

    def send(self, topic: str, payload: bytes, qos: int) -> None:
        """Send it a message, once: a connection loses nothing, and no session outlives it."""
        self._packet_id = self._packet_id % 65_535 + 1
        number = self._packet_id if qos else 0
        self.writer.write(packets.message(topic, payload, number, self.level))
        if self.writer.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self.writer.transport.abort()


class Broker:
    """Serves devices on loopback."""

    def __init__(
        self, registry: Registry, taker: Taker, services: Services, now_ms: Callable[[], int]
    ) -> None:
        """Let the registry decide who may, the taker keep what was published, services answer."""
        self._registry = registry
        self._taker = taker
        self._services = services
        self._now_ms = now_ms
        self._clients: dict[str, Client] = {}

    async def serve(self, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Listen; return the server."""
        return await asyncio.start_server(self._connection, "127.0.0.1", port, ssl=context)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = None
        try:
            client = await self._connect(reader, writer)
            await self._session(client, reader)
        except (*REFUSALS, Malformed) as problem:
            who = client.client_id if client else "a client that isn't connected yet"
            LOGGER.warning("%s is disconnected: %s", who, problem)
            if client is not None and client.level == packets.LEVEL_5:
                code = packets.MALFORMED if isinstance(problem, Malformed) else packets.NOT_ALLOWED
                writer.write(packets.disconnect(code))
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # gone, or silent for too long
        finally:
            if client is not None:
                await self._end(client)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Client:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            packet = await packets.read(reader, PACKET_BYTES_MAX)
        if packet.kind != packets.CONNECT:
            raise Malformed("another packet than CONNECT first")
        wanted = packets.connect(packet.body)
        if wanted.level not in packets.LEVELS:
            writer.write(packets.connack(packets.WRONG_LEVEL))
            raise Malformed(f"MQTT of level {wanted.level}; 3.1.1 (level 4) and 5 are supported")
        limits.check_client_id(wanted.client_id)
        certificate_id = certificate_id_of(writer)
        keep_alive = limits.keep_alive_seconds(wanted.keep_alive_seconds)
        client = Client(
            wanted.client_id, certificate_id, writer, wanted.will, keep_alive, wanted.level
        )
        self._registry.forget(certificate_id)  # it may have been registered just now
        try:
            await self._permit(client, "iot:Connect", "client", wanted.client_id)
        except Refused:
            writer.write(packets.connack(packets.NOT_AUTHORIZED, client.level))
            await writer.drain()
            raise
        before = self._clients.get(client.client_id)
        self._clients[client.client_id] = client
        if before is not None:
            if before.level == packets.LEVEL_5:
                before.writer.write(packets.disconnect(packets.TAKEN_OVER))
            before.writer.close()  # the newer connection of a client id wins
        writer.write(packets.connack(packets.ACCEPTED, client.level, client.keep_alive_seconds))
        return client

    async def _session(self, client: Client, reader: asyncio.StreamReader) -> None:
        while True:
            async with asyncio.timeout(1.5 * client.keep_alive_seconds):
                packet = await packets.read(reader, PACKET_BYTES_MAX)
            if packet.kind == packets.DISCONNECT:
                if not packets.keeps_will(packet.body, client.level):
                    client.will = None
                return
            await self._answer(client, packet)
            await client.writer.drain()

    async def _answer(self, client: Client, packet: Packet) -> None:
        match packet.kind:
            case packets.PUBLISH:
                await self._publish(client, packets.publish(packet, client.level))
            case packets.SUBSCRIBE:
                await self._subscribe(client, *packets.subscribe(packet.body, client.level))
            case packets.UNSUBSCRIBE:
                number, unwanted = packets.unsubscribe(packet.body, client.level)
                found = [client.subscriptions.pop(each, None) is not None for each in unwanted]
                client.writer.write(packets.unsuback(number, found, client.level))
            case packets.PINGREQ:
                client.writer.write(packets.PINGRESP_BYTES)
            case packets.PUBACK:
                pass  # `Client.send` sends once
            case _:
                raise Malformed(f"a packet of type {packet.kind}")

    async def _publish(self, client: Client, message: Publish) -> None:
        if message.qos > 1:
            raise Refused("QoS 2 isn't supported, as on AWS")
        await self._take(
            client, message.topic, message.payload, message.qos, is_retained=message.is_retained
        )
        if message.qos:
            client.writer.write(packets.puback(message.packet_id))

    async def _subscribe(self, client: Client, number: int, wanted: dict[str, int]) -> None:
        codes = []
        for topic_filter, qos in wanted.items():
            try:
                await self._permit(client, "iot:Subscribe", "topicfilter", topic_filter)
            except Refused:
                if client.level != packets.LEVEL_5:  # which hears of each filter by itself
                    raise
                codes.append(packets.NOT_ALLOWED)
            else:
                client.subscriptions[topic_filter] = min(qos, 1)
                codes.append(min(qos, 1))
        client.writer.write(packets.suback(number, codes, client.level))

    async def _take(
        self, client: Client, topic: str, payload: bytes, qos: int, *, is_retained: bool
    ) -> None:
        """Keep a message that the client may publish."""
        limits.check_message(topic, payload)
        action = "iot:RetainPublish" if is_retained else "iot:Publish"
        await self._permit(client, action, "topic", topic)
        message = Published(topic, payload, client.client_id, client.certificate_id, self._now_ms())
        if topic.startswith(SERVICES):
            answer = asyncio.create_task(self._ask(client, message))
            client.answers.add(answer)
            answer.add_done_callback(client.answers.discard)
            return
        while self._taker.pending > PENDING_MAX:
            await asyncio.sleep(PENDING_LOOK_SECONDS)
        await asyncio.to_thread(self._taker.accept, message)  # it may wait for a locked file
        await self._deliver(topic, payload, qos)

    async def _ask(self, client: Client, message: Published) -> None:
        """Offer a client the answer to what it asked."""
        try:
            answer = await asyncio.to_thread(self._services.answer, message)
        except Unreachable as problem:
            LOGGER.warning("%s gets no answer: %s", client.client_id, problem)
            return
        if answer is None:
            LOGGER.error("nobody answers %s here", message.topic)
        else:
            await self._offer(client, *answer, qos=1)

    async def _deliver(self, topic: str, payload: bytes, qos: int) -> None:
        """Offer a message to all who have subscribed to anything."""
        for each in [client for client in self._clients.values() if client.subscriptions]:
            await self._offer(each, topic, payload, qos)

    async def _offer(self, client: Client, topic: str, payload: bytes, qos: int) -> None:
        """Send a client a message if it has subscribed to it, and may receive it."""
        granted = client.granted(topic)
        if granted is None:
            return
        with suppress(Refused, Unreachable, policy.PolicyUnsupported):
            await self._permit(client, "iot:Receive", "topic", topic)
            client.send(topic, payload, min(granted, qos))

    async def _permit(self, client: Client, action: str, kind: str, name: str) -> None:
        """Raise Refused unless the certificate's policies allow it."""

        def is_allowed() -> bool:
            principal = self._registry.principal(client.certificate_id)
            variables = variables_of(principal, client.client_id)
            resource = self._registry.arn(kind, name)
            return principal.is_active and policy.allows(
                principal.policies, action, resource, variables
            )

        if not await asyncio.to_thread(is_allowed):
            raise Refused(f"{action} on {kind}/{name} isn't allowed")

    async def _end(self, client: Client) -> None:
        """Forget a client; publish its will if it went without a word."""
        if self._clients.get(client.client_id) is client:
            del self._clients[client.client_id]
        for answer in client.answers:
            answer.cancel()
        if client.will is not None:
            will = client.will
            try:
                await self._take(
                    client, will.topic, will.payload, will.qos, is_retained=will.is_retained
                )
            except REFUSALS as problem:
                LOGGER.warning("the will of %s isn't published: %s", client.client_id, problem)


def variables_of(principal: Principal, client_id: str) -> dict[str, str]:
    """Return the policy variables of a connection: those of its thing, if the client id is one's.

    https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
    """
    is_attached = client_id in principal.things
    found = {
        "iot:ClientId": client_id,
        "iot:Connection.Thing.IsAttached": str(is_attached).lower(),
    }
    return found | ({"iot:Connection.Thing.ThingName": client_id} if is_attached else {})


def certificate_id_of(writer: asyncio.StreamWriter) -> str:
    """Return the id that IoT gives a certificate: the SHA-256 of its DER."""
    encoded = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return hashlib.sha256(encoded).hexdigest()


def tls_context(folder: Path) -> ssl.SSLContext:
    """Return a context that asks each client for a certificate of the instance's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*certificates.pair(folder, certificates.BROKER))
    context.load_verify_locations(certificates.pair(folder, certificates.AUTHORITY).certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
