"""What Athena reads: the archive's views take what the pipeline takes, and nothing else.

DuckDB runs the views' own SQL, and the pipeline's decoder says what should come of it.
"""

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry.domain import no_measurement, window
from telemetry.domain import pack as packs
from telemetry.domain.bundle import content
from telemetry.domain.reading import FIELDS, METRICS, Reading, encode
from telemetry.domain.validation import decode
from telemetry.errors import Rejected

from contract.__main__ import ROOT
from contract.athena import views
from contract.versions import Version, load
from tests.athena import Athena

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - Athena's timestamps have no zone
AT = 1_795_224_600_000  # 2026-11-21T01:30:00Z
TEMPERATURE = {"temperature": 21.5}
READING = {"device_id": "pump-17", "recorded_at": AT, **TEMPERATURE}


@pytest.fixture(scope="module")
def athena() -> Iterator[Athena]:
    made = Athena({view.name: view.sql for view in views(load(ROOT)["reading"][-1], {})})
    yield made
    made.close()


def found(athena: Athena, *lines: str) -> dict[int, dict[str, Any]]:
    """The rows of `readings`, by the place of their line."""
    athena.keep((line, "2026-11-21", str(place)) for place, line in enumerate(lines))
    rows = athena.ask("SELECT * FROM readings")
    assert {row.pop("day") for row in rows} <= {"2026-11-21"}
    return {int(row.pop("hour")): row for row in rows}


def expected(*lines: str) -> dict[int, dict[str, Any]]:
    """The same, by the decoder."""
    rows = {}
    for place, line in enumerate(lines):
        try:
            rows[place] = row(decode(line.encode("utf-8", "surrogatepass")).reading)
        except Rejected:
            continue
    return rows


def row(reading: Reading) -> dict[str, Any]:
    """A reading as Athena shows it."""
    return {
        "device_id": reading.device_id,
        "recorded_at": shown(reading.recorded_at_ms),
        **{name: reading.metrics.get(name) for name in METRICS},
        "received_at": shown(reading.received_at_ms),
        "trace_id": reading.trace_id,
        "via": reading.via,
        "replayed_at": shown(reading.replayed_at_ms),
    }


