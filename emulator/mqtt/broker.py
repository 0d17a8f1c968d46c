"""The broker: connections of devices, checks against their policies, and acknowledgements.

It behaves like IoT Core: https://docs.aws.amazon.com/iot/latest/developerguide/mqtt.html. A client
that does something its policy doesn't allow is disconnected. MQTT 5's properties, reason codes and
differences from the specification follow that page; docs/mqtt.md lists the missing parts.
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
from emulator.mqtt.spool import NotStored, Published

LOGGER = logging.getLogger(__name__)
CONNECT_SECONDS_MAX = 10.0
PENDING_MAX = 10_000
PENDING_POLL_SECONDS = 0.05
SERVICES = ("$aws/certificates/", "$aws/provisioning-templates/")
"""Messages to these topics get an answer on the connection that they came on."""
RESERVED = "$aws/"
CAPABILITIES = {
    properties.RECEIVE_MAXIMUM: limits.UNACKNOWLEDGED_MAX,
    properties.MAXIMUM_QOS: 1,
    properties.RETAIN_AVAILABLE: 1,
    properties.MAXIMUM_PACKET_SIZE: PACKET_BYTES_MAX,
    properties.TOPIC_ALIAS_MAXIMUM: limits.ALIASES_MAX,
    properties.WILDCARDS_AVAILABLE: 1,
    properties.IDENTIFIERS_AVAILABLE: 0,
    properties.SHARED_AVAILABLE: 1,
}
"""The properties of CONNACK for clients of version 5; the values are AWS's."""
CODES_3_1_1 = {
    packets.NOT_ALLOWED: packets.NOT_AUTHORIZED,
    packets.BAD_IDENTIFIER: packets.IDENTIFIER_REJECTED,
}
"""The refusals of CONNECT that version 3.1.1 has a code for; others close the connection."""


class Registry(Protocol):
    """A look-up of certificates."""

    def principal(self, certificate_id: str) -> Principal:
        """Return a certificate; raise Unreachable."""

    def forget(self, certificate_id: str) -> None:
        """Drop a cached certificate."""

    def arn(self, kind: str, name: str) -> str:
        """Return the ARN of a resource in policies."""


class MessageSink(Protocol):
    """The part that takes responsibility for messages."""

    @property
    def pending(self) -> int:
        """How many messages wait."""

    def accept(self, message: Published) -> None:
        """Store a message; raise NotStored if that fails, and it must not be acknowledged."""


class Services(Protocol):
    """The services that answer messages."""

    def answer(self, message: Published) -> tuple[str, bytes] | None:
        """Return the answer's topic and payload, None if there is none; raise Unreachable."""


class Refused(Exception):
    """A client may not do this; its connection ends with `code`, a reason code of version 5."""

    def __init__(self, problem: str, code: int = packets.NOT_ALLOWED) -> None:
        """Keep the refused action and the reason code."""
        super().__init__(problem)
        self.code = code


REFUSALS = Exceeded, Refused, Unreachable, NotStored, policy.PolicyUnsupported


def reason_code(problem: Exception) -> int:
    """Return the reason code for a refusal."""
    if isinstance(problem, policy.PolicyUnsupported):
        return packets.NOT_ALLOWED
    return getattr(problem, "code", packets.UNSPECIFIED)


