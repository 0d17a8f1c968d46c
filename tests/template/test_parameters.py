"""What parameters choose, and what is refused of them before anything is made."""

import json
import re
from typing import Any

import pytest

from emulator import states_language
from tests.template.expanded import Template, templates
from tests.template.rendered import Resource, Stack
from tests.template.test_deployable import ROOT, definition_of, resources

PARAMETERS = templates()[ROOT]["Parameters"]


def chosen(logical_id: str, **parameters: str) -> Resource:
    """A resource of a pipeline that is deployed with these parameters and the defaults."""
    defaults = {name: each["Default"] for name, each in PARAMETERS.items()}
    stack = Stack(ROOT, "telemetry", defaults | parameters, templates())
    return next(each for each in stack.resources() if each.logical_id == logical_id)


def test_a_stream_is_on_demand_or_has_the_shards_and_the_hours_that_are_asked_for() -> None:
    on_demand = chosen("ReadingsStream").properties
    assert on_demand["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert "ShardCount" not in on_demand  # Kinesis refuses it on demand
    asked = {"StreamMode": "PROVISIONED", "StreamShards": "3", "StreamRetentionHours": "24"}
    pilot = chosen("ReadingsStream", **asked).properties
    assert (pilot["ShardCount"], pilot["RetentionPeriodHours"]) == ("3", "24")


@pytest.mark.parametrize(
    ("oldest", "policy"),
    [
        ("1.3", "SecurityPolicy_TLS13_1_3_2025_09"),
        ("1.2", "SecurityPolicy_TLS13_1_2_PFS_PQ_2025_09"),
    ],
)
def test_the_api_speaks_no_tls_older_than_is_asked_for(oldest: str, policy: str) -> None:
    assert chosen("Api", MinimumTls=oldest).properties["SecurityPolicy"] == policy


def test_readings_share_records_unless_a_record_each_is_asked_for() -> None:
    def packing(logical_id: str, **asked: str) -> Any:
        return chosen(logical_id, **asked).properties["Environment"]["Variables"]["PACK_READINGS"]

    for function in ("IngestFunction", "DrainFunction", "AggregateFunction", "ReplayFunction"):
        assert packing(function) == "true"
        assert packing(function, PackReadings="false") == "false"


def test_tables_are_protected_once_that_is_asked_for() -> None:
    def protected(**asked: str) -> list[str]:
        replicas = chosen("AlertsTable", **asked).properties["Replicas"]
        return [each["DeletionProtectionEnabled"] for each in replicas]

    assert protected() == ["false"]
    assert protected(ProtectTables="true", ReplicaRegion="eu-north-1") == ["true", "true"]


def test_the_accounts_role_for_logs_is_left_alone_where_that_is_asked_for() -> None:
    def logging(**asked: str) -> str:
        stage = chosen("Apiv1Stage", **asked)
        return str(stage.properties["Variables"]["ApiLogging"])

    # API Gateway API Reference, CreateStage: what a stage variable's value may be
    assert re.fullmatch(r"[A-Za-z0-9-._~:/?#&=,]+", logging())
    assert logging(ManageApiLogging="false") == "elsewhere"
    with pytest.raises(StopIteration):
        chosen("ApiAccount", ManageApiLogging="false")


@pytest.mark.parametrize(
    ("parameter", "right", "wrong"),
    [
        ("Name", ["telemetry", "a1", "a" * 26], ["Telemetry", "a", "a-", "1a", "a_b", "a" * 27]),
        ("ReservedConcurrency", ["0", "10", "1000"], ["", "1", "9", "-1", "00"]),
        (
            "OtherSchemaIds",
            ["", "6f1c8f9e-88aa-47ff-9736-2ca0698fed10=1"],
            ["6f1c8f9e-88aa-47ff-9736-2ca0698fed10", "6f1c8f9e-88aa-47ff-9736-2ca0698fed10=1,"],
        ),
    ],
)
def test_a_value_that_cannot_work_is_refused_before_anything_is_made(
    parameter: str, right: list[str], wrong: list[str]
) -> None:
    pattern = PARAMETERS[parameter]["AllowedPattern"]
    assert [each for each in right if not re.fullmatch(pattern, each)] == []
    assert [each for each in wrong if re.fullmatch(pattern, each)] == []


def broken_rules(template: Template, **parameters: str) -> list[str]:
    """What a template's rules say of parameters, as CloudFormation evaluates them."""
    values: dict[str, Any] = {name: each["Default"] for name, each in PARAMETERS.items()}
    values |= {"AWS::Region": "eu-west-1"} | parameters

    def holds(condition: Any) -> Any:
        ((function, argument),) = condition.items()
        if function == "Ref":
            return str(values[argument])
        arguments = [holds(each) if isinstance(each, dict) else each for each in argument]
        if function == "Fn::Equals":
            return arguments[0] == arguments[1]
        assert function == "Fn::Not", function
        return not arguments[0]

    return [
        assertion["AssertDescription"]
        for rule in template["Rules"].values()
        if holds(rule.get("RuleCondition", {"Fn::Equals": ["", ""]}))
        for assertion in rule["Assertions"]
        if not holds(assertion["Assert"])
    ]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, []),
        ({"ReplicaRegion": "eu-north-1", "StreamMode": "PROVISIONED", "StreamShards": "2"}, []),
        ({"ReplicaRegion": "eu-west-1"}, ["ReplicaRegion is the stack's own region"]),
        ({"StreamShards": "2"}, ["StreamShards is for StreamMode PROVISIONED"]),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(
    parameters: dict[str, str], said: list[str]
) -> None:
    broken = broken_rules(templates()[ROOT], **parameters)
    assert [each.partition(":")[0].partition(";")[0] for each in broken] == said


def test_what_the_embedded_step_functions_refuses_is_in_no_machine() -> None:
    machines = dict(resources(templates(), "AWS::StepFunctions::StateMachine"))
    assert sorted(machines) == ["RebuildMachine", "ReplayMachine"]
    for name, machine in machines.items():
        text = json.dumps(definition_of(machine))
        assert states_language.problems(text) == [], name
        first = json.loads(text)["StartAt"]
        lost = text.replace(f'"StartAt": "{first}"', '"StartAt": "Nowhere"', 1)
        assert states_language.problems(lost) != [], name
