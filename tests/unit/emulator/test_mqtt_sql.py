"""The SQL of IoT rules: selection, results, and refusals with their place."""

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.reading import STAMPED

from emulator.mqtt import sql
from emulator.mqtt.sql import UNDEFINED, Message, SqlError, Undocumented, matches, parse
from tests.template import everywhere

PAYLOAD = {"t": 21.5, "name": "a", "deep": {"er": [1]}, "nothing": None, "yes": True}


def message(payload: Any = PAYLOAD, topic: str = "telemetry/pump-1/readings") -> Message:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(topic, data, "pump-1", "cert-1", 1_000)


def selected(expressions: str, payload: Any = PAYLOAD) -> Any:
    statement = parse("{} {} {}".format("SELECT", expressions, "FROM '#'"))
    return json.loads(statement.result(message(payload)))


def value(expression: str, payload: Any = PAYLOAD) -> Any:
    """Return an expression's value; UNDEFINED if SELECT leaves it out."""
    return selected(f"{expression} AS x", payload).get("x", UNDEFINED)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("t", 21.5),
        ("deep.er", [1]),
        ("deep.er.est", UNDEFINED),
        ("t.x", UNDEFINED),
        ("gone", UNDEFINED),
        ("nothing", None),
        ("'it''s'", "it's"),
        ("-3", -3),
        ("2.50", 2.5),
        ("10.0", 10),
        ("true", True),
        ("null", None),
        ("topic()", "telemetry/pump-1/readings"),
        ("topic(2)", "pump-1"),
        ("topic(4)", UNDEFINED),
        ("topic(0)", UNDEFINED),
        ("topic(2.0)", "pump-1"),
        ("topic('2')", "pump-1"),
        ("topic(1.5)", UNDEFINED),
        ("topic(true)", UNDEFINED),
        ("TIMESTAMP()", 1_000),
        ("clientid()", "pump-1"),
        ("principal()", "cert-1"),
        ("isUndefined(gone)", True),
        ("isUndefined(nothing)", False),
        ("isNull(nothing)", True),
        ("isNull(gone)", False),
        ("encode(name, 'base64')", "YQ=="),
        ("t = 21.5", True),
        ("t = '21.5'", False),
        ("t <> 'a'", True),
        ("name > 'Z'", UNDEFINED),  # only numbers have an order
        ("t > '21.4'", True),
        ("'9' < '10.0'", True),
        ("'1E2' >= 100", True),
        ("'1e-2' <= 0.01", True),
        ("'1E+2' >= 100", UNDEFINED),  # AWS's pattern for texts that are numbers has no plus
        ("'1E1000' > 0", UNDEFINED),
        ("'0.30000000000000001' > 0.3", True),  # one double, two Decimals
        ("9007199254740993 > 9007199254740992.0", True),
        ("9007199254740993.0 = 9007199254740993", True),
        ("0.1 = 0.10000000000000001", False),
        ("0.1 = 0.10", True),
        ("'0.1' < 0.1", False),
        ("'\u0661' > 0", UNDEFINED),  # a digit, but not in JSON
        ("' 1' < 2", UNDEFINED),
        ("yes > 0", UNDEFINED),
        ("nothing < 1", UNDEFINED),
        ("'TRUE' AND yes", True),
        ("NOT 'false'", True),
        ("'yes' OR yes", UNDEFINED),
        ("t >= 21.5", True),
        ("t < name", UNDEFINED),
        ("yes = 1", False),
        ("gone = gone", UNDEFINED),
        ("gone <> 1", UNDEFINED),
        ("NOT yes", False),
        ("NOT name", UNDEFINED),
        ("yes OR gone", UNDEFINED),
        ("yes AND t > 21", True),
        ("false AND false OR true", True),  # AND binds first
        ("false AND (false OR true)", False),
        ("NOT false AND false", False),  # NOT binds before it
    ],
)
def test_an_expression_has_its_value(expression: str, expected: Any) -> None:
    assert value(expression) == expected
    assert type(value(expression)) is type(expected)


def test_select_all_keeps_the_payload_and_adds_fields() -> None:
    assert selected("*, topic(2) AS device_id, gone AS gone, 1 AS a.b", {"t": 1}) == {
        "t": 1,
        "device_id": "pump-1",
        "a": {"b": 1},
    }


