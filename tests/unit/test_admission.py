"""Admission: which documents of a request are taken, and why the others aren't."""

from typing import Any

import pytest
from telemetry.domain.admission import Admission, Poster, admit
from telemetry.domain.reading import Reading
from telemetry.errors import Rejected

NOW_MS = 1_795_224_600_000
DAY_MS = 86_400_000


def valid(**fields: Any) -> dict[str, Any]:
    return {"recorded_at": NOW_MS, "temperature": 20.0, **fields}


def admitted(*documents: Any, device_id: str | None = "pump-1", prefix: str = "") -> Admission:
    return admit(documents, Poster(device_id, prefix), NOW_MS, DAY_MS, "1-a")


def test_readings_keep_the_index_of_their_document() -> None:
    admission = admitted(7, valid(), valid(recorded_at="then"), valid(temperature=21.0))
    assert admission.indexes == [1, 3]
    assert [reading.metrics["temperature"] for reading in admission.readings] == [20.0, 21.0]
    assert [refusal["index"] for refusal in admission.refusals] == [0, 2]


def test_readings_are_stamped_with_time_and_trace() -> None:
    (reading,) = admitted(valid()).readings
    assert reading == Reading("pump-1", NOW_MS, {"temperature": 20.0}, NOW_MS, "1-a")


def test_a_refusal_has_index_field_value_and_reason() -> None:
    (refusal,) = admitted(valid(humidity=101)).refusals
    assert refusal == {
        "index": 0,
        "field": "humidity",
        "value": 101,
        "reason": "101 is above 100.0 %RH",
    }


def test_a_device_posts_for_itself_alone() -> None:
    admission = admitted(valid(device_id="pump-1"), valid(device_id="pump-2"), valid())
    assert admission.indexes == [0, 2]


@pytest.mark.parametrize(
    ("device_id", "is_taken"),
    [("plant-7-a", True), ("plant-7-", True), ("plant-70", False), ("plant-8-a", False)],
)
def test_a_gateway_posts_for_devices_of_its_prefix(device_id: str, is_taken: bool) -> None:
    admission = admitted(valid(device_id=device_id), device_id=None, prefix="plant-7-")
    assert bool(admission.readings) == is_taken
    if not is_taken:
        assert admission.refusals[0]["field"] == "device_id"
        assert admission.refusals[0]["value"] == device_id


def test_a_gateway_says_whose_each_reading_is() -> None:
    (refusal,) = admitted(valid(), device_id=None, prefix="plant-7-").refusals
    assert (refusal["field"], refusal["reason"]) == ("device_id", "is missing")


@pytest.mark.parametrize(
    ("offset_ms", "is_taken"),
    [(300_000, True), (300_001, False), (-DAY_MS, True), (-DAY_MS - 1, False)],
)
def test_time_is_checked_against_the_pipelines_clock(offset_ms: int, is_taken: bool) -> None:
    admission = admitted(valid(recorded_at=NOW_MS + offset_ms))
    assert bool(admission.readings) == is_taken
    assert [refusal["field"] for refusal in admission.refusals] == ["recorded_at"] * (not is_taken)


def test_no_documents_are_no_readings() -> None:
    assert admitted() == ([], [], [])


def test_a_document_that_its_decoder_refused_is_refused_with_that_reason() -> None:
    undecoded = Rejected("is not JSON", value="{oops")
    fine = {"device_id": "pump-1", "recorded_at": NOW_MS, "temperature": 20.0}
    admission = admit([undecoded, fine], Poster(None), NOW_MS, 0, None)
    assert admission.indexes == [1]
    (refusal,) = admission.refusals
    assert refusal == {"index": 0, "field": None, "value": "{oops", "reason": "is not JSON"}
