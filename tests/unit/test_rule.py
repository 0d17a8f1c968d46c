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
    breaching_value,
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
        ({"above": "38"}, "rules[0].above", "'38' is not a number"),
        ({"above": True}, "rules[0].above", "True is not a number"),
        ({"above": 10**400}, "rules[0].above", "1000"),
        ({"clears_below": 39}, "rules[0].clears_below", "39 is more than above, which is 38"),
        ({"metric": "speed"}, "rules[0].metric", "'speed' is not one of temperature, humidity"),
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


def test_a_threshold_with_more_digits_than_event_filters_compare_is_refused() -> None:
    rule = {**HOT.model_dump(), "above": 38.1234567}
    with pytest.raises(RulesInvalid, match="has more than the six decimals that event filters"):
        load_rules(json.dumps({"rules": [rule]}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"above": 150}, "rules[0].above: nothing is ever above 150"),  # a breach is strictly above
        ({"above": 102000}, "rules[0].above: nothing is ever above 102000"),
        ({"above": -90.5}, "rules[0].above: -90.5 is out of range"),
        ({"above": 37, "clears_below": -90}, "rules[0].clears_below: nothing is ever below -90"),
        ({"above": 37, "clears_below": -91}, "rules[0].clears_below: nothing is ever below -91"),
        ({"above": 37, "clears_below": 151}, "rules[0].clears_below: 151 is out of range"),
    ],
)
def test_a_rule_that_can_never_fire_or_never_clear_is_refused_with_the_range(
    changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(RulesInvalid) as caught:
        load_rules(text(**changes))
    whole = f"rules.yaml: {told}: temperature is from -90 to 150 °C (rule 'overheating')"
    assert whole in str(caught.value).splitlines()


def test_a_rule_may_use_the_whole_range_but_its_ends() -> None:
    (rule,) = load_rules(text(above=149.9, clears_below=-89.9))
    assert (rule.above, rule.clears_below) == (149.9, -89.9)


@pytest.mark.parametrize(
    ("unknown", "missing", "told"),
    [
        ("below", "above", "did you mean above?"),
        ("abvoe", "above", "did you mean above?"),
        ("threshold", "above", "did you mean above?"),
        ("clears_above", "clears_below", "did you mean clears_below?"),
        ("metrc", "metric", "did you mean metric?"),
        ("Severity", "severity", "did you mean severity?"),
    ],
)
def test_a_misspelt_key_is_one_mistake_with_the_key_that_was_meant(
    unknown: str, missing: str, told: str
) -> None:
    with pytest.raises(RulesInvalid) as caught:
        load_rules(text(**{missing: "", unknown: 1}))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"rules.yaml: rules[0].{unknown}: a rule has no such key (it is 1); ")
    assert told in line


def test_a_key_that_is_like_none_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(RulesInvalid) as caught:
        load_rules(text(colour="red"))
    assert "the keys are name, metric, above, clears_below, severity" in str(caught.value)


def test_a_key_beside_the_rules_is_refused() -> None:
    with pytest.raises(RulesInvalid, match=r"^rules\.yaml: rule: is no key of this file"):
        load_rules(json.dumps(json.loads(text()) | {"rule": []}))


@pytest.mark.parametrize("field", ["above", "clears_below"])
@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_a_threshold_is_a_finite_number(field: str, number: str) -> None:
    content = text(**{field: 0}).replace(f'"{field}": 0', f'"{field}": {number}')
    with pytest.raises(RulesInvalid, match=rf"rules\[0\]\.{field}: "):
        load_rules(content)


def test_every_mistake_is_named_at_once() -> None:
    rules = [json.loads(text())["rules"][0] for _ in range(3)]
    rules[1] |= {"above": "hot", "severity": "loud", "name": "other"}
    with pytest.raises(RulesInvalid) as caught:
        load_rules(json.dumps({"rules": rules}))
    assert str(caught.value).splitlines() == [
        "rules.yaml: rules[1].above: 'hot' is not a number (rule 'other')",
        "rules.yaml: rules[1].severity: 'loud' is not info, warning or critical (rule 'other')",
        "rules.yaml: two rules are named overheating",
    ]


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
    assert breaching_value(HOT, hot(value)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-17.9, -17.9), (-18.0, None), (-18.1, None), (-90.0, None), (0.0, 0.0), (18.1, 18.1)],
)
def test_a_breach_of_a_negative_threshold_is_what_is_warmer(
    value: float, expected: float | None
) -> None:
    freezer = HOT.model_copy(update={"above": -18.0, "clears_below": -20.0})
    assert breaching_value(freezer, hot(value)) == expected


def test_a_reading_without_the_metric_is_no_breach() -> None:
    assert breaching_value(HOT, Reading("pump-1", 1, {"humidity": 99.0})) is None


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
    assert lets_through(pattern, encode(reading)) == (breaching_value(rule, reading) is not None)
