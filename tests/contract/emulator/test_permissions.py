"""Permissions in the embedded AWS: AWS's names of actions, and the roles of services."""

import io
import json
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.contract.conftest import create_table, embedded_client
from tests.waiting import Patience

ACCOUNT = "000000000000"
END_SECONDS_MAX = 10
DENIED = (
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "AuthorizationErrorException",
)
Document = dict[str, Any]


class Account:
    """An account with a test's own user, which has only the granted permissions."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.name = f"permitted-{uuid.uuid4().hex[:12]}"
        self.iam: Any = self.root("iam")
        self.iam.create_user(UserName=self.name)
        self.key = self.iam.create_access_key(UserName=self.name)["AccessKey"]

    def root(self, service: str) -> Any:
        """Return a client with all permissions."""
        return embedded_client(self.endpoint, service)

    def client(self, service: str) -> Any:
        """Return a client with the user's key."""
        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key["AccessKeyId"],
            aws_secret_access_key=self.key["SecretAccessKey"],
        )

    def grant(self, *actions: str, resource: str = "*") -> None:
        """Allow the user these actions, and nothing else."""
        self.iam.put_user_policy(
            UserName=self.name, PolicyName="granted", PolicyDocument=policy(*actions, at=resource)
        )

    def role(self, service: str, *actions: str, at: str = "*") -> str:
        """Make a role that a service may assume; return its ARN."""
        name = f"{self.name}-{uuid.uuid4().hex[:6]}"
        principal = {"Service": f"{service}.amazonaws.com"}
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal}
        trust = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        made = self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        if actions:
            document = policy(*actions, at=at)
            self.iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document)
        return str(made["Role"]["Arn"])

    def function(self, role: str, body: str = "return 1") -> str:
        """Make a function with this code, which by default returns 1; return its ARN."""
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("index.py", f"def handler(event, context):\n    {body}")
        made = self.root("lambda").create_function(
            FunctionName=f"{self.name}-{uuid.uuid4().hex[:6]}",
            Runtime="python3.11",
            Role=role,
            Handler="index.handler",
            Code={"ZipFile": code.getvalue()},
        )
        return str(made["FunctionArn"])


def policy(*actions: str, at: str) -> str:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": at}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def account(embedded_endpoint: str, aws_environment: None) -> Account:  # noqa: ARG001
    return Account(embedded_endpoint)


@pytest.fixture
def table(account: Account) -> str:
    create_table(account.root("dynamodb"), account.name, "id")
    return account.name


@pytest.fixture
def queue(account: Account) -> Iterator[str]:
    sqs = account.root("sqs")
    url = sqs.create_queue(QueueName=account.name)["QueueUrl"]
    yield url
    sqs.delete_queue(QueueUrl=url)


def is_allowed(call: Callable[[], Any]) -> bool:
    """Return whether a call isn't denied; it may fail for another reason."""
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"] not in DENIED
    return True


INSERT = """INSERT INTO "{table}" VALUE {{'id': 'a'}}"""
STATEMENTS = {
    "Insert": INSERT,
    "Update": """UPDATE "{table}" SET x = 1 WHERE id = 'a'""",
    "Delete": """DELETE FROM "{table}" WHERE id = 'a'""",
    "Select": """SELECT * FROM "{table}" WHERE id = 'a'""",
}


@pytest.mark.parametrize("verb", STATEMENTS)
@pytest.mark.parametrize("way", ["one", "batch", "transaction"])
def test_a_statement_needs_the_permission_of_its_operation_on_its_table(
    account: Account, table: str, verb: str, way: str
) -> None:
    dynamodb = account.client("dynamodb")
    statement = STATEMENTS[verb].format(table=table)
    calls = {
        "one": lambda: dynamodb.execute_statement(Statement=statement),
        "batch": lambda: dynamodb.batch_execute_statement(Statements=[{"Statement": statement}]),
        "transaction": lambda: dynamodb.execute_transaction(
            TransactStatements=[{"Statement": statement}]
        ),
    }
    arn = f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{table}"
    operations = ("ExecuteStatement", "BatchExecuteStatement", "ExecuteTransaction")
    others = [f"dynamodb:PartiQL{each}" for each in STATEMENTS if each != verb]
    account.grant(*(f"dynamodb:{each}" for each in operations), *others)
    assert not is_allowed(calls[way])
    account.grant(f"dynamodb:PartiQL{verb}", resource=f"{arn}-other")
    assert not is_allowed(calls[way])
    account.grant(f"dynamodb:PartiQL{verb}", resource=arn)
    assert is_allowed(calls[way])


