"""Admission: which documents of a request are taken, and why the others aren't."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    later = valid(temperature=21.0, recorded_at=NOW_MS + 1)
    admission = admitted(7, valid(), valid(recorded_at="then"), later)
    assert admission.indexes == [1, 3]
    assert [reading.metrics["temperature"] for reading in admission.readings] == [20.0, 21.0]
    assert [refusal["index"] for refusal in admission.refusals] == [0, 2]


def test_readings_are_stamped_with_time_and_trace() -> None:
    (reading,) = admitted(valid()).readings
    assert reading == Reading("pump-1", NOW_MS, {"temperature": 20.0}, NOW_MS, "1-a")


def test_a_refusal_has_index_field_value_and_reason() -> None:
    (refusal,) = admitted({"recorded_at": NOW_MS, "humidity": 101}).refusals
    assert refusal == {
        "index": 0,
        "device_id": "pump-1",
        "field": "humidity",
        "value": 101,
        "reason": "101 is above 100.0 %RH",
    }


def test_a_device_posts_for_itself_alone() -> None:
    admission = admitted(valid(device_id="pump-1"), valid(device_id="pump-2"), valid())
    assert admission.indexes == [0, 2]


@pytest.mark.parametrize(
    ("device_id", "is_taken"),
    [("Plant-7-a", True), ("Plant-7-", True), ("Plant-70", False), ("plant-7-a", False)],
)
def test_a_gateway_posts_for_devices_of_its_prefix(device_id: str, is_taken: bool) -> None:
    admission = admitted(valid(device_id=device_id), device_id=None, prefix="Plant-7-")
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
    assert admitted() == Admission([], [], [], [])


def test_a_document_that_its_decoder_refused_is_refused_with_that_reason() -> None:
    undecoded = Rejected("is not JSON", value="{oops")
    fine = {"device_id": "pump-1", "recorded_at": NOW_MS, "temperature": 20.0}
    admission = admit([undecoded, fine], Poster(None), NOW_MS, 0, None)
    assert admission.indexes == [1]
    (refusal,) = admission.refusals
    assert refusal == {
        "index": 0,
        "device_id": None,
        "field": None,
        "value": "{oops",
        "reason": "is not JSON",
    }


def test_a_bad_metric_is_refused_by_name_and_the_others_are_taken() -> None:
    sent = valid(temperature=-127, humidity=55, colour="red")
    admission = admitted(sent, valid(recorded_at=NOW_MS + 1))
    assert admission.indexes == [0, 1]
    assert admission.readings[0].metrics == {"humidity": 55.0}
    assert [(each["index"], each["field"], each["value"]) for each in admission.partly] == [
        (0, "temperature", -127),
        (0, "colour", "red"),
    ]
    assert admission.partly[0]["device_id"] == "pump-1"
    assert admission.partly[0]["reason"] == "-127 is below -90.0 °C"
    assert admission.refusals == []


def test_a_reading_without_a_valid_metric_is_refused_once_with_all_reasons() -> None:
    admission = admitted(valid(temperature="21.5", humidity=101, Battery=3.1))
    assert (admission.readings, admission.partly) == ([], [])
    (refusal,) = admission.refusals
    assert (refusal["field"], refusal["value"]) == ("temperature", "21.5")
    for part in (
        "a number is written without quotes",
        "humidity: 101 is above",
        "Battery: is not a fie",
    ):
        assert part in refusal["reason"]


@pytest.mark.parametrize(
    "wrong",
    [{"recorded_at": "then"}, {"device_id": "pump-2"}, {"via": "mqtt"}, {"received_at": NOW_MS}],
)
def test_what_makes_a_reading_bad_is_named_before_its_metrics(wrong: dict[str, Any]) -> None:
    admission = admitted(valid(humidity=101) | wrong)
    assert (admission.readings, admission.partly) == ([], [])
    assert [each["field"] for each in admission.refusals] == list(wrong)


@pytest.mark.parametrize("values", [(-18.5, -20.5), (-20.5, -18.5), (-30.0, 1.5), (0.0, -0.5)])
def test_of_two_negative_values_the_warmer_is_taken(values: tuple[float, float]) -> None:
    admission = admitted(*(valid(temperature=value) for value in values))
    assert [reading.metrics for reading in admission.readings] == [{"temperature": max(values)}]
    assert [refusal["value"] for refusal in admission.refusals] == [min(values)]


def test_refusals_come_in_the_documents_order_whatever_they_are_refused_for() -> None:
    later = {"recorded_at": NOW_MS + 1}
    admission = admitted(
        valid(temperature=19.0), valid(via="mqtt"), valid(), valid(**later), "no reading"
    )
    assert [refusal["index"] for refusal in admission.refusals] == [0, 1, 4]


def test_of_two_values_of_one_instant_the_larger_is_taken_and_the_other_named() -> None:
    for values, lost in (([21, 20], 1), ([20, 21], 0)):
        documents = [valid(temperature=value) for value in values]
        admission = admitted(*documents, valid(recorded_at=NOW_MS + 1))
        assert admission.indexes == [1 - lost, 2]
        (refusal,) = admission.refusals
        assert refusal == {
            "index": lost,
            "device_id": "pump-1",
            "field": "temperature",
            "value": 20.0,
            "reason": f"20.0 differs from 21.0, which reading {1 - lost} has for the same device "
            "and instant; the larger value is kept",
        }
        assert admission.partly == []


def test_a_reading_keeps_what_another_of_its_instant_does_not_contradict() -> None:
    texts = ("2026-11-21T01:30:00.0001Z", "2026-11-21T01:30:00.0009Z")  # of one millisecond
    low, high = valid(temperature=20, battery=3.1), valid(temperature=21, humidity=40)
    admission = admitted(low | {"recorded_at": texts[0]}, high | {"recorded_at": texts[1]})
    assert [dict(reading.metrics) for reading in admission.readings] == [
        {"battery": 3.1},
        {"temperature": 21.0, "humidity": 40.0},
    ]
    assert [(each["index"], each["field"]) for each in admission.partly] == [(0, "temperature")]


def test_equal_values_of_one_instant_are_duplicates() -> None:
    admission = admitted(valid(), valid(), valid(humidity=40))
    assert (admission.indexes, admission.refusals, admission.partly) == ([0, 1, 2], [], [])


def test_the_same_instant_of_another_device_is_another() -> None:
    documents = [valid(device_id="a"), valid(device_id="b", temperature=21)]
    assert admitted(*documents, device_id=None).indexes == [0, 1]


VALUES = st.sampled_from([19.0, 20, 20.5, -127, 151, "20", None, True])
DOCUMENTS = st.fixed_dictionaries(
    {"recorded_at": st.sampled_from([NOW_MS, NOW_MS + 1, "then"])},
    optional={
        "device_id": st.sampled_from(["a", "b", 7]),
        "temperature": VALUES,
        "humidity": VALUES,
        "colour": st.just("red"),
        "via": st.just("mqtt"),
    },
)


@given(
    st.lists(st.one_of(DOCUMENTS, st.just("text")), max_size=8), st.randoms(use_true_random=False)
)
def test_what_is_taken_is_a_function_of_the_set_of_documents(
    documents: list[Any], chance: Random
) -> None:
    shuffled = chance.sample(documents, len(documents))
    first, second = admitted(*documents, device_id=None), admitted(*shuffled, device_id=None)
    assert union(first.readings) == union(second.readings)
    for admission in (first, second):
        rejected = [refusal["index"] for refusal in admission.refusals]
        assert sorted([*admission.indexes, *rejected]) == list(range(len(documents)))
        assert {refusal["index"] for refusal in admission.partly} <= set(admission.indexes)
        # what is taken agrees with itself: to add it in any order merges nothing away
        for reading in admission.readings:
            merged = union(admission.readings)[reading.device_id, reading.recorded_at_ms]
            assert reading.metrics.items() <= merged.items()


def union(readings: list[Reading]) -> dict[tuple[str, int], dict[str, float]]:
    """The values of each device and instant, as they were given last."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for reading in readings:
        found.setdefault((reading.device_id, reading.recorded_at_ms), {}).update(reading.metrics)
    return found
