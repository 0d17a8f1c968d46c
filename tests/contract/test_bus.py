"""The bus: rules see a notice as an event; in the embedded AWS, since moto's lacks a package."""

import json

import boto3
from telemetry.aws.publishers import Bus

from tests.contract.test_messaging import NOTICE
from tests.waiting import Patience

ARRIVES_SECONDS_MAX = 10


def test_rules_match_the_notice_as_an_event(embedded_endpoint: str, aws_environment: None) -> None:  # noqa: ARG001
    sqs = boto3.client("sqs", endpoint_url=embedded_endpoint)
    events = boto3.client("events", endpoint_url=embedded_endpoint)
    url = sqs.create_queue(QueueName="events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    events.create_event_bus(Name="notices")
    pattern = {"source": ["telemetry.alerts"], "detail-type": ["Alert opened"]}
    events.put_rule(Name="opened", EventBusName="notices", EventPattern=json.dumps(pattern))
    target = {"Id": "queue", "Arn": arn["Attributes"]["QueueArn"]}
    events.put_targets(Rule="opened", EventBusName="notices", Targets=[target])  # type: ignore[list-item]
    Bus(events, "notices").publish(NOTICE._replace(change="cleared"))
    Bus(events, "notices").publish(NOTICE)
    patience = Patience(ARRIVES_SECONDS_MAX)
    found: list[dict[str, object]] = []
    while not found and not patience.is_over():
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        found += [json.loads(message["Body"]) for message in answer.get("Messages", [])]
    assert [event["detail"] for event in found] == [NOTICE._asdict()]
