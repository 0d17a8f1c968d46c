import itertools
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from telemetry.domain.times import from_iso

from local.errors import LocalError
from local.fleet.reading import Reading
from local.fleet.recorded import Clock, CsvOptions, Recording, metric_column, moment_of

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
JULY_4_NOON_MS = 1_783_166_400_000  # 2026-07-04T12:00:00Z

TEXT = """\
date,station,temp,hum
2026/07/04 12:00,roof,50,40
2026/07/04 13:00,roof,59,
2026/07/04 13:00,cellar,,80.5
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "temps.csv"
    path.write_text(TEXT, "utf-8")
    return path


def options(path: Path, **changed: Any) -> CsvOptions:
    mapped: dict[str, Any] = {
        "path": path,
        "time_column": "date",
        "device_column": "station",
        "metrics": {"temperature": "temp", "humidity": "hum"},
        "celsius_from": "fahrenheit",
        "speed": None,
    }
    return CsvOptions(**{**mapped, **changed})


def test_columns_become_device_time_and_metrics_and_an_empty_cell_no_metric(file: Path) -> None:
    assert Recording(options(file), NOW_MS).take_due(NOW_MS, 10) == [
        Reading("roof", JULY_4_NOON_MS, {"temperature": 10.0, "humidity": 40.0}),
        Reading("cellar", JULY_4_NOON_MS + HOUR_MS, {"humidity": 80.5}),
        Reading("roof", JULY_4_NOON_MS + HOUR_MS, {"temperature": 15.0}),
    ]


def test_one_device_can_have_all_rows(file: Path) -> None:
    mapping = options(file, device="attic", device_column=None, metrics={"temperature": "temp"})
    assert Recording(mapping, NOW_MS).devices == ["attic"]


def test_shifted_times_keep_their_distances_and_the_last_is_now(file: Path) -> None:
    readings = Recording(options(file, is_ending_now=True), NOW_MS).take_due(NOW_MS, 10)
    assert [each.recorded_at_ms for each in readings] == [NOW_MS - HOUR_MS, NOW_MS, NOW_MS]


def test_readings_come_at_their_own_pace_times_the_speed(file: Path) -> None:
    recording = Recording(options(file, speed=60.0), NOW_MS)
    assert len(recording.take_due(NOW_MS, 10)) == 1
    assert recording.next_due_ms() == NOW_MS + 60_000
    assert recording.take_due(NOW_MS + 59_999, 10) == []
    assert len(recording.take_due(NOW_MS + 60_000, 10)) == 2
    assert recording.next_due_ms() is None


def recorded(folder: Path, text: str, **changed: Any) -> Recording:
    """Return the recording of a device's temperatures and humidities in °C and %RH."""
    path = folder / "recorded.csv"
    path.write_text(text, "utf-8")
    mapped: dict[str, Any] = {"device": "a", "device_column": None, "celsius_from": None}
    return Recording(options(path, **{**mapped, **changed}), NOW_MS)


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_of_rows_with_one_time_the_largest_value_is_kept_and_conflicts_are_counted(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    rows = [f"2026-07-04,{value}," for value in (*order, 3)]
    recording = recorded(tmp_path, "\n".join(["date,temp,hum", *rows, "2026-07-04,,40"]))
    metrics = [each.metrics for each in recording.take_due(NOW_MS, 10)]
    assert metrics == [{"temperature": 3.0, "humidity": 40.0}]
    assert recording.left_out == 2  # with 1 and 2; the second 3 says the same


@pytest.mark.parametrize("order", [(21.5, 400), (400, 21.5), (-91, 151, 21.5)])
def test_a_row_is_not_left_out_for_one_whose_value_the_pipeline_refuses(
    tmp_path: Path, order: tuple[float, ...]
) -> None:
    rows = [f"2026-07-04,{value}," for value in order]
    recording = recorded(tmp_path, "\n".join(["date,temp,hum", *rows]))
    assert [each.metrics for each in recording.take_due(NOW_MS, 10)] == [{"temperature": 21.5}]
    assert recording.left_out == len(order) - 1


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-25T12:00:59.9996Z", "2026-11-25T12:00:59.999+00:00"),
        ("2026-11-25T12:00:59.999999999Z", "2026-11-25T12:00:59.999+00:00"),
        ("1795608059.9996", "2026-11-25T12:00:59.999+00:00"),
        ("1795608059999.6", "2026-11-25T12:00:59.999+00:00"),
        ("1795608059.001", "2026-11-25T12:00:59.001+00:00"),
    ],
)
def test_a_time_is_cut_to_the_millisecond_as_the_pipeline_does(
    tmp_path: Path, text: str, at: str
) -> None:
    (reading,) = recorded(tmp_path, f"date,temp,hum\n{text},1,\n").take_due(NOW_MS, 10)
    assert reading.recorded_at_ms == datetime.fromisoformat(at).timestamp() * 1000
    if not text.replace(".", "").isdecimal():
        assert reading.recorded_at_ms == from_iso(text)


