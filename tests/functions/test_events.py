"""A function that is given another service's event says so: what it got, and what it takes."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from telemetry.errors import UnexpectedEvent

ROOT = Path(__file__).parents[2]
FUNCTIONS = sorted(path.parent.name for path in ROOT.glob("functions/*/handler.py"))
CONTEXT = SimpleNamespace(
    function_name="function",
    memory_limit_in_mb=256,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:function",
    aws_request_id="7d0c9a3e-0000-4000-8000-000000000000",
    get_remaining_time_in_millis=lambda: 60_000,
)
SECRET = "Bearer pump-1.sample-sample-sample-sample-sample-sample-x"
# By service, cut to what tells it from the others; and by which words it is known again.
FOREIGN: dict[str, tuple[Any, str]] = {
    "nothing": (None, "no event"),
    "empty": ({}, "an empty event"),
    "text": ("hello", "no object but a str"),
    "list": ([{"body": "x"}], "no object but a list"),
    "no records": ({"Records": []}, "an event whose list of Records is empty"),
    "records of nothing": ({"Records": [None]}, "1 records with nothing in it"),
    "sqs": (
        {"Records": [{"messageId": "m", "body": "{}", "eventSource": "aws:sqs"}] * 2},
        "messages of SQS (2)",
    ),
    "sns": (
        {"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "hello"}}]},
        "notifications of SNS (1)",
    ),
    "kinesis": (
        {
            "Records": [
                {
                    "eventSource": "aws:kinesis",
                    "eventID": "shardId-0:1",
                    "kinesis": {
                        "sequenceNumber": "1",
                        "partitionKey": "a",
                        "data": "e30=",
                        "approximateArrivalTimestamp": 1.5,
                    },
                }
            ]
        },
        "records of a Kinesis stream (1)",
    ),
    "hollow kinesis": (
        {"Records": [{"eventSource": "aws:kinesis", "eventID": "1", "kinesis": {}}]},
        "records of a Kinesis stream (1)",
    ),
    "hollow dynamodb": (
        {"Records": [{"eventSource": "aws:dynamodb", "eventID": "1", "dynamodb": {}}]},
        "records of a DynamoDB table's stream (1)",
    ),
    "dynamodb": (
        {
            "Records": [
                {
                    "eventID": "1",
                    "eventSource": "aws:dynamodb",
                    "dynamodb": {"SequenceNumber": "1"},
                },
            ]
        },
        "records of a DynamoDB table's stream (1)",
    ),
    "s3": (
        {"Records": [{"eventSource": "aws:s3", "s3": {"object": {"key": "k"}}}]},
        "notifications of S3 (1)",
    ),
    "ses": ({"Records": [{"eventSource": "aws:ses", "ses": {}}]}, "mail of SES (1)"),
    "codecommit": (
        {"Records": [{"eventSource": "aws:codecommit", "codecommit": {}}]},
        "1 records of aws:codecommit",
    ),
    "cloudfront": ({"Records": [{"cf": {"request": {}}}]}, "a request of CloudFront"),
    "msk": ({"eventSource": "aws:kafka", "records": {}}, "records of Kafka (MSK)"),
    "mq": ({"eventSource": "aws:rmq", "rmqMessagesByQueue": {}}, "messages of Amazon MQ"),
    "firehose": ({"deliveryStreamArn": "arn", "records": []}, "records of Firehose"),
    "logs": ({"awslogs": {"data": "H4sI"}}, "data of CloudWatch Logs"),
    "rest": (
        {
            "httpMethod": "GET",
            "path": "/my/path",
            "resource": "/my/path",
            "headers": {"Authorization": SECRET},
            "requestContext": {"stage": "v1"},
        },
        "a request of API Gateway's REST API (GET /my/path /my/path)",
    ),
    "http": (
        {"version": "2.0", "rawPath": "/", "requestContext": {"http": {"method": "GET"}}},
        "a request of an HTTP API or a function URL",
    ),
    "websocket": (
        {"requestContext": {"connectionId": "c", "routeKey": "$connect"}},
        "a WebSocket's message",
    ),
    "load balancer": (
        {"httpMethod": "GET", "path": "/", "requestContext": {"elb": {"targetGroupArn": "a"}}},
        "a request of a load balancer (GET /)",
    ),
    "request authorizer": (
        {"type": "REQUEST", "methodArn": "arn", "headers": {"Authorization": SECRET}},
        "a request of API Gateway to an authorizer",
    ),
    "token authorizer": (
        {"type": "TOKEN", "methodArn": "arn", "authorizationToken": SECRET},
        "a request of API Gateway to an authorizer",
    ),
    "eventbridge": (
        {"source": "aws.ec2", "detail-type": "EC2 Instance State-change", "detail": {}},
        "an event of EventBridge (aws.ec2 EC2 Instance State-change)",
    ),
    "schedule": (
        {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}},
        "an event of EventBridge (aws.events Scheduled Event)",
    ),
    "cognito": ({"triggerSource": "PreSignUp", "userPoolId": "p"}, "a trigger of Cognito"),
    "config": ({"invokingEvent": "{}", "ruleParameters": "{}"}, "an event of AWS Config"),
    "pipeline": ({"CodePipeline.job": {"id": "j"}}, "a job of CodePipeline"),
    "cloudformation": (
        {"RequestType": "Create", "StackId": "arn", "ResponseURL": "https://x"},
        "a request of CloudFormation",
    ),
    "alarm": ({"alarmData": {}, "alarmArn": "arn"}, "an alarm of CloudWatch"),
    "lex": ({"bot": {"name": "b"}, "currentIntent": {}}, "a request of Lex"),
    "alexa": ({"session": {}, "request": {}}, "a request of Alexa"),
    "iot rule": (
        {"topic": "t", "device_id": "a", "body": "e30=", "received_at": 1},
        "a message that an IoT rule hands on",
    ),
    "task": ({"task": "juggle"}, "a task of a state machine (juggle)"),
    "a reading": (
        {"device_id": "a", "recorded_at": 1, "temperature": 20},
        "an event with device_id, recorded_at, temperature, of an unknown source",
    ),
}
# What a function takes of these.
OWN = {
    "aggregate": {"kinesis", "no records"},
    "alert": {"kinesis", "no records"},
    "authorize": {"token authorizer"},
    "dispatch": {"dynamodb", "no records"},
    "drain": {"sqs", "no records"},
    "notify": {"sqs", "no records"},
    "ingest": {"iot rule"},
    "account": {"schedule", "empty"},
    "sweep": {"schedule", "empty"},
    "redrive": {"empty"},
}


def handle(function: str, event: Any) -> Any:
    handler = importlib.import_module(f"functions.{function}.handler")
    return handler.handler(event, CONTEXT)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that takes an event then finds that it isn't told where anything is."""
    for function in FUNCTIONS:
        module = importlib.import_module(f"functions.{function}.handler")

        def unwired() -> Any:
            raise NotImplementedError("it goes on")

        monkeypatch.setattr(module, "wired", unwired)


@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_services_event_is_named_with_what_the_function_takes(
    function: str, source: str
) -> None:
    event, words = FOREIGN[source]
    if source in OWN.get(function, set()):
        with pytest.raises(NotImplementedError):
            handle(function, event)
        return
    with pytest.raises(UnexpectedEvent) as caught:
        handle(function, event)
    said = str(caught.value)
    assert said.startswith(f"{function} got {words}; it takes ")
    assert SECRET not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("function", "path"),
    [(path.stem.partition("-")[0], path) for path in sorted((ROOT / "events").glob("*.json"))],
    ids=lambda value: getattr(value, "stem", value),
)
def test_its_own_events_are_taken(function: str, path: Path) -> None:
    with pytest.raises(NotImplementedError):
        handle(function, json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_events_long_or_strange_names_are_cut(function: str) -> None:
    event = {"x" * 100_000: 1, "\ud800": 2, **{f"key{index}": index for index in range(1000)}}
    with pytest.raises(UnexpectedEvent) as caught:
        handle(function, event)
    assert len(str(caught.value)) < 1_000
    str(caught.value).encode()
