"""Query: windows, devices and alerts, merged over regions, page by page."""

import base64
import json
from typing import Any

import pytest
from telemetry.aws import alerts as alerts_of
from telemetry.aws.alerts import Alerts
from telemetry.aws.windows import KEY as WINDOW_KEY
from telemetry.aws.windows import Windows
from telemetry.domain.episode import Breach, EpisodeKey
from telemetry.domain.reading import Reading, shown

from functions.query import handler as query
from functions.query.handler import run
from tests.fakes import MemoryAlertReader, MemoryItems, MemoryWindowReader
from tests.functions.incoming import NOW_MS, TRACE, body_of, reading, request

MINUTE_MS = 60_000
RETENTION_MS = 30 * 86_400_000
WINDOWS = "/devices/{device_id}/windows"
DEVICE = "/devices/{device_id}"


class Stage:
    """The function with its tables in memory, written by two regions."""

    def __init__(self) -> None:
        self.windows = MemoryItems(WINDOW_KEY)
        self.alerts = MemoryItems(alerts_of.KEY)
        self.reader = MemoryWindowReader(self.windows)

    def store(self, *readings: Reading, region: str = "eu-west-1") -> None:
        Windows(self.windows, region, RETENTION_MS, lambda: (0,)).add(readings)

    def breach(self, device_id: str, region: str = "eu-west-1", value: float = 41.5) -> None:
        alerts = Alerts(self.alerts, region, {"overheating": "critical"})
        alerts.join({EpisodeKey(device_id, "overheating"): [Breach(NOW_MS, value, TRACE)]})

    def get(self, resource: str, device_id: str = "pump-1", **query: str) -> dict[str, Any]:
        query = {name.rstrip("_"): value for name, value in query.items()}
        event = request("GET", resource, None, {"device_id": device_id}, query or None)
        return run(event, NOW_MS, self.reader, MemoryAlertReader(self.alerts))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_window_has_its_statistics_by_metric(stage: Stage) -> None:
    stage.store(
        reading(at_ms=NOW_MS - 60_000, temperature=20.0),
        reading(at_ms=NOW_MS - 59_000, temperature=24.0, humidity=50.0),
        reading(at_ms=NOW_MS - 58_000, temperature=22.0),
    )
    response = stage.get(WINDOWS)
    assert response["statusCode"] == 200
    humidity = {"count": 1, "mean": 50.0, "min": 50.0, "max": 50.0, "stddev": 0.0, "last": 50.0}
    assert body_of(response) == {
        "device_id": "pump-1",
        "from": "2026-11-21T00:30:00.000Z",
        "to": "2026-11-21T01:30:00.000Z",
        "windows": [
            {
                "minute": "2026-11-21T01:29:00Z",
                "count": 3,
                "conflicting": 0,
                "metrics": {
                    "humidity": humidity,
                    "temperature": {
                        "count": 3,
                        "mean": 22.0,
                        "min": 20.0,
                        "max": 24.0,
                        # the square root of (4 + 4 + 0) / 3
                        "stddev": pytest.approx(1.632993161855452, rel=1e-15),
                        "last": 22.0,
                    },
                },
            }
        ],
        "next": None,
    }


def test_regions_of_a_minute_are_merged_and_count_a_reading_once(stage: Stage) -> None:
    at_ms = NOW_MS - MINUTE_MS
    stage.store(reading(at_ms=at_ms, temperature=20.0), reading(at_ms=at_ms + 1, temperature=30.0))
    stage.store(
        reading(at_ms=at_ms, temperature=20.0),
        reading(at_ms=at_ms + 2, temperature=40.0),
        region="us-east-1",
    )
    (window,) = body_of(stage.get(WINDOWS))["windows"]
    assert window["count"] == 3
    assert window["metrics"]["temperature"]["mean"] == 30.0
    assert window["metrics"]["temperature"]["last"] == 40.0


