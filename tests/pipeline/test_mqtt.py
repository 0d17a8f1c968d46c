"""MQTT with the deployed certificates, policy and rules, and a client of others."""

import gzip
import json
from typing import Any

import pytest

from local.deployment import client
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago
from tests.pipeline.faults import role_without
from tests.pipeline.mqtt import MqttDevice, connected


def test_readings_over_mqtt_are_in_windows_and_alerts_each_once(pipeline: Pipeline) -> None:
    minute = minutes_ago(4)
    batch = [at(minute, second, temperature=20.0) for second in (1, 2)]
    lines = "\n".join(json.dumps(at(minute, second, humidity=5.0)) for second in (3, 4, 5))
    rule = pipeline.outputs["BatchRuleName"]
    with connected(pipeline, "wired") as device:
        for _ in range(2):  # a device that heard no answer sends it again
            device.publish("telemetry/wired/readings", at(minute, 0, temperature=39.5))
        device.publish("telemetry/wired/batch/json", batch)
        packed = gzip.compress(lines.encode())
        device.publish(f"$aws/rules/{rule}/telemetry/wired/batch/ndjson-gzip", packed)
    becomes(lambda: pipeline.counts("wired"), {minute: 6}, "the window")
    becomes(lambda: [each["peak"] for each in pipeline.alerts("wired")], [39.5], "the alert")
    assert pipeline.quarantined("wired") == []


def test_a_breach_with_more_digits_than_a_filter_compares_opens_an_alert(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(4)
    calm, hot = (at(minute, second, temperature=0) for second in (0, 1))
    texts = (
        json.dumps(document).replace('"temperature": 0', f'"temperature": {digits}').encode()
        for document, digits in ((calm, "20.299999237060547"), (hot, "38.299999237060547"))
    )
    with connected(pipeline, "long-winded") as device:
        for text in texts:
            device.publish("telemetry/long-winded/readings", text)
    peaks = [38.29999923706055]  # the nearest double
    becomes(lambda: [each["peak"] for each in pipeline.alerts("long-winded")], peaks, "the alert")
    becomes(lambda: pipeline.counts("long-winded"), {minute: 2}, "the window")
    assert pipeline.quarantined("long-winded") == []


def test_a_device_that_publishes_under_another_name_is_disconnected_and_nothing_arrives(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(3)
    device = MqttDevice(pipeline, "intruder")
    device.waits_for("connected: Success")
    device.client.publish("telemetry/wronged/readings", json.dumps(at(minute, 0, humidity=1.0)), 1)
    device.waits_for("connected: Success", "disconnected")
    device.end()
    other = MqttDevice(pipeline, "intruder", client_id="wronged")
    other.waits_for("connected: Not authorized", "disconnected")
    other.end()
    with connected(pipeline, "wronged") as wronged:
        wronged.publish("telemetry/wronged/readings", at(minute, 1, humidity=2.0))
    becomes(lambda: pipeline.counts("wronged"), {minute: 1}, "the wronged's own reading")


def test_a_bad_reading_over_mqtt_is_quarantined_exactly_once_and_raises_no_alert(
    pipeline: Pipeline,
) -> None:
    minute, later = minutes_ago(3), minutes_ago(-60)
    bad: list[Any] = [
        at(minute, 0, temperature=400.0),  # over the rule, to the stream
        at(later, 0, temperature=45.0),  # an hour ahead
        at(minute, 1, temperature=45.0) | {"device_id": "another"},  # to `ingest`
        b"\x00\xff",
    ]
    with connected(pipeline, "mistaken") as device:
        for document in bad:
            device.publish("telemetry/mistaken/readings", document)
        device.publish("telemetry/mistaken/readings", at(minute, 9, humidity=1.0))
    becomes(lambda: pipeline.counts("mistaken"), {minute: 1}, "the good one")
    found = becomes(lambda: pipeline.quarantined("mistaken"), lambda held: len(held) >= 4, "all")
    fields = sorted((held["function"], held["field"]) for held in found)
    assert fields == [
        ("aggregate", "recorded_at"),
        ("aggregate", "temperature"),
        ("ingest", "body"),
        ("ingest", "device_id"),
    ]
    assert pipeline.alerts("mistaken", "another") == []


@pytest.mark.alone
def test_messages_that_a_rule_cannot_deliver_wait_for_the_stream_and_are_stored_once(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(3)
    with connected(pipeline, "undelivered") as device:
        with role_without(pipeline, "ReadingRuleRole", "kinesis:PutRecord"):
            for second in range(3):
                device.publish("telemetry/undelivered/readings", at(minute, second, humidity=5.0))
            becomes(lambda: pipeline.counts("undelivered"), {minute: 3}, "what drain brought")
        device.publish("telemetry/undelivered/readings", at(minute, 9, humidity=5.0))
    becomes(lambda: pipeline.counts("undelivered"), {minute: 4}, "the rule's own")
    becomes(lambda: pipeline.waiting("OverflowUrl"), 0, "an empty overflow queue")


def test_a_revoked_certificate_lets_no_device_in(pipeline: Pipeline) -> None:
    with connected(pipeline, "retired"):
        pass
    iot = client(pipeline.state, "iot")
    (arn,) = iot.list_thing_principals(thingName="retired")["principals"]
    iot.update_certificate(certificateId=arn.rpartition("/")[2], newStatus="INACTIVE")

    def is_refused() -> bool:
        device = MqttDevice(pipeline, "retired")
        becomes(lambda: len(device.seen), bool, "an answer")
        device.end()
        return "connected: Not authorized" in device.seen

    becomes(is_refused, bool, "the refusal, once the broker has looked again")