@pytest.mark.parametrize(
    ("zone", "at"),
    [
        ("UTC", "2026-07-04T12:00:00+00:00"),
        ("Europe/Berlin", "2026-07-04T12:00:00+02:00"),
        ("America/New_York", "2026-07-04T12:00:00-04:00"),
        ("-05:30", "2026-07-04T12:00:00-05:30"),
    ],
)
def test_times_without_a_zone_are_those_of_the_zone_that_is_named(
    tmp_path: Path, zone: str, at: str
) -> None:
    text = "date,temp,hum\n2026-07-04 12:00,1,\n2026-07-04T12:00:01Z,1,\n1783166402,1,\n"
    readings = recorded(tmp_path, text, zone=zone).take_due(NOW_MS, 10)
    moments = (at, "2026-07-04T12:00:01Z", "2026-07-04T12:00:02Z")
    expected = sorted(round(datetime.fromisoformat(each).timestamp() * 1000) for each in moments)
    assert [each.recorded_at_ms for each in readings] == expected


def test_when_clocks_are_set_back_the_repeated_hour_has_two_hours(tmp_path: Path) -> None:
    local = ("01:30", "02:00", "02:30", "02:00", "02:30", "03:00")
    rows = [f"2026-10-25 {each},{place}," for place, each in enumerate(local)]
    text = "\n".join(["date,temp,hum", *rows])
    recording = recorded(tmp_path, text, zone="Europe/Berlin")
    readings = recording.take_due(NOW_MS, 10)
    start = from_iso("2026-10-24T23:30:00Z")
    assert [each.recorded_at_ms for each in readings] == [
        start + half * HOUR_MS // 2 for half in range(6)
    ]
    assert recording.left_out == 0


def test_an_unknown_zone_is_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"--zone: 'Mars/Base' isn't a zone .* Europe/Berlin"):
        recorded(tmp_path, "date,temp,hum\n2026-07-04,1,\n", zone="Mars/Base")


def test_a_row_of_more_cells_than_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        LocalError, match=r"line 3: has more cells .* from '5' on: .* decimal comma"
    ):
        recorded(tmp_path, "date,temp,hum\n2026-07-04,21,5\n2026-07-05,21,40,5\n")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2026/07/04 12:00,roof,warm,1", r"line 2, column temp: 'warm' isn't a number"),
        ("yesterday,roof,1,1", r"line 2, column date: 'yesterday' isn't a time like 2026"),
        ("2026/07/04 12:00,the roof,1,1", r"line 2: 'the roof' isn't a device id"),
    ],
)
def test_a_cell_that_can_not_be_read_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"date,station,temp,hum\n{row}\n", "utf-8")
    with pytest.raises(LocalError, match=message):
        Recording(options(path), NOW_MS)