def test_each_statement_of_a_batch_needs_its_own(account: Account, table: str) -> None:
    statements = [{"Statement": STATEMENTS[each].format(table=table)} for each in STATEMENTS]
    account.grant("dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate", "dynamodb:PartiQLDelete")
    dynamodb = account.client("dynamodb")
    assert is_allowed(lambda: dynamodb.batch_execute_statement(Statements=statements[:3]))
    with pytest.raises(ClientError, match="dynamodb:PartiQLSelect"):
        dynamodb.batch_execute_statement(Statements=statements)


def test_a_statement_on_an_index_needs_the_index(account: Account, table: str) -> None:
    statement = f"""SELECT * FROM "{table}"."by-place" WHERE place = 'roof'"""  # noqa: S608
    arn = f"arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/{table}"
    dynamodb = account.client("dynamodb")
    account.grant("dynamodb:PartiQLSelect", resource=arn)
    assert not is_allowed(lambda: dynamodb.execute_statement(Statement=statement))
    account.grant("dynamodb:PartiQLSelect", resource=f"{arn}/index/by-place")
    assert is_allowed(lambda: dynamodb.execute_statement(Statement=statement))


def test_a_batch_of_messages_needs_the_permission_for_one(account: Account, queue: str) -> None:
    sqs = account.client("sqs")
    entry = {"Id": "1", "MessageBody": "m"}
    handle = {"Id": "1", "ReceiptHandle": "h"}
    shown = handle | {"VisibilityTimeout": 1}
    calls = {
        "SendMessage": lambda: sqs.send_message_batch(QueueUrl=queue, Entries=[entry]),
        "DeleteMessage": lambda: sqs.delete_message_batch(QueueUrl=queue, Entries=[handle]),
        "ChangeMessageVisibility": lambda: sqs.change_message_visibility_batch(
            QueueUrl=queue, Entries=[shown]
        ),
    }
    for name, call in calls.items():
        account.grant(f"sqs:{name}Batch")
        assert not is_allowed(call)
        account.grant(f"sqs:{name}", resource=f"arn:aws:sqs:us-east-1:{ACCOUNT}:{account.name}")
        assert is_allowed(call)


def test_a_batch_of_notices_needs_the_permission_for_one(account: Account) -> None:
    topic = account.root("sns").create_topic(Name=account.name)["TopicArn"]
    entries = [{"Id": "1", "Message": "m"}]
    sns = account.client("sns")
    account.grant("sns:PublishBatch")
    assert not is_allowed(
        lambda: sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries)
    )
    account.grant("sns:Publish")
    assert is_allowed(lambda: sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries))


@pytest.mark.parametrize(
    ("operation", "action"),
    [
        ("Put", "PutItem"),
        ("Update", "UpdateItem"),
        ("Delete", "DeleteItem"),
        ("ConditionCheck", "ConditionCheckItem"),
    ],
)
def test_each_item_of_a_transaction_needs_the_permission_for_itself(
    account: Account, table: str, operation: str, action: str
) -> None:
    key = {"id": {"S": "a"}}
    exists = {"ConditionExpression": "attribute_not_exists(id)"}
    requests: Document = {
        "Put": {"Item": key},
        "Update": {"Key": key, "UpdateExpression": "REMOVE x"},
        "Delete": {"Key": key},
        "ConditionCheck": {"Key": key} | exists,
    }
    item = {operation: {"TableName": table} | requests[operation]}
    dynamodb = account.client("dynamodb")
    account.grant("dynamodb:TransactWriteItems")
    assert not is_allowed(lambda: dynamodb.transact_write_items(TransactItems=[item]))
    account.grant(f"dynamodb:{action}")
    assert is_allowed(lambda: dynamodb.transact_write_items(TransactItems=[item]))


@pytest.fixture
def bucket(account: Account) -> str:
    s3 = account.root("s3")
    s3.create_bucket(Bucket=account.name)
    s3.put_object(Bucket=account.name, Key="key", Body=b"x")
    return account.name