def test_an_instant_that_regions_have_apart_is_one_reading_with_all_its_metrics(
    stage: Stage,
) -> None:
    at_ms = NOW_MS - MINUTE_MS
    stage.store(reading(at_ms=at_ms, temperature=-18.5, battery=3.5), region="ap-south-1")
    stage.store(reading(at_ms=at_ms, temperature=-20.5, humidity=40.0), region="us-east-1")
    (window,) = body_of(stage.get(WINDOWS))["windows"]
    told = {name: (each["count"], each["last"]) for name, each in window["metrics"].items()}
    assert window["count"] == 1
    # of two values of one instant the larger: what two regions have, as what one was sent twice
    assert told == {"temperature": (1, -18.5), "battery": (1, 3.5), "humidity": (1, 40.0)}
    latest = body_of(stage.get(DEVICE))["latest"]
    assert latest == {
        "recorded_at": "2026-11-21T01:29:00.000Z",
        "temperature": -18.5,
        "battery": 3.5,
        "humidity": 40.0,
    }


def test_pages_cut_between_minutes_never_between_regions(stage: Stage) -> None:
    for minute in range(5, 0, -1):
        for region in ("eu-west-1", "us-east-1", "ap-south-1"):
            at_ms = NOW_MS - minute * MINUTE_MS + len(region)
            stage.store(reading(at_ms=at_ms), region=region)
    pages, start = [], "2026-11-21T01:00:00Z"
    while start:
        body = body_of(stage.get(WINDOWS, from_=start, limit="2"))
        pages.append([(each["minute"], each["count"]) for each in body["windows"]])
        start = body["next"]
    assert pages == [
        [("2026-11-21T01:25:00Z", 2), ("2026-11-21T01:26:00Z", 2)],
        [("2026-11-21T01:27:00Z", 2), ("2026-11-21T01:28:00Z", 2)],
        [("2026-11-21T01:29:00Z", 2)],
    ]  # eu-west-1 and us-east-1 have the same offset, ap-south-1 another


@pytest.mark.parametrize(("limit", "pages"), [("1", [1, 1, 1]), ("3", [3]), ("1000", [3])])
def test_a_limit_may_be_anything_from_1_to_1000(stage: Stage, limit: str, pages: list[int]) -> None:
    stage.store(*(reading(at_ms=NOW_MS - minute * MINUTE_MS) for minute in (1, 2, 3)))
    found, start = [], "2026-11-21T01:00:00Z"
    while start:
        body = body_of(stage.get(WINDOWS, from_=start, limit=limit))
        found.append(len(body["windows"]))
        start = body["next"]
    assert found == pages


def test_a_page_has_100_windows_or_alerts_unless_another_limit_is_asked_for(stage: Stage) -> None:
    stage.store(*(reading(at_ms=NOW_MS - minute * MINUTE_MS) for minute in range(1, 102)))
    body = body_of(stage.get(WINDOWS, from_="0"))
    assert (len(body["windows"]), body["next"]) == (100, "2026-11-21T01:29:00Z")
    for index in range(101):
        stage.breach(f"pump-{index}")
    body = body_of(stage.get("/alerts"))
    assert len(body["alerts"]) == 100
    assert len(body_of(stage.get("/alerts", cursor=body["next"]))["alerts"]) == 1


def test_a_full_last_page_has_no_next(stage: Stage) -> None:
    stage.store(*(reading(at_ms=NOW_MS - minute * MINUTE_MS) for minute in (1, 2)))
    body = body_of(stage.get(WINDOWS, limit="2"))
    assert (len(body["windows"]), body["next"]) == (2, None)


@pytest.mark.parametrize(
    ("from_", "to", "minutes"),
    [
        ("2026-11-21T01:10:00Z", "2026-11-21T01:11:00Z", [10]),
        ("2026-11-21T01:10:59.999Z", "2026-11-21T01:11:00Z", [10]),
        ("2026-11-21T01:10:00Z", "2026-11-21T01:11:00.001Z", [10, 11]),
        ("2026-11-21T02:10:00+01:00", "2026-11-21T02:12:00+01:00", [10, 11]),
        (str(NOW_MS - 20 * MINUTE_MS), str(NOW_MS - 18 * MINUTE_MS), [10, 11]),
        ("2026-11-21T01:10:00Z", "2026-11-21T01:10:00Z", []),
        ("0", "2026-11-21T01:10:00Z", [9]),
    ],
)
def test_from_is_inclusive_and_to_exclusive_by_minute(
    stage: Stage, from_: str, to: str, minutes: list[int]
) -> None:
    stage.store(*(reading(at_ms=NOW_MS + (each - 30) * MINUTE_MS) for each in (9, 10, 11, 12)))
    windows = body_of(stage.get(WINDOWS, from_=from_, to=to))["windows"]
    assert [each["minute"] for each in windows] == [f"2026-11-21T01:{m:02}:00Z" for m in minutes]


