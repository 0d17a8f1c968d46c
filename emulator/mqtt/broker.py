"""The broker: connections of devices, what their policies let them do, and acknowledgements.

As IoT Core: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html. A client that does
what its policy doesn't allow is disconnected. What that page says of MQTT 5 (properties, reason
codes, differences from the specification) is done here; docs/mqtt.md says what isn't there.
"""

import asyncio
import hashlib
import logging
import ssl
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from emulator.mqtt import certificates, limits, packets, policy, properties
from emulator.mqtt.aws import Principal
from emulator.mqtt.limits import PACKET_BYTES_MAX, Exceeded
from emulator.mqtt.packets import Connect, Malformed, Packet, Publish, Subscription
from emulator.mqtt.rules import Unreachable
from emulator.mqtt.sessions import Client, Outgoing, Session, Sessions
from emulator.mqtt.spool import NotKept, Published

LOGGER = logging.getLogger(__name__)
CONNECT_SECONDS_MAX = 10.0
PENDING_MAX = 10_000
PENDING_LOOK_SECONDS = 0.05
SERVICES = ("$aws/certificates/", "$aws/provisioning-templates/")
"""Messages to these topics are answered, on the connection that they came on."""
RESERVED = "$aws/"
THERE_IS = {
    properties.RECEIVE_MAXIMUM: limits.UNACKNOWLEDGED_MAX,
    properties.MAXIMUM_QOS: 1,
    properties.RETAIN_AVAILABLE: 1,
    properties.MAXIMUM_PACKET_SIZE: PACKET_BYTES_MAX,
    properties.TOPIC_ALIAS_MAXIMUM: limits.ALIASES_MAX,
    properties.WILDCARDS_AVAILABLE: 1,
    properties.IDENTIFIERS_AVAILABLE: 0,
    properties.SHARED_AVAILABLE: 1,
}
"""What a client of version 5 is told in CONNACK; the values are those that AWS tells."""
OLD_CODES = {
    packets.NOT_ALLOWED: packets.NOT_AUTHORIZED,
    packets.BAD_IDENTIFIER: packets.IDENTIFIER_REJECTED,
}
"""What version 3.1.1 has of the reasons for refusing CONNECT; for others it hears nothing."""


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
    """A client may not do this; its connection ends, with this reason code of version 5."""

    def __init__(self, what: str, code: int = packets.NOT_ALLOWED) -> None:
        """Say what."""
        super().__init__(what)
        self.code = code


REFUSALS = Exceeded, Refused, Unreachable, NotKept, policy.PolicyUnsupported