def shown(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else EPOCH + timedelta(milliseconds=at_ms)


def test_a_reading_through_ingest_has_all_its_columns(athena: Athena) -> None:
    stamped = {"received_at": AT + 1250, "trace_id": "1-67891233-abc", "replayed_at": AT + 9_001}
    (only,) = found(athena, json.dumps(READING | stamped)).values()
    assert only == {
        "device_id": "pump-17",
        "recorded_at": datetime(2026, 11, 21, 1, 30),  # noqa: DTZ001
        "temperature": 21.5,
        "humidity": None,
        "pressure": None,
        "battery": None,
        "received_at": datetime(2026, 11, 21, 1, 30, 1, 250_000),  # noqa: DTZ001
        "trace_id": "1-67891233-abc",
        "via": None,
        "replayed_at": datetime(2026, 11, 21, 1, 30, 9, 1_000),  # noqa: DTZ001
    }


@pytest.mark.parametrize(
    "recorded_at",
    [
        "2026-11-21T01:30:00Z",
        "2026-11-21T02:30:00.000+01:00",
        "2026-11-20T20:00:00-05:30",
        "2026-11-21 01:30Z",
        "2026-11-21T01:30:00+0000",
        "20261121T013000Z",
        "20261121T0330+02",
        "2026-11-21T01:29:30.5-00:00:29",
        "2026-11-21t01:30:00z",
        "2026-11-21T01:29:60Z",
        "20261121T012960,25Z",
        "2026-11-21T01:30:00.z",
        float(AT),
        float(AT + 1),
    ],
)
def test_a_time_in_iso_8601_is_the_instant_that_windows_have(
    athena: Athena, recorded_at: str | float
) -> None:
    line = json.dumps(READING | {"recorded_at": recorded_at, "via": "mqtt"})
    rows = found(athena, line)
    assert rows == expected(line)
    assert abs(rows[0]["recorded_at"] - shown(AT)) < timedelta(seconds=1)


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(READING | {"temperature": "warm"}),
        json.dumps(READING | {"temperature": "21.5"}),
        json.dumps(READING | {"temperature": True}),
        json.dumps(READING | {"temperature": 150.5}),
        json.dumps(READING | {"temperature": None}),
        json.dumps(READING | {"temperature": {"celsius": 21.5}}),
        json.dumps(READING | {"recorded_at": "yesterday"}),
        json.dumps(READING | {"recorded_at": "2026-11-21T01:30:00"}),
        json.dumps(READING | {"recorded_at": "2026-02-30T01:30:00Z"}),
        json.dumps(READING | {"recorded_at": "2026-11-21T24:00:00Z"}),
        json.dumps(READING | {"recorded_at": AT + 0.5}),
        json.dumps(READING | {"recorded_at": float(2**53)}),
        json.dumps(READING).replace("{", '{"temperature": 21.5, '),
        json.dumps(READING).replace("{", '{"temperature": "\\"", '),
        json.dumps(READING | {"recorded_at": "2026-11-21T01:30:00Z"}).replace(
            "{", '{"via": "b", "via": null,'
        ),
        json.dumps(READING | {"recorded_at": str(AT)}),
        json.dumps(READING | {"recorded_at": -1}),
        json.dumps(READING | {"recorded_at": 10**30}),
        json.dumps(READING | {"device_id": "pump 17"}),
        json.dumps(READING | {"device_id": 17}),
        json.dumps(READING | {"wind": [{}] * 80}),
        json.dumps(READING | {"received_at": "2026-11-21T01:30:00Z"}),
        json.dumps(READING | {"received_at": math.inf}),
        json.dumps({"recorded_at": AT, "temperature": 21.5}),
        json.dumps([READING]),
        json.dumps(READING)[:-1],
        json.dumps(READING) + "x",
        "[" * 100_000,
        '{"a":' * 10_000,
        "{}",
        '"{}"',
        "null",
        "",
        "\x00\x01",
        "not JSON",
    ],
)
def test_what_is_no_reading_is_left_out_and_fails_no_query(athena: Athena, line: str) -> None:
    assert expected(line) == {}
    assert found(athena, line, json.dumps(READING)) == {
        1: row(decode(json.dumps(READING).encode()).reading)
    }
    assert athena.ask("SELECT count(*) AS lines FROM records") == [{"lines": 2}]


@pytest.mark.parametrize(
    "odd",
    [
        {"humidity": [40]},
        {"battery": "full"},
        {"battery": 60.5},
        {"battery": None},
        {"wind": 3.0, "gps": {"at": [52.5, {"deep": []}]}},
        {"wind": [{}] * 62},
        {"humidity": float("nan"), "battery": -math.inf, "note": "is:NaN"},
        {"wind": [math.nan, -math.inf, [math.inf]], "note": "[NaN,NaN"},
        {"sensor": {"temperature": 2}, "wind": [{"temperature": 3, "battery": 1}]},
        {"meta": {"device_id": "x", "via": "lora", "recorded_at": "now"}},
        {"note": '"temperature": 1'},
    ],
)
def test_a_metric_that_is_not_valid_is_null_and_the_others_are_there(
    athena: Athena, odd: dict[str, Any]
) -> None:
    lines = [json.dumps(READING | odd, indent=indent) for indent in (None, 1)]
    only = row(Reading("pump-17", AT, {"temperature": 21.5}))
    assert found(athena, *lines) == expected(*lines) == {0: only, 1: only}


