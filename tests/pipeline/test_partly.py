"""An invalid metric doesn't reject its reading's other metrics, on any way in."""

import json
from typing import Any

from local.trial.check import iso
from tests.pipeline.deployed import Pipeline, at, bearer, becomes, minutes_ago, now_ms
from tests.pipeline.mqtt import connected


def metrics_of(pipeline: Pipeline, device_id: str) -> dict[str, tuple[int, float]]:
    """Return each metric's number of values in a device's windows, and the largest value."""
    found: dict[str, tuple[int, float]] = {}
    for window in pipeline.windows(device_id).values():
        for name, each in window["metrics"].items():
            found[name] = each["count"], each["max"]
    return found


def aggregated(pipeline: Pipeline, since_ms: int) -> dict[str, int]:
    accounting = pipeline.operator.accounting(iso(since_ms - 60_000), iso(now_ms() + 60_000))
    counted: dict[str, int] = accounting["stages"]["aggregate"]
    return counted


def test_over_https_a_refused_metric_is_named_and_the_others_are_stored(pipeline: Pipeline) -> None:
    minute = minutes_ago(5)
    sent = [at(minute, 1, temperature=-127, humidity=55.0), at(minute, 2, temperature=20.0)]
    answer = pipeline.post("/devices/partly-1/readings", "partly-1", sent)
    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["rejected"]) == (2, [])
    assert body["partly"] == [
        {
            "index": 0,
            "device_id": "partly-1",
            "field": "temperature",
            "value": -127,
            "reason": "-127 is below -90.0 °C",
        }
    ]
    expected = {"humidity": (1, 55.0), "temperature": (1, 20.0)}
    becomes(lambda: metrics_of(pipeline, "partly-1"), expected, "the valid metrics")


def test_over_line_protocol_a_refused_field_is_a_partial_write_that_drops_no_point(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(5)
    line = f"air temperature=412,humidity=41 {minute}"
    headers = bearer(pipeline.token("partly-2"))
    answer = pipeline.http.post("/write?precision=ms", content=line, headers=headers)
    assert answer.status_code == 400
    told = "partial write: line 1: temperature: 412.0 is above 150.0 °C dropped=0"
    assert answer.json()["error"] == told
    becomes(lambda: metrics_of(pipeline, "partly-2"), {"humidity": (1, 41.0)}, "the humidity")


def test_over_mqtt_a_refused_metric_waits_in_quarantine_and_opens_no_alert(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(4)
    single = at(minute, 1, temperature=999, humidity=61.0)  # the filter of `alert` lets it through
    batch = [at(minute, 2, temperature=999, battery=3.0), at(minute, 3, temperature=21.0)]
    with connected(pipeline, "partly-3") as device:
        device.publish("telemetry/partly-3/readings", single)
        device.publish("telemetry/partly-3/batch/json", batch)
    expected = {"battery": (1, 3.0), "humidity": (1, 61.0), "temperature": (1, 21.0)}
    becomes(lambda: metrics_of(pipeline, "partly-3"), expected, "the valid metrics")

    def held() -> list[tuple[str, Any, bool]]:
        lines = pipeline.quarantined("partly-3")
        return sorted((each["source"], each["value"], each["is_partly"]) for each in lines)

    becomes(held, [("kinesis", 999, True), ("mqtt", 999, True)], "the quarantine")
    pipeline.passed(minutes_ago(2), "partly-3")
    assert pipeline.alerts("partly-3") == []
    released = pipeline.command("quarantine", "drop", *names(pipeline, "partly-3"))
    assert released.returncode == 0, released.stdout + released.stderr


def names(pipeline: Pipeline, device_id: str) -> list[str]:
    return [line["name"] for line in pipeline.quarantined(device_id)]


def test_two_values_of_one_instant_are_refused_together_and_counted_apart(
    pipeline: Pipeline,
) -> None:
    minute, since_ms = minutes_ago(6), now_ms()
    before = aggregated(pipeline, since_ms)["conflicting"]
    one = at(minute, 1, temperature=21.0)
    answer = pipeline.post(
        "/devices/torn/readings", "torn", [one, one | {"temperature": 20.0}, at(minute, 2)]
    )
    body = answer.json()
    assert (body["accepted"], [each["index"] for each in body["rejected"]]) == (1, [1, 2])
    assert "20.0 differs from 21.0" in body["rejected"][0]["reason"]
    pipeline.send("torn", one | {"temperature": 22.5})
    becomes(lambda: metrics_of(pipeline, "torn"), {"temperature": (1, 22.5)}, "the larger value")
    becomes(
        lambda: aggregated(pipeline, since_ms)["conflicting"] - before, 1, "the counted conflict"
    )
    answer = pipeline.http.get("/devices/torn", headers=bearer(pipeline.state.tokens["operator"]))
    assert answer.json()["conflicting"] == 1, json.dumps(answer.json())
