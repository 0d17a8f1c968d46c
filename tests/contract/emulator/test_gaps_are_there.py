"""Each gap that `emulator.gaps` closes exists in the unchanged emulator.

If a test fails here, a newer emulator has closed the gap itself, and the module of that gap can be
deleted. All tests use one embedded AWS without any module of `emulator.gaps`. Gaps that aren't
visible from outside are tested in the emulator's own interpreter.
"""

import gzip
import io
import json
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography import x509

from emulator import embedded, launcher
from emulator.sigv4 import Key
from local.instance import unused
from local.tools import tool
from tests.contract.conftest import ROOT
from tests.contract.emulator.queues import Stage, wait_until
from tests.contract.emulator.stacks import Document, Stacks
from tests.contract.emulator.test_api_imports import Deployed, description
from tests.contract.emulator.test_existing import ATTRIBUTES
from tests.contract.emulator.test_imports import Import
from tests.contract.emulator.test_permissions import Account, execution, is_allowed
from tests.contract.emulator.test_strangers import SECRET, Place, address_of_sender, guessed_key
from tests.waiting import Patience

SECONDS_MAX = 10
INSIDE = """
import json, time, types
from ministack.core import iam_evaluator, lambda_runtime, responses
from ministack.services import apigateway_v1, cloudwatch, eventbridge, kinesis, stepfunctions

facts = {}
record = {"ApproximateArrivalTimestamp": time.time(), "Data": "ZA==", "PartitionKey": "k"}
shard = {"records": [record | {"SequenceNumber": str(n)} for n in range(600)]}
before = shard["records"]
kinesis._expire_records({"RetentionPeriodHours": 24, "shards": {"s": shard}})
facts["copies all records at a put"] = shard["records"] is not before
facts["keeps records as objects"] = type(shard["records"]) is list
events = eventbridge._events_log_list()
events.append({})
facts["keeps events"] = len(eventbridge._events_log_list()) == 1
for _ in range(3):
    cloudwatch.record_metric("Own", "Age", 1.0)
facts["keeps every value"] = len(next(iter(cloudwatch._metrics.values()))) == 3
facts["keeps slashes escaped"] = not apigateway_v1._media_type_matches("a/b", ["a~1b"])
document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
    "Principal": {"Service": "lambda.amazonaws.com"},
    "Condition": {"StringEquals": {"aws:SourceAccount": "000000000000"}}}]}
asked = iam_evaluator.EvalContext("r", "Root", "000000000000", "sts:AssumeRole", "r", "")
root = "arn:aws:iam::000000000000:root"
is_trusted = iam_evaluator.evaluate_trust_policy(document, root, asked)
del document["Statement"][0]["Condition"]
is_trusted_without = iam_evaluator.evaluate_trust_policy(document, root, asked)
facts["tells no source account"] = is_trusted_without and not is_trusted
apigateway_v1._request_validators["api"] = {"v": {"validateRequestBody": True}}
apigateway_v1._models["api"] = {"M": {"schema": {"type": "object"}}}
method = {"requestValidatorId": "v", "requestModels": {"application/json": "M"}}
headers = {"content-type": "application/x-ndjson"}
refused = apigateway_v1._check_request_validation(method, "api", {}, headers, b"a", {})
facts["holds every type against JSON's model"] = refused is not None
stepfunctions._invoke_resource = lambda *_: 1
stepfunctions._executions["parent"] = {"status": "ABORTED"}
stepfunctions._map_runs["run"] = {"executionArn": "parent"}
child = {"mapRunArn": "run", "events": []}
task = {"Type": "Task", "Resource": "arn:aws:lambda:x", "End": True}
facts["goes on after a stop"] = stepfunctions._execute_task(task, {}, child, {"State": {}})[0] == 1
print(json.dumps(facts))
"""


