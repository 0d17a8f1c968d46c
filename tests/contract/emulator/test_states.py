"""The embedded Step Functions refuses the definitions that AWS refuses, by API and by stack."""

import json
import time
import uuid
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.waiting import Patience

ROLE = "arn:aws:iam::000000000000:role/machine"
END = {"Type": "Pass", "End": True}
GOOD = json.dumps({"StartAt": "A", "States": {"A": END}})
REPEATED = json.dumps(
    {
        "StartAt": "A",
        "States": {
            "A": {
                "Type": "Map",
                "ItemProcessor": {
                    "ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"},
                    "StartAt": "A",
                    "States": {"A": END},
                },
                "End": True,
            }
        },
    }
)
REFUSED = (
    "Invalid State Machine Definition: 'DUPLICATE_STATE_NAME: Duplicate State name: A "
    "at /States/A/ItemProcessor/States/A'"
)
END_SECONDS_MAX = 10


@pytest.fixture
def states(embedded_endpoint: str, aws_environment: None) -> Any:  # noqa: ARG001
    return boto3.client("stepfunctions", endpoint_url=embedded_endpoint)


@pytest.fixture
def role(embedded_endpoint: str, aws_environment: None) -> str:  # noqa: ARG001
    """A role that Step Functions may assume."""
    iam = boto3.client("iam", endpoint_url=embedded_endpoint)
    principal = {"Service": "states.amazonaws.com"}
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    name = f"machine-{uuid.uuid4()}"
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    return made["Role"]["Arn"]


def test_a_machine_that_repeats_a_name_is_not_created(states: Any) -> None:
    name = f"machine-{uuid.uuid4()}"
    with pytest.raises(ClientError) as caught:
        states.create_state_machine(name=name, definition=REPEATED, roleArn=ROLE)
    error = caught.value.response["Error"]
    assert (error["Code"], error["Message"]) == ("InvalidDefinition", REFUSED)
    listed = states.list_state_machines()["stateMachines"]
    assert name not in {machine["name"] for machine in listed}


def test_a_machine_stays_as_it_is_when_its_update_is_refused(states: Any, role: str) -> None:
    name = f"machine-{uuid.uuid4()}"
    made = states.create_state_machine(name=name, definition=GOOD, roleArn=role)
    arn = made["stateMachineArn"]
    with pytest.raises(ClientError) as caught:
        states.update_state_machine(stateMachineArn=arn, definition=REPEATED)
    assert caught.value.response["Error"]["Code"] == "InvalidDefinition"
    assert states.describe_state_machine(stateMachineArn=arn)["definition"] == GOOD


def test_a_definition_is_validated_without_a_machine(states: Any) -> None:
    assert states.validate_state_machine_definition(definition=GOOD)["result"] == "OK"
    answer = states.validate_state_machine_definition(definition=REPEATED)
    assert answer["result"] == "FAIL"
    (found,) = answer["diagnostics"]
    assert (found["severity"], found["code"]) == ("ERROR", "DUPLICATE_STATE_NAME")


def ended(formation: Any, stack_id: str) -> str:
    """Wait until a stack's operation has ended; return its status."""
    patience = Patience(END_SECONDS_MAX)
    while True:
        (stack,) = formation.describe_stacks(StackName=stack_id)["Stacks"]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return str(stack["StackStatus"])
        assert not patience.is_over()
        time.sleep(0.02)


def test_cloudformation_fails_a_stack_for_a_machine_that_step_functions_refuses(
    embedded_endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    formation = boto3.client("cloudformation", endpoint_url=embedded_endpoint)
    properties = {"RoleArn": ROLE, "DefinitionString": GOOD}
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
    template = {"Resources": {"Machine": machine}}
    name = f"stack-{uuid.uuid4()}"
    body = json.dumps(template)
    stack_id = formation.create_stack(StackName=name, TemplateBody=body)["StackId"]
    assert ended(formation, stack_id) == "CREATE_COMPLETE"
    body = json.dumps(template).replace(json.dumps(GOOD), json.dumps(REPEATED))
    formation.update_stack(StackName=name, TemplateBody=body)
    assert ended(formation, stack_id) == "UPDATE_ROLLBACK_COMPLETE"
    fresh = formation.create_stack(StackName=f"{name}-2", TemplateBody=body)["StackId"]
    assert ended(formation, fresh) == "ROLLBACK_COMPLETE"
    events = formation.describe_stack_events(StackName=fresh)["StackEvents"]
    reasons = [event.get("ResourceStatusReason", "") for event in events]
    assert any(REFUSED in reason and "HandlerErrorCode" in reason for reason in reasons)
