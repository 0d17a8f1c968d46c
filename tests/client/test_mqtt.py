"""The way over MQTT, against a broker of a test's own; the client is paho's."""

import gc
import gzip
import json
import ssl
import time
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


def test_readings_of_their_own_are_one_message_each() -> None:
    with serving(Broker()) as broker:
        way = plain(broker, topics="readings")
        assert way.deliver("pump-17", READINGS).taken == [0, 1, 2]
        way.close()
    assert {topic for topic, _ in broker.published} == {"telemetry/pump-17/readings"}
    assert [json.loads(payload) for _, payload in broker.published] == DOCUMENTS


def test_only_what_is_acknowledged_is_done() -> None:
    with serving(Broker(acknowledges=lambda number: number != 2)) as broker:
        way = plain(broker, topics="readings", timeout_s=0.3)
        verdict = way.deliver("pump-17", READINGS)
        way.close()
    assert (verdict.taken, verdict.again, verdict.remedy) == ([0, 2], [1], Remedy.LATER)


def test_what_was_not_acknowledged_is_not_sent_by_mqtt_itself_as_well() -> None:
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


def test_no_broker_is_no_answer() -> None:
    way = Mqtt("127.0.0.1", 1, tls=False)
    started = time.monotonic()
    verdict = way.deliver("pump-17", READINGS)
    assert (verdict.again, verdict.remedy) == ([0, 1, 2], Remedy.LATER)
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
    ],
)
def test_what_mqtt_can_not_carry_is_refused(options: Any, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Mqtt("localhost", **options)