def test_a_value_that_stands_for_no_measurement_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        {"metric": "temperature", "values": [-127, 85]},
        {"metric": "battery", "values": [6.5535], "devices": "pump-*"},
    ]
    declared = no_measurement.load(json.dumps({"no_measurement": entries}))
    monkeypatch.setattr(no_measurement, "shipped", lambda: declared)
    made = Athena({each.name: each.sql for each in views(load(ROOT)["reading"][-1], declared)})
    documents = [
        READING | {"temperature": -127, "humidity": 55},
        READING | {"temperature": 85.0},
        READING | {"temperature": 84.5, "battery": 6.5535},
        READING | {"battery": 6.553500175476074},  # in 32 bits
        READING | {"device_id": "lamp", "battery": 6.5535},
    ]
    lines = [json.dumps(each) for each in documents]
    rows = found(made, *lines)
    assert rows == expected(*lines)
    assert [(row["temperature"], row["battery"]) for row in rows.values()] == [
        (None, None),
        (84.5, None),
        (21.5, None),
        (21.5, 6.5535),
    ]
    made.close()


def test_an_unknown_name_given_twice_leaves_the_reading_in_the_view(athena: Athena) -> None:
    for value in ("1", '"\\\\"'):
        line = json.dumps(READING).replace("{", f'{{"foo": {value}, "foo": 2, ')
        assert (
            found(athena, line) == expected(line) == {0: row(Reading("pump-17", AT, TEMPERATURE))}
        )


@pytest.mark.parametrize(
    "odd",
    [
        '"meta": {"via": "a", "via": "b"}',  # the pattern's count can't tell its depth
        '"humidity": ' + "1" * 5_000,  # Trino's parser reads neither
        '"foo": "\\ud800"',
    ],
)
def test_of_some_odd_lines_windows_have_the_reading_and_the_view_has_not(
    athena: Athena, odd: str
) -> None:
    line = json.dumps(READING).replace("{", f"{{{odd}, ")
    assert (len(expected(line)), len(found(athena, line))) == (1, 0)


def test_a_time_by_weeks_is_the_one_form_that_windows_take_and_the_view_leaves_out(
    athena: Athena,
) -> None:
    line = json.dumps(READING | {"recorded_at": "2026-W47-6T01:30:00Z"})
    assert (len(expected(line)), len(found(athena, line))) == (1, 0)


# Readings, and what is near to them: one field of three documents in four is odd.


def clocks(mark: str) -> st.SearchStrategy[str]:
    """Times of a day, some past its end: hh, hh:mm, or hh:mm:ss with a fraction."""
    hours = st.integers(0, 24).map("{:02}".format)
    sixties = st.integers(0, 60).map("{:02}".format)
    fractions = st.builds("{}{}".format, st.sampled_from(".,"), st.integers(0, 10**9))
    seconds = st.builds("{}{}".format, sixties, st.just("") | fractions)
    parts = [st.tuples(hours), st.tuples(hours, sixties), st.tuples(hours, sixties, seconds)]
    return st.one_of(*parts).map(mark.join)


DAYS = st.dates(datetime(1969, 12, 30).date())  # noqa: DTZ001
DATES = st.builds(
    lambda day, form: day.strftime(form), DAYS, st.sampled_from(["%Y-%m-%d", "%Y%m%d"])
)
OFFSETS = st.sampled_from(["Z", "z", "+01:00", "-0530", "+23", "-00:00:59", "+24:00", ""])
WRITTEN = st.builds(
    "{}{}{}{}".format, DATES, st.sampled_from("T t"), clocks(":") | clocks(""), OFFSETS
)
TIMES_MS = st.integers(0, 253_402_300_799_999)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers() | st.floats(), max_size=2),
    st.dictionaries(st.text(max_size=1) | st.sampled_from(list(FIELDS)), st.integers(), max_size=2),
    WRITTEN,
)
METRICS_IN_RANGE = {
    name: st.one_of(
        st.none(),
        st.floats(FIELDS[name]["minimum"], FIELDS[name]["maximum"]),
        st.integers(int(FIELDS[name]["minimum"]), int(FIELDS[name]["maximum"])),
    )
    for name in METRICS
}
READINGS = st.fixed_dictionaries(
    {
        "device_id": st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True),
        "recorded_at": TIMES_MS | TIMES_MS.map(float) | WRITTEN,
    },
    optional={
        **METRICS_IN_RANGE,
        "received_at": st.none() | TIMES_MS,
        "trace_id": st.none() | st.from_regex(r"[A-Za-z0-9-]{1,9}", fullmatch=True),
        "via": st.sampled_from([None, "mqtt", "stream"]),
        "replayed_at": st.none() | TIMES_MS,
    },
)
ODD = st.one_of(
    st.just({}),
    *[st.dictionaries(st.sampled_from([*FIELDS, "other"]), ANYTHING, max_size=1)] * 3,
)
DOCUMENTS = st.builds(lambda reading, odd: reading | odd, READINGS, ODD)


