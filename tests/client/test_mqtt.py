"""The MQTT transport, with paho's client, against a broker of the test's own."""

import gc
import gzip
import json
import ssl
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from telemetry_client.answers import Remedy
from telemetry_client.errors import Invalid
from telemetry_client.formats import Json
from telemetry_client.mqtt import Mqtt
from telemetry_client.reading import Queued

from tests.client.certificates import Authority
from tests.client.servers import Broker, serving

READINGS = [Queued(each, 1_800_000_000_000 + each, '{"temperature":20.0}') for each in range(3)]
DOCUMENTS = [{"recorded_at": 1_800_000_000_000 + each, "temperature": 20.0} for each in range(3)]


def plain(broker: Broker, **options: Any) -> Mqtt:
    return Mqtt("127.0.0.1", broker.port, **{"tls": False, "timeout_s": 5.0, **options})


def test_a_batch_is_one_message_under_the_devices_name_and_done_when_acknowledged() -> None:
    with serving(Broker()) as broker:
        way = plain(broker)
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        assert way.deliver("pump-17", READINGS[:1]).taken == [0]
        way.close()
    (topic, payload), _ = broker.published
    assert topic == "telemetry/pump-17/batch/json-gzip"
    assert json.loads(gzip.decompress(payload)) == DOCUMENTS
    assert broker.client_ids == ["pump-17"]


def test_with_the_topic_readings_each_reading_is_a_message() -> None:
    with serving(Broker()) as broker:
        way = plain(broker, topics="readings")
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()
    assert {topic for topic, _ in broker.published} == {"telemetry/pump-17/readings"}
    assert [json.loads(payload) for _, payload in broker.published] == DOCUMENTS


def test_only_acknowledged_readings_are_taken() -> None:
    with serving(Broker(acknowledges=lambda number: number != 2)) as broker:
        way = plain(broker, topics="readings", timeout_s=0.3)
        verdict = way.deliver("pump-17", READINGS)
        way.close()
    assert (verdict.taken, verdict.again, verdict.remedy) == ([0, 2], [1], Remedy.LESS)


def test_an_unacknowledged_message_is_not_also_sent_again_by_paho() -> None:
    with serving(Broker(acknowledges=lambda number: number != 1)) as broker:
        way = plain(broker, timeout_s=0.3, body_format=Json())
        assert way.deliver("pump-17", READINGS).again == [0, 1, 2]
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()
    assert len(broker.published) == 2


def test_a_refused_device_waits_for_a_person() -> None:
    with serving(Broker(connack=5)) as broker:
        way = plain(broker)
        verdict = way.deliver("pump-17", READINGS)
        way.close()
    assert (verdict.again, verdict.remedy) == ([0, 1, 2], Remedy.PERSON)
    assert verdict.problem is not None
    assert "refuses pump-17: Not authorized" in verdict.problem


def test_a_broker_that_is_busy_is_asked_again_soon() -> None:
    with serving(Broker(connack=3)) as broker:
        way = plain(broker)
        verdict = way.deliver("pump-17", READINGS)
        way.close()
    assert (verdict.again, verdict.remedy) == ([0, 1, 2], Remedy.LESS)
    assert verdict.problem is not None
    assert "Server unavailable" in verdict.problem


@pytest.mark.parametrize("topics", ["batch", "readings"])
@pytest.mark.parametrize("ends_at", [1, 3])  # CONNECT, PUBLISH
def test_a_broker_that_ends_the_connection_takes_nothing_and_is_not_waited_for(
    ends_at: int, topics: str
) -> None:
    """IoT Core ends it where a policy forbids the topic; the messages behind it find it gone."""
    many = [READINGS[0]] * 50
    with serving(Broker()) as broker:
        way = plain(broker, topics=topics)
        broker.ends_at = ends_at
        started = time.monotonic()
        verdict = way.deliver("pump-17", many)
        assert time.monotonic() - started < 3  # of the 5 s that there are
        assert (verdict.taken, verdict.again) == ([], list(range(50)))
        assert verdict.problem is not None
        assert "policy doesn't let it" in verdict.problem
        broker.ends_at = None
        assert way.deliver("pump-17", many).taken == list(range(50))
        way.close()


def test_a_message_on_a_connection_that_has_just_ended_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(Broker()) as broker:
        way = plain(broker)
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        client = way._client
        assert client
        monkeypatch.setattr(client, "is_connected", lambda: True)  # as it was a moment ago
        client._sock_close()
        assert way.deliver("pump-17", READINGS).again == [0, 1, 2]
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()


def test_no_more_messages_are_on_the_way_than_iot_core_takes() -> None:
    with serving(Broker()) as broker:
        broker.together = 100
        way = plain(broker, topics="readings")
        assert len(way.deliver("pump-17", [READINGS[0]] * 300).taken) == 300
        way.close()
    assert broker.exceeded == 0


def test_no_more_messages_are_published_in_a_second_than_iot_core_takes() -> None:
    times: list[float] = []

    def note(_number: int) -> bool:
        times.append(time.monotonic())
        return True

    with serving(Broker(acknowledges=note)) as broker:
        way = plain(broker, topics="readings")
        for count in (150, 60):
            assert len(way.deliver("pump-17", [READINGS[0]] * count).taken) == count
        way.close()
    bursts = [times[0], *(b for a, b in pairwise(times) if b - a > 0.3)]
    assert [round(each - times[0]) for each in bursts] == [0, 1, 2]  # of 100, 50, 60


def test_another_device_is_another_connection() -> None:
    with serving(Broker()) as broker:
        way = plain(broker)
        for device_id in ("pump-17", "pump-18", "pump-18"):
            assert way.deliver(device_id, READINGS).taken == [0, 1, 2]
        way.close()
    assert broker.client_ids == ["pump-17", "pump-18"]


def test_closing_leaves_no_thread() -> None:
    with serving(Broker()) as broker:
        way = plain(broker)
        before = threading.active_count()
        way.deliver("pump-17", READINGS)
        way.close()
        assert not [each for each in threading.enumerate() if "paho" in each.name]
        assert threading.active_count() <= before + 1  # the broker's own


def test_no_broker_is_no_answer() -> None:
    way = Mqtt("127.0.0.1", 1, tls=False)
    started = time.monotonic()
    verdict = way.deliver("pump-17", READINGS)
    assert (verdict.again, verdict.remedy) == ([0, 1, 2], Remedy.LESS)
    assert time.monotonic() - started < 5


# paho leaves the socket of a failed handshake to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_certificate_says_who_publishes(tmp_path: Path) -> None:
    signed = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*signed.issue("localhost"))
    context.load_verify_locations(signed.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(Broker(tls=context)) as broker:
        own = signed.issue("pump-17")
        way = Mqtt("localhost", broker.port, ca_file=signed.ca_file, client_certificate=own)
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()
        unknown = Mqtt("localhost", broker.port, client_certificate=own)
        assert unknown.deliver("pump-17", READINGS).again == [0, 1, 2]
        unknown.close()
        del unknown
        gc.collect()
    assert broker.certificates[0]["subject"] == ((("commonName", "pump-17"),),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topics": "all"}, "topics: 'all' is neither 'batch' nor 'readings'"),
        ({"topics": "readings", "body_format": Json(gzip=True)}, "body_format: .* is not JSON"),
        ({"port": 70_000}, "port: 70000 is not from 1 to 65535"),
        ({"host": ""}, "host: '' is not a host's name"),
        ({"host": "a..b"}, r"host: 'a\.\.b' is not a host's name"),
    ],
)
def test_arguments_that_mqtt_can_not_take_are_refused(options: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Mqtt(**{"host": "localhost", **options})