def test_without_from_it_is_the_hour_before_to(stage: Stage) -> None:
    stage.store(*(reading(at_ms=NOW_MS - minute * MINUTE_MS) for minute in (59, 60, 61, 119, 120)))
    assert len(body_of(stage.get(WINDOWS))["windows"]) == 2
    assert len(body_of(stage.get(WINDOWS, to="2026-11-21T00:30:00Z"))["windows"]) == 3


def test_a_window_that_newer_code_wrote_is_no_fault_of_the_caller(stage: Stage) -> None:
    key = ("pump-1", "2026-11-21T01:29:00Z#eu-west-1")
    stage.windows.stored[key] = {
        "device_id": {"S": key[0]},
        "minute_region": {"S": key[1]},
        "readings": {"B": b"\x02newer"},
        "expires_at": {"N": "1"},
        "version": {"N": "1"},
    }
    answer = stage.get(WINDOWS)
    assert (answer["statusCode"], answer["headers"]["Retry-After"]) == (503, "5")


def test_only_the_devices_own_windows_are_listed(stage: Stage) -> None:
    stage.store(reading("pump-1", NOW_MS - 1), reading("pump-10", NOW_MS - 1))
    assert len(body_of(stage.get(WINDOWS))["windows"]) == 1
    assert body_of(stage.get(WINDOWS, "pump"))["windows"] == []


@pytest.mark.parametrize(
    ("resource", "query", "field"),
    [
        (WINDOWS, {"from": "yesterday"}, "from"),
        (WINDOWS, {"from": "2026-11-21T01:30:00"}, "from"),
        (WINDOWS, {"from": "-1"}, "from"),
        (WINDOWS, {"to": "9" * 30}, "to"),
        (WINDOWS, {"to": "9" * 5_000}, "to"),
        (WINDOWS, {"to": ""}, "to"),
        (WINDOWS, {"to": "2026-11-21T01:30:00 01:00"}, "to"),
        (WINDOWS, {"from": "0001-01-01T00:00:00+23:59"}, "from"),
        (WINDOWS, {"from": "2026-11-21T02:00:00Z", "to": "2026-11-21T01:00:00Z"}, "from"),
        (WINDOWS, {"limit": "0"}, "limit"),
        (WINDOWS, {"limit": "1001"}, "limit"),
        (WINDOWS, {"limit": "-5"}, "limit"),
        (WINDOWS, {"limit": "1.5"}, "limit"),
        (WINDOWS, {"limit": "²"}, "limit"),
        ("/alerts", {"limit": "many"}, "limit"),
        ("/alerts", {"status": "closed"}, "status"),
        ("/alerts", {"cursor": "zzz"}, "cursor"),
        ("/alerts", {"cursor": "é"}, "cursor"),
        ("/alerts", {"cursor": "NQ=="}, "cursor"),  # 5
        ("/alerts", {"cursor": "W10="}, "cursor"),  # []
        ("/alerts", {"cursor": "e30="}, "cursor"),  # {}
        ("/alerts", {"cursor": "Wy01XQ=="}, "cursor"),  # [-5]
        ("/alerts", {"cursor": "WzE2XQ=="}, "cursor"),  # [16]
        ("/alerts", {"cursor": "WzAsICJ4Il0="}, "cursor"),  # [0, "x"]
        ("/alerts", {"cursor": "WzAsICJ4IiwgInkiLCAieiJd"}, "cursor"),  # [0, "x", "y", "z"]
        ("/alerts", {"cursor": "WzAsIDEsIDIsIDNd"}, "cursor"),  # [0, 1, 2, 3]
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_what_would_be_right(
    stage: Stage, resource: str, query: dict[str, str], field: str
) -> None:
    response = stage.get(resource, **query)
    assert response["statusCode"] == 400
    body = body_of(response)
    assert body["field"] == field
    assert body["reason"] in body["message"]
    assert body["value"][:20] in query[field] or field == "from"


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("1795224600", "seconds"),
        ("1795224600000000", "microseconds"),
        ("1795224600000000000", "nanoseconds"),
    ],
)
def test_a_time_in_another_unit_is_refused_by_the_unit(
    stage: Stage, name: str, text: str, unit: str
) -> None:
    response = stage.get(WINDOWS, **{name: text})
    body = body_of(response)
    assert (response["statusCode"], body["field"], body["value"]) == (400, name, text)
    assert body["reason"].endswith(f"; it looks like {unit}, and milliseconds are meant")


