"""A stack's life: deployed, updated, deleted, and deployed again on the data that it left."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from emulator.errors import StepFailed
from local import deployment
from local.fleet.credentials import issue_certificates
from local.instance import ROOT, Instance, named
from local.session import deploy_stack
from local.view import Steps
from ops.target import described
from tests import writers
from tests.pipeline.deployed import Pipeline, at, bearer, becomes, minutes_ago
from tests.pipeline.instances import own_instance
from tests.pipeline.mqtt import connected

ADOPT_SECONDS_MAX = 600.0  # for one that hangs
DEVICE, WIRED = "long-lived", "long-wired"


@pytest.fixture(scope="module")
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An instance of this module alone, since its stack is deleted."""
    name = request.config.getoption("--instance")
    steps = Steps(Console(file=StringIO()))
    with own_instance(steps, built_by=named(name) if name else None, parameters={}) as own:
        yield own


@contextmanager
def deployed(instance: Instance) -> Iterator[Pipeline]:
    """Return the present pipeline, at its present URL."""
    with Pipeline(instance) as pipeline:
        yield pipeline


def parameters_of(pipeline: Pipeline) -> dict[str, str]:
    """Return the stack's parameters that aren't empty."""
    (stack,) = pipeline.aws("cloudformation").describe_stacks(StackName="telemetry")["Stacks"]
    given = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    return {name: value for name, value in given.items() if value}


def delete(pipeline: Pipeline) -> None:
    """Run `sam delete` as an operator does, until the stack is gone: SAM looks every 30 s."""
    instance, state = pipeline.instance, pipeline.state
    arguments = ["--no-prompts", "--stack-name", state.stack, "--region", state.region]
    sam = deployment.SamRun(instance, instance.endpoint, ["delete", *arguments])
    try:
        formation = pipeline.aws("cloudformation")
        becomes(lambda: described(formation, state.stack), None, f"what is left; see {sam.log}")
    finally:
        sam.end()


def adopted(instance: Instance) -> dict[str, str]:
    """Run `python -m ops adopt`; return the parameters that it wants for the deployment."""
    answer = subprocess.run(
        [sys.executable, "-m", "ops", "adopt", "--env", "local", "--yes"],
        cwd=ROOT,
        env=deployment.tool_environment(instance.folder, instance.endpoint),
        capture_output=True,
        text=True,
        timeout=ADOPT_SECONDS_MAX,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    make, deploy, environment, arguments = shlex.split(answer.stdout.splitlines()[-1])
    assert (make, deploy, environment) == ("make", "deploy", "ENV=local")
    options = arguments.removeprefix("ARGS=").split()
    assert options[0] == "--parameter-overrides"
    return dict(each.split("=", 1) for each in options[1:])


def items(pipeline: Pipeline) -> dict[str, int]:
    """Return the number of items in the tables that don't change without readings."""
    dynamodb = pipeline.aws("dynamodb")
    names = ("devices", "windows")
    return {name: dynamodb.scan(TableName=f"telemetry-{name}")["Count"] for name in names}


def left(pipeline: Pipeline) -> dict[str, Any]:
    """Return the stack's remaining data, from the services themselves."""
    outputs = pipeline.outputs
    key = pipeline.aws("kms").describe_key(KeyId=outputs["KeyId"])["KeyMetadata"]["KeyState"]
    buckets = {each["Name"] for each in pipeline.aws("s3").list_buckets()["Buckets"]}
    policy = pipeline.aws("iot").get_policy(policyName=outputs["DevicePolicyName"])
    return {
        "items": items(pipeline),
        "key": key,
        "buckets": {outputs["ArchiveBucket"], outputs["FailuresBucket"]} <= buckets,
        "overflow": pipeline.waiting("OverflowUrl"),
        "policy": policy["policyName"],
    }


def post_avro(pipeline: Pipeline, schema_id: Any, document: dict[str, Any]) -> int:
    """Post a device's Avro reading with its firmware's schema id; return the status."""
    body = writers.header(schema_id) + writers.datum(document, writers.schema(1))
    headers = {"Content-Type": "application/avro"} | bearer(pipeline.token(DEVICE))
    path = f"/devices/{DEVICE}/readings"
    return pipeline.http.post(path, content=body, headers=headers).status_code


def forgotten(pipeline: Pipeline) -> set[str]:
    """Delete the leftovers of a refused deployment; return the resources that exist already."""
    formation = pipeline.aws("cloudformation")
    told = formation.describe_events(StackName="telemetry")["OperationEvents"]
    formation.delete_stack(StackName="telemetry")
    formation.get_waiter("stack_delete_complete").wait(
        StackName="telemetry", WaiterConfig={"Delay": 1}
    )
    return {
        each["LogicalResourceId"]
        for each in told
        if each.get("ValidationStatusReason", "").endswith("already exists.")
    }


def test_a_stack_is_updated_deleted_and_deployed_again_on_its_data(instance: Instance) -> None:
    first = minutes_ago(5)
    certificate = issue_certificates(instance, [WIRED])[WIRED]
    with deployed(instance) as pipeline:
        pipeline.send(DEVICE, at(first, 1, temperature=21.0), at(first, 2, temperature=40.0))
        schema_id = pipeline.schema_ids()[0]
        becomes(lambda: pipeline.counts(DEVICE), {first: 2}, "the first readings")
        becomes(lambda: len(pipeline.alerts(DEVICE)), 1, "the alert")
        parameters = parameters_of(pipeline) | {"WindowRetentionDays": "60"}

    deploy_stack(instance, parameters)
    with deployed(instance) as pipeline:
        assert parameters_of(pipeline) == parameters
        assert pipeline.counts(DEVICE) == {first: 2}
        before, tokens = left(pipeline), dict(pipeline.state.tokens)

        delete(pipeline)
        assert left(pipeline) == before
        assert pipeline.aws("kinesis").list_streams()["StreamNames"] == []

        with pytest.raises(StepFailed):
            deploy_stack(instance, parameters)
        assert {"ArchiveBucket", "FailuresBucket"} <= forgotten(pipeline)
        assert left(pipeline) == before

    next_parameters = adopted(instance)
    assert parameters.items() <= next_parameters.items()
    assert next_parameters["OtherSchemaIds"].startswith(f"{schema_id}=1,")
    deploy_stack(instance, next_parameters)
    with deployed(instance) as pipeline:
        assert pipeline.state.tokens == tokens
        assert left(pipeline)["items"] == before["items"]
        assert pipeline.counts(DEVICE) == {first: 2}
        assert len(pipeline.alerts(DEVICE)) == 1
        assert schema_id not in pipeline.schema_ids()
        pipeline.send(DEVICE, at(first, 2, temperature=40.0), at(first, 3, temperature=21.0))
        old = {"device_id": DEVICE, **at(first, 4, temperature=21.0)}
        assert post_avro(pipeline, schema_id, old) == 202
        becomes(lambda: pipeline.counts(DEVICE), {first: 4}, "old and new readings")
        with connected(pipeline, WIRED, certificate) as device:
            device.publish(f"telemetry/{WIRED}/readings", at(first, 1, humidity=5.0))
            device.publish(f"telemetry/{WIRED}/batch/json", [at(first, 2, humidity=5.0)])
        becomes(lambda: pipeline.counts(WIRED), {first: 2}, "readings by the old certificate")
