"""Values that stand for no measurement: declared in metrics.yaml, left out of every reading."""

import json
from typing import Any

import pytest
from telemetry.domain import no_measurement
from telemetry.domain.admission import Poster, admit
from telemetry.domain.no_measurement import MetricsInvalid, load
from telemetry.domain.validation import NothingMeasured, decode, parse
from telemetry.errors import Rejected

from contract.__main__ import ROOT

AT_MS = 1_795_224_600_000


def declare(monkeypatch: pytest.MonkeyPatch, *entries: dict[str, Any]) -> None:
    declared = load(json.dumps({"no_measurement": entries}))  # JSON is YAML
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)


def document(**fields: Any) -> dict[str, Any]:
    return {"device_id": "pump-1", "recorded_at": AT_MS, **fields}


def test_none_is_declared_by_default() -> None:
    assert load((ROOT / "metrics.yaml").read_text("utf-8")) == {}
    assert no_measurement.shipped() == {}
    assert parse(document(temperature=85)).reading.metrics == {"temperature": 85}


def test_the_example_in_the_shipped_file_is_one_that_can_be() -> None:
    text = (ROOT / "metrics.yaml").read_text("utf-8").replace("no_measurement: []", "")
    lines = [line.removeprefix("#") for line in text.splitlines() if line.startswith("#  ")]
    (declared,) = load("\n".join(["no_measurement:", *lines]))["temperature"]
    assert declared.fits("greenhouse-7", -127)
    assert not declared.fits("pump-1", -127)


@pytest.mark.parametrize("value", [-127, -127.0, 85, 65535])
def test_a_declared_value_is_left_out_whether_or_not_it_is_in_range(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [-127, 85, 65535]})
    for parsed in (
        parse(document(temperature=value, humidity=55)),
        decode(json.dumps(document(temperature=value, humidity=55)).encode()),
    ):
        assert parsed.reading.metrics == {"humidity": 55}
        assert (parsed.refused, parsed.left_out) == ((), 1)


@pytest.mark.parametrize("last", ["85", "-127"])
def test_a_measurement_is_not_lost_behind_a_second_value_that_stands_for_none(
    monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [-127, 85]})
    record = json.dumps(document(temperature=40)).replace("40", f'40, "temperature": {last}')
    with pytest.raises(Rejected, match=r"^temperature: is there twice, as 40 and"):
        decode(record.encode())


def test_other_values_and_other_metrics_are_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [85, 1]})
    parsed = parse(document(temperature=85.1, humidity=85))
    assert (parsed.reading.metrics, parsed.left_out) == ({"temperature": 85.1, "humidity": 85}, 0)
    (error,) = parse(document(temperature=True, humidity=85)).refused
    assert error.value is True


@pytest.mark.parametrize(
    ("devices", "device_id", "is_left_out"),
    [
        ("greenhouse-*", "greenhouse-7", True),
        ("greenhouse-*", "greenhouse-", True),
        ("greenhouse-*", "old-greenhouse-7", False),
        ("*-probe", "a-b-probe", True),
        ("*-probe", "a-probe-2", False),
        ("a*c", "abbc", True),
        ("pump-1", "pump-1", True),
        ("pump-1", "pump-10", False),
        ("*", "anything", True),
    ],
)
def test_an_entry_holds_for_devices_whose_whole_id_fits(
    monkeypatch: pytest.MonkeyPatch, devices: str, device_id: str, is_left_out: bool
) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [85], "devices": devices})
    parsed = parse(document(device_id=device_id, temperature=85, humidity=4))
    assert parsed.left_out == is_left_out


def test_a_value_that_a_device_has_in_32_bits_is_the_declared_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [-12.7]})
    assert parse(document(temperature=-12.699999809265137, humidity=4)).left_out == 1
    assert parse(document(temperature=-12.7, humidity=4)).left_out == 1


def test_a_document_of_nothing_else_is_no_reading_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [-127]})
    with pytest.raises(NothingMeasured, match=r"metrics\.yaml") as caught:
        parse(document(temperature=-127))
    assert caught.value.left_out == 1
    with pytest.raises(Rejected, match="humidity: 101 is above") as refused:
        parse(document(temperature=-127, humidity=101))
    assert not isinstance(refused.value, NothingMeasured)


def test_a_declared_value_contradicts_no_other_of_its_instant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    declare(monkeypatch, {"metric": "temperature", "values": [85]})
    sent = [
        document(temperature=85, humidity=4),
        document(temperature=21),
        document(temperature=85),
    ]
    admission = admit(sent, Poster(None), AT_MS, 1_000, None)
    metrics = [reading.metrics for reading in admission.readings]
    assert metrics == [{"humidity": 4}, {"temperature": 21}]
    assert (admission.partly, admission.left_out, list(admission.empty)) == ([], 2, [2])
    assert [each["index"] for each in admission.refusals] == [2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no_measurement: [", "metrics.yaml is not YAML"),
        ("[]", "metrics.yaml: all:"),
        ("sentinels: []", "metrics.yaml: sentinels: "),
        ("no_measurement: 85", "metrics.yaml: no_measurement: "),
        ("no_measurement: [{values: [85]}]", "no_measurement[0].metric: is required"),
        (
            "no_measurement: [{metric: temp, values: [85]}]",
            "[0].metric: is not one of temperature, humidity, pressure, battery (it is 'temp')",
        ),
        ("no_measurement: [{metric: battery}]", "no_measurement[0].values: is required"),
        ("no_measurement: [{metric: battery, values: []}]", "no_measurement[0].values: "),
        ("no_measurement: [{metric: battery, values: [none]}]", "no_measurement[0].values[0]: "),
        ("no_measurement: [{metric: battery, values: [.nan]}]", "no_measurement[0].values[0]: "),
        ("no_measurement: [{metric: battery, values: [true]}]", "no_measurement[0].values[0]: "),
        (
            "no_measurement: [{metric: battery, values: [1], devices: 'a b'}]",
            "no_measurement[0].devices: ",
        ),
        ("no_measurement: [{metric: battery, values: [1], device: a}]", "no_measurement[0].device"),
    ],
)
def test_what_the_file_cannot_say_is_told_by_its_key(text: str, said: str) -> None:
    with pytest.raises(MetricsInvalid) as caught:
        load(text)
    assert said in str(caught.value)