@pytest.mark.parametrize("text", ["0", "1970-01-21T18:40:24Z", "86400000"])
def test_a_time_before_2000_that_is_meant_is_taken(stage: Stage, text: str) -> None:
    assert stage.get(WINDOWS, **{"from": text})["statusCode"] == 200


def test_the_latest_reading_is_that_of_the_latest_event_time(stage: Stage) -> None:
    stage.store(reading(at_ms=NOW_MS - 90_000, temperature=1.0))
    stage.store(reading(at_ms=NOW_MS - 1_000, temperature=2.0, battery=3.5), region="us-east-1")
    stage.store(reading(at_ms=NOW_MS - 2_000, temperature=3.0), region="eu-west-1")
    response = stage.get(DEVICE)
    assert response["statusCode"] == 200
    at = "2026-11-21T01:29:59.000Z"
    assert body_of(response) == {
        "device_id": "pump-1",
        "latest": {"recorded_at": at, "temperature": 2.0, "battery": 3.5},
        "metrics": {
            "temperature": {"value": 2.0, "recorded_at": at},
            "battery": {"value": 3.5, "recorded_at": at},
        },
        "conflicting": 0,
        "searched": {"complete": True, "back_to": "2026-11-21T01:28:00Z", "windows": 2},
    }


def test_values_that_disagreed_are_shown_with_the_device_and_its_window(stage: Stage) -> None:
    for region, value in (("eu-west-1", 20.0), ("us-east-1", 21.0), ("eu-west-1", 20.0)):
        stage.store(reading(at_ms=NOW_MS - 1_000, temperature=value, humidity=40.0), region=region)
    for resource in (DEVICE, WINDOWS):
        body = body_of(stage.get(resource))
        found = body if resource == DEVICE else body["windows"][-1]
        assert found["conflicting"] == 1
    (window,) = body_of(stage.get(WINDOWS))["windows"]
    assert window["metrics"]["temperature"]["last"] == 21.0


def test_each_metrics_last_value_is_found_with_its_time_in_any_region_and_minute(
    stage: Stage,
) -> None:
    stage.store(reading(at_ms=NOW_MS - 3 * 3_600_000, battery=3.1, humidity=1.0))
    stage.store(reading(at_ms=NOW_MS - 3_600_000, pressure=990.0), region="us-east-1")
    stage.store(reading(at_ms=NOW_MS - 3_600_000, humidity=40.0))  # at the same instant
    stage.store(reading(at_ms=NOW_MS - 3_600_001, humidity=39.0), region="us-east-1")
    stage.store(reading(at_ms=NOW_MS - 1_000, temperature=21.5))
    stage.store(reading(at_ms=NOW_MS - 2_000, temperature=20.0), region="us-east-1")
    body = body_of(stage.get(DEVICE))
    assert body["latest"] == {"recorded_at": "2026-11-21T01:29:59.000Z", "temperature": 21.5}
    assert body["metrics"] == {
        "temperature": {"value": 21.5, "recorded_at": "2026-11-21T01:29:59.000Z"},
        "humidity": {"value": 40.0, "recorded_at": "2026-11-21T00:30:00.000Z"},
        "pressure": {"value": 990.0, "recorded_at": "2026-11-21T00:30:00.000Z"},
        "battery": {"value": 3.1, "recorded_at": "2026-11-20T22:30:00.000Z"},
    }
    assert body["searched"]["complete"] is True