def test_a_field_without_as_keeps_its_name() -> None:
    assert selected("t, deep.er") == {"t": 21.5, "er": [1]}


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\x00",
        b"",
        b"[1, 2]",
        b"17",
        b'{"t": NaN}',
        b'{"t": -Infinity}',
        b'{"t": 1e1000}',  # beyond a Decimal, as the next three
        b'{"t": 1e-1000}',
        b'{"t": 1e99999999999999999999}',
        b'{"t": 12345678901234567890123456789012345}',
        b'\xef\xbb\xbf{"t": 1}',
        '{"t": 1}'.encode("utf-16"),
        b'{"t": 1}\0',
        b'{"t": 1, "t": 2}',  # AWS doesn't document which value counts
        b"[" * 100_000,
    ],
)
def test_a_payload_that_is_not_an_object_is_selected_as_its_bytes(payload: bytes) -> None:
    assert parse("SELECT * FROM 'a'").result(message(payload)) == payload
    assert value("encode(*, 'base64')", payload) == base64.b64encode(payload).decode()
    assert value("isUndefined(t)", payload) is True


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ("38.299999237060547", "38.299999237060547"),
        ("38.20000000000000284", "38.20000000000000284"),
        ("38.50", "38.50"),
        ("-38.50e-1", "-3.850"),
        ("0.0000001", "1E-7"),
        ("1.5e-300", "1.5E-300"),
        ("1e-999", "1E-999"),
        ("1234567890.123456789012345678901234", "1234567890.123456789012345678901234"),
        ("0.12345678901234567890123456789012345", "0.1234567890123456789012345678901234"),
        ("0.12345678901234567890123456789012355", "0.1234567890123456789012345678901236"),
        ("1.5e400", "1.5E+400"),
        ("10.0", "10"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("9007199254740993", "9007199254740993"),
        ("1234567890123456789012345678901234", "1234567890123456789012345678901234"),
        ("9007199254740993.0", "9007199254740993"),
    ],
)
def test_a_number_keeps_the_digits_of_a_decimal(sent: str, written: str) -> None:
    payload = f'{{"t":{sent},"deep":[{{"t":[{sent}]}},"{sent}"]}}'.encode()
    kept = f'"t":{written},"deep":[{{"t":[{written}]}},"{sent}"]'
    for statement in ("SELECT *, 1 AS x FROM '#'", "SELECT t, deep, 1 AS x FROM '#'"):
        assert parse(statement).result(message(payload)).decode() == f'{{{kept},"x":1}}'
    assert sql.template("${t}")(message(payload)) == written


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**33), 10**33)
    | st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-9000, max_value=9000)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_the_result_is_the_json_that_was_sent(value: Any) -> None:
    text = sql.json_text({"a": value})
    assert json.loads(text, parse_float=Decimal) == {"a": value}
    again = json.loads(
        parse("SELECT * FROM '#'").result(message(text.encode())), parse_float=Decimal
    )
    assert again == {"a": value}


def test_a_deeply_nested_payload_keeps_its_numbers_too() -> None:
    payload = b'{"t":' + b"[" * 400 + b"38.299999237060547" + b"]" * 400 + b"}"
    assert parse("SELECT * FROM '#'").result(message(payload)) == payload


@pytest.mark.parametrize(
    ("expressions", "payload"),
    [
        ("*, 1 AS t", {"t": 2}),  # which of the two wins
        ("*, gone AS t", {"t": 2}),
        ("*, 1 AS a", b"not JSON"),  # there is no object to add it to
        ("encode(t, 'base64') AS x", {"t": 2}),
        ("encode(*, 'hex') AS x", {"t": 2}),
        ("encode(t, 'base64') AS x", {"t": "\ud800"}),  # half of a surrogate pair
    ],
)
def test_an_undocumented_result_is_not_guessed(expressions: str, payload: Any) -> None:
    with pytest.raises(Undocumented):
        selected(expressions, payload)


@pytest.mark.parametrize(
    ("where", "is_selected"),
    [("", True), ("WHERE t > 21", True), ("WHERE t > 22", False), ("WHERE gone > 1", False)],
)
def test_where_selects_messages_for_which_it_is_true(where: str, is_selected: bool) -> None:
    assert parse(" ".join(["select * from 'a'", where])).selects(message()) is is_selected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "SELECT is expected, not 'the end' at character 1:"),
        ("SELECT *", "FROM is expected, not 'the end' at character 9:"),
        ("SELECT * FROM a", "'a' isn't a topic filter in single quotes at character 15:"),
        ("SELECT t + 1 AS x FROM 'a'", "'+' isn't supported at character 10:"),
        ("SELECT t, FROM 'a'", "'FROM' isn't expected at character 11:"),
        ("SELECT upper(t) AS x FROM 'a'", "upper() isn't supported; topic, timestamp, clientid"),
        ("SELECT topic(1, 2) AS x FROM 'a'", "topic() takes 0 or 1 arguments at character 8:"),
        ("SELECT topic(1) FROM 'a'", "an expression without AS and a name isn't supported"),
        ("SELECT t = name FROM 'a'", "an expression without AS and a name isn't supported"),
        ("SELECT * FROM 'a' WHERE t > 1 LIMIT 1", "'LIMIT' isn't supported here at character 31:"),
        ("SELECT * FROM 'a' WHERE (t > 1", ") is expected, not 'the end' at character 31:"),
        ("SELECT * FROM 'a' WHERE t IN [1]", "'[' isn't supported at character 30:"),
        ("SELECT t AS 1 FROM 'a'", "'1' isn't a name at character 13:"),
        (
            "SELECT 11111111111111111111111111111111111 AS t FROM 'a'",
            "a number of more than 34 digits",
        ),
    ],
)
def test_an_unsupported_statement_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse(text)
    assert str(caught.value).startswith(problem)