@pytest.mark.parametrize("cell", ["1_0", "٣", "NaN", "nan", "inf", "-Infinity", "1e999", "0x10"])
def test_a_cell_that_python_alone_takes_for_a_number_is_refused(tmp_path: Path, cell: str) -> None:
    text = f"date,temp,hum\n2026-07-04,21.5,40\n2026-07-05,{cell},40\n"
    told = rf"line 3, column temp: '{cell}' isn't a number .* leave a cell empty"
    with pytest.raises(LocalError, match=told):
        recorded(tmp_path, text)


@pytest.mark.parametrize(
    ("cell", "value"), [("-3", -3.0), ("+.5", 0.5), ("21.", 21.0), ("2.15e1", 21.5), (" 7\t", 7.0)]
)
def test_a_number_may_have_a_sign_and_an_exponent(tmp_path: Path, cell: str, value: float) -> None:
    (reading,) = recorded(tmp_path, f"date,temp,hum\n2026-07-04,{cell},\n").take_due(NOW_MS, 9)
    assert reading.metrics == {"temperature": value}


def test_a_column_that_is_not_there_is_named_with_those_that_are(file: Path) -> None:
    with pytest.raises(
        LocalError, match=r"--time-column: .* no column 'when'; it has date, station"
    ):
        Recording(options(file, time_column="when"), NOW_MS)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(LocalError, match=r"--csv gone\.csv: .*No such file"):
        Recording(options(Path("gone.csv")), NOW_MS)


def test_exactly_one_option_names_the_device(file: Path) -> None:
    for both_or_none in ({"device": "a"}, {"device_column": None}):
        with pytest.raises(LocalError, match="either --device NAME or --device-column"):
            options(file, **both_or_none)


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-04T12:00:00Z",
        "2026-07-04 14:00+02:00",
        "2026/07/04 12:00",
        "1783166400",
        "1783166400000",
    ],
)
def test_a_time_is_iso_8601_or_epoch_seconds_or_ms(text: str) -> None:
    assert Clock("UTC").ms("a", moment_of(text, None, "here")) == JULY_4_NOON_MS


@pytest.mark.parametrize(
    ("text", "later_ms"),
    [
        ("2026-07-04T12:00:59.9996Z", 59_999),
        ("1783166459.9996", 59_999),
        ("1783166400.001", 1),
        ("1783166459999.7", 59_999),
        ("2026-07-04T12:00:60z", 60_000),
        ("2026/07/04 12:00:60", 60_000),
        ("2026-07-04 12:00\0", 0),
    ],
)
def test_a_time_is_the_millisecond_that_the_api_reads(text: str, later_ms: int) -> None:
    assert Clock("UTC").ms("a", moment_of(text, None, "here")) == JULY_4_NOON_MS + later_ms


@pytest.mark.parametrize(
    ("text", "unit"), [("1783166400000000", "micro"), ("1783166400000000000", "nano")]
)
def test_a_time_in_a_finer_unit_is_named_as_one(text: str, unit: str) -> None:
    with pytest.raises(LocalError, match=f"here: '{text}' looks like {unit}seconds; seconds or"):
        moment_of(text, None, "here")


def test_a_file_in_utf_16_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("date,station,temp,hum\n", "utf-16")
    with pytest.raises(LocalError, match="it is UTF-16; save it as UTF-8"):
        Recording(options(path), NOW_MS)


def test_a_time_can_be_written_in_a_given_format() -> None:
    moment = moment_of("04.07.2026 12h00", "%d.%m.%Y %Hh%M", "here")
    assert Clock("UTC").ms("a", moment) == JULY_4_NOON_MS


def test_a_metric_is_mapped_to_its_column() -> None:
    assert metric_column("temperature=Outside T") == ("temperature", "Outside T")
    with pytest.raises(ValueError, match="'wind' isn't a metric: temperature, humidity"):
        metric_column("wind=w")
    with pytest.raises(ValueError, match="isn't METRIC=COLUMN"):
        metric_column("temperature")
