"""Event source mappings in the embedded AWS's API, compared with recordings from AWS."""

import io
import json
import sqlite3
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from emulator.gaps import mapping_api
from tests.contract.conftest import embedded_client
from tests.recordings import ACCOUNT, Recording, as_recorded, needed
from tests.waiting import Patience

HERE = {"<region>": "us-east-1", "<partition>": "aws", ACCOUNT: "0" * 12}
ASSUMED_BY_LAMBDA = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        },
    }
)
READS_EVERY_SOURCE = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Action": ["dynamodb:*", "kinesis:*", "sqs:*"],
            "Resource": "*",
        },
    }
)
INVALID = "InvalidParameterValueException"
STREAM_DEFAULTS = {
    "BatchSize": 100,
    "BisectBatchOnFunctionError": False,
    "DestinationConfig": {"OnFailure": {}},
    "FunctionResponseTypes": [],
    "MaximumBatchingWindowInSeconds": 0,
    "MaximumRecordAgeInSeconds": -1,
    "MaximumRetryAttempts": -1,
    "ParallelizationFactor": 1,
    "StateTransitionReason": "User action",
    "TumblingWindowInSeconds": 0,
}
CHANGES = {
    "BatchSize": 7,
    "BisectBatchOnFunctionError": True,
    "DestinationConfig": {"OnFailure": {"Destination": "arn:aws:s3:::failures"}},
    "FilterCriteria": {"Filters": [{"Pattern": '{"data":{"a":[1]}}'}]},
    "FunctionResponseTypes": ["ReportBatchItemFailures"],
    "MaximumBatchingWindowInSeconds": 3,
    "MaximumRecordAgeInSeconds": 60,
    "MaximumRetryAttempts": 0,
    "ParallelizationFactor": 2,
    "TumblingWindowInSeconds": 30,
}


def differences(name: str, **answers: Any) -> list[str]:
    """Return the differences between answers and a recording, by the recording's names."""
    recording = Recording(name, HERE)
    expected = {part: recording.content[part] for part in answers}
    return list(recording.differences(as_recorded(answers), expected))


