"""The deployed stack: roles, outputs, listening sockets, traces."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from telemetry.aws.schemas import known_ids

from emulator import embedded
from local.deployment import client
from local.instance import state_of, unused
from local.tools import tool
from local.tracing import segments, show_trace
from tests.pipeline.deployed import Pipeline, at, becomes, minutes_ago
from tests.pipeline.roles import as_list, role_statements, stack_roles

WITHOUT_RESOURCE = {  # actions that AWS authorizes on no resource
    "cloudwatch:GetMetricData",
    "dynamodb:ListStreams",
    "glue:GetSchemaVersion",  # by a version's id, which is how it is called
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}
LOGS_POLICY = "AmazonAPIGatewayPushToCloudWatchLogs"  # AWS's own, for API Gateway's access logs


def test_no_role_has_an_unneeded_action_or_resource(pipeline: Pipeline) -> None:
    iam = pipeline.aws("iam")
    roles = stack_roles(pipeline)
    # fourteen functions', two state machines', Firehose's, IoT's two for rules and one to provision
    # devices, and API Gateway's for its logs
    assert len(roles) == 21
    for role in roles:
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        assert {policy["PolicyName"] for policy in attached} <= {LOGS_POLICY}, role
        for statement in role_statements(iam, role):
            actions = set(as_list(statement["Action"]))
            assert statement["Effect"] == "Allow"
            assert not [action for action in actions if "*" in action or "?" in action], role
            if "*" in as_list(statement["Resource"]):
                assert actions <= WITHOUT_RESOURCE, (role, statement)


def test_each_output_names_an_existing_resource(pipeline: Pipeline) -> None:
    aws, outputs = pipeline.aws, pipeline.outputs
    table = lambda name: aws("dynamodb").describe_table(TableName=name)  # noqa: E731
    queue = lambda url: aws("sqs").get_queue_attributes(QueueUrl=url)  # noqa: E731
    topic = lambda arn: aws("sns").get_topic_attributes(TopicArn=arn)  # noqa: E731
    machine = lambda arn: aws("stepfunctions").describe_state_machine(stateMachineArn=arn)  # noqa: E731
    policy = lambda name: aws("iot").get_policy(policyName=name)  # noqa: E731
    fleet = lambda name: aws("iot").describe_provisioning_template(templateName=name)  # noqa: E731
    looks: dict[str, Callable[[str], Any]] = {
        "ApiUrl": lambda _: pipeline.http.get("/health").raise_for_status(),
        "AdminSecretArn": lambda arn: aws("secretsmanager").get_secret_value(SecretId=arn),
        "Name": lambda name: aws("lambda").get_function(FunctionName=f"{name}-aggregate"),
        "StreamName": lambda name: aws("kinesis").describe_stream_summary(StreamName=name),
        "WindowsTable": table,
        "AlertsTable": table,
        "DevicesTable": table,
        "NoticesTopicArn": topic,
        "AlarmsTopicArn": topic,
        "EventBusName": lambda name: aws("events").describe_event_bus(Name=name),
        "NoticesQueueUrl": queue,
        "NoticesDeadLettersUrl": queue,
        "OverflowUrl": queue,
        "FailuresQueueUrl": queue,
        "RedriveFunctionName": lambda name: aws("lambda").get_function(FunctionName=name),
        "FailuresBucket": lambda name: aws("s3").head_bucket(Bucket=name),
        "ArchiveBucket": lambda name: aws("s3").head_bucket(Bucket=name),
        "ArchiveDatabase": lambda name: aws("glue").get_table(DatabaseName=name, Name="readings"),
        "ReplayMachineArn": machine,
        "RebuildMachineArn": machine,
        "SchemaRegistryArn": lambda arn: aws("glue").get_registry(RegistryId={"RegistryArn": arn}),
        "ReadingSchemaIds": known_ids,
        "BatchRuleName": lambda name: aws("iot").get_topic_rule(ruleName=name),
        "DevicePolicyName": policy,
        "ClaimPolicyName": policy,
        "ProvisioningTemplateName": fleet,
        "KeyId": lambda key: aws("kms").describe_key(KeyId=key),
    }
    assert outputs.keys() == looks.keys()
    for name, look in looks.items():
        look(outputs[name])  # raises where there is no such thing


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which only Linux has")
def test_nothing_of_the_embedded_aws_listens_off_loopback(pipeline: Pipeline) -> None:
    pipeline.send("listened-to", at(minutes_ago(1), 1, temperature=20.0))  # it sends segments
    state = pipeline.state
    found = set(listening(pipeline.state.pid))
    assert {("127.0.0.1", state.port), ("127.0.0.1", state.mqtt_port)} <= found
    assert {address for address, _ in found} <= {"127.0.0.1", "::1"}


def listening(group: int) -> Iterator[tuple[str, int]]:
    """Return address and port of every listening socket of the process group: TCP and UDP."""
    sockets = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) == group:
                sockets |= {str(file.readlink()) for file in (process / "fd").iterdir()}
    names = {"0100007F": "127.0.0.1", "00000000000000000000000001000000": "::1"}
    hearing = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}  # listens; has no other end
    for table, state in hearing.items():
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == state and f"socket:[{columns[9]}]" in sockets:
                address, port = columns[1].split(":")
                yield names.get(address, address), int(port, 16)


def test_two_instances_share_nothing(pipeline: Pipeline) -> None:
    other = unused("test")
    other.create()
    try:
        aws = embedded.start(other, tool("aws", "python"))
        try:
            assert aws.port != pipeline.state.port
            assert other.folder != pipeline.instance.folder
            with closing(client(state_of(aws), "kinesis")) as kinesis:
                assert kinesis.list_streams()["StreamNames"] == []  # has none of the other's
        finally:
            aws.stop()
        assert not other.is_running()
        assert pipeline.instance.is_running()
    finally:
        other.remove()


def test_a_reading_can_be_followed_from_the_post_to_the_alert(pipeline: Pipeline) -> None:
    reading = at(minutes_ago(2), 1, temperature=40.0)
    trace_id = pipeline.send("traced", reading)["trace_id"]
    traces = lambda: [alert["trace_id"] for alert in pipeline.alerts("traced")]  # noqa: E731
    becomes(traces, [trace_id], "the trace on the alert")

    def continued() -> set[str]:
        """Return the names of subsegments, of other traces, that link to this one."""
        return {
            segment["name"]
            for segment in segments(pipeline.instance)
            if segment.get("annotations", {}).get("source_trace_id") == trace_id
            and trace_id in [link["trace_id"] for link in segment.get("links", [])]
            and segment["trace_id"] != trace_id
        }

    stages = {"windows", "episode", "notices", "notice"}  # aggregate, alert, dispatch, notify
    becomes(continued, stages, "segments that continue the trace")
    shown = StringIO()
    show_trace(pipeline.instance, trace_id, Console(file=shown, width=200))
    assert stages <= set(shown.getvalue().replace("─", " ").split())
