"""The metrics that an alarm watches, and its state by their datapoints."""

from types import SimpleNamespace
from typing import Any

import pytest

from emulator.gaps import alarms
from emulator.gaps.alarms import Query

NOW = 1_000_000_020.0
PERIOD = 60


@pytest.mark.parametrize(
    ("expression", "query"),
    [
        ("SELECT AVG(Age) FROM Own", Query("Average", "Age", "Own", None, {})),
        (
            "select sum(ErrorActionFailure) from \"AWS/IoT\" where RuleName = 'x_y'",
            Query("Sum", "ErrorActionFailure", "AWS/IoT", None, {"RuleName": "x_y"}),
        ),
        (
            (
                'SELECT MAX("An age") FROM SCHEMA("Own/It", Place, "a b")'
                " WHERE Place = 'attic, \"left\"' AND \"a b\"='1'"
            ),
            Query(
                "Maximum",
                "An age",
                "Own/It",
                frozenset({"Place", "a b"}),
                {"Place": 'attic, "left"', "a b": "1"},
            ),
        ),
        ('SELECT MIN(Age) FROM SCHEMA("Own")', Query("Minimum", "Age", "Own", frozenset(), {})),
        ("SELECT COUNT(Age) FROM Own", Query("SampleCount", "Age", "Own", None, {})),
    ],
)
def test_a_query_is_parsed_by_the_grammar_of_metrics_insights(
    expression: str, query: Query
) -> None:
    assert alarms.parse(expression) == query


@pytest.mark.parametrize(
    ("expression", "unknown"),
    [
        ("m1 / m2", "metric math"),
        ("", "metric math"),
        ("SELECT P99(Age) FROM Own", "P99"),
        ("SELECT AVG(Age) FROM Own GROUP BY Place", "GROUP"),
        ("SELECT AVG(Age) FROM Own ORDER BY AVG() DESC", "ORDER"),
        ("SELECT AVG(Age) FROM Own LIMIT 5", "LIMIT"),
        ("SELECT AVG(Age) FROM Own WHERE Place != 'attic'", "!"),
        ("SELECT AVG(Age) FROM Own WHERE Place = 'attic' OR Place = 'roof'", "OR"),
        ("SELECT AVG(Age) FROM Own WHERE Place = attic", "attic"),
        ("SELECT AVG(Age) FROM Own WHERE tag.team = 'north'", "."),
        ("SELECT AVG(Age) FROM AWS/IoT", "/"),
        ("SELECT AVG(Age) FROM SCHEMA()", ")"),
        ("SELECT AVG(Age", "the end"),
    ],
)
def test_a_query_of_another_form_is_refused_by_name(expression: str, unknown: str) -> None:
    with pytest.raises(ValueError, match=r"^Metrics: ") as caught:
        alarms.parse(expression)
    assert f"{unknown}" in str(caught.value)