class Broker:
    """Serves devices on loopback."""

    def __init__(
        self, registry: Registry, sink: MessageSink, services: Services, now_ms: Callable[[], int]
    ) -> None:
        """Use these parts: `registry` has policies, `sink` stores messages, `services` answer."""
        self._registry = registry
        self._sink = sink
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
            name = client.client_id if client else "a client that isn't connected yet"
            LOGGER.warning("%s is disconnected: %s", name, problem)
            send_disconnect(client, reason_code(problem))
        except TimeoutError:
            send_disconnect(client, packets.KEEP_ALIVE_TIMEOUT)
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
            raise Malformed("the first packet isn't CONNECT", packets.PROTOCOL_ERROR)
        wanted = packets.connect(packet.body)
        if not wanted.is_supported:
            writer.write(packets.connack(packets.WRONG_LEVEL))
            text = f"protocol {wanted.name!r} of level {wanted.level}"
            raise Malformed(f"{text}; 'MQTT' of level 4 (3.1.1) and of level 5 are supported")
        client = client_of(wanted, writer)
        try:
            await self._admit(client, wanted)
        except REFUSALS as problem:
            code = reason_code(problem)
            if client.level == packets.LEVEL_5:
                writer.write(packets.connack(code, client.level))
            elif code in CODES_3_1_1:
                writer.write(packets.connack(CODES_3_1_1[code]))
            await writer.drain()
            raise
        before = self._sessions.connected(client.client_id)
        asked, expiry_seconds = expiry_of(wanted)
        session, is_present = self._sessions.open(client, expiry_seconds, wanted.is_clean)
        if before is not None:  # the newer connection of a client id wins
            send_disconnect(before, packets.TAKEN_OVER)
            before.writer.close()
        capabilities: dict[int, object] = {
            **CAPABILITIES,
            properties.SERVER_KEEP_ALIVE: client.keep_alive_seconds,
        }
        if not wanted.client_id:
            capabilities[properties.ASSIGNED_CLIENT_IDENTIFIER] = client.client_id
        if asked != expiry_seconds:
            capabilities[properties.SESSION_EXPIRY] = expiry_seconds
        writer.write(packets.connack(packets.ACCEPTED, client.level, capabilities, is_present))
        session.flush(self._clock())
        return client, session

    async def _admit(self, client: Client, wanted: Connect) -> None:
        """Raise Refused or Exceeded unless a client may connect and may publish its will.

        AWS closes the connection of a client whose will has QoS 2
        (https://github.com/bertmelis/espMqttClient/issues/116), and documents the reason code for
        version 5. A will that the policy doesn't allow is refused here, not when it is published.
        That is inferred: both are failures for a device, but this one is visible.
        """
        if properties.AUTHENTICATION_METHOD in wanted.properties:
            raise Refused("AUTH isn't supported, as on AWS", packets.BAD_AUTHENTICATION)
        limits.check_client_id(client.client_id)
        if not wanted.client_id and not wanted.is_clean and client.level != packets.LEVEL_5:
            text = "an empty client id with cleanSession 0"  # MQTT 3.1.1, 3.1.3-8
            raise Refused(text, packets.BAD_IDENTIFIER)
        self._registry.forget(client.certificate_id)  # the certificate may be newer than the cache
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
                apply_disconnect(client, session, packet)
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
                was_subscribed = [
                    session.subscriptions.pop(each, None) is not None for each in unwanted
                ]
                client.writer.write(packets.unsuback(number, was_subscribed, client.level))
            case packets.PINGREQ if not packet.body:
                client.writer.write(packets.PINGRESP_BYTES)
            case packets.PUBACK:
                number = packets.acknowledged(packet.body, client.level)
                session.acknowledge(number, self._clock())
            case _:
                text = f"a packet of type {packet.kind} and {len(packet.body)} bytes"
                raise Malformed(text, packets.PROTOCOL_ERROR)

    async def _publish(self, client: Client, message: Publish) -> None:
        message = with_topic(client, message)
        await self._permit_message(client, message)
        await self._accept(client, message)
        if message.qos:
            client.writer.write(packets.puback(message.packet_id))

    async def _permit_message(self, client: Client, message: Publish) -> None:
        """Raise Refused or Exceeded unless a client may publish a message."""
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
        if any(each.qos > 1 for each in wanted):  # AWS sends no SUBACK and documents nothing else
            raise Refused("a subscription of QoS 2 isn't supported, as on AWS", packets.NO_QOS_2)
        filters = session.subscriptions.keys() | {each.topic_filter for each in wanted}
        limits.check_subscriptions(len(wanted), len(filters))
        codes, retained = [], list[tuple[Subscription, Outgoing]]()
        for each in wanted:
            try:
                limits.check_filter(each.topic_filter)
                await self._permit(client, "iot:Subscribe", "topicfilter", each.topic_filter)
            except (Refused, Exceeded) as problem:
                if client.level != packets.LEVEL_5:  # version 5 gets a code for each filter
                    raise
                codes.append(problem.code)
                continue
            is_new = each.topic_filter not in session.subscriptions
            stored = self._retained.get(
                each.topic_filter
            )  # one with a wildcard gets none, as on AWS
            if stored and (each.retained == 0 or (each.retained == 1 and is_new)):
                retained.append((each, stored))
            session.subscriptions[each.topic_filter] = each
            codes.append(each.qos)
        client.writer.write(packets.suback(number, codes, client.level))
        for subscription, outgoing in retained:
            await self._offer(session, outgoing, replace(subscription, keeps_retained=True))

    async def _accept(self, client: Client, message: Publish) -> None:
        """Store a message that the client may publish, and deliver it to subscribers."""
        published = Published(
            message.topic, message.payload, client.client_id, client.certificate_id, self._now_ms()
        )
        if message.topic.startswith(SERVICES):
            answer = asyncio.create_task(self._answer_request(client, published))
            client.answers.add(answer)
            answer.add_done_callback(client.answers.discard)
            return
        await self._wait_for_room()
        await asyncio.to_thread(self._sink.accept, published)  # it may wait for a locked file
        if message.topic.startswith(limits.BASIC_INGEST):
            return  # Basic Ingest goes only to a rule, not to subscribers
        outgoing = outgoing_of(message, self._clock())
        if message.is_retained and message.payload:
            self._retained[message.topic] = outgoing
        elif message.is_retained:
            self._retained.pop(message.topic, None)
        await self._deliver(client.client_id, outgoing)

    async def _wait_for_room(self) -> None:
        if self._sink.pending > PENDING_MAX:
            text = "%d messages wait for the rules; no other is acknowledged until they are done"
            LOGGER.warning(text, self._sink.pending)
        while self._sink.pending > PENDING_MAX:
            await asyncio.sleep(PENDING_POLL_SECONDS)

    async def _answer_request(self, client: Client, message: Published) -> None:
        """Send a client the answer to its request, if there is one."""
        try:
            answer = await asyncio.to_thread(self._services.answer, message)
        except Unreachable as problem:
            LOGGER.warning("%s gets no answer: %s", client.client_id, problem)
            return
        if answer is None:
            LOGGER.error("no service here answers %s", message.topic)
            return
        outgoing = Outgoing(Publish(*answer, qos=1))
        for session in self._sessions:
            if session.client is client:
                await self._offer_own(session, "", outgoing)

    async def _deliver(self, publisher: str, outgoing: Outgoing) -> None:
        """Offer a message to all subscribers, and to one member of each subscribed group."""
        for session in self._sessions:
            await self._offer_own(session, publisher, outgoing)
        for members in self._sessions.groups(outgoing.message.topic):
            for session, subscription in members:
                if await self._offer(session, outgoing, subscription):
                    break

    async def _offer_own(self, session: Session, publisher: str, outgoing: Outgoing) -> None:
        """Offer a message to a client by its own subscriptions, without shared ones."""
        subscription = session.matching(outgoing.message.topic, publisher)
        if subscription is not None:
            await self._offer(session, outgoing, subscription)

    async def _offer(
        self, session: Session, outgoing: Outgoing, subscription: Subscription
    ) -> bool:
        """Send a client a message, or store it in its session; return False if it may not get it.

        In AWS's samples of shared subscriptions, a policy allows iot:Receive on the topic, on the
        topic after `$share/<group>/`, or on both. Here either is enough.
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

    async def _permit(self, session: Client | Session, action: str, kind: str, *names: str) -> None:
        """Raise Refused unless the policies allow it on one of the names and deny it on none."""

        def is_allowed() -> bool:
            principal = self._registry.principal(session.certificate_id)
            variables = variables_of(principal, session.client_id)
            effects = [
                policy.effects(
                    principal.policies, action, self._registry.arn(kind, name), variables
                )
                for name in names
            ]
            return principal.is_active and set().union(*effects) == {"Allow"}

        if not await asyncio.to_thread(is_allowed):
            raise Refused(f"{action} on {kind}/{names[0]} isn't allowed")

    async def _end(self, client: Client) -> None:
        """Forget a client; publish its will unless it sent DISCONNECT."""
        self._sessions.close(client)
        for answer in client.answers:
            answer.cancel()
        if client.will is not None:
            try:
                await self._permit_message(client, client.will)  # its permission may be gone by now
                await self._accept(client, client.will)
            except REFUSALS as problem:
                LOGGER.warning("the will of %s wasn't published: %s", client.client_id, problem)


def client_of(wanted: Connect, writer: asyncio.StreamWriter) -> Client:
    """Return the client of a CONNECT; one without an id gets a new unique id."""
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
    """Return how long a session may outlive its connection, in seconds: requested and granted.

    Version 3.1.1 requests the maximum or nothing.
    """
    asked = 0 if wanted.is_clean else limits.SESSION_SECONDS_MAX
    if wanted.level == packets.LEVEL_5:
        asked = wanted.properties.get(properties.SESSION_EXPIRY, 0)
    return asked, min(asked, limits.SESSION_SECONDS_MAX)


def with_topic(client: Client, message: Publish) -> Publish:
    """Return a message with the topic that its alias stands for; store a new alias."""
    alias = message.properties.get(properties.TOPIC_ALIAS)
    if alias is None:
        return message
    if not 0 < alias <= limits.ALIASES_MAX:
        text = f"topic alias {alias}; it has to be from 1 to {limits.ALIASES_MAX}"
        raise Malformed(text, packets.BAD_ALIAS)
    if message.topic:
        client.aliases[alias] = message.topic
    if alias not in client.aliases:
        raise Malformed(f"topic alias {alias}, which has no topic yet", packets.PROTOCOL_ERROR)
    return replace(message, topic=client.aliases[alias])


def outgoing_of(message: Publish, now: float) -> Outgoing:
    """Return a message for subscribers, with only the properties that are for them."""
    kept = {key: each for key, each in message.properties.items() if key in properties.OF_MESSAGE}
    asked = kept.get(properties.MESSAGE_EXPIRY)
    expires_at = None if asked is None else now + limits.expiry_seconds(asked)
    return Outgoing(replace(message, packet_id=0, properties=kept), expires_at)


def apply_disconnect(client: Client, session: Session, packet: Packet) -> None:
    """Apply a client's DISCONNECT to its will and its session."""
    leaves_will, given = packets.disconnected(packet.body, client.level)
    if not leaves_will:
        client.will = None
    asked = given.get(properties.SESSION_EXPIRY, session.expiry_seconds)
    if asked and not session.expiry_seconds:
        raise Malformed("DISCONNECT asks for a session, CONNECT didn't", packets.PROTOCOL_ERROR)
    session.expiry_seconds = min(asked, limits.SESSION_SECONDS_MAX)


def send_disconnect(client: Client | None, code: int) -> None:
    """Send DISCONNECT with the reason to a client of version 5; 3.1.1 has no such packet."""
    if client is not None and client.level == packets.LEVEL_5:
        client.writer.write(packets.disconnect(code))


def variables_of(principal: Principal, client_id: str) -> dict[str, str]:
    """Return the policy variables of a connection, with its thing's if the client id names one.

    https://docs.aws.amazon.com/iot/latest/developerguide/thing-policy-variables.html
    """
    is_attached = client_id in principal.things
    variables = {
        "iot:ClientId": client_id,
        "iot:Connection.Thing.IsAttached": str(is_attached).lower(),
    }
    return variables | ({"iot:Connection.Thing.ThingName": client_id} if is_attached else {})


def certificate_id_of(writer: asyncio.StreamWriter) -> str:
    """Return IoT's id of a client's certificate: the SHA-256 of its DER."""
    encoded = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return hashlib.sha256(encoded).hexdigest()


def tls_context(folder: Path) -> ssl.SSLContext:
    """Return a TLS context that requires client certificates of the instance's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*certificates.pair(folder, certificates.BROKER))
    context.load_verify_locations(certificates.pair(folder, certificates.AUTHORITY).certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
