"""The rules engine: its rules, actions and failures, and that no message is lost."""

import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from emulator.mqtt import sql
from emulator.mqtt.aws import permits
from emulator.mqtt.rules import ActionFailed, Rule, RulesEngine, Unreachable, selected_rules
from emulator.mqtt.spool import Published, Spool
from tests.waiting import eventually

TOPIC = "telemetry/pump-1/readings"
STREAM = {"kinesis": {"streamName": "readings", "partitionKey": "${topic(2)}", "roleArn": "r"}}
QUEUE = {"sqs": {"queueUrl": "overflow", "roleArn": "r"}}


def rule(
    name: str = "readings",
    text: str = "SELECT * FROM 'telemetry/+/readings'",
    error_action: Mapping[str, Any] | None = QUEUE,
    **more: Any,
) -> Rule:
    found = {"ruleName": name, "sql": text, "actions": [STREAM], "awsIotSqlVersion": sql.VERSION}
    made = Rule.from_api(f"arn:{name}", {**found, "errorAction": error_action, **more})
    assert made
    return made


class MemoryActions:
    """Records actions; kinds in `broken` fail that many times."""

    def __init__(self, **broken: int) -> None:
        self.broken = broken
        self.done: list[tuple[str, str, bytes]] = []

    def run(self, of: Rule, action: Mapping[str, Any], message: sql.Message, data: bytes) -> None:
        assert message.client_id == "pump-1"
        (kind,) = action
        if self.broken.get(kind, 0):
            self.broken[kind] -= 1
            raise ActionFailed(f"{kind} is away")
        self.done.append((of.name, kind, data))