def test_s3_needs_permission_for_each_read_and_write_of_a_request(
    account: Account, bucket: str
) -> None:
    s3 = account.client("s3")
    key = {"Bucket": bucket, "Key": "key"}
    etag = account.root("s3").head_object(**key)["ETag"]
    calls: dict[tuple[str, ...], Callable[[], Any]] = {
        ("s3:ListBucket",): lambda: s3.list_objects_v2(Bucket=bucket),
        ("s3:GetObject",): lambda: s3.head_object(**key),
        ("s3:PutObject",): lambda: s3.create_multipart_upload(**key),
        ("s3:PutObject", "s3:GetObject"): lambda: s3.put_object(**key, Body=b"x", IfMatch=etag),
        ("s3:DeleteObject", "s3:GetObject"): lambda: s3.delete_object(**key, IfMatch=etag),
    }
    for actions, call in calls.items():
        for missing in actions:
            account.grant("s3:GetBucketLocation", *(each for each in actions if each != missing))
            assert not head_is_allowed(call), (actions, missing)
        account.grant(*actions)
        assert head_is_allowed(call), actions


def head_is_allowed(call: Callable[[], Any]) -> bool:
    """Return whether a HEAD request isn't denied; its answer has no body with an error code."""
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"] not in ("AccessDenied", "403")
    return True


def test_lambdas_operations_have_lambdas_names(account: Account) -> None:
    function = account.function(account.role("lambda"))
    lambdas = account.client("lambda")
    calls: dict[str, Callable[[], Any]] = {
        "InvokeFunction": lambda: lambdas.invoke(FunctionName=function),
        "GetEventSourceMapping": lambda: lambdas.get_event_source_mapping(UUID=str(uuid.uuid4())),
        "DeleteEventSourceMapping": lambda: lambdas.delete_event_source_mapping(
            UUID=str(uuid.uuid4())
        ),
        "GetLayerVersion": lambda: lambdas.get_layer_version(LayerName="l", VersionNumber=1),
        "GetFunctionConcurrency": lambda: lambdas.get_function_concurrency(FunctionName=function),
        "DeleteFunctionConcurrency": lambda: lambdas.delete_function_concurrency(
            FunctionName=function
        ),
        "GetAlias": lambda: lambdas.get_alias(FunctionName=function, Name="live"),
    }
    for action, call in calls.items():
        account.grant("lambda:ListFunctions", "lambda:ListEventSourceMappings")
        assert not is_allowed(call), action
        account.grant(f"lambda:{action}")
        assert is_allowed(call), action


def test_a_mapping_needs_its_functions_role_to_read_the_queue(account: Account, queue: str) -> None:
    lambdas = account.root("lambda")
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{account.name}"
    needed = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    assert queue
    for missing in needed:
        role = account.role("lambda", *(each for each in needed if each != missing))
        function = account.function(role)
        with pytest.raises(ClientError, match=f"call {missing.partition(':')[2]} on SQS"):
            lambdas.create_event_source_mapping(EventSourceArn=arn, FunctionName=function)
    function = account.function(account.role("lambda", *needed, at=arn))
    lambdas.create_event_source_mapping(EventSourceArn=arn, FunctionName=function, Enabled=False)


def test_a_mappings_settings_are_checked_before_its_functions_role(
    account: Account, queue: str
) -> None:
    assert queue
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{account.name}"
    function = account.function(account.role("lambda"))
    with pytest.raises(ClientError, match=r"(?i)batch"):
        account.root("lambda").create_event_source_mapping(
            EventSourceArn=arn, FunctionName=function, BatchSize=11
        )