def written(document: Any, spaces: str, is_ascii: bool) -> str:
    return json.dumps(document, separators=(f",{spaces}", f"{spaces}:"), ensure_ascii=is_ascii)


LINES = st.one_of(
    st.builds(written, DOCUMENTS, st.sampled_from(["", " ", "\t"]), st.booleans()),
    st.builds(written, ANYTHING, st.just(""), st.booleans()),
    st.builds(
        lambda document, name, value: written(document, "", True).replace(
            "{", f'{{"{name}":{json.dumps(value)},', 1
        ),
        READINGS,
        st.sampled_from(list(FIELDS)),
        ANYTHING,
    ),
    st.text(max_size=20),
)


@settings(max_examples=60)
@given(st.lists(LINES, max_size=40))
def test_the_view_has_the_readings_that_the_decoder_takes(athena: Athena, lines: list[str]) -> None:
    assert found(athena, *lines) == expected(*lines)


LINE = json.dumps(READING | {"humidity": 40, "battery": -0.5e1, "via": "mqtt"})


@settings(max_examples=60)
@given(st.integers(0, len(LINE)), st.integers(0, 2), st.sampled_from([*'019-+.eE"{}[]: x\\\t', ""]))
def test_a_line_that_lost_or_got_a_character_is_what_it_is_to_the_decoder(
    athena: Athena, at: int, lost: int, got: str
) -> None:
    line = LINE[:at] + got + LINE[at + lost :]
    assert found(athena, line) == expected(line)


FEW = st.builds(
    Reading,
    st.sampled_from(["pump-1", "pump-2"]),
    st.sampled_from([AT, AT + 1, AT + 250]),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from([FIELDS[name]["minimum"], FIELDS[name]["maximum"]])
            for name in METRICS
        },
    ).filter(len),
    received_at_ms=st.none(),
    trace_id=st.none(),
    via=st.none(),
    replayed_at_ms=st.none() | st.just(AT),
)


@settings(max_examples=40)
@given(st.lists(FEW, max_size=30), st.randoms())
def test_what_came_more_than_once_is_merged_as_windows_merge_it(
    athena: Athena, readings: list[Reading], chance: Random
) -> None:
    sent = [encode(reading).decode() for reading in readings]
    copies = sent + chance.choices(sent, k=len(sent)) if sent else []
    days = ("2026-11-20", "2026-11-21", "2026-11-22")
    athena.keep((line, chance.choice(days), "10") for line in copies)
    rows = athena.ask("SELECT * FROM readings_once")
    assert sorted(rows, key=identity) == sorted(in_windows(readings), key=identity)


def identity(row: dict[str, Any]) -> tuple[str, datetime]:
    return row["device_id"], row["recorded_at"]


def in_windows(readings: list[Reading]) -> list[dict[str, Any]]:
    """What windows hold of readings, as Athena shows it."""
    windows: dict[window.WindowKey, window.Window] = {}
    for reading in readings:
        key = window.window_key(reading)
        windows[key] = window.add_readings(windows.get(key), [reading]).state
    return [
        {
            "device_id": key.device_id,
            "recorded_at": shown(key.minute_ms + offset_ms),
            **{name: metrics.get(name) for name in METRICS},
        }
        for key, held in windows.items()
        for offset_ms, metrics in held.items()
    ]


# Packs: each of their readings is a row.