@given(st.text(max_size=60))
def test_any_text_is_a_statement_or_a_sql_error(text: str) -> None:
    for prefix in ("", "SELECT * FROM 'a' WHERE "):
        try:
            parse(prefix + text)
        except SqlError:
            continue


@pytest.mark.parametrize(
    ("topic_filter", "topic", "is_match"),
    [
        ("telemetry/+/readings", "telemetry/pump-1/readings", True),
        ("telemetry/+/readings", "telemetry/pump-1/readings/x", False),
        ("telemetry/+/readings", "telemetry/readings", False),
        ("telemetry/#", "telemetry", False),  # AWS's own: MQTT has it match
        ("telemetry/#", "telemetry/", True),
        ("telemetry/#", "telemetry/a/b", True),
        ("telemetry", "telemetry/a", False),
        ("#", "a/b", True),
        ("#", "$aws/rules/a", False),
        ("+/b", "$aws/b", False),
        ("$aws/+", "$aws/b", True),
        ("+/+", "/a", True),
        ("+", "/a", False),
    ],
)
def test_a_topic_filter_matches_as_aws_says(topic_filter: str, topic: str, is_match: bool) -> None:
    assert matches(topic_filter, topic) is is_match


def test_a_substitution_template_is_filled_from_the_message() -> None:
    assert sql.template("a-${topic(2)}/${t}")(message()) == "a-pump-1/21.5"
    assert sql.template("as it is")(message()) == "as it is"
    assert sql.template("${yes}-${3.50}-${10.0}")(message()) == "true-3.50-10"
    undocumented: tuple[Any, ...] = ({}, {"t": "\ud800"}, {"t": [1]}, {"t": None})
    for text, payload in (("${t}", payload) for payload in undocumented):
        with pytest.raises(Undocumented):
            sql.template(text)(message(payload))
    with pytest.raises(SqlError):
        sql.template("${newuuid()}")


# The rules of the template.

RULES = {
    name: parse(rule["TopicRulePayload"]["Sql"])
    for name, rule in everywhere("AWS::IoT::TopicRule").items()
}
READINGS = [
    rule for rule in RULES.values() if matches(rule.topic_filter, "telemetry/pump-1/readings")
]
STAMPS = ("device_id", *STAMPED)  # a device may send none of them past `ingest`
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
payloads = (
    st.dictionaries(st.sampled_from(["recorded_at", "temperature", *STAMPS]), scalars).map(
        lambda fields: json.dumps(fields).encode()
    )
    | st.binary(max_size=20)
    | st.lists(scalars).map(lambda items: json.dumps(items).encode())
)


@given(payloads)
def test_each_message_of_a_reading_is_for_exactly_one_rule_and_no_rule_has_to_guess(
    payload: bytes,
) -> None:
    sent = message(payload)
    (rule,) = [rule for rule in READINGS if rule.selects(sent)]
    result = json.loads(rule.result(sent))
    if rule is RULES["ReadingRule"]:
        stamped = {"device_id": "pump-1", "received_at": 1_000, "via": "mqtt"}
        assert result == {**json.loads(payload), **stamped}
        assert not json.loads(payload).keys() & {*STAMPS}
    else:
        assert base64.b64decode(result["body"]) == payload
        assert result["device_id"] == "pump-1"


def test_a_batch_is_passed_on_with_its_bytes_and_its_topics_names() -> None:
    sent = message(b"\x00\xff", "telemetry/pump-1/batch/ndjson-gzip")
    assert [name for name, rule in RULES.items() if matches(rule.topic_filter, sent.topic)] == [
        "BatchRule"
    ]
    assert json.loads(RULES["BatchRule"].result(sent)) == {
        "body": "AP8=",
        "topic": "telemetry/pump-1/batch/ndjson-gzip",
        "device_id": "pump-1",
        "format": "ndjson-gzip",
        "received_at": 1_000,
    }


@pytest.mark.parametrize(
    ("below", "form"), [("json/", "json"), ("json/more/levels", "json"), ("", "")]
)
def test_every_topic_that_the_policy_allows_has_a_rule(below: str, form: str) -> None:
    sent = message(b"[]", f"telemetry/pump-1/batch/{below}")  # telemetry/<thing>/batch/*
    found = [name for name, rule in RULES.items() if matches(rule.topic_filter, sent.topic)]
    assert found == ["BatchRule"]
    assert json.loads(RULES["BatchRule"].result(sent))["format"] == form
