"""IoT policies: the actions that the deployed policies allow a certificate."""

import json
from typing import Any

import pytest

from emulator.mqtt.aws import Principal
from emulator.mqtt.broker import variables_of
from emulator.mqtt.policy import PolicyUnsupported, allows
from tests.template import everywhere

ARN = "arn:aws:iot:us-east-1:123456789012:"
POLICIES = everywhere("AWS::IoT::Policy")


def deployed(name: str) -> Any:
    """Return a policy of the template, with CloudFormation's values filled in."""
    text = json.dumps(POLICIES[name]["PolicyDocument"])
    for variable, value in {
        "AWS::Partition": "aws",
        "AWS::Region": "us-east-1",
        "AWS::AccountId": "123456789012",
        "BatchRule": "batch_rule",
        "ProvisioningTemplate": "fleet",
    }.items():
        text = text.replace(f"${{{variable}}}", value)
    return json.loads(text.replace("${!", "${"))


def may(action: str, resource: str, client_id: str = "pump-1", *things: str) -> bool:
    principal = Principal("1f", True, things or ("pump-1",), ())
    document = deployed("DevicePolicy")
    return allows([document], action, ARN + resource, variables_of(principal, client_id))


@pytest.mark.parametrize(
    ("action", "resource", "is_allowed"),
    [
        ("iot:Connect", "client/pump-1", True),
        ("iot:Connect", "client/pump-2", False),
        ("iot:Publish", "topic/telemetry/pump-1/readings", True),
        ("iot:Publish", "topic/telemetry/pump-1/batch/json", True),
        ("iot:Publish", "topic/$aws/rules/batch_rule/telemetry/pump-1/batch/avro", True),
        ("iot:Publish", "topic/telemetry/pump-1/batch/a\nb", True),  # * is any character
        ("iot:Publish", "topic/telemetry/pump-2/readings", False),
        ("iot:Publish", "topic/telemetry/pump-1/readings/x", False),
        ("iot:Publish", "topic/telemetry/pump-1x/batch/json", False),
        ("iot:Publish", "topic/$aws/rules/batch_rule/telemetry/pump-2/batch/avro", False),
        # messages that the rule's WHERE leaves out would be lost there
        ("iot:Publish", "topic/$aws/rules/reading_rule/telemetry/pump-1/readings", False),
        ("iot:RetainPublish", "topic/telemetry/pump-1/readings", False),
        ("iot:Subscribe", "topicfilter/telemetry/pump-1/readings", False),
        ("iot:Receive", "topic/telemetry/pump-1/readings", False),
    ],
)
def test_a_device_publishes_under_its_own_name_and_does_nothing_else(
    action: str, resource: str, is_allowed: bool
) -> None:
    assert may(action, resource) is is_allowed


def test_a_certificate_that_is_attached_to_no_thing_of_the_client_id_may_not_connect() -> None:
    assert may("iot:Connect", "client/pump-1", "pump-1", "pump-2") is False
    assert may("iot:Connect", "client/pump-2", "pump-2", "pump-2") is True
    assert may("iot:Publish", "topic/telemetry/pump-1/readings", "pump-2", "pump-2") is False


def test_a_device_with_the_name_of_a_claim_may_not_connect() -> None:
    assert may("iot:Connect", "client/claim-dev", "claim-dev", "claim-dev") is False
    assert may("iot:Connect", "client/claimed", "claimed", "claimed") is True


def test_a_things_name_is_not_a_pattern() -> None:
    assert may("iot:Publish", "topic/telemetry/pump-1/readings", "*", "*") is False
    assert may("iot:Publish", "topic/telemetry/*/readings", "*", "*") is True


@pytest.mark.parametrize(
    ("action", "resource", "is_allowed"),
    [
        ("iot:Connect", "client/claim-7", True),
        ("iot:Connect", "client/pump-1", False),
        ("iot:Publish", "topic/$aws/certificates/create/json", True),
        ("iot:Publish", "topic/$aws/certificates/create-from-csr/json", True),
        ("iot:Publish", "topic/$aws/provisioning-templates/fleet/provision/json", True),
        ("iot:Publish", "topic/$aws/provisioning-templates/other/provision/json", False),
        ("iot:Publish", "topic/telemetry/pump-1/readings", False),
        ("iot:Subscribe", "topicfilter/$aws/certificates/create/json/accepted", True),
        ("iot:Receive", "topic/$aws/certificates/create-from-csr/json/rejected", True),
        ("iot:Subscribe", "topicfilter/telemetry/pump-1/readings", False),
        ("iot:Subscribe", "topicfilter/#", False),
    ],
)
def test_a_claim_asks_for_a_certificate_and_does_nothing_else(
    action: str, resource: str, is_allowed: bool
) -> None:
    variables = variables_of(Principal("1f", True, (), ()), "claim-7")
    assert allows([deployed("ClaimPolicy")], action, ARN + resource, variables) is is_allowed


def statement(effect: str = "Allow", **more: Any) -> dict[str, Any]:
    return {"Statement": {"Effect": effect, "Action": "iot:*", "Resource": "*", **more}}


def test_a_denial_wins_wherever_it_is() -> None:
    assert allows([statement()], "iot:Connect", "x", {}) is True
    assert allows([statement(), statement("Deny")], "iot:Connect", "x", {}) is False
    assert allows([statement("Deny"), statement()], "iot:Connect", "x", {}) is False
    assert allows([], "iot:Connect", "x", {}) is False


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"Bool": {"attached": "true"}}, True),
        ({"Bool": {"attached": True}}, True),
        ({"Bool": {"attached": "false"}}, False),
        ({"Bool": {"gone": "false"}}, False),
        ({"StringEquals": {"name": ["b", "a"]}}, True),
        ({"StringEquals": {"name": "${name}"}}, True),
        ({"StringEquals": {"name": "${gone}"}}, False),
        ({"StringEquals": {"name": "?"}}, False),
        ({"StringLike": {"name": "?"}}, True),
        ({"StringLike": {"name": "${*}"}}, False),
        ({"StringEquals": {"name": "a"}, "Bool": {"attached": "false"}}, False),
    ],
)
def test_a_statement_applies_where_all_its_conditions_hold(
    condition: dict[str, Any], holds: bool
) -> None:
    variables = {"attached": "true", "name": "a"}
    assert allows([statement(Condition=condition)], "iot:Connect", "x", variables) is holds


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"Condition": {"DateGreaterThan": {"a": "1"}}}, "Condition DateGreaterThan"),
        ({"NotResource": "*"}, "NotResource"),
    ],
)
def test_an_unsupported_element_is_refused_by_name(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(PolicyUnsupported, match=problem):
        allows([statement(**more)], "iot:Connect", "x", {})