def rows_of(athena: Athena, *lines: str) -> list[tuple[str, dict[str, Any]]]:
    """All rows of `readings`, each with its line's place, in order."""
    athena.keep((line, "2026-11-21", str(place)) for place, line in enumerate(lines))
    rows = athena.ask("SELECT * FROM readings")
    return sorted(((row.pop("hour"), without_day(row)) for row in rows), key=str)


def without_day(row: dict[str, Any]) -> dict[str, Any]:
    assert row.pop("day") == "2026-11-21"
    return row


def unpacked(*lines: str) -> list[tuple[str, dict[str, Any]]]:
    """The same, by the pipeline's code."""
    found = [
        (str(place), row(reading))
        for place, line in enumerate(lines)
        for reading in content(line.encode()).readings
    ]
    return sorted(found, key=str)


def test_a_pack_has_a_row_for_each_of_its_readings(athena: Athena) -> None:
    readings = [
        Reading("pump-17", AT + 1_500, {"temperature": 39.0000004}, AT + 9, "1-2-3", "mqtt", AT),
        Reading("pump-17", AT, {"humidity": 40.0, "battery": 1 / 3}, AT + 9, "1-2-3", "mqtt", AT),
        Reading("pump-17", AT, {"temperature": 20.0}, AT + 9, "1-2-3", "mqtt", AT),
    ]
    pack = packs.encode(readings).decode()
    alone = packs.encode([Reading("pump-18", AT, {"temperature": 38.333333333333336})]).decode()
    assert rows_of(athena, pack, json.dumps(READING), alone) == sorted(
        [
            *(("0", row(each)) for each in readings),
            ("1", row(Reading("pump-17", AT, {"temperature": 21.5}))),
            ("2", row(Reading("pump-18", AT, {"temperature": 38.333333333333336}))),
        ],
        key=str,
    )


PACK: dict[str, Any] = {
    "device_id": "pump-17",
    "recorded_at": AT,
    "temperature": 41,
    "humidity": 40.5,
    "via": "mqtt",
    "low": {"temperature": -3.5, "humidity": 40.5},
    "readings": {
        "after_ms": [0, 1_000, 2_500],
        "temperature": [-3.5, 41, 20.25],
        "humidity": [None, 40.5, None],
    },
}


def changed(**columns: Any) -> dict[str, Any]:
    return {"readings": {**PACK["readings"], **columns}}