def test_last_values_are_those_that_windows_have(stage: Stage) -> None:
    for offset, metrics in enumerate(({"temperature": -5.0}, {"battery": 0.0}, {"humidity": 7.0})):
        stage.store(Reading("pump-1", NOW_MS - 50_000 + offset, metrics))
    (window,) = body_of(stage.get(WINDOWS))["windows"]
    last = {name: found["last"] for name, found in window["metrics"].items()}
    metrics = body_of(stage.get(DEVICE))["metrics"]
    assert {name: found["value"] for name, found in metrics.items()} == last


def test_a_device_that_always_sends_every_metric_costs_one_small_read(stage: Stage) -> None:
    whole = {"temperature": 1.0, "humidity": 1.0, "pressure": 900.0, "battery": 1.0}
    stage.store(*(Reading("pump-1", NOW_MS - n * MINUTE_MS, whole) for n in range(50)))
    stage.get(DEVICE)
    assert stage.reader.items_read == 2  # the second tells that the first minute has no more


def test_how_far_it_looked_is_bounded_and_said(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "LOOK_BACK_IDLE", 10)
    stage.store(reading(at_ms=NOW_MS - 30 * MINUTE_MS, battery=3.1))
    stage.store(reading(at_ms=NOW_MS - 10 * MINUTE_MS, humidity=40.0))
    stage.store(*(reading(at_ms=NOW_MS - n * MINUTE_MS) for n in range(25)))
    body = body_of(stage.get(DEVICE))
    assert body["metrics"].keys() == {"temperature", "humidity"}
    assert body["searched"] == {
        "complete": False,
        "back_to": "2026-11-21T01:10:00Z",  # ten windows behind the humidity's
        "windows": 21,
    }


def test_a_device_that_never_sends_some_metrics_costs_an_hours_windows(stage: Stage) -> None:
    stage.store(*(reading(at_ms=NOW_MS - n * MINUTE_MS) for n in range(500)))
    body = body_of(stage.get(DEVICE))
    assert body["searched"]["windows"] == 61
    assert body["searched"]["complete"] is False
    assert stage.reader.items_read <= 125


def test_full_windows_are_looked_at_no_further_than_readings_allow(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "LOOK_BACK_READINGS", 10)
    for minute in range(5):
        at_ms = NOW_MS - minute * MINUTE_MS
        stage.store(*(reading(at_ms=at_ms + offset) for offset in range(4)))
    assert body_of(stage.get(DEVICE))["searched"]["windows"] == 3


def test_an_old_window_that_cannot_be_read_ends_the_look_back_and_a_new_one_the_answer(
    stage: Stage,
) -> None:
    stage.store(*(reading(at_ms=NOW_MS - n * MINUTE_MS) for n in range(4)))
    keys = sorted(stage.windows.stored)
    stage.windows.stored[keys[1]]["readings"] = {"B": b"\x02"}
    body = body_of(stage.get(DEVICE))
    assert body["metrics"]["temperature"]["recorded_at"] == "2026-11-21T01:30:00.000Z"
    assert body["searched"]["complete"] is False
    assert "is not readable" in body["searched"]["stopped_by"]
    stage.windows.stored[keys[3]]["readings"] = {"B": b"\x02"}
    assert stage.get(DEVICE)["statusCode"] == 503


def test_a_device_without_readings_is_not_found(stage: Stage) -> None:
    response = stage.get(DEVICE, "nobody")
    assert response["statusCode"] == 404
    assert "nobody" in body_of(response)["message"]