def code_of(problem: Exception) -> int:
    """Return the reason code for a refusal."""
    if isinstance(problem, policy.PolicyUnsupported):
        return packets.NOT_ALLOWED
    return getattr(problem, "code", packets.UNSPECIFIED)


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
        self._clock = time.monotonic
        self._sessions = Sessions(self._clock)
        self._retained: dict[str, Outgoing] = {}

    async def serve(self, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Listen; return the server."""
        return await asyncio.start_server(self._connection, "127.0.0.1", port, ssl=context)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = None
        try:
            client, session = await self._connect(reader, writer)
            await self._serve(client, session, reader)
        except (*REFUSALS, Malformed) as problem:
            who = client.client_id if client else "a client that isn't connected yet"
            LOGGER.warning("%s is disconnected: %s", who, problem)
            say_why(client, code_of(problem))
        except TimeoutError:
            say_why(client, packets.SILENT)
        except (OSError, asyncio.IncompleteReadError):
            pass  # gone
        finally:
            if client is not None:
                await self._end(client)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[Client, Session]:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            packet = await packets.read(reader, PACKET_BYTES_MAX)
        if packet.kind != packets.CONNECT:
            raise Malformed("another packet than CONNECT first", packets.PROTOCOL_ERROR)
        wanted = packets.connect(packet.body)
        if not wanted.is_supported:
            writer.write(packets.connack(packets.WRONG_LEVEL))
            told = f"protocol {wanted.name!r} of level {wanted.level}"
            raise Malformed(f"{told}; 'MQTT' of level 4 (3.1.1) and of level 5 are supported")
        client = client_of(wanted, writer)
        try:
            await self._admit(client, wanted)
        except REFUSALS as problem:
            code = code_of(problem)
            if client.level == packets.LEVEL_5:
                writer.write(packets.connack(code, client.level))
            elif code in OLD_CODES:
                writer.write(packets.connack(OLD_CODES[code]))
            await writer.drain()
            raise
        before = self._sessions.connected(client.client_id)
        asked, expiry_seconds = expiry_of(wanted)
        session, is_present = self._sessions.open(client, expiry_seconds, wanted.is_clean)
        if before is not None:  # the newer connection of a client id wins
            say_why(before, packets.TAKEN_OVER)
            before.writer.close()
        there_is: dict[int, object] = {
            **THERE_IS,
            properties.SERVER_KEEP_ALIVE: client.keep_alive_seconds,
        }
        if not wanted.client_id:
            there_is[properties.ASSIGNED_CLIENT_IDENTIFIER] = client.client_id
        if asked != expiry_seconds:
            there_is[properties.SESSION_EXPIRY] = expiry_seconds
        writer.write(packets.connack(packets.ACCEPTED, client.level, there_is, is_present))
        session.flush(self._clock())
        return client, session

    async def _admit(self, client: Client, wanted: Connect) -> None:
        """Raise Refused, or Exceeded, unless a client may connect, and have its will published.

        AWS closes the connection of a client whose will is of QoS 2
        (https://github.com/bertmelis/espMqttClient/issues/116), and documents the reason code for
        version 5. That a will which the policy doesn't allow is refused now, and not when it is
        published, is inferred: for devices both are failures, and this one is seen.
        """
        if properties.AUTHENTICATION_METHOD in wanted.properties:
            raise Refused("AUTH isn't supported, as on AWS", packets.BAD_AUTHENTICATION)
        limits.check_client_id(client.client_id)
        if not wanted.client_id and not wanted.is_clean and client.level != packets.LEVEL_5:
            told = "an empty client id with cleanSession 0"  # MQTT 3.1.1, 3.1.3-8
            raise Refused(told, packets.BAD_IDENTIFIER)
        self._registry.forget(client.certificate_id)  # it may have been registered just now
        await self._permit(client, "iot:Connect", "client", client.client_id)
        if client.will is not None:
            try:
                await self._permit_message(client, client.will)
            except (Refused, Exceeded) as problem:
                raise Refused(f"its will: {problem}", problem.code) from problem

    async def _serve(self, client: Client, session: Session, reader: asyncio.StreamReader) -> None:
        while True:
            async with asyncio.timeout(1.5 * client.keep_alive_seconds):
                packet = await packets.read(reader, PACKET_BYTES_MAX)
            if packet.kind == packets.DISCONNECT:
                take_leave(client, session, packet)
                return
            await self._answer(client, session, packet)
            await client.writer.drain()

    async def _answer(self, client: Client, session: Session, packet: Packet) -> None:
        match packet.kind:
            case packets.PUBLISH:
                await self._publish(client, packets.publish(packet, client.level))
            case packets.SUBSCRIBE:
                asked = packets.subscribe(packet.body, client.level)
                await self._subscribe(client, session, *asked)
            case packets.UNSUBSCRIBE:
                number, unwanted = packets.unsubscribe(packet.body, client.level)
                found = [session.subscriptions.pop(each, None) is not None for each in unwanted]
                client.writer.write(packets.unsuback(number, found, client.level))
            case packets.PINGREQ if not packet.body:
                client.writer.write(packets.PINGRESP_BYTES)
            case packets.PUBACK:
                number = packets.acknowledged(packet.body, client.level)
                session.acknowledge(number, self._clock())
            case _:
                told = f"a packet of type {packet.kind} and {len(packet.body)} bytes"
                raise Malformed(told, packets.PROTOCOL_ERROR)

    async def _publish(self, client: Client, message: Publish) -> None:
        message = with_topic(client, message)
        await self._permit_message(client, message)
        await self._take(client, message)
        if message.qos:
            client.writer.write(packets.puback(message.packet_id))

    async def _permit_message(self, client: Client, message: Publish) -> None:
        """Raise Refused, or Exceeded, unless a client may publish a message."""
        if message.qos > 1:
            raise Refused("QoS 2 isn't supported, as on AWS", packets.NO_QOS_2)
        limits.check_message(message.topic, message.payload)
        await self._permit(client, "iot:Publish", "topic", message.topic)
        if message.is_retained:
            await self._permit(client, "iot:RetainPublish", "topic", message.topic)
            if message.topic.startswith(RESERVED):
                raise Refused(f"a message to {message.topic} can't be retained")

    async def _subscribe(
        self, client: Client, session: Session, number: int, wanted: list[Subscription]
    ) -> None:
        if any(each.qos > 1 for each in wanted):  # AWS sends no SUBACK, and doesn't say what else
            raise Refused("a subscription of QoS 2 isn't supported, as on AWS", packets.NO_QOS_2)
        held = session.subscriptions.keys() | {each.topic_filter for each in wanted}
        limits.check_subscriptions(len(wanted), len(held))
        codes, retained = [], list[tuple[Subscription, Outgoing]]()
        for each in wanted:
            try:
                limits.check_filter(each.topic_filter)
                await self._permit(client, "iot:Subscribe", "topicfilter", each.topic_filter)
            except (Refused, Exceeded) as problem:
                if client.level != packets.LEVEL_5:  # which hears of each filter by itself
                    raise
                codes.append(problem.code)
                continue
            is_new = each.topic_filter not in session.subscriptions
            found = self._retained.get(
                each.topic_filter
            )  # one with a wildcard gets none, as on AWS
            if found and (each.retained == 0 or (each.retained == 1 and is_new)):
                retained.append((each, found))
            session.subscriptions[each.topic_filter] = each
            codes.append(each.qos)
        client.writer.write(packets.suback(number, codes, client.level))
        for subscription, outgoing in retained:
            await self._offer(session, outgoing, replace(subscription, keeps_retained=True))

    async def _take(self, client: Client, message: Publish) -> None:
        """Keep a message that the client may publish, and hand it on."""
        published = Published(
            message.topic, message.payload, client.client_id, client.certificate_id, self._now_ms()
        )
        if message.topic.startswith(SERVICES):
            answer = asyncio.create_task(self._ask(client, published))
            client.answers.add(answer)
            answer.add_done_callback(client.answers.discard)
            return
        await self._wait_for_room()
        await asyncio.to_thread(self._taker.accept, published)  # it may wait for a locked file
        if message.topic.startswith(limits.BASIC_INGEST):
            return  # which goes past the message broker, to a rule alone
        outgoing = outgoing_of(message, self._clock())
        if message.is_retained and message.payload:
            self._retained[message.topic] = outgoing
        elif message.is_retained:
            self._retained.pop(message.topic, None)
        await self._deliver(client.client_id, outgoing)

    async def _wait_for_room(self) -> None:
        if self._taker.pending > PENDING_MAX:
            told = "%d messages wait for the rules; until they are done no other is acknowledged"
            LOGGER.warning(told, self._taker.pending)
        while self._taker.pending > PENDING_MAX:
            await asyncio.sleep(PENDING_LOOK_SECONDS)

    async def _ask(self, client: Client, message: Published) -> None:
        """Offer a client the answer to what it asked."""
        try:
            answer = await asyncio.to_thread(self._services.answer, message)
        except Unreachable as problem:
            LOGGER.warning("%s gets no answer: %s", client.client_id, problem)
            return
        if answer is None:
            LOGGER.error("nobody answers %s here", message.topic)
            return
        outgoing = Outgoing(Publish(*answer, qos=1))
        for session in self._sessions:
            if session.client is client:
                await self._offer_own(session, "", outgoing)

    async def _deliver(self, publisher: str, outgoing: Outgoing) -> None:
        """Offer a message to all who have subscribed to it, and to one of each group that has."""
        for session in self._sessions:
            await self._offer_own(session, publisher, outgoing)
        for members in self._sessions.groups(outgoing.message.topic):
            for session, subscription in members:
                if await self._offer(session, outgoing, subscription):
                    break

    async def _offer_own(self, session: Session, publisher: str, outgoing: Outgoing) -> None:
        """Offer a message to a client by the subscriptions that it shares with nobody."""
        subscription = session.matching(outgoing.message.topic, publisher)
        if subscription is not None:
            await self._offer(session, outgoing, subscription)

    async def _offer(
        self, session: Session, outgoing: Outgoing, subscription: Subscription
    ) -> bool:
        """Send a client a message, or keep it for its session; return False if it can't have it.

        AWS's samples of shared subscriptions allow to receive by the topic, by the topic behind
        `$share/<group>/`, or by both; here either is enough.
        """
        message = outgoing.message
        qos = min(message.qos, subscription.qos)
        if session.client is None and not qos:
            return False
        names = [message.topic]
        if subscription.group:
            names.append(f"{packets.SHARED}{subscription.group}/{message.topic}")
        try:
            await self._permit(session, "iot:Receive", "topic", *names)
        except REFUSALS:
            return False
        is_retained = message.is_retained and subscription.keeps_retained
        offered = replace(message, qos=qos, is_retained=is_retained)
        session.offer(replace(outgoing, message=offered), self._clock())
        return True

    async def _permit(self, who: Client | Session, action: str, kind: str, *names: str) -> None:
        """Raise Refused unless the policies allow it on one of the names, and deny it on none."""

        def is_allowed() -> bool:
            principal = self._registry.principal(who.certificate_id)
            variables = variables_of(principal, who.client_id)
            found = [
                policy.effects(
                    principal.policies, action, self._registry.arn(kind, name), variables
                )
                for name in names
            ]
            return principal.is_active and set().union(*found) == {"Allow"}

        if not await asyncio.to_thread(is_allowed):
            raise Refused(f"{action} on {kind}/{names[0]} isn't allowed")

    async def _end(self, client: Client) -> None:
        """Forget a client; publish its will if it went without a word."""
        self._sessions.close(client)
        for answer in client.answers:
            answer.cancel()
        if client.will is not None:
            try:
                await self._permit_message(client, client.will)  # which it may have lost
                await self._take(client, client.will)
            except REFUSALS as problem:
                LOGGER.warning("the will of %s isn't published: %s", client.client_id, problem)


def client_of(wanted: Connect, writer: asyncio.StreamWriter) -> Client:
    """Return a client as it wants to be; one without an id is given one that nobody has."""
    of_connect = wanted.properties
    receive_maximum = of_connect.get(properties.RECEIVE_MAXIMUM, limits.UNACKNOWLEDGED_MAX)
    return Client(
        wanted.client_id or str(uuid.uuid4()),
        certificate_id_of(writer),
        writer,
        wanted.level,
        wanted.will,
        limits.keep_alive_seconds(wanted.keep_alive_seconds),
        min(receive_maximum, limits.UNACKNOWLEDGED_MAX),
        of_connect.get(properties.MAXIMUM_PACKET_SIZE),
    )


def expiry_of(wanted: Connect) -> tuple[int, int]:
    """Return how long a client's session is to outlive its connection: as it asks, and as it may.

    Both in seconds; version 3.1.1 asks for all that there is, or for none.
    """
    asked = 0 if wanted.is_clean else limits.SESSION_SECONDS_MAX
    if wanted.level == packets.LEVEL_5:
        asked = wanted.properties.get(properties.SESSION_EXPIRY, 0)
    return asked, min(asked, limits.SESSION_SECONDS_MAX)


def with_topic(client: Client, message: Publish) -> Publish:
    """Return a message with the topic that its alias stands for; remember one that is new."""
    alias = message.properties.get(properties.TOPIC_ALIAS)
    if alias is None:
        return message
    if not 0 < alias <= limits.ALIASES_MAX:
        told = f"topic alias {alias}; there are those from 1 to {limits.ALIASES_MAX}"
        raise Malformed(told, packets.BAD_ALIAS)
    if message.topic:
        client.aliases[alias] = message.topic
    if alias not in client.aliases:
        raise Malformed(f"topic alias {alias}, which stands for nothing", packets.PROTOCOL_ERROR)
    return replace(message, topic=client.aliases[alias])


def outgoing_of(message: Publish, now: float) -> Outgoing:
    """Return a message as it goes on: with those of its properties that are for its receivers."""
    kept = {key: each for key, each in message.properties.items() if key in properties.OF_MESSAGE}
    asked = kept.get(properties.MESSAGE_EXPIRY)
    expires_at = None if asked is None else now + limits.expiry_seconds(asked)
    return Outgoing(replace(message, packet_id=0, properties=kept), expires_at)


def take_leave(client: Client, session: Session, packet: Packet) -> None:
    """Do what a client asks for in its DISCONNECT, of its will and of its session."""
    leaves_will, told = packets.disconnected(packet.body, client.level)
    if not leaves_will:
        client.will = None
    asked = told.get(properties.SESSION_EXPIRY, session.expiry_seconds)
    if asked and not session.expiry_seconds:
        raise Malformed("DISCONNECT with a session after all", packets.PROTOCOL_ERROR)
    session.expiry_seconds = min(asked, limits.SESSION_SECONDS_MAX)


def say_why(client: Client | None, code: int) -> None:
    """Tell a client why its connection ends; only version 5 has words for it."""
    if client is not None and client.level == packets.LEVEL_5:
        client.writer.write(packets.disconnect(code))


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