@pytest.mark.parametrize(
    ("queries", "told"),
    [
        ([], "one query"),
        ([{"Expression": "SELECT AVG(A) FROM B", "Period": 60}] * 2, "metric math"),
        ([{"MetricStat": {}}], "MetricStat"),
        ([{"Expression": "SELECT AVG(A) FROM B"}], "Period"),
        ([{"Expression": "SELECT AVG(A) FROM B", "Period": 60, "ReturnData": False}], "ReturnData"),
    ],
)
def test_an_alarm_has_one_query_that_says_its_period(queries: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        alarms.alarm_query(queries)


def alarm(**settings: Any) -> dict[str, Any]:
    return {
        "AlarmName": "alarm",
        "Namespace": "Own",
        "MetricName": "Age",
        "Dimensions": [{"Name": "Place", "Value": "attic"}],
        "Statistic": "Sum",
        "Period": PERIOD,
        "EvaluationPeriods": 3,
        "Threshold": 0.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "StateValue": "as it was",
        **settings,
    }


X, O, NONE = 1.0, 0.0, None  # noqa: E741 - as the tables on AWS's page have it


@pytest.mark.parametrize(
    ("values", "needed", "states"),
    [  # the two tables of the page: 3 of 3, then 2 of 3; missing, ignore, breaching, notBreaching
        ([O, NONE, X, NONE, X], 3, ["OK", "OK", "OK", "OK"]),
        ([O, NONE, NONE, NONE, NONE], 3, ["OK", "OK", "OK", "OK"]),
        ([NONE] * 5, 3, ["INSUFFICIENT_DATA", "as it was", "ALARM", "OK"]),
        ([O, X, X, NONE, X], 3, ["ALARM"] * 4),
        ([NONE, NONE, X, NONE, NONE], 3, ["ALARM", "as it was", "ALARM", "OK"]),
        ([O, NONE, X, NONE, X], 2, ["ALARM"] * 4),
        ([O, O, X, O, X], 2, ["ALARM"] * 4),
        ([O, NONE, X, NONE, NONE], 2, ["OK", "OK", "ALARM", "OK"]),
        ([NONE, NONE, NONE, NONE, O], 2, ["OK", "OK", "ALARM", "OK"]),
        ([NONE, NONE, NONE, X, NONE], 2, ["ALARM", "as it was", "ALARM", "OK"]),
    ],
)
def test_missing_data_is_treated_as_awss_tables_show(
    values: list[float | None], needed: int, states: list[str]
) -> None:
    treatments = ("missing", "ignore", "breaching", "notBreaching")
    found = [
        alarms.state(values, alarm(DatapointsToAlarm=needed, TreatMissingData=treatment))
        for treatment in treatments
    ]
    assert found == states


def test_alarms_on_dynamodb_always_ignore_missing_data() -> None:
    told = alarm(Namespace="AWS/DynamoDB", TreatMissingData="breaching")
    assert alarms.state([None] * 5, told) == "as it was"


def metrics(**series: list[tuple[float, float]]) -> Any:
    """An emulator with metrics Own/Age; names such as `a=1,b=2` give their dimensions."""
    found = {}
    for key, points in series.items():
        names = dict(each.split("_") for each in key.split("__")) if key != "none" else {}
        dimensions = "|".join(f"{name}={value}" for name, value in sorted(names.items()))
        found["Own", "Age", dimensions] = [
            {"Timestamp": at, "Value": value, "Dimensions": names} for at, value in points
        ]
    return SimpleNamespace(
        _metrics=found,
        _dims_from_list=lambda given: {each["Name"]: each["Value"] for each in given},
        _dims_key=lambda given: "|".join(f"{name}={value}" for name, value in given.items()),
        _calc_stats=lambda points: {"Sum": sum(point["Value"] for point in points)},
        _stat_value=lambda stats, name, _points: stats[name],
    )


def test_only_the_metric_with_exactly_these_dimensions_is_watched() -> None:
    emulator = metrics(
        Place_attic=[(NOW, 1.0)],
        Place_roof=[(NOW, 10.0)],
        Place_attic__Kind_a=[(NOW, 100.0)],
        none=[(NOW, 1000.0)],
    )
    assert alarms.datapoints(emulator, alarm(), NOW)[-1] == 1.0
    assert alarms.datapoints(emulator, alarm(Dimensions=[]), NOW)[-1] == 1000.0


@pytest.mark.parametrize(
    ("source", "total"),
    [
        ("Own WHERE Place = 'attic'", 101.0),
        ("Own", 1111.0),
        ("SCHEMA(Own, Kind, Place) WHERE Place = 'attic'", 100.0),
        ("SCHEMA(Own)", 1000.0),
    ],
)
def test_a_query_adds_up_the_metrics_that_match_it(source: str, total: float) -> None:
    emulator = metrics(
        Place_attic=[(NOW, 1.0)],
        Place_roof=[(NOW, 10.0)],
        Place_attic__Kind_a=[(NOW, 100.0)],
        none=[(NOW, 1000.0)],
    )
    asked = alarm()
    expression = " ".join(["SELECT SUM(Age) FROM", source])
    alarms.watch_query(asked, {"Expression": expression, "Period": PERIOD})
    assert alarms.datapoints(emulator, asked, NOW)[-1] == total


def test_a_periods_points_make_one_datapoint_and_old_ones_none() -> None:
    minute = NOW // PERIOD * PERIOD
    emulator = metrics(
        Place_attic=[(minute - 600, 9.0), (minute - 60, 1.0), (minute - 1, 2.0), (minute, 4.0)]
    )
    assert alarms.datapoints(emulator, alarm(), NOW) == [None, None, None, 3.0, 4.0]