@pytest.mark.parametrize(
    ("rows", "change"),
    [
        (3, {}),
        (2, changed(temperature=[-3.5, 41, "warm"])),
        (2, changed(temperature=[-3.5, 41, None])),
        (2, changed(temperature=[-3.5, 41, math.nan])),
        (2, changed(temperature=[-3.5, 41, [1]])),
        (2, {"temperature": 412, **changed(temperature=[-3.5, 41, 412])}),
        (3, changed(humidity=[None, 40.5, True])),
        (3, {"low": {"temperature": -4, "humidity": 40}, "humidity": 41}),
        (3, changed(battery=[None, None, None])),
        (3, {"colour": "red"}),
        (3, changed(colour=["red", "blue", None])),
        (0, {"device_id": "a b"}),
        (0, {"received_at": "now"}),
        (0, {"recorded_at": "2026-11-21T01:30:00Z"}),
        (0, {"recorded_at": float(AT)}),
        (0, {"recorded_at": None}),
        (2, {"recorded_at": 253_402_300_799_999 - 1_500}),
        (0, {"recorded_at": 2**63 - 1}),
        (0, {"low": None}),
        (0, {"low": {"temperature": -3.5}}),
        (0, {"low": {"temperature": -3, "humidity": 40.5}}),
        (0, {"temperature": 40.9}),
        (0, {"temperature": "41"}),
        (0, {"temperature": None}),
        (0, {"battery": 1}),
        (0, changed(temperature=[-3.5, 41])),
        (0, changed(temperature=41)),
        (0, changed(via=["mqtt", "mqtt", "mqtt"])),
        (0, changed(after_ms=[0, 1, -1])),
        (0, changed(after_ms=[0, 1, 1.5])),
        (0, changed(after_ms=[0, 1, None])),
        (0, changed(after_ms=[])),
        (0, changed(after_ms=3)),
        (0, changed(after_ms=[0] * 20_000)),
        (0, {"readings": {}}),
        (1, {"readings": []}),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_pack_has_the_rows_that_the_decoder_takes_and_fails_no_query(
    athena: Athena, rows: int, change: dict[str, Any], indent: int | None
) -> None:
    line = json.dumps(PACK | change, indent=indent)
    assert len(unpacked(line)) == rows
    assert rows_of(athena, line) == unpacked(line)


CELLS = st.none() | st.floats(-90, 150) | st.integers(-90, 150) | st.sampled_from(["x", True, 151])
NEAR_PACKS = st.builds(
    lambda columns, after, change: pack_near(columns, after) | change,
    st.dictionaries(
        st.sampled_from(METRICS), st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=3
    ),
    st.lists(st.integers(0, 10**6), min_size=3, max_size=3),
    st.just({}) | st.dictionaries(st.sampled_from([*FIELDS, "low"]), ANYTHING, max_size=1),
)


def pack_near(columns: dict[str, list[Any]], after_ms: list[int]) -> dict[str, Any]:
    """A pack with these columns, valid or not, and true extremes."""
    numbers = {
        name: [each for each in column if type(each) in (int, float)]
        for name, column in columns.items()
    }
    return {
        "device_id": "pump-17",
        "recorded_at": AT,
        **{name: max(found) for name, found in numbers.items() if found},
        "low": {name: min(found) for name, found in numbers.items() if found},
        "readings": {"after_ms": after_ms, **columns},
    }


@settings(max_examples=60)
@given(st.lists(NEAR_PACKS.map(json.dumps), max_size=20))
def test_the_view_has_the_readings_of_packs_that_the_decoder_takes(
    athena: Athena, lines: list[str]
) -> None:
    assert rows_of(athena, *lines) == unpacked(*lines)


def test_a_metric_may_be_named_as_a_word_of_sql() -> None:
    newest = load(ROOT)["reading"][-1]
    named = [
        {"name": name, "type": ["null", "double"], "unit": "1", "minimum": 0, "maximum": 9}
        for name in ("order", "group", "date", "offset", "fields", "line", "table")
    ]
    schema = {**newest.schema, "fields": [*newest.schema["fields"], *named]}
    made = Athena({each.name: each.sql for each in views(Version(9, "v9.avsc", schema), {})})
    line = {"device_id": "pump-17", "recorded_at": AT, "order": 1.5, "date": 2}
    made.keep([(json.dumps(line), "2026-11-21", "10")])
    for view in ("readings", "readings_once"):
        (row,) = made.ask(f'SELECT "order", "group", "date", "table" FROM {view}')  # noqa: S608
        assert row == {"order": 1.5, "group": None, "date": 2.0, "table": None}
    made.close()


QUERIES = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/archive.md").read_text("utf-8"), re.DOTALL)


def test_the_queries_that_people_copy_give_what_their_page_says(athena: Athena) -> None:
    again = {"temperature": 30.0, "humidity": 40.0}
    lines = [
        json.dumps(READING),
        json.dumps(READING | again),
        json.dumps(READING | {"replayed_at": AT}),
        '{"temperature":"warm"}',
    ]
    athena.keep((line, "2026-11-21", "01") for line in lines)
    at = datetime(2026, 11, 21, 1, 30)  # noqa: DTZ001
    by_day, once, ever, odd = map(athena.ask, QUERIES)
    assert sorted(by_day, key=lambda row: row["temperature"]) == [
        {"recorded_at": at, "temperature": 21.5, "humidity": None},
        {"recorded_at": at, **again},
    ]
    hour = at.replace(minute=0)
    assert once == [{"device_id": "pump-17", "at": hour, "readings": 1, "mean": 30.0}]
    assert ever == [{"device_id": "pump-17", "readings": 1, "first": at, "last": at}]
    assert odd == [{"hour": "01", "line": lines[-1]}]