def test_an_open_alert_is_listed_with_its_episode(stage: Stage) -> None:
    stage.breach("pump-1")
    response = stage.get("/alerts", status="open")
    assert response["statusCode"] == 200
    assert body_of(response) == {
        "alerts": [
            {
                "device_id": "pump-1",
                "rule": "overheating",
                "severity": "critical",
                "region": "eu-west-1",
                "episode": 1,
                "status": "open",
                "first_breach_at": "2026-11-21T01:30:00.000Z",
                "last_breach_at": "2026-11-21T01:30:00.000Z",
                "cleared_at": None,
                "ended_by": None,
                "previous_cleared_at": None,
                "peak": 41.5,
                "trace_id": TRACE,
            }
        ],
        "next": None,
    }


@pytest.mark.parametrize("limit", [1, 2, 7, 40])
def test_pages_of_alerts_have_each_alert_once(stage: Stage, limit: int) -> None:
    for index in range(40):
        stage.breach(f"pump-{index}", ("eu-west-1", "us-east-1")[index % 2])
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(60):
        body = body_of(stage.get("/alerts", limit=str(limit), **cursor))
        assert len(body["alerts"]) <= limit
        seen += [alert["device_id"] for alert in body["alerts"]]
        if body["next"] is None:
            break
        cursor = {"cursor": body["next"]}
    assert sorted(seen) == sorted(f"pump-{index}" for index in range(40))


def test_a_devices_episodes_of_two_regions_are_two_alerts_each_with_its_own_breaches(
    stage: Stage,
) -> None:
    stage.breach("pump-1", "eu-west-1", -17.5)
    stage.breach("pump-1", "us-east-1", -2.5)
    alerts = body_of(stage.get("/alerts"))["alerts"]
    found = {alert["region"]: alert["peak"] for alert in alerts}
    assert (len(alerts), found) == (2, {"eu-west-1": -17.5, "us-east-1": -2.5})


def test_claims_in_the_table_are_no_alerts(stage: Stage) -> None:
    stage.alerts.stored["pump-1", "claim#x"] = {
        "device_id": {"S": "pump-1"},
        "rule_region": {"S": "claim#x"},
        "state": {"S": "done"},
    }
    assert body_of(stage.get("/alerts")) == {"alerts": [], "next": None}


def test_health_is_ok_while_the_windows_can_be_read(stage: Stage) -> None:
    stage.store(*(reading(at_ms=NOW_MS - second * 1000) for second in range(10)))
    response = stage.get("/health")
    assert response["statusCode"] == 200
    assert body_of(response) == {"name": "telemetry", "status": "pass"}
    assert stage.reader.items_read == 0
    stage.reader.down = True
    with pytest.raises(ConnectionError):
        stage.get("/health")


def test_an_alert_that_cannot_be_read_is_listed_as_such_beside_the_others(stage: Stage) -> None:
    for device in ("pump-1", "pump-2"):
        stage.breach(device)
    del stage.alerts.stored["pump-1", "overheating#eu-west-1"]["peak"]
    listed = {each["device_id"]: each for each in body_of(stage.get("/alerts"))["alerts"]}
    assert listed["pump-2"]["peak"] == 41.5
    broken = listed["pump-1"]
    assert (broken["rule"], broken["status"], broken["episode"]) == ("overheating", "open", None)
    assert broken.keys() - listed["pump-2"].keys() == {"unreadable"}
    assert "peak" in broken["unreadable"]


# What nobody's device is called: for DynamoDB too long or empty, and what no id may have in it.
NO_NAMES = ["", "x" * 129, "x" * 2049, "é" * 1025, "a\x00b", "\ud800", "#generations", "a b", "٣"]


@pytest.mark.parametrize("device_id", NO_NAMES)
@pytest.mark.parametrize("resource", [WINDOWS, DEVICE])
def test_a_device_that_cannot_be_is_refused_before_anything_is_read(
    stage: Stage, resource: str, device_id: str
) -> None:
    stage.reader.down = True
    response = stage.get(resource, device_id)
    assert response["statusCode"] == 400
    body = body_of(response)
    assert (body["field"], body["value"][:100]) == ("device_id", shown(device_id)[:100])
    assert "does not match" in body["message"]