def shows(*gaps: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test with the gaps that it shows."""

    def note(test: Callable[..., None]) -> Callable[..., None]:
        SHOWN.update(gaps)
        return test

    return note


SHOWN: set[str] = set()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of an embedded AWS with every gap left open."""
    own = unused("gaps")
    own.create()
    aws = embedded.start(
        own, tool("aws", "python"), with_mappings=False, without=launcher.GAPS, root=ROOT
    )
    try:
        yield f"http://127.0.0.1:{aws.port}"
    finally:
        aws.stop()
        own.remove()


@pytest.fixture(scope="module")
def inside() -> dict[str, bool]:
    """Facts that a program finds out in the emulator's own interpreter."""
    command = [str(tool("aws", "python")), "-I", "-c", INSIDE]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    facts: dict[str, bool] = json.loads(ran.stdout.splitlines()[-1])
    return facts


@pytest.fixture
def stacks(endpoint: str, aws_environment: None) -> Stacks:  # noqa: ARG001
    return Stacks(endpoint)


@pytest.fixture
def account(endpoint: str, aws_environment: None) -> Account:  # noqa: ARG001
    return Account(endpoint)


def name() -> str:
    return f"gap{uuid.uuid4().hex[:10]}"


def test_every_gap_has_a_test_that_shows_it() -> None:
    assert sorted(set(launcher.GAPS) - SHOWN) == []


@shows("table_keys")
def test_a_querys_keys_may_be_of_any_length(stacks: Stacks) -> None:
    table, dynamodb = name(), stacks.client("dynamodb")
    dynamodb.create_table(TableName=table, **ATTRIBUTES)
    found = dynamodb.query(
        TableName=table,
        KeyConditionExpression="id = :id",
        ExpressionAttributeValues={":id": {"S": "x" * 2049}},
    )
    assert found["Count"] == 0


@shows("partiql")
def test_partiqls_writes_are_not_in_the_tables_stream(stacks: Stacks) -> None:
    table, dynamodb = name(), stacks.client("dynamodb")
    view = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    made = dynamodb.create_table(TableName=table, StreamSpecification=view, **ATTRIBUTES)
    statement = f"INSERT INTO \"{table}\" VALUE {{'id': 'a'}}"
    dynamodb.execute_statement(Statement=statement)
    streams = stacks.client("dynamodbstreams")
    arn = made["TableDescription"]["LatestStreamArn"]
    shard = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"][0]["ShardId"]
    iterator = streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]  # fmt: skip
    assert streams.get_records(ShardIterator=iterator)["Records"] == []


@shows("expiry")
def test_a_put_copies_every_record_of_the_stream(inside: dict[str, bool]) -> None:
    assert inside["copies all records at a put"]


@shows("keeping")
def test_records_and_events_are_kept_as_objects(inside: dict[str, bool]) -> None:
    assert inside["keeps records as objects"]
    assert inside["keeps events"]


@shows("resharding")
def test_a_split_shard_is_deleted(stacks: Stacks) -> None:
    stream, kinesis = name(), stacks.client("kinesis")
    kinesis.create_stream(StreamName=stream, ShardCount=1)
    (before,) = kinesis.list_shards(StreamName=stream)["Shards"]
    kinesis.split_shard(
        StreamName=stream, ShardToSplit=before["ShardId"], NewStartingHashKey=str(2**127)
    )
    after = {each["ShardId"] for each in kinesis.list_shards(StreamName=stream)["Shards"]}
    assert before["ShardId"] not in after


@shows("authorization")
def test_a_permission_on_a_tables_stream_allows_nothing(account: Account) -> None:
    table = name()
    view = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    made = account.root("dynamodb").create_table(
        TableName=table, StreamSpecification=view, **ATTRIBUTES
    )
    arn = made["TableDescription"]["LatestStreamArn"]
    account.grant("dynamodb:DescribeStream", resource=arn)
    assert not is_allowed(lambda: account.client("dynamodbstreams").describe_stream(StreamArn=arn))


@shows("authorization")
def test_a_trust_policy_gets_no_source_account(inside: dict[str, bool]) -> None:
    assert inside["tells no source account"]


@shows("mapping_api", "permissions")
def test_a_mapping_has_any_batch_size_and_needs_no_permission(account: Account) -> None:
    stream = name()
    account.root("kinesis").create_stream(StreamName=stream, ShardCount=1)
    made = account.root("lambda").create_event_source_mapping(
        FunctionName=account.function(account.role("lambda")),
        EventSourceArn=f"arn:aws:kinesis:us-east-1:000000000000:stream/{stream}",
        StartingPosition="LATEST",
        BatchSize=10_001,
        Enabled=False,
    )
    assert made["BatchSize"] == 10_001


@shows("permissions")
def test_permissions_are_named_by_operation(account: Account) -> None:
    url = account.root("sqs").create_queue(QueueName=name())["QueueUrl"]
    entries = [{"Id": "1", "MessageBody": "m"}]
    sqs = account.client("sqs")
    account.grant("sqs:SendMessage")
    assert not is_allowed(lambda: sqs.send_message_batch(QueueUrl=url, Entries=entries))
    table = name()
    account.root("dynamodb").create_table(TableName=table, **ATTRIBUTES)
    account.grant("dynamodb:PartiQLInsert")
    statement = f"INSERT INTO \"{table}\" VALUE {{'id': 'a'}}"
    dynamodb = account.client("dynamodb")
    assert not is_allowed(lambda: dynamodb.execute_statement(Statement=statement))
    account.grant("lambda:ListEventSourceMappings")
    mapping = str(uuid.uuid4())
    assert is_allowed(lambda: account.client("lambda").get_event_source_mapping(UUID=mapping))