@pytest.fixture(autouse=True)
def ending(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop each started engine and close each spool at the end."""
    ends: list[Callable[[], Any]] = []
    make, start = Spool.__init__, RulesEngine.start

    def make_and_note(self: Spool, file: Path) -> None:
        make(self, file)
        ends.append(self.close)

    def start_and_note(self: RulesEngine) -> None:
        ends.append(self.stop)
        start(self)

    monkeypatch.setattr(Spool, "__init__", make_and_note)
    monkeypatch.setattr(RulesEngine, "start", start_and_note)
    yield
    for end in reversed(ends):
        end()


def engine(
    tmp_path: Path, rules: Sequence[Rule], actions: MemoryActions
) -> tuple[RulesEngine, Spool]:
    spool = Spool(tmp_path / "spool")
    return RulesEngine(spool, lambda: rules, actions, lambda _seconds: None), spool


def published(topic: str = TOPIC, payload: bytes = b'{"a":1}') -> Published:
    return Published(topic, payload, "pump-1", "cert-1", 1_000)


def test_a_message_goes_to_every_rule_that_selects_it(tmp_path: Path) -> None:
    actions = MemoryActions()
    rules = [
        rule("all"),
        rule("some", "SELECT a FROM 'telemetry/#' WHERE a = 1"),
        rule("none", "SELECT a FROM 'telemetry/#' WHERE a = 2"),
        rule("other", "SELECT * FROM 'other'"),
    ]
    engine(tmp_path, rules, actions)[0].process(published())
    assert actions.done == [("all", "kinesis", b'{"a":1}'), ("some", "kinesis", b'{"a":1}')]


def test_basic_ingest_goes_to_the_rule_that_it_names_and_no_other(tmp_path: Path) -> None:
    actions = MemoryActions()
    rules = [rule("all", "SELECT topic() AS t, topic(2) AS d FROM '#'"), rule("other")]
    running, _ = engine(tmp_path, rules, actions)
    running.process(published(f"$aws/rules/all/{TOPIC}"))
    running.process(published(f"$aws/rules/gone/{TOPIC}"))
    assert actions.done == [("all", "kinesis", b'{"t":"%s","d":"pump-1"}' % TOPIC.encode())]
    assert selected_rules(rules, f"$aws/rules/other/{TOPIC}") == ([rules[1]], TOPIC)
    assert selected_rules(rules, f"$aws/rules/oth/{TOPIC}") == ([], TOPIC)


def test_an_action_is_tried_again_before_it_has_failed(tmp_path: Path) -> None:
    actions = MemoryActions(kinesis=2)
    engine(tmp_path, [rule()], actions)[0].process(published())
    assert [kind for _, kind, _ in actions.done] == ["kinesis"]


def test_the_error_action_gets_a_failed_actions_original_payload(
    tmp_path: Path,
) -> None:
    actions = MemoryActions(kinesis=3)
    engine(tmp_path, [rule()], actions)[0].process(published(payload=b"\x00\xff"))
    ((_, kind, data),) = actions.done
    document = json.loads(data)
    assert kind == "sqs"
    assert base64.b64decode(document.pop("base64OriginalPayload")) == b"\x00\xff"
    assert document.pop("cloudwatchTraceId")
    assert document == {
        "ruleName": "readings",
        "topic": TOPIC,
        "clientId": "pump-1",
        "failures": [
            {
                "failedAction": "KinesisAction",
                "failedResource": "readings",
                "errorMessage": "kinesis is away",
            }
        ],
    }


def test_one_action_of_several_that_fails_is_an_error_and_the_others_are_done(
    tmp_path: Path,
) -> None:
    actions = MemoryActions(kinesis=3)
    both = rule(actions=[STREAM, {"lambda": {"functionArn": "f"}}])
    engine(tmp_path, [both], actions)[0].process(published(f"$aws/rules/readings/{TOPIC}"))
    assert [kind for _, kind, _ in actions.done] == ["lambda", "sqs"]
    document = json.loads(actions.done[1][2])
    assert [each["failedAction"] for each in document["failures"]] == ["KinesisAction"]
    assert document["topic"] == f"$aws/rules/readings/{TOPIC}"  # the whole of it


def test_an_error_action_that_fails_too_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    actions = MemoryActions(kinesis=3, sqs=3)
    engine(tmp_path, [rule(), rule("other")], actions)[0].process(published())
    assert "ErrorActionFailure: readings: sqs is away" in caplog.text
    assert [name for name, _, _ in actions.done] == ["other"]


def test_stored_messages_are_found_in_order(tmp_path: Path) -> None:
    _, spool = engine(tmp_path, [], MemoryActions())
    for number in range(3):
        spool.add(published(payload=b"%d" % number))
    assert [message.payload for _, message in spool.kept()] == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    "broken",
    [
        rule(text="SELECT upper(a) AS a FROM '#'"),
        rule(text="SELECT *, 1 AS a FROM '#'"),  # AWS doesn't document which of the two wins
        rule(awsIotSqlVersion="2015-10-08"),
    ],
)
def test_an_unsupported_rule_is_logged_and_stops_no_other_rule(
    tmp_path: Path, broken: Rule, caplog: pytest.LogCaptureFixture
) -> None:
    actions = MemoryActions()
    engine(tmp_path, [broken, rule("other")], actions)[0].process(published())
    assert [name for name, _, _ in actions.done] == ["other"]
    assert broken.statement is None or "AWS doesn't document" in caplog.text


def test_a_disabled_rule_is_left_out() -> None:
    assert Rule.from_api("arn", {"ruleName": "off", "ruleDisabled": True}) is None


def test_a_new_broker_finds_the_messages_that_the_last_one_accepted(tmp_path: Path) -> None:
    first, spool = engine(tmp_path, [rule()], MemoryActions())
    first.accept(published())
    first.accept(published(payload=b"\x00"))
    spool.close()  # the broker dies before a worker took it
    actions = MemoryActions()
    second, spool = engine(tmp_path, [rule()], actions)
    second.start()
    assert eventually(lambda: spool.kept() == [])
    assert sorted(data for _, _, data in actions.done) == [b"\x00", b'{"a":1}']


def test_a_message_waits_while_the_rules_cannot_be_read(tmp_path: Path) -> None:
    actions, asked = MemoryActions(), threading.Semaphore(0)
    looks: list[int] = []

    def rules() -> Sequence[Rule]:
        looks.append(1)
        asked.release()
        if len(looks) < 3:
            raise Unreachable("not now")
        return [rule()]

    spool = Spool(tmp_path / "spool")
    running = RulesEngine(spool, rules, actions, lambda _seconds: None)
    running.start()
    running.accept(published())
    assert eventually(lambda: spool.kept() == [])
    assert len(actions.done) == 1


@pytest.mark.parametrize(
    ("changed", "may"),
    [
        ({}, True),
        ({"Effect": "Deny"}, False),
        ({"Action": "lambda:GetFunction"}, False),
        ({"Principal": {"Service": "s3.amazonaws.com"}}, False),
        ({"Principal": "*"}, False),
        ({"Condition": {"ArnLike": {"AWS:SourceArn": "arn:other"}}}, False),
        ({"Condition": {}}, True),
    ],
)
def test_a_function_is_invoked_by_the_rule_that_it_permits(
    changed: dict[str, Any], may: bool
) -> None:
    statement = {
        "Effect": "Allow",
        "Action": "lambda:InvokeFunction",
        "Principal": {"Service": "iot.amazonaws.com"},
        "Condition": {"ArnLike": {"AWS:SourceArn": "arn:rule"}},
    }
    assert permits(statement | changed, "arn:rule") is may
