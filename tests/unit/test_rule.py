"""Rules: read with every mistake named, compiled into filters that let exactly breaches through."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.reading import Reading, encode
from telemetry.domain.rule import (
    Rule,
    RulesInvalid,
    breach,
    filter_pattern,
    load_rules,
    shipped_rules,
)

ROOT = Path(__file__).parents[2]
HOT = Rule(name="overheating", metric="temperature", above=38, clears_below=37, severity="critical")


def text(**changes: Any) -> str:
    """rules.yaml with one rule, changed; JSON is YAML."""
    rule = {
        "name": "overheating",
        "metric": "temperature",
        "above": 38,
        "clears_below": 37,
        "severity": "critical",
        **changes,
    }
    return json.dumps({"rules": [{name: value for name, value in rule.items() if value != ""}]})


def test_a_rule_is_read() -> None:
    assert load_rules(text()) == (HOT,)


def test_the_shipped_rules_are_those_that_are_reviewed() -> None:
    assert shipped_rules() == load_rules((ROOT / "rules.yaml").read_text()) == (HOT,)


@pytest.mark.parametrize(
    ("changes", "place", "value"),
    [
        ({"above": "hot"}, "rules[0].above", "'hot'"),
        ({"above": ".inf"}, "rules[0].above", "'.inf'"),
        ({"above": ""}, "rules[0].above", "required"),
        ({"clears_below": None}, "rules[0].clears_below", "None"),
        ({"clears_below": 39}, "rules[0]", "clears_below 39.0 is over above 38.0"),
        ({"metric": "speed"}, "rules[0]", "'speed' is not one of temperature, humidity"),
        ({"metric": 7}, "rules[0].metric", "7"),
        ({"severity": "loud"}, "rules[0].severity", "'loud'"),
        ({"name": "Over Heating"}, "rules[0].name", "'Over Heating'"),
        ({"name": "over#heating"}, "rules[0].name", "'over#heating'"),
        ({"name": "x" * 65}, "rules[0].name", "xxx"),
        ({"below": 1}, "rules[0].below", "1"),
    ],
)
def test_a_wrong_rule_is_named_by_place_and_value(
    changes: dict[str, Any], place: str, value: str
) -> None:
    with pytest.raises(RulesInvalid) as caught:
        load_rules(text(**changes))
    assert f"{place}: " in str(caught.value)
    assert value in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    rules = [json.loads(text())["rules"][0] for _ in range(3)]
    rules[1] |= {"above": "hot", "severity": "loud", "name": "other"}
    with pytest.raises(RulesInvalid) as caught:
        load_rules(json.dumps({"rules": rules}))
    for part in ("rules[1].above", "rules[1].severity", "two rules are named overheating"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "rules:",
        "rules: []",
        "rules: {}",
        "rules: 7",
        "- a",
        "7",
        "rules: [7]",
        "rules: [a",
        "\x00",
    ],
)
def test_what_is_no_list_of_rules_is_refused(content: str) -> None:
    with pytest.raises(RulesInvalid, match=r"^rules\.yaml"):
        load_rules(content)


def test_yaml_that_builds_objects_is_refused() -> None:
    with pytest.raises(RulesInvalid):
        load_rules("rules: [!!python/object/apply:os.getcwd []]")


def test_a_value_that_clears_may_be_the_one_that_breaches() -> None:
    assert load_rules(text(clears_below=38))[0].clears_below == 38


def hot(value: float) -> Reading:
    return Reading("pump-1", 1, {"temperature": value, "humidity": 99.0})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(37.9, None), (38.0, None), (38.00000000000001, 38.00000000000001), (150.0, 150.0)],
)
def test_a_breach_is_strictly_above(value: float, expected: float | None) -> None:
    assert breach(HOT, hot(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-17.9, -17.9), (-18.0, None), (-18.1, None), (-90.0, None), (0.0, 0.0), (18.1, 18.1)],
)
def test_a_breach_of_a_negative_threshold_is_what_is_warmer(
    value: float, expected: float | None
) -> None:
    freezer = HOT.model_copy(update={"above": -18.0, "clears_below": -20.0})
    assert breach(freezer, hot(value)) == expected


def test_a_reading_without_the_metric_is_no_breach() -> None:
    assert breach(HOT, Reading("pump-1", 1, {"humidity": 99.0})) is None


@pytest.mark.parametrize(("above", "shown"), [(38, "38"), (38.0, "38"), (38.5, "38.5"), (-4, "-4")])
def test_filters_are_as_people_write_them(above: float, shown: str) -> None:
    rule = HOT.model_copy(update={"above": float(above)})
    pattern = json.dumps(filter_pattern([rule])[0], separators=(",", ":"))
    assert pattern == f'{{"data":{{"temperature":[{{"numeric":[">",{shown}]}}]}}}}'


def test_there_is_one_filter_a_rule() -> None:
    damp = Rule(name="damp", metric="humidity", above=90, clears_below=80, severity="info")
    assert filter_pattern([HOT, damp]) == [
        {"data": {"temperature": [{"numeric": [">", 38]}]}},
        {"data": {"humidity": [{"numeric": [">", 90]}]}},
    ]


def lets_through(pattern: dict[str, Any], record: bytes) -> bool:
    """What an event source mapping does with a filter of one metric and `numeric >`."""
    data = json.loads(record)
    ((name, (test,)),) = pattern["data"].items()
    operator, bound = test["numeric"]
    assert operator == ">"
    return name in data and data[name] > bound


@given(
    st.floats(-90, 150),
    st.floats(-90, 150) | st.integers(-90, 150).map(float),
    st.sampled_from(["temperature", "humidity"]),
)
def test_the_filter_lets_exactly_the_breaches_through(
    value: float, above: float, metric: str
) -> None:
    rule = HOT.model_copy(update={"above": above, "clears_below": above})
    reading = Reading("pump-1", 1, {metric: value + 0.0})
    (pattern,) = filter_pattern([rule])
    pattern = json.loads(json.dumps(pattern))  # as it is in the template
    assert lets_through(pattern, encode(reading)) == (breach(rule, reading) is not None)