@shows("permissions")
def test_a_write_under_a_condition_needs_no_permission_to_read(account: Account) -> None:
    bucket, s3 = name(), account.root("s3")
    s3.create_bucket(Bucket=bucket)
    etag = s3.put_object(Bucket=bucket, Key="key", Body=b"")["ETag"]
    account.grant("s3:PutObject")
    put = account.client("s3").put_object
    assert is_allowed(lambda: put(Bucket=bucket, Key="key", Body=b"", IfMatch=etag))


@shows("permissions")
def test_a_state_machine_needs_no_permission_of_its_role(account: Account) -> None:
    function = account.function(account.role("lambda"))
    task = {"Type": "Task", "Resource": function, "End": True}
    assert execution(account, account.role("states"), task)["status"] == "SUCCEEDED"


@pytest.fixture
def queues(session: boto3.Session, endpoint: str, tmp_path: Path) -> Iterator[Stage]:
    own = Stage(session, endpoint, tmp_path)
    yield own
    own.end()


@shows("sqs_poller")
def test_an_unreadable_answer_for_a_queue_is_a_success_and_its_event_lacks_fields(
    queues: Stage,
) -> None:
    queue = queues.queue()
    queues.mapping(
        queue,
        queues.function(DOES="echo", ANSWER='{"batchItemFailures": [{"of": "no item"}]}'),
        MaximumBatchingWindowInSeconds=1,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    queue.send("a")
    wait_until(lambda: queue.left() == 0)
    [record] = queues.records(queue)
    assert "md5OfMessageAttributes" not in record


@shows("sqs_answers")
def test_a_batch_in_which_nothing_failed_has_a_list_of_failures(queues: Stage) -> None:
    assert queues.queue().send("a")["Failed"] == []


@shows("dead_letters")
def test_a_functions_dead_letter_is_not_the_event(queues: Stage) -> None:
    dead, function = queues.queue(), queues.function(DOES="raise")
    queues.lambdas.update_function_configuration(
        FunctionName=function, DeadLetterConfig={"TargetArn": dead.arn}
    )
    queues.lambdas.put_function_event_invoke_config(FunctionName=function, MaximumRetryAttempts=0)
    event = {"raise_error": 1}
    queues.lambdas.invoke(FunctionName=function, InvocationType="Event", Payload=json.dumps(event))
    wait_until(lambda: dead.left() > 0)
    [message] = dead.received(MessageAttributeNames=["All"])["Messages"]
    assert json.loads(message["Body"])["requestPayload"] == event
    assert "MessageAttributes" not in message


@shows("cloudwatch")
def test_embedded_metrics_in_a_log_are_ignored(stacks: Stacks, inside: dict[str, bool]) -> None:
    assert inside["keeps every value"]
    namespace, logs = name(), stacks.client("logs")
    metric = {"Namespace": namespace, "Dimensions": [[]], "Metrics": [{"Name": "Age"}]}
    now_ms = round(time.time() * 1000)
    line = {"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [metric]}, "Age": 1}
    logs.create_log_group(logGroupName=namespace)
    logs.create_log_stream(logGroupName=namespace, logStreamName="s")
    event = {"timestamp": now_ms, "message": json.dumps(line)}
    logs.put_log_events(logGroupName=namespace, logStreamName="s", logEvents=[event])
    assert stacks.client("cloudwatch").list_metrics(Namespace=namespace)["Metrics"] == []


@shows("alarms")
def test_an_alarm_watches_every_metric_of_a_name(stacks: Stacks) -> None:
    namespace, cloudwatch = name(), stacks.client("cloudwatch")
    dimensions = [{"Name": "RuleName", "Value": "reading"}]
    cloudwatch.put_metric_alarm(
        AlarmName=namespace,
        Namespace=namespace,
        MetricName="Failures",
        Dimensions=dimensions,
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
    )
    cloudwatch.put_metric_data(
        Namespace=namespace, MetricData=[{"MetricName": "Failures", "Value": 1}]
    )
    (alarm,) = cloudwatch.describe_alarms(AlarmNames=[namespace])["MetricAlarms"]
    assert alarm["StateValue"] == "ALARM"


@shows("api_gateway")
def test_the_slashes_of_binary_types_stay_escaped(inside: dict[str, bool]) -> None:
    assert inside["keeps slashes escaped"]


@shows("api_gateway")
def test_a_model_is_for_every_content_type(inside: dict[str, bool]) -> None:
    assert inside["holds every type against JSON's model"]


@shows("api_imports")
def test_an_import_has_no_models(stacks: Stacks) -> None:
    api = Deployed(stacks.endpoint, description({"type": ["object", "array"], "minItems": 1}))
    assert api.stack["StackStatus"] == "CREATE_COMPLETE"
    assert api.post("neither").status_code == 200
    gateway = stacks.client("apigateway")
    models = {model["name"] for model in gateway.get_models(restApiId=api.api_id)["items"]}
    assert "reading" not in models


def function_of(account: Account, code: str, *layers: str) -> str:
    """Make a function of this code; return its name."""
    function, packed = name(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.py", code)
    account.root("lambda").create_function(
        FunctionName=function,
        Runtime=f"python3.{sys.version_info.minor}",
        Role=account.role("lambda"),
        Handler="index.handler",
        Code={"ZipFile": packed.getvalue()},
        Layers=list(layers),
    )
    return function


@shows("layers")
def test_each_worker_unpacks_its_layers_for_itself(account: Account) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("python/of_layer.py", "")
    layer = account.root("lambda").publish_layer_version(
        LayerName=name(), Content={"ZipFile": packed.getvalue()}
    )["LayerVersionArn"]  # fmt: skip
    code = "import os, of_layer\ndef handler(*_):\n    return os.path.realpath(of_layer.__file__)"
    function = function_of(account, code, layer)
    answer = account.root("lambda").invoke(FunctionName=function)
    assert "layer_" in json.load(answer["Payload"])


@shows("failing")
def test_a_functions_error_has_no_name_of_its_own_and_ends_its_process(account: Account) -> None:
    code = "import os\ndef handler(*_):\n    raise KeyError(os.getpid())"
    function = function_of(account, code)
    answers = [account.root("lambda").invoke(FunctionName=function) for _ in range(2)]
    first, second = (json.load(each["Payload"]) for each in answers)
    assert first["errorType"] != "KeyError"
    assert first["errorMessage"] != second["errorMessage"]


@shows("firehose")
def test_firehose_delivers_each_record_by_itself_and_at_once(account: Account) -> None:
    both, kinesis, s3 = name(), account.root("kinesis"), account.root("s3")
    kinesis.create_stream(StreamName=both, ShardCount=1)
    s3.create_bucket(Bucket=both)
    role = account.role("firehose", "kinesis:*", "s3:*")
    arn = f"arn:aws:kinesis:us-east-1:000000000000:stream/{both}"
    account.root("firehose").create_delivery_stream(
        DeliveryStreamName=both,
        DeliveryStreamType="KinesisStreamAsSource",
        KinesisStreamSourceConfiguration={"KinesisStreamARN": arn, "RoleARN": role},
        ExtendedS3DestinationConfiguration={
            "BucketARN": f"arn:aws:s3:::{both}",
            "RoleARN": role,
            "BufferingHints": {"IntervalInSeconds": 900, "SizeInMBs": 128},
            "CompressionFormat": "GZIP",
        },
    )
    for text in ("one", "two"):
        kinesis.put_record(StreamName=both, Data=text, PartitionKey="k")
    patience = Patience(SECONDS_MAX)
    while len(found := s3.list_objects_v2(Bucket=both).get("Contents", [])) < 2:
        assert not patience.is_over()
        time.sleep(0.05)
    bodies = [s3.get_object(Bucket=both, Key=each["Key"])["Body"].read() for each in found]
    assert sorted(unpacked(body) for body in bodies) == [b"one", b"two"]


def unpacked(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


@shows("iot")
def test_certificates_are_signed_by_the_emulators_own_authority(stacks: Stacks) -> None:
    pem = stacks.client("iot").create_keys_and_certificate()["certificatePem"]
    issuer = x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()
    assert issuer != "CN=authority of an embedded AWS"


@shows("states")
def test_a_machine_may_repeat_names(account: Account) -> None:
    end = {"Type": "Pass", "End": True}
    inner = {"StartAt": "S0", "States": {"S0": end}}
    each = {"Type": "Map", "ItemProcessor": inner, "End": True}
    assert execution(account, account.role("states"), each)["status"] == "SUCCEEDED"


@shows("states")
def test_a_map_goes_on_when_its_execution_is_stopped(inside: dict[str, bool]) -> None:
    assert inside["goes on after a stop"]


@shows("schema_registry")
def test_glue_has_no_schema_registry(stacks: Stacks) -> None:
    with pytest.raises(ClientError):
        stacks.client("glue").create_registry(RegistryName=name())
    registry = {"Type": "AWS::Glue::Registry", "Properties": {"Name": name()}}
    with pytest.raises(ClientError, match="Unrecognized resource types"):
        stacks.create({"Registry": registry})


@shows("existing")
def test_a_stack_replaces_existing_resources(stacks: Stacks) -> None:
    table = {"TableName": name(), "Replicas": [{"Region": "us-east-1"}]}
    resource = {"Type": "AWS::DynamoDB::GlobalTable", "Properties": ATTRIBUTES | table}
    for _ in range(2):
        assert stacks.create({"Table": resource})["StackStatus"] == "CREATE_COMPLETE"


@shows("protected")
def test_a_stack_deletes_a_bucket_with_its_objects(stacks: Stacks) -> None:
    bucket = name()
    resource = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": bucket}}
    stack = stacks.create({"Bucket": resource})
    stacks.client("s3").put_object(Bucket=bucket, Key="key", Body=b"")
    assert stacks.delete(stack)["StackStatus"] == "DELETE_COMPLETE"


@shows("protected")
def test_a_stack_deletes_a_protected_table(stacks: Stacks) -> None:
    replica = {"Region": "us-east-1", "DeletionProtectionEnabled": True}
    properties = ATTRIBUTES | {"TableName": name(), "Replicas": [replica]}
    resource = {"Type": "AWS::DynamoDB::GlobalTable", "Properties": properties}
    assert stacks.delete(stacks.create({"T": resource}))["StackStatus"] == "DELETE_COMPLETE"


@shows("imports")
def test_a_global_table_is_not_imported(stacks: Stacks) -> None:
    table, wanted = name(), Import(stacks)
    stacks.client("dynamodb").create_table(TableName=table, **ATTRIBUTES)
    wanted.add("Table", "AWS::DynamoDB::GlobalTable", ATTRIBUTES, {"TableName": table})
    assert "not supported by this emulator" in wanted.create()["StatusReason"]


@shows("nested_stacks")
def test_a_nested_stack_has_no_transforms_and_retains_nothing(stacks: Stacks) -> None:
    bucket, s3 = name(), stacks.client("s3")
    s3.create_bucket(Bucket=bucket)

    def nested(template: Document) -> Document:
        key = f"{name()}.template"
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(template))
        url = f"https://s3.us-east-1.amazonaws.com/{bucket}/{key}"
        return {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": url}}

    queue = name()
    kept = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": queue}}
    child = {"Resources": {"Kept": kept | {"DeletionPolicy": "Retain"}}}
    stacks.delete(stacks.create({"Child": nested(child)}))
    assert not stacks.client("sqs").list_queues(QueueNamePrefix=queue).get("QueueUrls")
    code = {"InlineCode": "def handler(*_): ...", "Handler": "index.handler"}
    function = {"Type": "AWS::Serverless::Function", "Properties": code | {"Runtime": "python3.11"}}
    transformed = {"Transform": "AWS::Serverless-2016-10-31", "Resources": {"Fn": function}}
    capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    stack = stacks.create({"Child": nested(transformed)}, Capabilities=capabilities)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"


@shows("deleted_stacks")
def test_a_deleted_stacks_resources_are_forgotten(stacks: Stacks) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": name()}}
    stack = stacks.create({"Queue": queue | {"DeletionPolicy": "Retain"}})
    stacks.delete(stack)
    assert stacks.resources({"StackId": stack["StackName"]}) == {}


@shows("signatures")
def test_a_well_known_key_is_the_roots_with_any_signature(
    endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    place = Place(endpoint)
    for key_id in ("test", "000000000000"):
        assert SECRET in place.send(place.signed(Key(key_id, "anything"))).body
    account = Account(endpoint)
    role = account.role("lambda", "secretsmanager:GetSecretValue")
    function = account.function(role)
    account.root("lambda").invoke(FunctionName=function)
    key, token = guessed_key(function, role)
    assert SECRET in place.send(place.signed(key, token)).body
    assert place.exchange("GET", "/_ministack/health", []).status == 200


@shows("origins")
def test_every_page_may_send_requests_and_read_answers(
    endpoint: str,
    aws_environment: None,  # noqa: ARG001
) -> None:
    place = Place(endpoint)
    answer = place.send(place.signed(), Origin="https://evil.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert SECRET in answer.body
    assert SECRET in place.send(place.signed(Host="evil.example")).body


@shows("datagrams")
def test_a_functions_datagrams_leave_from_every_interface(account: Account) -> None:
    assert address_of_sender(account) == "0.0.0.0"  # noqa: S104 - what it is called