@pytest.mark.parametrize("kind", ["kinesis", "dynamodb"])
def test_a_mapping_needs_its_functions_role_to_read_the_stream(account: Account, kind: str) -> None:
    if kind == "kinesis":
        account.root(kind).create_stream(StreamName=account.name, ShardCount=1)
        arn = f"arn:aws:kinesis:us-east-1:{ACCOUNT}:stream/{account.name}"
        needed = ["GetRecords", "GetShardIterator", "ListShards", "DescribeStreamSummary"]
    else:
        create_table(account.root(kind), account.name, "id")
        view = {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
        changed = account.root(kind).update_table(TableName=account.name, StreamSpecification=view)
        arn = changed["TableDescription"]["LatestStreamArn"]
        needed = ["GetRecords", "GetShardIterator", "DescribeStream"]
    lambdas = account.root("lambda")
    mapping = {"EventSourceArn": arn, "StartingPosition": "LATEST", "Enabled": False}
    for missing in needed:
        role = account.role("lambda", *(f"{kind}:{each}" for each in needed if each != missing))
        with pytest.raises(ClientError, match="Cannot access stream"):
            lambdas.create_event_source_mapping(FunctionName=account.function(role), **mapping)
    role = account.role("lambda", *(f"{kind}:{each}" for each in needed), at=arn)
    lambdas.create_event_source_mapping(FunctionName=account.function(role), **mapping)


def test_cloudformation_fails_a_mapping_that_its_functions_role_does_not_allow(
    account: Account, queue: str
) -> None:
    assert queue
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{account.name}"
    properties = {"EventSourceArn": arn, "FunctionName": account.function(account.role("lambda"))}
    mapping = {"Type": "AWS::Lambda::EventSourceMapping", "Properties": properties}
    body = json.dumps({"Resources": {"Mapping": mapping}})
    formation = account.root("cloudformation")
    formation.create_stack(StackName=account.name, TemplateBody=body)
    state = wait(
        lambda: formation.describe_stacks(StackName=account.name)["Stacks"][0]["StackStatus"]
    )
    assert state == "ROLLBACK_COMPLETE"
    events = formation.describe_stack_events(StackName=account.name)["StackEvents"]
    reasons = str([event.get("ResourceStatusReason") for event in events])
    assert "does not have permissions to call ReceiveMessage on SQS" in reasons


def wait(status: Callable[[], str]) -> str:
    """Wait until an operation has ended; return its status."""
    patience = Patience(END_SECONDS_MAX)
    while (found := status()).endswith("_IN_PROGRESS") or found == "RUNNING":
        assert not patience.is_over()
        time.sleep(0.02)
    return found


def execution(account: Account, role: str, *states: Document) -> Document:
    """Run a machine of these states to its end; return the execution."""
    machines = account.root("stepfunctions")
    names = [f"S{place}" for place in range(len(states))]
    definition = {"StartAt": names[0], "States": dict(zip(names, states, strict=True))}
    made = machines.create_state_machine(
        name=f"{account.name}-{uuid.uuid4().hex[:6]}",
        definition=json.dumps(definition),
        roleArn=role,
    )
    started = machines.start_execution(stateMachineArn=made["stateMachineArn"], input="[1]")
    arn = started["executionArn"]
    wait(lambda: str(machines.describe_execution(executionArn=arn)["status"]))
    described: Document = machines.describe_execution(executionArn=arn)
    return described


@pytest.mark.parametrize("way", ["direct", "integration"])
def test_a_machine_invokes_only_functions_that_its_role_allows(account: Account, way: str) -> None:
    function = account.function(account.role("lambda"))
    task: Document = {"Type": "Task", "Resource": function, "End": True}
    if way == "integration":
        task |= {"Resource": "arn:aws:states:::lambda:invoke"}
        task |= {"Parameters": {"FunctionName": function}}
    refused = execution(account, account.role("states"), task)
    assert (refused["status"], refused["error"]) == ("FAILED", "States.Permissions")
    assert f"lambda:InvokeFunction on {function}" in refused["cause"]
    role = account.role("states", "lambda:InvokeFunction", at=function)
    assert execution(account, role, task)["status"] == "SUCCEEDED"


def test_a_distributed_map_needs_to_start_executions_of_its_machine(account: Account) -> None:
    inner = {"StartAt": "Item", "States": {"Item": {"Type": "Pass", "End": True}}}
    processor = inner | {"ProcessorConfig": {"Mode": "DISTRIBUTED", "ExecutionType": "STANDARD"}}
    each: Document = {"Type": "Map", "ItemProcessor": processor, "End": True}
    refused = execution(account, account.role("states"), each)
    assert (refused["status"], refused["error"]) == ("FAILED", "States.Permissions")
    machines = f"arn:aws:states:us-east-1:{ACCOUNT}:stateMachine:{account.name}-*"
    role = account.role("states", "states:StartExecution", at=machines)
    assert execution(account, role, each)["status"] == "SUCCEEDED"