@dataclass
class Aws:
    """The embedded AWS with a function."""

    endpoint: str
    function: str

    def client(self, service: str, **options: Any) -> Any:
        if not options:
            return embedded_client(self.endpoint, service)
        make: Any = boto3.client
        return make(service, endpoint_url=self.endpoint, **options)

    def create(self, source: str, **settings: Any) -> dict[str, Any]:
        settings = {"StartingPosition": "TRIM_HORIZON"} | settings
        answer: dict[str, Any] = self.client("lambda").create_event_source_mapping(
            EventSourceArn=source, FunctionName=self.function, **settings
        )
        return answer

    def update(self, mapping: dict[str, Any], **settings: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.client("lambda").update_event_source_mapping(
            UUID=mapping["UUID"], **settings
        )
        return answer

    def get(self, mapping: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self.client("lambda").get_event_source_mapping(
            UUID=mapping["UUID"]
        )
        return answer

    def queue(self, suffix: str = "", **attributes: str) -> str:
        """Make a queue; return its ARN."""
        name = f"queue-{uuid.uuid4()}{suffix}"
        self.client("sqs").create_queue(QueueName=name, Attributes=attributes)
        return f"arn:aws:sqs:us-east-1:000000000000:{name}"

    def map(self, queue: str, **settings: Any) -> dict[str, Any]:
        """Create a mapping of a queue, without a starting position."""
        answer: dict[str, Any] = self.client("lambda").create_event_source_mapping(
            EventSourceArn=queue, FunctionName=self.function, **settings
        )
        return answer

    def wait_until(self, mapping: dict[str, Any], member: str, value: str) -> None:
        patience = Patience(20)
        while self.get(mapping)[member] != value:
            assert not patience.is_over(), self.get(mapping)
            time.sleep(0.05)

    def mappings(self) -> list[dict[str, Any]]:
        listed = self.client("lambda").list_event_source_mappings(FunctionName=self.function)
        found: list[dict[str, Any]] = listed["EventSourceMappings"]
        return found


@pytest.fixture
def aws(embedded_endpoint: str, aws_environment: None) -> Iterator[Aws]:  # noqa: ARG001
    """The embedded AWS with a test's own function; its mappings are deleted afterwards."""
    own = Aws(embedded_endpoint, f"mapped-{uuid.uuid4()}")
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("handler.py", "def handler(event, context): pass")
    iam = own.client("iam")
    role = iam.create_role(RoleName=own.function, AssumeRolePolicyDocument=ASSUMED_BY_LAMBDA)
    iam.put_role_policy(
        RoleName=own.function, PolicyName="reading", PolicyDocument=READS_EVERY_SOURCE
    )
    functions = own.client("lambda")
    functions.create_function(
        FunctionName=own.function,
        Runtime="python3.13",
        Role=role["Role"]["Arn"],
        Handler="handler.handler",
        Code={"ZipFile": code.getvalue()},
    )
    yield own
    for mapping in own.mappings():
        functions.delete_event_source_mapping(UUID=mapping["UUID"])
    functions.delete_function(FunctionName=own.function)
    for policy in iam.list_role_policies(RoleName=own.function)["PolicyNames"]:
        iam.delete_role_policy(RoleName=own.function, PolicyName=policy)
    iam.delete_role(RoleName=own.function)


@pytest.fixture
def stream(aws: Aws) -> str:
    name = f"stream-{uuid.uuid4()}"
    aws.client("kinesis").create_stream(StreamName=name, ShardCount=1)
    return f"arn:aws:kinesis:us-east-1:000000000000:stream/{name}"


@pytest.fixture
def changes(aws: Aws) -> str:
    """A table's stream."""
    created = aws.client("dynamodb").create_table(
        TableName=f"table-{uuid.uuid4()}",
        KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    return str(created["TableDescription"]["LatestStreamArn"])


def table_of(changes: str) -> str:
    """Return the name of a stream's table."""
    return changes.split("/")[1]


@dataclass
class Refusal:
    """An error's code, message and HTTP status."""

    code: str = ""
    message: str = ""
    http_status: int = 0


def refused(call: Callable[[], Any]) -> Any:
    """Return the service's answer to a call that it must refuse."""
    with pytest.raises(ClientError) as error:
        call()
    return error.value.response


def refusal(call: Callable[[], Any]) -> Refusal:
    """Return code, message and status of a call that the service must refuse."""
    response = refused(call)
    found = response["Error"]
    return Refusal(found["Code"], found["Message"], response["ResponseMetadata"]["HTTPStatusCode"])


class TestAnswers:
    @needed
    def test_a_streams_mapping_has_all_of_awss_members_and_defaults(
        self, aws: Aws, stream: str
    ) -> None:
        created = aws.create(stream, StartingPosition="LATEST")
        name = "kinesis__create_kinesis_event_source_mapping"
        assert differences(name, create_event_source_mapping_response=created) == []

    @needed
    def test_a_tables_mapping_has_them_too(self, aws: Aws, changes: str) -> None:
        created = aws.create(
            changes, BatchSize=1, MaximumBatchingWindowInSeconds=1, MaximumRetryAttempts=1
        )
        name = "dynamodb__dynamodb_event_source_mapping"
        assert differences(name, create_event_source_mapping_response=created) == []

    @needed
    def test_a_mapping_that_has_worked_is_disabling_with_its_last_result(
        self, aws: Aws, changes: str
    ) -> None:
        name = "dynamodb__disabled_dynamodb_event_source_mapping"
        created = aws.create(changes, MaximumBatchingWindowInSeconds=1)
        aws.client("dynamodb").put_item(TableName=table_of(changes), Item={"name": {"S": "a"}})
        aws.wait_until(created, "LastProcessingResult", "OK")
        updated = aws.update(created, Enabled=False)
        parts = {"create_event_source_mapping_result": created}
        assert differences(name, **parts, update_event_source_mapping_result=updated) == []

    @needed
    def test_a_mapping_is_listed_when_its_table_is_deleted(self, aws: Aws, changes: str) -> None:
        name = "dynamodb__deletion_event_source_mapping_with_dynamodb"
        created = aws.create(changes)
        aws.wait_until(created, "State", "Enabled")
        aws.client("dynamodb").delete_table(TableName=table_of(changes))
        listed = aws.client("lambda").list_event_source_mappings(EventSourceArn=changes)
        for mapping in listed["EventSourceMappings"]:  # the engine may have noticed
            mapping["LastProcessingResult"] = created["LastProcessingResult"]
        parts = {"create_event_source_mapping_result": created}
        assert differences(name, **parts, list_event_source_mapping_result=listed) == []

    def test_get_and_list_show_the_created_mapping(self, aws: Aws, stream: str) -> None:
        created = shown(aws.create(stream))
        assert STREAM_DEFAULTS.items() <= created.items()
        assert shown(aws.get(created)) == created
        assert [shown(each) for each in aws.mappings()] == [created]

    def test_every_setting_is_kept(self, aws: Aws, stream: str) -> None:
        created = aws.create(stream, **CHANGES)
        assert CHANGES.items() <= created.items()
        assert CHANGES.items() <= aws.get(created).items()

    def test_every_setting_can_be_changed_and_the_others_stay(self, aws: Aws, stream: str) -> None:
        created = aws.create(stream, BatchSize=9)
        for name, value in CHANGES.items():
            before = shown(aws.get(created))
            aws.update(created, **{name: value})
            assert shown(aws.get(created)) == before | {name: value}

    def test_filters_and_destination_can_be_removed(self, aws: Aws, stream: str) -> None:
        created = aws.create(stream, **CHANGES)
        aws.update(created, FilterCriteria={}, DestinationConfig={"OnFailure": {}})
        found = aws.get(created)
        assert "FilterCriteria" not in found
        assert found["DestinationConfig"] == {"OnFailure": {}}

    def test_a_start_at_a_time_is_kept(self, aws: Aws, stream: str) -> None:
        start = {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 1_700_000_000}
        found = aws.get(aws.create(stream, **start))
        assert found["StartingPosition"] == "AT_TIMESTAMP"
        assert found["StartingPositionTimestamp"].timestamp() == 1_700_000_000

    def test_last_modified_is_a_time(self, aws: Aws, stream: str) -> None:
        assert abs(aws.create(stream)["LastModified"].timestamp() - time.time()) < 60

    def test_a_mapping_is_first_creating_and_last_deleting(self, aws: Aws, stream: str) -> None:
        created = aws.create(stream)
        assert created["State"] == "Creating"
        functions = aws.client("lambda")
        deleted = functions.delete_event_source_mapping(UUID=created["UUID"])
        assert deleted["State"] == "Deleting"

    def test_a_disabled_mapping_ends_up_disabled(self, aws: Aws, stream: str) -> None:
        created = aws.create(stream)
        assert aws.update(created, Enabled=False)["State"] in {"Disabling", "Disabled"}
        assert aws.get(created)["State"] in {"Disabling", "Disabled"}
        aws.update(created, Enabled=True)
        assert aws.get(created)["State"] in {"Creating", "Enabling", "Enabled"}

    def test_a_queues_mapping_has_no_settings_of_a_streams(self, aws: Aws) -> None:
        created = aws.map(aws.queue())
        assert created["BatchSize"] == 10
        assert not created.keys() & {
            "StartingPosition",
            "MaximumRetryAttempts",
            "DestinationConfig",
        }

    @pytest.mark.as_aws("queue_states", "inferred")
    @pytest.mark.parametrize(
        ("was", "wanted", "state"),
        [
            (True, True, "Updating"),
            (True, False, "Disabling"),
            (False, True, "Enabling"),
            (False, False, "Disabled"),
        ],
    )
    def test_an_update_of_a_queues_mapping_shows_its_coming_state(
        self, aws: Aws, was: bool, wanted: bool, state: str
    ) -> None:
        created = aws.map(aws.queue(), Enabled=was)
        assert created["State"] == ("Creating" if was else "Disabled")
        assert aws.update(created, Enabled=wanted)["State"] == state
        assert aws.get(created)["State"] == ("Enabled" if wanted else "Disabled")


def shown(answer: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping without the fields that change by themselves."""
    moving = {"State", "LastProcessingResult", "LastModified", "ResponseMetadata"}
    return {name: value for name, value in answer.items() if name not in moving}


class TestRefusals:
    """Messages are AWS's if they were recorded or documented."""

    @needed
    def test_a_second_mapping_of_a_stream_to_the_function(self, aws: Aws, stream: str) -> None:
        parts = {"create": aws.create(stream, StartingPosition="LATEST")}
        parts["error"] = refused(lambda: aws.create(stream))
        assert differences("kinesis__duplicate_event_source_mappings", **parts) == []

    @needed
    def test_a_second_mapping_of_a_table_to_the_function(self, aws: Aws, changes: str) -> None:
        settings = {"MaximumBatchingWindowInSeconds": 1, "MaximumRetryAttempts": 1}
        parts = {"create": aws.create(changes, **settings)}
        parts["error"] = refused(lambda: aws.create(changes, **settings))
        assert differences("dynamodb__duplicate_event_source_mappings", **parts) == []

    @needed
    @pytest.mark.parametrize(
        ("service", "source"),
        [
            ("kinesis", "stream/test-foobar-81ded7e8"),
            ("dynamodb", "table/test-table-4a53f4e8/stream/2025-02-22T03:03:25.490"),
        ],
    )
    def test_a_missing_stream(self, aws: Aws, service: str, source: str) -> None:
        arn = f"arn:aws:{service}:us-east-1:000000000000:{source}"
        error = refused(lambda: aws.create(arn))
        name = f"{service}__esm_with_not_existing_{service}_stream"
        assert differences(name, error=error) == []

    @needed
    @pytest.mark.parametrize(
        ("recording", "pattern"),
        [
            ("single-string", "simple string"),
            ("single-string", '{"data":"a"}'),
            ("single-string", "[]"),
            ("single-string", ""),
            ("eventName_INSERT_123", '[{"eventName": ["INSERT"=123}]'),
        ],
    )
    def test_an_invalid_pattern(self, aws: Aws, changes: str, recording: str, pattern: str) -> None:
        name = f"dynamodb__dynamodb_invalid_event_filter_{recording}"
        filters = {"FilterCriteria": {"Filters": [{"Pattern": pattern}]}}
        error = refused(lambda: aws.create(changes, **filters))
        assert differences(name, exception_event_source_creation=error) == []
        created = aws.create(changes)
        error = refused(lambda: aws.update(created, **filters))
        assert differences(name, exception_event_source_creation=error) == []

    def test_a_pattern_that_is_too_long(self, aws: Aws, stream: str) -> None:
        longest = json.dumps({"data": ["x" * 4_082]})
        assert len(longest) == 4_096
        pattern = longest.replace("xx", "xxx", 1)
        filters = {"Filters": [{"Pattern": longest}, {"Pattern": pattern}]}
        found = refusal(lambda: aws.create(stream, FilterCriteria=filters))
        assert found.code == "ValidationException"
        assert found.message.endswith(
            "at 'filterCriteria.filters.2.member.pattern' failed to satisfy constraint: "
            "Member must have length less than or equal to 4096"
        )
        aws.create(stream, FilterCriteria={"Filters": [{"Pattern": longest}]})

    def test_more_than_ten_filters(self, aws: Aws, stream: str) -> None:
        eleven = [{"Pattern": '{"data":["a"]}'}] * 11
        found = refusal(lambda: aws.create(stream, FilterCriteria={"Filters": eleven}))
        assert (found.code, "11 filters" in found.message) == (INVALID, True)
        aws.create(stream, FilterCriteria={"Filters": eleven[:10]})

    @pytest.mark.parametrize(
        ("member", "value", "bound"),
        [
            ("batchSize", 0, "greater than or equal to 1"),
            ("batchSize", 10_001, "less than or equal to 10000"),
            ("maximumBatchingWindowInSeconds", 301, "less than or equal to 300"),
            ("parallelizationFactor", 0, "greater than or equal to 1"),
            ("parallelizationFactor", 11, "less than or equal to 10"),
            ("maximumRecordAgeInSeconds", 604_801, "less than or equal to 604800"),
            ("maximumRetryAttempts", -2, "greater than or equal to -1"),
            ("maximumRetryAttempts", 10_001, "less than or equal to 10000"),
            ("tumblingWindowInSeconds", 901, "less than or equal to 900"),
        ],
    )
    def test_a_number_out_of_range(
        self, aws: Aws, stream: str, member: str, value: int, bound: str
    ) -> None:
        expected = Refusal(
            "ValidationException",
            f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy "
            f"constraint: Member must have value {bound}",
            400,
        )
        setting = {member[0].upper() + member[1:]: value}
        unchecked = unchecking(aws)
        request = {"EventSourceArn": stream, "FunctionName": aws.function, **setting}
        create = unchecked.create_event_source_mapping
        assert refusal(lambda: create(StartingPosition="LATEST", **request)) == expected
        created = aws.create(stream)
        update = unchecked.update_event_source_mapping
        assert refusal(lambda: update(UUID=created["UUID"], **setting)) == expected
        assert shown(aws.get(created)) == shown(created), "nothing has changed"

    def test_all_values_out_of_range_are_named_at_once(self, aws: Aws, stream: str) -> None:
        found = refusal(lambda: aws.create(stream, BatchSize=20_000, TumblingWindowInSeconds=999))
        assert found.message.startswith("2 validation errors detected: Value '20000' at 'batchS")
        assert "; Value '999' at 'tumblingWindowInSeconds' failed" in found.message

    @pytest.mark.parametrize("age", [0, 59])
    def test_an_age_under_a_minute(self, aws: Aws, stream: str, age: int) -> None:
        assert refusal(lambda: aws.create(stream, MaximumRecordAgeInSeconds=age)) == Refusal(
            INVALID,
            "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 "
            "(inclusive)",
            400,
        )

    def test_no_starting_position(self, aws: Aws, stream: str) -> None:
        found = refusal(
            lambda: aws.client("lambda").create_event_source_mapping(
                EventSourceArn=stream, FunctionName=aws.function
            )
        )
        assert found.code == INVALID
        assert "Value null at 'startingPosition' failed" in found.message

    def test_a_starting_position_that_is_none(self, aws: Aws, stream: str) -> None:
        found = refusal(lambda: aws.create(stream, StartingPosition="EARLIEST"))
        assert found.code == "ValidationException"
        assert "Value 'EARLIEST' at 'startingPosition'" in found.message
        assert "[LATEST, AT_TIMESTAMP, TRIM_HORIZON]" in found.message

    @pytest.mark.parametrize(
        "start",
        [
            {"StartingPosition": "AT_TIMESTAMP"},
            {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 32_503_680_000},
            {"StartingPosition": "LATEST", "StartingPositionTimestamp": 1_700_000_000},
        ],
    )
    def test_a_time_that_does_not_fit_the_start(
        self, aws: Aws, stream: str, start: dict[str, Any]
    ) -> None:
        assert refusal(lambda: aws.create(stream, **start)).code == INVALID

    def test_a_table_from_a_time_on(self, aws: Aws, changes: str) -> None:
        start = {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 1_700_000_000}
        assert refusal(lambda: aws.create(changes, **start)) == Refusal(
            INVALID, f"Unsupported starting position for arn type: {changes}", 400
        )

    def test_a_response_type_that_is_none(self, aws: Aws, stream: str) -> None:
        found = refusal(lambda: aws.create(stream, FunctionResponseTypes=["All"]))
        assert found.code == "ValidationException"
        assert "Value '[All]' at 'functionResponseTypes' failed" in found.message

    @pytest.mark.parametrize(
        "destination",
        [
            "arn:aws:sqs:us-east-1:000000000000:failures.fifo",
            "arn:aws:lambda:us-east-1:000000000000:function:failures",
            "kafka://failures",
            "failures",
        ],
    )
    def test_a_destination_that_failures_cannot_go_to(
        self, aws: Aws, stream: str, destination: str
    ) -> None:
        config = {"OnFailure": {"Destination": destination}}
        found = refusal(
            lambda: unchecking(aws).create_event_source_mapping(
                EventSourceArn=stream,
                FunctionName=aws.function,
                StartingPosition="LATEST",
                DestinationConfig=config,
            )
        )
        assert found.code == INVALID
        assert found.message.startswith(f"The destination ARN {destination} is invalid: ")

    def test_a_missing_function(self, aws: Aws, stream: str) -> None:
        created = aws.create(stream)
        assert refusal(lambda: aws.update(created, FunctionName="none")).http_status == 404
        assert aws.get(created)["FunctionArn"] == created["FunctionArn"]

    @pytest.mark.as_aws("queue_states", "documented")
    def test_a_fifo_queues_batch_that_would_be_waited_for(self, aws: Aws) -> None:
        queue = aws.queue(".fifo", FifoQueue="true")
        assert refusal(lambda: aws.map(queue, MaximumBatchingWindowInSeconds=1)) == Refusal(
            INVALID, "Batching window is not supported for FIFO queues", 400
        )
        assert refusal(lambda: aws.map(queue, BatchSize=11)).code == INVALID
        aws.map(queue, BatchSize=10)

    @pytest.mark.as_aws("queue_states", "documented")
    def test_a_queue_whose_messages_reappear_before_the_functions_time_is_up(
        self, aws: Aws
    ) -> None:
        queue, enough = aws.queue(VisibilityTimeout="2"), aws.queue(VisibilityTimeout="3")
        created = aws.map(enough)
        expected = Refusal(
            INVALID,
            "Queue visibility timeout: 2 seconds is less than Function timeout: 3 seconds",
            400,
        )
        assert refusal(lambda: aws.map(queue)) == expected
        aws.client("sqs").set_queue_attributes(
            QueueUrl=aws.client("sqs").get_queue_url(QueueName=enough.rpartition(":")[2])[
                "QueueUrl"
            ],
            Attributes={"VisibilityTimeout": "2"},
        )
        assert refusal(lambda: aws.update(created, BatchSize=1)) == expected


def unchecking(aws: Aws) -> Any:
    """A client without checks of its own, so that the service refuses."""
    return aws.client("lambda", config=Config(parameter_validation=False))


class TestCloudFormation:
    """Mappings made by a stack; numbers may come as text."""

    @staticmethod
    def deploy(aws: Aws, name: str, source: str, properties: dict[str, Any]) -> dict[str, Any]:
        """Create or update the stack; return its mapping's event once it is done."""
        cloudformation = aws.client("cloudformation")
        resource = {
            "Type": "AWS::Lambda::EventSourceMapping",
            "Properties": {"EventSourceArn": source, "FunctionName": aws.function, **properties},
        }
        template = json.dumps({"Resources": {"Mapping": resource}})
        exists = name in {each["StackName"] for each in stacks(cloudformation)}
        change = cloudformation.update_stack if exists else cloudformation.create_stack
        change(StackName=name, TemplateBody=template)
        patience = Patience(20)
        while status_of(cloudformation, name).endswith("_IN_PROGRESS"):
            assert not patience.is_over()
            time.sleep(0.05)
        events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
        mine = [each for each in events if each["LogicalResourceId"] == "Mapping"]
        failed = [each for each in mine if each["ResourceStatus"].endswith("_FAILED")]
        found: dict[str, Any] = (failed or mine)[0]
        return found

    def test_settings_are_typed_kept_and_complete(self, aws: Aws, stream: str) -> None:
        as_text = {
            name: json.dumps(value) if isinstance(value, int) else value
            for name, value in CHANGES.items()
        }
        start = {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": "1700000000"}
        event = self.deploy(aws, f"s{uuid.uuid4()}", stream, as_text | start)
        assert event["ResourceStatus"] == "CREATE_COMPLETE"
        (found,) = aws.mappings()
        assert (STREAM_DEFAULTS | CHANGES).items() <= found.items()
        assert found["StartingPositionTimestamp"].timestamp() == 1_700_000_000

    def test_an_update_changes_only_the_settings_that_it_names(self, aws: Aws, stream: str) -> None:
        name = f"s{uuid.uuid4()}"
        self.deploy(aws, name, stream, {"StartingPosition": "LATEST", "BatchSize": 9})
        (before,) = aws.mappings()
        changed = {"StartingPosition": "LATEST", "BatchSize": 9, "TumblingWindowInSeconds": "30"}
        event = self.deploy(aws, name, stream, changed | {"Enabled": "false"})
        assert event["ResourceStatus"] == "UPDATE_COMPLETE"
        (after,) = aws.mappings()
        assert shown(after) == shown(before) | {"TumblingWindowInSeconds": 30}
        assert after["State"] in {"Disabling", "Disabled"}

    def test_a_setting_that_aws_refuses_fails_the_resource_with_its_message(
        self, aws: Aws, stream: str
    ) -> None:
        properties = {"StartingPosition": "LATEST", "ParallelizationFactor": "11"}
        event = self.deploy(aws, f"s{uuid.uuid4()}", stream, properties)
        assert event["ResourceStatus"] == "CREATE_FAILED"
        assert "Value '11' at 'parallelizationFactor' failed" in event["ResourceStatusReason"]
        assert aws.mappings() == []

    def test_a_stream_that_is_not_there_fails_the_resource(self, aws: Aws) -> None:
        source = "arn:aws:kinesis:us-east-1:000000000000:stream/none"
        event = self.deploy(aws, f"s{uuid.uuid4()}", source, {"StartingPosition": "LATEST"})
        assert f"Stream not found: {source}" in event["ResourceStatusReason"]


def stacks(cloudformation: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cloudformation.describe_stacks()["Stacks"]
    return found


def status_of(cloudformation: Any, name: str) -> str:
    return str(cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])


# Behaviour that depends on the engine, tested without it.


@pytest.mark.parametrize(
    ("is_wanted", "engine_says", "expected"),
    [
        (True, None, "Creating"),
        (True, "Enabled", "Enabled"),
        (True, "Disabled", "Enabling"),
        (False, "Enabled", "Disabling"),
        (False, "Disabled", "Disabled"),
        (False, None, "Disabled"),
    ],
)
def test_a_state_shows_the_engines_pending_work(
    is_wanted: bool, engine_says: str | None, expected: str
) -> None:
    assert mapping_api.state(is_wanted, engine_says) == expected


def test_an_answer_has_the_engines_last_result(tmp_path: Path) -> None:
    file = tmp_path / "mappings ?#.sqlite3"
    emulator = SimpleNamespace(_create_esm=None, _update_esm=None, _esm_response=dict, _esms={})
    provisioners = SimpleNamespace(_lambda_esm_create=None, _lambda_esm_update=None)
    api = mapping_api.MappingApi(emulator, provisioners, mapping_api.engine_status(file))
    mapping = {
        "UUID": "1",
        "EventSourceArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
        "State": "Enabled",
    }

    def told() -> tuple[str, str]:
        answer = api.describe(mapping)
        return answer["State"], answer["LastProcessingResult"]

    assert told() == ("Creating", "No records processed"), "no file yet"
    engine = sqlite3.connect(file)
    assert told() == ("Creating", "No records processed"), "no table yet"
    engine.execute("PRAGMA journal_mode=WAL")
    engine.execute("CREATE TABLE mapping (uuid TEXT PRIMARY KEY, state TEXT, last_result TEXT)")
    engine.commit()
    assert told() == ("Creating", "No records processed"), "no row yet"
    failed = "PROBLEM: Function call failed"
    engine.execute("INSERT INTO mapping VALUES ('1', 'Enabled', ?)", [failed])
    engine.commit()
    engine.execute("UPDATE mapping SET last_result = 'OK'")
    assert told() == ("Enabled", failed), "read while the engine writes"
    engine.commit()
    assert told() == ("Enabled", "OK")
    engine.close()
    assert told() == ("Enabled", "OK"), "the engine has stopped"


def test_a_change_of_a_running_mapping_is_first_updating() -> None:
    mapping = {
        "UUID": "1",
        "EventSourceArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
    }
    emulator = SimpleNamespace(
        _create_esm=None,
        _update_esm=lambda _uuid, _data: (200, {}, b""),
        _esm_response=dict,
        _esms={"1": mapping},
        json_response=lambda document, status: (status, {}, json.dumps(document).encode()),
    )
    provisioners = SimpleNamespace(_lambda_esm_create=None, _lambda_esm_update=None)
    api = mapping_api.MappingApi(emulator, provisioners, lambda _: ("Enabled", "OK"))
    status, _, body = api.update("1", {"BatchSize": 5, "Enabled": None})
    answer = json.loads(body)
    assert (status, answer["State"], answer["BatchSize"]) == (202, "Updating", 5)
    assert api.describe(mapping)["State"] == "Enabled"


def test_the_emulators_own_pollers_of_streams_are_off() -> None:
    emulator = SimpleNamespace(_poll_sqs=lambda: True)
    mapping_api.own_pollers_off(emulator)
    assert not emulator._poll_kinesis()
    assert not emulator._poll_dynamodb_streams()
    assert emulator._poll_sqs()
