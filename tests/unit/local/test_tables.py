"""Answers of the API as rows, and as CSV that spreadsheets and programs read."""

import csv
import io

import pytest

from local.tables import (
    ALERT_COLUMNS,
    WINDOW_COLUMNS,
    alert_rows,
    counted,
    metrics_of,
    window_rows,
    write_csv,
)


def statistics(last: float) -> dict[str, float]:
    return {"count": 2, "mean": 1000.0, "min": 999.5, "max": 1000.5, "stddev": 0.5, "last": last}


WINDOWS = [
    {
        "minute": "2026-11-27T20:18:00Z",
        "count": 3,
        "metrics": {"temperature": statistics(35.5), "pressure": statistics(1000.5)},
    },
    {"minute": "2026-11-27T20:19:00Z", "count": 1, "metrics": {"humidity": statistics(0.1 + 0.2)}},
]


def test_each_metric_of_each_minute_is_a_row() -> None:
    rows = list(window_rows("pump-1", WINDOWS))
    assert [row[:4] for row in rows] == [
        ["pump-1", "2026-11-27T20:18:00Z", "pressure", 2],
        ["pump-1", "2026-11-27T20:18:00Z", "temperature", 2],
        ["pump-1", "2026-11-27T20:19:00Z", "humidity", 2],
    ]
    assert metrics_of(WINDOWS) == ["humidity", "pressure", "temperature"]


def test_one_metric_can_be_asked_for() -> None:
    (row,) = window_rows("pump-1", WINDOWS, "temperature")
    assert row == [
        "pump-1",
        "2026-11-27T20:18:00Z",
        "temperature",
        2,
        1000.0,
        999.5,
        1000.5,
        0.5,
        35.5,
    ]
    assert list(window_rows("pump-1", WINDOWS, "co2")) == []


def test_csv_has_a_header_crlf_and_all_digits() -> None:
    file = io.StringIO(newline="")
    write_csv(file, WINDOW_COLUMNS, window_rows("pump-1", WINDOWS, "humidity"))
    assert file.getvalue() == (
        "device_id,minute,metric,count,mean,min,max,stddev,last\r\n"
        "pump-1,2026-11-27T20:19:00Z,humidity,2,1000.0,999.5,1000.5,0.5,0.30000000000000004\r\n"
    )


def test_an_incomplete_alert_is_a_row_of_the_same_length() -> None:
    file = io.StringIO(newline="")
    alerts: list[dict[str, object]] = [
        {"device_id": "a", "rule": "hot", "status": "open", "peak": 39.5, "cleared_at": None},
        {"device_id": "b", "rule": 'of "b", the', "unreadable": "why"},
    ]
    write_csv(file, ALERT_COLUMNS, alert_rows(alerts))
    header, first, second = csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True)
    assert header == list(ALERT_COLUMNS)
    assert dict(zip(header, first, strict=True))["peak"] == "39.5"
    assert dict(zip(header, first, strict=True))["cleared_at"] == ""
    assert second[:2] == ["b", 'of "b", the']


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, "0 alerts"), (1, "1 alert"), (2, "2 alerts"), (1000, "1,000 alerts")],
)
def test_a_noun_is_plural_unless_there_is_one(amount: int, expected: str) -> None:
    assert counted(amount, "alert") == expected
