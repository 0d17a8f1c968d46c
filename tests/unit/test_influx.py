"""The mapping of InfluxDB's points: which device, which metrics, and what becomes of the others."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from telemetry.domain import no_measurement
from telemetry.domain.admission import Admission, Poster, admit
from telemetry.domain.influx_mapping import (
    Batch,
    Mapping,
    MappingInvalid,
    judge_batch,
    load_mapping,
    remedy,
    shipped_mapping,
    translate,
)
from telemetry.domain.line_protocol import parse
from telemetry.domain.no_measurement import load
from telemetry.domain.reading import METRICS

ROOT = Path(__file__).parents[2]
NOW_MS = 1_795_224_600_000
DEVICE = {"tags": ["device", "host"]}


def mapping(**changes: Any) -> Mapping:
    """A mapping with two tags and no entries, changed; JSON is YAML."""
    return load_mapping(yaml.safe_dump({"device": DEVICE, **changes}))


def batch_of(lines: str, rules: Mapping | None = None, device_id: str | None = None) -> Batch:
    points, faults = parse(lines.encode(), "ms")
    assert faults == []
    return translate(points, rules or mapping(), device_id, NOW_MS)


def documents(lines: str, rules: Mapping | None = None) -> list[dict[str, Any]]:
    batch = batch_of(lines, rules)
    assert batch.faults == []
    return batch.documents


def fault(lines: str, rules: Mapping | None = None, device_id: str | None = None) -> str:
    batch = batch_of(lines, rules, device_id)
    assert batch.documents == []
    (found,) = batch.faults
    return str(found)


def judge(
    lines: str, precision: str = "ns", rules: Mapping | None = None
) -> tuple[Admission, list[str]]:
    points, _ = parse(lines.encode(), precision)
    batch = translate(points, rules or mapping(), None, NOW_MS)
    batch = batch._replace(precision=precision)
    places = [f"line {point.line}" for point in batch.points]
    admitted = admit(batch.documents, Poster(None), NOW_MS, 86_400_000, None, places)
    judgement = judge_batch(batch, admitted)
    return judgement.admission, [str(each) for each in judgement.faults]


def test_the_shipped_mapping_is_that_of_the_file_that_is_reviewed() -> None:
    shipped = shipped_mapping()
    assert shipped == load_mapping((ROOT / "influx.yaml").read_text("utf-8"))
    assert shipped.device.tags == ("device_id", "device", "host")
    assert (shipped.unmapped, shipped.same_names) == ("ignore", True)
    # 98.6 °F are 37 °C; what Telegraf on a Raspberry Pi sends of its processor, and of its disk
    lines = (
        "room,device=a temperature_f=98.6 1\n"
        "temp,host=pi,sensor=cpu_thermal temp=48.3 1\n"
        "temp,host=pi,sensor=nvme temp=60 1\n"
        "weather,device_id=w temperature=1,humidity=2i,pressure=1000u,battery=3.5 1"
    )
    batch = batch_of(lines, shipped)
    assert batch.documents == [
        {"device_id": "a", "recorded_at": 1, "temperature": pytest.approx(37)},
        {"device_id": "pi", "recorded_at": 1, "temperature": 48.3},
        {
            "device_id": "w",
            "recorded_at": 1,
            "temperature": 1,
            "humidity": 2,
            "pressure": 1000,
            "battery": 3.5,
        },
    ]
    assert batch.ignored == Counter({"temp.temp": 1})


def test_the_first_tag_that_is_there_names_the_device() -> None:
    lines = "m,host=h,device=d temperature=1 1\nm,host=h temperature=1 1"
    assert [each["device_id"] for each in documents(lines)] == ["d", "h"]


def test_a_device_that_posts_itself_needs_no_tag() -> None:
    (found,) = batch_of("m temperature=1 1", device_id="pump-1").documents
    assert found["device_id"] == "pump-1"
    (found,) = batch_of("m,host=h temperature=1 1", device_id="pump-1").documents
    assert found["device_id"] == "h"  # `admit` refuses it


def test_a_gateways_point_without_a_device_is_a_fault() -> None:
    expected = "line 1: none of the tags device, host is there to name the device"
    assert fault("m,rack=h temperature=1 1") == expected


def test_a_tag_that_is_no_id_is_a_fault_unless_the_mapping_replaces_what_is_wrong() -> None:
    line = r"m,host=pi.local\ 2ü temperature=1 1"
    assert fault(line) == (
        "line 1: tag host: is no device's id, which matches [A-Za-z0-9_-]{1,128}; "
        "it is 'pi.local 2ü'"
    )
    replacing = mapping(device={**DEVICE, "other_characters": "-"})
    assert documents(line, replacing)[0]["device_id"] == "pi-local-2-"
    assert documents("m,host=aZ_0-9 temperature=1 1", replacing)[0]["device_id"] == "aZ_0-9"
    assert "is no device's id" in fault(f"m,host={'x' * 129} temperature=1 1", replacing)


@pytest.mark.parametrize(
    ("unit", "metric", "value", "expected"),
    [
        ("fahrenheit", "temperature", "212", 100),
        ("fahrenheit", "temperature", "-40i", -40),
        ("kelvin", "temperature", "273.15", 0),
        ("pascal", "pressure", "101325", 1013.25),
        ("millivolt", "battery", "3700i", 3.7),
    ],
)
def test_units_are_converted(unit: str, metric: str, value: str, expected: float) -> None:
    rules = mapping(metrics=[{"field": "v", "metric": metric, "unit": unit}])
    (found,) = documents(f"m,host=h v={value} 1", rules)
    assert found[metric] == pytest.approx(expected)


def test_a_scale_and_an_offset_convert_any_other_unit() -> None:
    entries = [
        {"field": "tenths", "metric": "temperature", "scale": 0.1},
        {"field": "above_20", "metric": "temperature", "offset": 20},
        {"field": "raw", "metric": "battery", "scale": 0.5, "offset": 1},
    ]
    lines = "m,host=h tenths=215 1\nm,host=h above_20=1.5 1\nm,host=h raw=5 1"
    found = documents(lines, mapping(metrics=entries))
    assert found[0]["temperature"] == pytest.approx(21.5)
    assert (found[1]["temperature"], found[2]["battery"]) == (21.5, 3.5)


def test_the_first_entry_that_fits_measurement_and_tags_decides() -> None:
    entries = [
        {"field": "v", "metric": "temperature", "measurement": "t", "tags": {"at": "in"}},
        {"field": "v", "metric": "humidity", "measurement": "t"},
        {"field": "temperature", "metric": "battery", "measurement": "odd"},
    ]
    lines = (
        "t,host=h,at=in v=1 1\nt,host=h,at=out v=2 1\nu,host=h v=3 1\n"
        "odd,host=h temperature=4 1\neven,host=h temperature=5 1"
    )
    batch = batch_of(lines, mapping(metrics=entries))
    metrics = [list(each.items())[2] for each in batch.documents]
    expected = [("temperature", 1), ("humidity", 2), ("battery", 4), ("temperature", 5)]
    assert metrics == expected
    assert batch.ignored == Counter({"u.v": 1})


def test_without_same_names_only_entries_count() -> None:
    batch = batch_of("m,host=h temperature=1 1", mapping(same_names=False))
    assert (batch.documents, batch.ignored) == ([], Counter({"m.temperature": 1}))


def test_fields_that_are_no_metric_are_counted_and_leave_the_others() -> None:
    lines = "cpu usage_idle=1,x=2 1\ncpu usage_idle=2 1\nm,host=h temperature=1,x=true 1"
    batch = batch_of(lines)
    assert [each["temperature"] for each in batch.documents] == [1]
    assert batch.ignored == Counter({"cpu.usage_idle": 2, "cpu.x": 1, "m.x": 1})
    assert batch.faults == []


def test_fields_that_are_no_metric_refuse_their_point_where_the_mapping_says_so() -> None:
    strict = mapping(unmapped="refuse")
    assert (
        fault("m,host=h temperature=1,x=2 1", strict) == "line 1: m.x: is no metric by influx.yaml"
    )
    assert fault("cpu,host=h usage=1 1", strict) == "line 1: cpu.usage: is no metric by influx.yaml"


@pytest.mark.parametrize(
    ("value", "kind"), [('"hot"', "a string; metric"), ("true", "a boolean; metric")]
)
def test_a_metric_that_is_no_number_is_a_fault(value: str, kind: str) -> None:
    told = fault(f"m,host=h temperature={value} 1")
    assert told.startswith(f"line 1: m.temperature: is {kind} temperature is a number; it is ")


@pytest.mark.parametrize("fields", ["temperature=1,t=2", "t=1,temperature=2"])
def test_of_two_fields_of_a_point_that_are_one_metric_the_larger_is_kept(fields: str) -> None:
    rules = mapping(metrics=[{"field": "t", "metric": "temperature"}])
    admission, (told,) = judge(f"m,host=h {fields} {NOW_MS}", "ms", rules)
    assert [each.metrics for each in admission.readings] == [{"temperature": 2}]
    (low, _), (high, _) = (field.split("=") for field in fields.split(","))
    assert told == (
        f"line 1: m.{low}: 1.0 differs from 2.0, which m.{high} of this point has for "
        "temperature; the larger value is kept"
    )
    assert judge(f"m,host=h temperature=1,t=1 {NOW_MS}", "ms", rules)[1] == []


TWO_PROBES = [{"field": "t1", "metric": "temperature"}, {"field": "t2", "metric": "temperature"}]
ABOVE = "line 1: m.t{}: 400.0 is above 150.0 °C"


@pytest.fixture
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = '{"metric": "temperature", "values": [85, -127, 999], "devices": "h*"}'
    none = load(f'{{"no_measurement": [{entry}]}}')
    monkeypatch.setattr(no_measurement, "shipped", lambda: none)


@pytest.mark.usefixtures("_declared")
@pytest.mark.parametrize(
    ("fields", "stored", "told", "left_out"),
    [
        ("t1=21.5,t2=85", 21.5, [], 1),
        ("t1=85,t2=21.5", 21.5, [], 1),
        ("t1=-40,t2=-127", -40, [], 1),
        ("t1=21.5,t2=999,temperature=85", 21.5, [], 2),
        ("t1=21.5,t2=400", 21.5, [ABOVE.format(2)], 0),
        ("t1=400,t2=-100", None, [ABOVE.format(1) + "; m.t2: -100.0 is below -90.0 °C"], 0),
        ("t1=400,t2=85", None, [ABOVE.format(1)], 0),
        (
            "t1=85,t2=85",
            None,
            ["line 1: has no measurement: metrics.yaml says that its values "],
            2,
        ),
        ("t1=85,t2=85,humidity=40", None, [], 2),
        ("t1=400,t2=85,humidity=40", None, [ABOVE.format(1)], 1),
        (
            "t1=400,t2=21,temperature=22,humidity=40",
            22,
            [ABOVE.format(1), "line 1: m.t2: 21.0 d"],
            0,
        ),
    ],
)
def test_a_value_is_not_lost_behind_another_field_of_its_metric_that_is_not_valid(
    fields: str, stored: float | None, told: list[str], left_out: int
) -> None:
    admission, faults = judge(f"m,host=h {fields} {NOW_MS}", "ms", mapping(metrics=TWO_PROBES))
    readings = [each.metrics.get("temperature") for each in admission.readings]
    is_kept = stored is not None or "humidity" in fields
    assert readings == ([stored] if is_kept else [])
    assert len(faults) == len(told)
    assert all(each.startswith(begin) for each, begin in zip(faults, told, strict=True))
    assert admission.left_out == left_out


@pytest.mark.usefixtures("_declared")
def test_another_devices_value_that_stands_for_none_is_a_value_of_this_one() -> None:
    lines = f"m,host=pump t1=21.5,t2=85 {NOW_MS}"
    admission, _ = judge(lines, "ms", mapping(metrics=TWO_PROBES))
    assert [each.metrics for each in admission.readings] == [{"temperature": 85}]


def test_a_field_that_is_no_number_takes_no_other_with_it() -> None:
    lines = f'm,host=h temperature="hot",humidity=40 {NOW_MS}\nm,host=h temperature=1 {NOW_MS + 1}'
    admission, (told,) = judge(lines, "ms")
    assert [each.metrics for each in admission.readings] == [{"humidity": 40}, {"temperature": 1}]
    assert told.startswith("line 1: m.temperature: is a string; metric temperature is a number")
    assert [each["index"] for each in admission.partly] == [0]


def test_times_are_cut_to_the_millisecond_and_a_missing_one_is_now() -> None:
    points, _ = parse(b"m,host=h temperature=1 1999999\nm,host=h temperature=1", "ns")
    batch = translate(points, mapping(), None, NOW_MS)
    assert [each["recorded_at"] for each in batch.documents] == [1, NOW_MS]


# InfluxDB keeps nanoseconds and series; a reading is a device and a millisecond.


def test_points_of_one_millisecond_with_different_metrics_are_both_kept() -> None:
    lines = "a,host=h temperature=1 1795224600000000000\nb,host=h humidity=2 1795224600000999999"
    admission, faults = judge(lines)
    assert [each.metrics for each in admission.readings] == [{"temperature": 1}, {"humidity": 2}]
    assert faults == []


def test_points_that_say_the_same_are_both_kept_to_be_counted_as_duplicates() -> None:
    admission, faults = judge("a,host=h temperature=1 1795224600000000000\n" * 2)
    assert (len(admission.readings), faults) == (2, [])


@pytest.mark.parametrize(
    "second",
    [
        "a,host=h,core=1 temperature=2 1795224600000000000",  # another series
        "a,host=h temperature=2 1795224600000000001",  # another time
        "b,host=h humidity=9,temperature=2 1795224600000999999",
    ],
)
def test_of_two_values_of_a_metric_in_a_millisecond_the_larger_is_kept(second: str) -> None:
    first = "a,host=h temperature=1 1795224600000000000"
    for place, lines in ((2, [first, second]), (3, [second, first])):
        admission, faults = judge("\n".join(["", *lines, "b,host=i temperature=3"]))
        temperatures = [each.metrics.get("temperature") for each in admission.readings]
        assert temperatures == [2, 3]
        (told,) = faults
        assert told == (
            f"line {place}: temperature: 1.0 differs from 2.0, which line {5 - place} has for the "
            "same device and instant; the larger value is kept"
        )


def test_a_point_is_not_refused_for_one_that_is_not_kept_either() -> None:
    lines = "a,host=h temperature=999 1795224600000\na,host=h temperature=2 1795224600000"
    admission, faults = judge(lines, "ms")
    assert [each.metrics for each in admission.readings] == [{"temperature": 2}]
    assert faults == ["line 1: temperature: 999.0 is above 150.0 °C"]


def test_faults_are_told_in_the_order_of_the_lines() -> None:
    lines = "a,host=h temperature=999\na temperature=1\na,host=h temperature=-999"
    assert [told[:6] for told in judge(lines)[1]] == ["line 1", "line 2", "line 3"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"device": {"tags": []}}, "device.tags"),
        ({"device": {"tags": ["a"], "other_characters": "."}}, "device.other_characters"),
        ({"unmapped": "drop"}, "unmapped"),
        ({"colour": "red"}, "colour"),
        ({"metrics": [{"field": "v", "metric": "sound"}]}, "'sound' is not one of temperature"),
        ({"metrics": [{"metric": "battery"}]}, "metrics[0].field"),
        (
            {"metrics": [{"field": "v", "metric": "battery", "unit": "kelvin"}]},
            "kelvin can't become battery, which is in V",
        ),
        (
            {"metrics": [{"field": "v", "metric": "battery", "unit": "millivolt", "scale": 2}]},
            "leave out scale and offset",
        ),
        ({"metrics": [{"field": "v", "metric": "battery", "scale": float("inf")}]}, "scale"),
    ],
)
def test_a_mapping_that_makes_no_sense_names_the_place(
    changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(MappingInvalid) as caught:
        mapping(**changes)
    assert str(caught.value).startswith("influx.yaml: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["device: [", "", "[]", "42"])
def test_what_is_no_mapping_at_all_is_told(text: str) -> None:
    with pytest.raises(MappingInvalid, match=r"influx\.yaml"):
        load_mapping(text)


@pytest.mark.parametrize(
    ("precision", "time", "read", "unit"),
    [
        ("ns", 1_795_224_600, "1970-01-01T00:00:01.795Z", "s"),
        ("ns", 1_795_224_600_000, "1970-01-01T00:29:55.224Z", "ms"),
        ("ms", 1_795_224_600, "1970-01-21T18:40:24.600Z", "s"),
        ("us", 1_795_224_600_000, "1970-01-21T18:40:24.600Z", "ms"),
        ("s", 17, "1970-01-01T00:00:17.000Z", None),
        ("s", -17, "1969-12-31T23:59:43.000Z", None),
    ],
)
def test_a_time_before_2000_is_told_as_it_was_sent(
    precision: str, time: int, read: str, unit: str | None
) -> None:
    _, (fault,) = judge(f"m,host=a temperature=1 {time}", precision)
    hint = f" It looks like `precision={unit}`." if unit else ""
    told = f"timestamp {time} in {precision} is {read}; is `precision` right?{hint}"
    assert fault == f"line 1: {told}"


def test_a_time_that_is_only_too_old_is_not_said_to_be_in_another_unit() -> None:
    _, (fault,) = judge("m,host=a temperature=1 1700000000", "s")
    assert "is older than windows are kept" in fault
    assert "precision" not in fault


@pytest.mark.parametrize(
    ("lines", "entry"),
    [
        ("weather Temperature=21.5,Humidity=41 1", "{field: Temperature, metric: temperature}"),
        ('m note="x",temp_c=21 1', "{field: temp_c, metric: temperature}"),
        ("m a=1 1\nm hum=41 1", "{field: hum, metric: humidity}"),
        ("m Battery\\ Level=3 1", '{field: "Battery Level", metric: battery}'),
        ("°C,domain=sensor value=21 1", '{measurement: "°C", field: value, metric: temperature}'),
        ("cpu idle=90 1", f"{{field: idle, metric: METRIC}}, METRIC being {' or '.join(METRICS)}"),
    ],
)
def test_the_entry_is_told_that_would_keep_a_field(lines: str, entry: str) -> None:
    batch = batch_of(lines)
    assert batch.has_no_metric
    told = remedy(batch.left_out)
    assert told == f"an entry under `metrics` in influx.yaml keeps one: {entry}"
    entry = entry.partition("}")[0].replace("METRIC", "battery") + "}"
    kept = mapping(metrics=[yaml.safe_load(entry)])
    assert len(batch_of(lines, kept, "pump-1").documents) == 1


def test_points_without_a_number_are_told_to_be_that() -> None:
    assert remedy(batch_of('m state="on",is_on=true 1').left_out) == (
        "none of their fields is a number"
    )


def test_a_batch_is_kept_in_part_where_a_point_has_a_metric_or_a_fault() -> None:
    assert not batch_of("m,host=a temperature=1 1\nm Temperature=1 1").has_no_metric
    assert not batch_of("m temperature=1 1\nm Temperature=1 1").has_no_metric
    assert not batch_of("").has_no_metric
