"""Sessions of the MQTT broker: redelivery after a reconnection, and a queue that is full."""

from types import SimpleNamespace
from typing import Any

import pytest

from emulator.mqtt import limits, packets
from emulator.mqtt.packets import Packet, Publish
from emulator.mqtt.sessions import Client, Outgoing, Session, Sessions


class Line:
    """A connection that notes the PUBLISH packets on it: (packet id, DUP flag, payload)."""

    def __init__(self, unacknowledged_max: int = 100, packet_bytes_max: int | None = None) -> None:
        self.sent: list[tuple[int, bool, bytes]] = []
        transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
        writer: Any = SimpleNamespace(write=self._note, transport=transport)
        self.client = Client("a", "cert", writer, 4, None, 60, unacknowledged_max, packet_bytes_max)

    def _note(self, written: bytes) -> None:
        flags, body = written[0] & 15, written[2:]
        message = packets.publish(Packet(packets.PUBLISH, flags, body))
        self.sent.append((message.packet_id, bool(flags & 8), message.payload))


def sending(session: Session, *payloads: bytes, expires_at: float | None = None) -> None:
    for payload in payloads:
        session.offer(Outgoing(Publish("t", payload, qos=1), expires_at), now=0)


def reconnected(sessions: Sessions, line: Line, now: float = 0) -> Session:
    session, _ = sessions.open(line.client, expiry_seconds=60, is_clean=False)
    session.flush(now)
    return session


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(lambda: 0.0)


@pytest.mark.parametrize("has_closed", [True, False])
def test_unacknowledged_messages_are_sent_again_first_with_their_ids_and_the_dup_flag(
    sessions: Sessions, has_closed: bool
) -> None:
    first, second = Line(), Line()
    session = reconnected(sessions, first)
    sending(session, b"0", b"1", b"2")
    assert first.sent == [(1, False, b"0"), (2, False, b"1"), (3, False, b"2")]
    session.acknowledge(2, now=0)
    if has_closed:
        sessions.close(first.client)
        sending(session, b"3")
    reconnected(sessions, second)
    if not has_closed:  # the newer connection of a client id wins
        sending(session, b"3")
    assert second.sent == [(1, True, b"0"), (3, True, b"2"), (4, False, b"3")]


def test_a_smaller_receive_maximum_holds_for_messages_that_are_sent_again(
    sessions: Sessions,
) -> None:
    session = reconnected(sessions, Line())
    sending(session, b"0", b"1", b"2")
    second = Line(unacknowledged_max=1)
    reconnected(sessions, second)
    sending(session, b"3")
    assert second.sent == [(1, True, b"0")]
    third = Line(unacknowledged_max=2)
    reconnected(sessions, third)
    assert third.sent == [(1, True, b"0"), (2, True, b"1")]
    session.acknowledge(3, now=0)  # of an earlier connection
    session.acknowledge(1, now=0)
    assert third.sent[2:] == [(4, False, b"3")]


def test_a_message_that_has_expired_or_is_too_long_is_not_sent_again(sessions: Sessions) -> None:
    session = reconnected(sessions, Line())
    sending(session, b"short", expires_at=5.0)
    sending(session, b"x" * 50, b"1")
    second = Line(packet_bytes_max=20)
    reconnected(sessions, second, now=6.0)
    assert second.sent == [(3, True, b"1")]
    assert [*session.sent] == [3]


def test_expired_messages_give_up_their_place_in_a_full_queue(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUED_MAX", 2)
    first, second = Line(), Line()
    session = reconnected(sessions, first)
    sessions.close(first.client)
    sending(session, b"old")
    sending(session, b"expired", expires_at=0.0)
    sending(session, b"new", b"too many")
    reconnected(sessions, second)
    assert [payload for _, _, payload in second.sent] == [b"old", b"new"]
