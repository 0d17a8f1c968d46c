"""Messages from the broker to clients: flow control, groups, and sessions after a reconnect."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from emulator.mqtt import limits
from tests.contract.emulator.brokers import SECONDS_MAX, Device, Site
from tests.waiting import eventually

V311, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
QUIET_SECONDS = 0.3
"""How long a test waits before it concludes that no message comes."""


@pytest.fixture
def sender(site: Site) -> Iterator[Device]:
    made = site.device("pump-1", protocol=V5)
    yield made
    made.end()


def told(kind: int, **values: Any) -> Properties:
    made = Properties(kind)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(made, name, value)
    return made


def asking(**values: Any) -> dict[str, Any]:
    """Return the options with which a device of version 5 connects and asks for something."""
    return {"protocol": V5, "properties": told(PacketTypes.CONNECT, **values)}


# Receive Maximum, Maximum Packet Size


def test_a_client_has_no_more_unacknowledged_messages_than_its_receive_maximum(
    site: Site, sender: Device
) -> None:
    slow = site.device("pump-2", manual_ack=True, **asking(ReceiveMaximum=2))
    slow.subscribes(("pump-1/#", 1))
    for number in range(4):
        sender.publishes("pump-1/a", b"%d" % number)
    slow.gets(b"0", b"1")
    time.sleep(QUIET_SECONDS)
    slow.gets(b"0", b"1")
    sender.client.publish("pump-1/a", b"at most once", qos=0)  # QoS 0 doesn't count
    slow.gets(b"0", b"1", b"at most once")
    slow.client.ack(slow.messages[1].mid, 1)
    slow.gets(b"0", b"1", b"at most once", b"2")
    slow.client.ack(slow.messages[0].mid, 1)
    slow.gets(b"0", b"1", b"at most once", b"2", b"3")
    assert len({message.mid for message in slow.messages}) == 5  # 0 and four
    slow.end()


@pytest.mark.parametrize("options", [{"protocol": V311}, asking(ReceiveMaximum=1000)])
def test_a_client_never_has_more_than_a_hundred_unacknowledged_messages(
    site: Site, sender: Device, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNACKNOWLEDGED_MAX", 3)
    slow = site.device("pump-2", manual_ack=True, **options)
    slow.subscribes(("pump-1/#", 1))
    for number in range(5):
        sender.publishes("pump-1/a", b"%d" % number)
    slow.gets(b"0", b"1", b"2")
    time.sleep(QUIET_SECONDS)
    slow.gets(b"0", b"1", b"2")
    slow.end()


def test_a_message_longer_than_the_clients_maximum_is_not_sent(site: Site, sender: Device) -> None:
    small = site.device("pump-2", **asking(MaximumPacketSize=64))
    small.subscribes(("pump-1/#", 1))
    for qos in (0, 1):
        sender.publishes("pump-1/a", b"x" * 50)  # 2 + 2 + 8 + 2 + 1 + 50 bytes
        sender.publishes("pump-1/a", b"y" * 49, qos=qos)
    small.gets(b"y" * 49, b"y" * 49)
    small.end()


# Subscriptions


def test_a_client_that_wants_no_messages_of_its_own_gets_none(site: Site, sender: Device) -> None:
    other = site.device("pump-2", protocol=V5)
    for each in (sender, other):
        each.subscribes(("pump-1/#", SubscribeOptions(qos=1, noLocal=True)))
    sender.publishes("pump-1/a", b"1")
    other.gets(b"1")
    sender.subscribes(("pump-1/b", SubscribeOptions(qos=1)))  # this one it wants
    sender.publishes("pump-1/b", b"2")
    sender.gets(b"2")
    other.end()


def test_a_message_for_several_subscriptions_of_a_client_comes_once_at_the_highest_qos(
    site: Site, sender: Device
) -> None:
    other = site.device("pump-2")
    other.subscribes(("pump-1/#", 1), ("pump-1/a", 0))
    sender.publishes("pump-1/a", b"1")
    sender.publishes("pump-1/b", b"2")
    other.gets(b"1", b"2")
    assert [qos for _, _, qos in other.got] == [1, 1]
    other.end()


@pytest.mark.parametrize("version", [V311, V5])
def test_a_group_shares_messages_and_each_goes_to_one_of_its_members(
    site: Site, sender: Device, version: MQTTProtocolVersion
) -> None:
    names = ["pump-2", "pump-3", "pump-4"]
    members = [site.device(name, protocol=version) for name in names]
    for each in members:
        each.subscribes(("$share/g/pump-1/#", 1))
    alone, aside = site.device("pump-5"), site.device("pump-6")
    alone.subscribes(("$share/g2/pump-1/#", 1))
    aside.subscribes(("pump-1/#", 1))
    sent = [b"%d" % number for number in range(60)]
    for payload in sent:
        sender.publishes("pump-1/a", payload)
    for each in (alone, aside):  # another group, and none
        each.gets(*sent)
    assert eventually(lambda: sum(len(each.got) for each in members) == len(sent))
    assert Counter(payload for each in members for payload in each.payloads) == Counter(sent)
    assert all(
        each.got for each in members
    )  # a member without a message has a probability of 3 in 10^10
    assert {topic for each in members for topic, *_ in each.got} == {"pump-1/a"}
    members[0].end()
    members[1].client.unsubscribe("$share/g/pump-1/#")
    members[1].publishes("pump-3/a", b"")  # it is through
    before = len(members[2].got)
    for number in range(5):
        sender.publishes("pump-1/a", b"more %d" % number)
    assert eventually(lambda: len(members[2].got) == before + 5)
    for each in (*members[1:], alone, aside):
        each.end()


def test_a_member_of_a_group_that_may_not_receive_a_message_is_skipped(
    site: Site, sender: Device
) -> None:
    deaf, other = site.device("pump-2"), site.device("pump-3")
    site.allows("pump-3", "iot:Receive")
    for each in (deaf, other):
        each.subscribes(("$share/g/#", 1))
    for number in range(10):
        sender.publishes("pump-1/deaf", b"%d" % number)
    assert (deaf.payloads, other.payloads) == ([], [])  # POLICY denies it to both
    site.known = {key: each for key, each in site.known.items() if each.things != ("pump-2",)}
    for number in range(10):
        sender.publishes("pump-1/a", b"%d" % number)
    other.gets(*(b"%d" % number for number in range(10)))
    for each in (deaf, other):
        each.end()


@pytest.mark.parametrize("version", [V311, V5])
@pytest.mark.parametrize("topic_filter", ["pump-1/" + "a" * 250, "pump-1/1/2/3/4/5/6/7/8"])
def test_a_topic_filter_that_is_too_long_is_refused(
    site: Site, version: MQTTProtocolVersion, topic_filter: str
) -> None:
    device = site.device("pump-1", protocol=version)
    device.client.subscribe(topic_filter, 1)
    if version == V5:
        device.sees("Success", "subscribed: [ReasonCode(Suback, 'Topic filter invalid')]")
    else:
        device.sees("Success", "disconnected")
    device.end()


def test_limits_of_a_shared_subscription_count_only_its_topic_filter(site: Site) -> None:
    device = site.device("pump-1")
    device.subscribes(("$share/" + "g" * 128 + "/1/2/3/4/5/6/7/8", 1))
    device.client.subscribe("$share/" + "g" * 129 + "/a", 1)
    device.sees("Success", "disconnected")
    device.end()


def test_more_topic_filters_than_eight_at_once_and_fifty_in_all_are_refused(site: Site) -> None:
    device = site.device("pump-1", protocol=V5)
    for number in range(0, 48, 8):
        device.subscribes(*((f"pump-1/{each}", 1) for each in range(number, number + 8)))
    device.subscribes(("pump-1/0", 1), ("pump-1/48", 1), ("pump-1/49", 1))
    device.client.subscribe("pump-1/50", 1)
    device.sees("Success", "disconnected")
    assert device.reason == "Quota exceeded"
    again = site.device("pump-1", protocol=V5)
    again.client.subscribe([(f"pump-1/{each}", 1) for each in range(9)])
    again.sees("Success", "disconnected")
    assert again.reason == "Quota exceeded"


# Topic aliases, and properties of messages


def test_an_alias_stands_for_a_topic_on_its_connection(site: Site, sender: Device) -> None:
    for alias, topic in (
        (1, "pump-1/a"),
        (8, "pump-1/b"),
        (1, ""),
        (8, ""),
        (1, "pump-1/c"),
        (1, ""),
    ):
        properties = told(PacketTypes.PUBLISH, TopicAlias=alias)
        sent = sender.client.publish(topic, b"1", qos=1, properties=properties)
        sent.wait_for_publish(SECONDS_MAX)
    topics = [taken.topic for taken in site.taken]
    assert topics == [f"pump-1/{each}" for each in "ababcc"]
    again = site.device("pump-1", protocol=V5)
    again.client.publish("", b"1", qos=1, properties=told(PacketTypes.PUBLISH, TopicAlias=1))
    again.sees("Success", "disconnected")
    assert len(site.taken) == 6


def test_an_alias_is_checked_against_the_policy(site: Site, sender: Device) -> None:
    properties = told(PacketTypes.PUBLISH, TopicAlias=1)
    sender.client.publish("pump-2/a", b"1", qos=1, properties=properties)
    sender.sees("Success", "disconnected")
    assert (sender.reason, site.taken) == ("Not authorized", [])


def test_a_messages_properties_are_passed_on_to_subscribers(site: Site, sender: Device) -> None:
    new, old = site.device("pump-2", protocol=V5), site.device("pump-3")
    for each in (new, old):
        each.subscribes(("pump-1/#", 1))
    properties = told(
        PacketTypes.PUBLISH,
        PayloadFormatIndicator=1,
        ContentType="text",
        ResponseTopic="pump-1/answers",
        CorrelationData=b"\x00\xff",
        UserProperty=[("a", "2"), ("a", "1")],
        MessageExpiryInterval=100,
        TopicAlias=3,
    )
    sender.client.publish("pump-1/a", b"1", qos=1, properties=properties)
    for each in (new, old):
        each.gets(b"1")
    (message,) = new.messages
    assert message.properties is not None
    found = message.properties.json()  # type: ignore[no-untyped-call]
    assert found.pop("MessageExpiryInterval") in range(90, 100)  # the remaining time
    assert found == {
        "PayloadFormatIndicator": 1,
        "ContentType": "text",
        "ResponseTopic": "pump-1/answers",
        "CorrelationData": "00ff",
        "UserProperty": [("a", "2"), ("a", "1")],
    }
    for each in (new, old):
        each.end()


# Retained messages


def test_a_message_is_retained_if_the_policy_allows_it_until_an_empty_one_comes(
    site: Site,
) -> None:
    sender = site.device("pump-1", protocol=V5)
    site.allows("pump-1", "iot:RetainPublish")
    live = site.device("pump-2", protocol=V5)
    live.subscribes(("pump-1/#", SubscribeOptions(qos=1, retainAsPublished=True)))
    plain = site.device("pump-3", protocol=V5)
    plain.subscribes(("pump-1/#", 1))
    for payload in (b"old", b"new"):
        sender.publishes("pump-1/a", payload, retain=True)
    for each in (live, plain):
        each.gets(b"old", b"new")  # as on AWS, a filter with a wildcard gets no retained message
    assert [message.retain for message in live.messages] == [True, True]
    assert [message.retain for message in plain.messages] == [False, False]
    late = site.device("pump-4", protocol=V5)
    for topic_filter in ("pump-1/#", "$share/g/pump-1/a"):
        late.subscribes((topic_filter, 1))
    late.subscribes(("pump-1/a", 1))
    late.gets(b"new")
    assert [message.retain for message in late.messages] == [True]
    for handling, again in ((0, True), (1, False), (2, False)):
        before = len(late.got)
        late.subscribes(("pump-1/a", SubscribeOptions(qos=1, retainHandling=handling)))
        late.publishes("pump-4/a", b"")  # it is through
        assert (len(late.got) > before) is again
    sender.publishes("pump-1/a", b"", retain=True)
    last = site.device("pump-5", protocol=V5)
    last.subscribes(("pump-1/a", 1))
    last.publishes("pump-5/a", b"")
    assert last.got == []
    for each in (sender, live, plain, late, last):
        each.end()


def test_retaining_needs_permission_and_a_topic_that_is_not_awss_own(site: Site) -> None:
    site.knows("pump-1")
    site.allows("pump-1", "iot:RetainPublish")
    for topic in ("$aws/certificates/create/json", "pump-2/a"):
        device = site.device("pump-1", protocol=V5)
        device.client.publish(topic, b"{}", qos=1, retain=True)
        device.sees("Success", "disconnected")
        assert device.reason == "Not authorized"
    assert (site.taken, site.asked) == ([], [])


# Persistent sessions

LASTING: list[dict[str, Any]] = [
    {"protocol": V311, "clean_session": False},
    asking(SessionExpiryInterval=60) | {"clean_start": False},
]


def session_present(device: Device) -> list[bool]:
    """Collect, for each further connection, whether its session was present."""
    found: list[bool] = []
    on_connect = device.client.on_connect

    def note(*details: Any) -> None:
        found.append(details[2].session_present)
        if on_connect:
            on_connect(*details)

    device.client.on_connect = note
    return found


def returning(site: Site, name: str, options: dict[str, Any]) -> tuple[Device, bool]:
    """Return a device that connects again, and whether its session was present."""
    rest = dict(options)
    connecting = {each: rest.pop(each) for each in ("properties", "clean_start") if each in rest}
    device = Device(site, name, site.knows(name), **rest)
    found = session_present(device)
    device.connect(**connecting).sees("Success")
    return device, found[0]


@pytest.mark.parametrize("options", LASTING)
def test_messages_wait_for_a_client_that_is_away(
    site: Site, sender: Device, options: dict[str, Any]
) -> None:
    first, was_there = returning(site, "pump-2", options)
    assert not was_there
    first.subscribes(("pump-1/#", 1))
    first.end()
    sender.publishes("pump-1/a", b"1")
    sender.client.publish("pump-1/a", b"at most once", qos=0)
    sender.publishes("pump-1/b", b"2")
    second, was_there = returning(site, "pump-2", options)
    assert was_there
    second.gets(b"1", b"2")
    sender.publishes("pump-1/c", b"3")  # its subscription is there, too
    second.gets(b"1", b"2", b"3")
    second.end()


@pytest.mark.parametrize("options", LASTING)
def test_unacknowledged_messages_come_again_in_order(
    site: Site, sender: Device, options: dict[str, Any]
) -> None:
    first, _ = returning(site, "pump-2", {**options, "manual_ack": True})
    first.subscribes(("pump-1/#", 1))
    for number in range(3):
        sender.publishes("pump-1/a", b"%d" % number)
    first.gets(b"0", b"1", b"2")
    first.client.ack(first.messages[1].mid, 1)
    first.publishes("pump-2/a", b"")  # it is through
    first.vanishes()
    sender.publishes("pump-1/a", b"3")
    second, was_there = returning(site, "pump-2", options)
    assert was_there
    second.gets(b"0", b"2", b"3")
    ids = [first.messages[0].mid, first.messages[2].mid]
    assert [message.mid for message in second.messages[:2]] == ids
    assert [message.dup for message in second.messages] == [True, True, False]
    assert not any(message.dup for message in first.messages)
    second.end()


@pytest.mark.parametrize("options", LASTING)
def test_a_connection_that_replaces_another_goes_on_with_its_session(
    site: Site, sender: Device, options: dict[str, Any]
) -> None:
    first, _ = returning(site, "pump-2", {**options, "manual_ack": True})
    first.subscribes(("pump-1/#", 1))
    sender.publishes("pump-1/a", b"1")
    first.gets(b"1")
    second, was_there = returning(site, "pump-2", options)
    assert was_there
    first.sees("Success", "disconnected")
    sender.publishes("pump-1/a", b"2")
    second.gets(b"1", b"2")
    for each in (first, second):
        each.end()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"protocol": V311}, {"protocol": V311, "clean_session": False}),
        ({"protocol": V311, "clean_session": False}, {"protocol": V311}),
        (asking(), asking(SessionExpiryInterval=60) | {"clean_start": False}),
        (asking(SessionExpiryInterval=60), asking() | {"clean_start": True}),
    ],
)
def test_a_session_that_is_not_persistent_or_not_wanted_is_dropped(
    site: Site, sender: Device, before: dict[str, Any], after: dict[str, Any]
) -> None:
    first, _ = returning(site, "pump-2", before)
    first.subscribes(("pump-1/#", 1))
    first.end()
    sender.publishes("pump-1/a", b"1")
    second, was_there = returning(site, "pump-2", after)
    assert not was_there
    sender.publishes("pump-1/a", b"2")
    second.publishes("pump-2/a", b"")
    assert second.got == []
    second.end()


@pytest.mark.parametrize("leaves_with", [1, None])
def test_a_session_lasts_as_long_as_its_client_last_asked(
    site: Site, leaves_with: int | None
) -> None:
    asked = 60 if leaves_with else 1
    first = site.device("pump-2", **asking(SessionExpiryInterval=asked))
    first.subscribes(("pump-1/#", 1))
    if leaves_with:
        leave = told(PacketTypes.DISCONNECT, SessionExpiryInterval=leaves_with)
        first.client.disconnect(properties=leave)
    first.end()
    second, was_there = returning(
        site, "pump-2", asking(SessionExpiryInterval=1) | {"clean_start": False}
    )
    assert was_there
    second.end()
    time.sleep(1.1)
    third, was_there = returning(
        site, "pump-2", asking(SessionExpiryInterval=1) | {"clean_start": False}
    )
    assert not was_there
    third.end()


def test_a_session_lasts_at_most_an_hour_and_connack_says_so(site: Site) -> None:
    device = Device(site, "pump-1", site.knows("pump-1"), protocol=V5)
    answers: list[Any] = []
    device.client.on_connect = lambda *details: answers.append(details[4])
    device.connect(properties=told(PacketTypes.CONNECT, SessionExpiryInterval=99_999))
    assert eventually(lambda: bool(answers))
    assert answers[0].SessionExpiryInterval == 3600
    device.end()


def test_a_message_that_has_expired_does_not_wait_any_longer(site: Site, sender: Device) -> None:
    options = asking(SessionExpiryInterval=60) | {"clean_start": False}
    first, _ = returning(site, "pump-2", options)
    first.subscribes(("pump-1/#", 1))
    first.end()
    for payload, seconds in ((b"short", 1), (b"long", 100), (b"0 is 1", 0)):
        expiry = told(PacketTypes.PUBLISH, MessageExpiryInterval=seconds)
        sender.publishes("pump-1/a", payload, properties=expiry)
    time.sleep(1.1)
    second, _ = returning(site, "pump-2", options)
    second.gets(b"long")
    time.sleep(QUIET_SECONDS)
    second.gets(b"long")
    second.end()


def test_messages_above_the_queues_limit_are_lost(
    site: Site, sender: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUED_MAX", 2)
    first, _ = returning(site, "pump-2", LASTING[0])
    first.subscribes(("pump-1/#", 1))
    first.end()
    for number in range(3):
        sender.publishes("pump-1/a", b"%d" % number)
    second, _ = returning(site, "pump-2", LASTING[0])
    second.gets(b"0", b"1")
    sender.publishes("pump-1/a", b"3")
    second.gets(b"0", b"1", b"3")
    second.end()


def test_a_group_keeps_a_message_for_a_member_that_is_away_if_no_other_is_there(
    site: Site, sender: Device
) -> None:
    away, _ = returning(site, "pump-2", LASTING[0])
    here = site.device("pump-3")
    for each in (away, here):
        each.subscribes(("$share/g/pump-1/#", 1))
    away.end()
    for number in range(8):
        sender.publishes("pump-1/a", b"%d" % number)
    here.gets(*(b"%d" % number for number in range(8)))
    here.end()
    sender.publishes("pump-1/a", b"kept")
    back, _ = returning(site, "pump-2", LASTING[0])
    back.gets(b"kept")
    back.end()


def test_a_message_that_a_client_may_not_receive_does_not_wait_for_it(
    site: Site, sender: Device
) -> None:
    first, _ = returning(site, "pump-2", LASTING[0])
    first.subscribes(("pump-1/#", 1))
    first.end()
    sender.publishes("pump-1/deaf", b"1")
    sender.publishes("pump-1/a", b"2")
    second, _ = returning(site, "pump-2", LASTING[0])
    second.gets(b"2")
    second.end()
