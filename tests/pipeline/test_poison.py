"""Bodies and records that aren't readings are refused or quarantined, and stop no reading."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from local.fleet.reading import Reading
from tests.pipeline.deployed import (
    DAY_MS,
    Pipeline,
    at,
    bearer,
    becomes,
    minutes_ago,
    now_ms,
)
from tests.pipeline.instances import RETENTION_DAYS

BODIES = 1_000
CONNECTIONS = 4
MAX_BODY_BYTES = 1_048_576

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=6,
)


@st.composite
def damaged_readings(draw: st.DrawFn, now: int) -> dict[str, Any]:
    """Yield readings of the device `malformed`, each with one forbidden change."""
    reading: dict[str, Any] = {"recorded_at": now - 60_000, "temperature": 20.0}
    not_a_number = st.text() | st.booleans() | st.lists(st.floats()) | st.none()
    not_a_time = st.integers(max_value=now - (RETENTION_DAYS + 1) * DAY_MS) | st.integers(
        min_value=now + DAY_MS
    )
    damage = draw(st.sampled_from(["value", "time", "device", "stamped", "unknown", "missing"]))
    match damage:
        case "value":
            beyond = st.floats(min_value=150.01) | st.floats(max_value=-90.01)
            reading["temperature"] = draw(not_a_number | beyond | st.just(float("nan")))
        case "time":
            reading["recorded_at"] = draw(not_a_number | not_a_time | st.floats())
        case "device":
            names = (st.none() | st.integers() | st.text()).filter(lambda name: name != "malformed")
            reading["device_id"] = draw(names)
        case "stamped":
            reading[draw(st.sampled_from(["received_at", "trace_id"]))] = draw(json_values)
        case "unknown":
            known = {"device_id", "temperature", "humidity", "pressure", "battery", "recorded_at"}
            name = draw(st.text().filter(lambda name: name not in known))
            reading[name] = draw(json_values)
            del reading["temperature"]  # with it, only the field would be refused
        case _:
            del reading[draw(st.sampled_from(sorted(reading)))]
    return reading


def malformed_bodies(now: int) -> st.SearchStrategy[bytes]:
    """Yield request bodies without a single valid reading."""
    damaged = damaged_readings(now)
    whole = json.dumps({"recorded_at": now - 60_000, "temperature": 20.0})
    documents = damaged | json_values | st.lists(damaged | json_values, max_size=3)
    return st.one_of(
        documents.map(json.dumps).map(str.encode),
        st.binary(max_size=300),
        st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.integers(0, len(whole) - 1).map(lambda length: whole[:length].encode()),
        st.integers(1, 20_000).map(lambda depth: b"[" * depth),
        st.integers(4_301, 20_000).map(lambda digits: b'{"recorded_at": %s}' % (b"9" * digits)),
    )


def too_much(now: int) -> list[bytes]:
    """Yield bodies with more readings, or more bytes, than a request may have."""
    whole = json.dumps({"recorded_at": now - 60_000, "temperature": 20.0}).encode()
    return [b"[" + b",".join([whole] * 501) + b"]", whole + b" " * MAX_BODY_BYTES]


def distinct_bodies() -> list[bytes]:
    """Return 1,000 distinct bodies, equal in each run except for the clock."""
    now = now_ms()
    bodies = dict.fromkeys(too_much(now))

    @settings(
        max_examples=BODIES + BODIES // 5,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(malformed_bodies(now))
    def collect(body: bytes) -> None:
        if len(bodies) < BODIES:
            bodies[body] = None

    collect()
    return list(bodies)


@pytest.mark.alone
def test_none_of_1000_malformed_bodies_gets_a_5xx_or_is_stored(pipeline: Pipeline) -> None:
    bodies = distinct_bodies()
    assert len(bodies) == BODIES
    quarantined = pipeline.quarantined()
    headers = bearer(pipeline.token("malformed")) | {"Content-Type": "application/json"}

    def post(body: bytes) -> tuple[int, bytes, str]:
        answer = pipeline.http.post("/devices/malformed/readings", content=body, headers=headers)
        return answer.status_code, body[:200], answer.text[:200]

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(post, bodies))
    assert len(answers) == BODIES
    assert [answer for answer in answers if answer[0] not in {400, 413}] == []
    last = minutes_ago(1)
    pipeline.passed(last, "malformed")  # behind them on the shard, had any of them come so far
    stored = pipeline.stored("malformed")
    assert (len(stored), pipeline.counts("malformed")) == (1, {last: 1})
    assert pipeline.waiting("OverflowUrl") == 0
    assert pipeline.quarantined() == quarantined


POISON = {
    "not JSON": b"\x00\xff poison",
    "no object": b"[1, 2, 3]",
    "an empty object": b"{}",
    "hot, and no reading": b'{"device_id": "poisoned", "temperature": 99.0}',
    "a reading too hot": b'{"device_id":"poisoned","recorded_at":1795224600000,"temperature":412}',
    "300 kB": b'{"temperature": 99, "filler": "' + b"\xc3\xa4" * 150_000 + b'"}',
}


def test_poison_on_the_stream_is_quarantined_with_its_bytes_and_stops_no_reading(
    pipeline: Pipeline,
) -> None:
    minute = minutes_ago(2)
    put = pipeline.aws("kinesis").put_record
    for index, data in enumerate(POISON.values()):
        put(StreamName=pipeline.outputs["StreamName"], PartitionKey="poisoned", Data=data)
        pipeline.send("poisoned", at(minute, index, temperature=40.0 + index))  # on the same shard
    becomes(lambda: pipeline.counts("poisoned"), {minute: len(POISON)}, "the readings behind it")
    peaks = lambda: [alert["peak"] for alert in pipeline.alerts("poisoned")]  # noqa: E731
    becomes(peaks, [40.0 + len(POISON) - 1], "the alert of the breaches behind it")
    in_quarantine = lambda: pipeline.quarantined("poisoned")  # noqa: E731
    held = becomes(in_quarantine, lambda held: len(held) >= len(POISON), "quarantine")
    found = [base64.b64decode(each["data"], validate=True) for each in held]
    assert sorted(found) == sorted(POISON.values())
    assert all(each["reason"] for each in held)
    assert {each["function"] for each in held} == {"aggregate"}


def test_a_bad_reading_in_a_batch_is_refused_and_the_others_are_taken(pipeline: Pipeline) -> None:
    minute = minutes_ago(2)
    readings = [Reading(f"mixed-{index}", minute, {"temperature": 20.0}) for index in range(3)]
    documents = [reading.body() for reading in readings]
    documents[1]["temperature"] = 412.0
    answer = pipeline.post("/readings", "gateway", documents)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 2)
    refusal = {
        "index": 1,
        "device_id": "mixed-1",
        "field": "temperature",
        "value": 412.0,
        "reason": "412.0 is above 150.0 °C",
    }
    assert answer.json()["rejected"] == [refusal]
    for name, windows in (("mixed-0", {minute: 1}), ("mixed-2", {minute: 1})):
        becomes(lambda name=name: pipeline.counts(name), windows, name)  # type: ignore[misc]
    assert pipeline.counts("mixed-1") == {}