@pytest.mark.parametrize(
    "limit", ["0", "1001", "-1", "٣", "³", "1.0", "1e2", "", " 1", "9" * 5000, "\x00"]
)
@pytest.mark.parametrize("resource", [WINDOWS, "/alerts"])
def test_a_limit_is_a_number_in_ascii_digits(stage: Stage, resource: str, limit: str) -> None:
    response = stage.get(resource, limit=limit)
    assert response["statusCode"] == 400
    assert (body_of(response)["field"], body_of(response)["value"]) == ("limit", shown(limit))


@pytest.mark.parametrize("instant", ["٣", "1795224600000٣", "-1", "9" * 5000, "9" * 19, "1e12"])
def test_an_instant_is_a_number_in_ascii_digits(stage: Stage, instant: str) -> None:
    response = stage.get(WINDOWS, from_=instant)
    assert (response["statusCode"], body_of(response)["field"]) == (400, "from")


@pytest.mark.parametrize(
    ("resource", "name"),
    [(WINDOWS, "limit"), (WINDOWS, "from"), (WINDOWS, "to"), ("/alerts", "status")],
)
def test_a_parameter_that_is_given_twice_is_refused(stage: Stage, resource: str, name: str) -> None:
    event = request("GET", resource, None, {"device_id": "pump-1"}, {name: "2"})
    event["multiValueQueryStringParameters"] = {name: ["1", "2"]}
    response = run(event, NOW_MS, stage.reader, MemoryAlertReader(stage.alerts))
    assert response["statusCode"] == 400
    assert body_of(response)["message"] == f"{name}: is given 2 times"


def cursor_of(*parts: Any, raw: str | None = None) -> str:
    return base64.urlsafe_b64encode((raw or json.dumps(parts)).encode()).decode()


KEY_OF_PUMP = "1795224600000", "pump-1", "overheating#eu-west-1"


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "\x00",
        cursor_of(),
        cursor_of(3),  # as an older version gave it
        cursor_of("open", 3.0),
        cursor_of("open", True),
        cursor_of("open", None),
        cursor_of("open", 16),
        cursor_of("open", -1),
        cursor_of("closed", 3),
        cursor_of("open", 6, "x"),
        cursor_of("open", 5, *KEY_OF_PUMP),  # pump-1 is of bucket 6
        cursor_of("open", 6, 1795224600000, *KEY_OF_PUMP[1:]),
        cursor_of("open", 6, "٣", *KEY_OF_PUMP[1:]),
        cursor_of("open", 6, "01", *KEY_OF_PUMP[1:]),
        cursor_of("open", 6, "9" * 16, *KEY_OF_PUMP[1:]),
        cursor_of("open", 6, KEY_OF_PUMP[0], "pump-1", "x#" + "y" * 1025),
        cursor_of("open", 6, KEY_OF_PUMP[0], "pump-1", "claim#x/y"),
        cursor_of("open", 6, KEY_OF_PUMP[0], "x" * 2049, KEY_OF_PUMP[2]),
        cursor_of("open", 6, *KEY_OF_PUMP, "more"),
        cursor_of(raw='["open",3]'),  # with other blanks than ours
        cursor_of(raw='["open", 3]\n'),
        cursor_of("open", 3) + "=",
        cursor_of(raw="[" * 100_000),
    ],
)
def test_a_cursor_that_the_api_never_gave_is_refused(stage: Stage, cursor: str) -> None:
    response = stage.get("/alerts", cursor=cursor)
    assert response["statusCode"] == 400
    assert body_of(response)["field"] == "cursor"
    assert "is not a cursor that this API gave" in body_of(response)["message"]


def test_a_cursor_of_the_other_status_is_refused_by_its_name(stage: Stage) -> None:
    for index in range(3):
        stage.breach(f"pump-{index}")
    cursor = body_of(stage.get("/alerts", limit="1"))["next"]
    assert stage.get("/alerts", cursor=cursor)["statusCode"] == 200
    response = stage.get("/alerts", status="cleared", cursor=cursor)
    assert response["statusCode"] == 400
    assert "is of alerts that are open" in body_of(response)["message"]
