"""Queues and functions of the embedded AWS for tests of queues' mappings, in real time."""

import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
from botocore.config import Config

from tests.waiting import Patience

Document = dict[str, Any]

AT_ONCE = 10
REAPPEAR_SECONDS = 5
WAIT_SECONDS_MAX = 60
ASSUMED_BY_LAMBDA = json.dumps({
    "Version": "2012-10-17",
    "Statement": {
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": "sts:AssumeRole",
    },
})  # fmt: skip
FUNCTION = '''
import json
import os
import pathlib
import time
import uuid


def handler(event, context):
    """Note the event; fail, or report failures, as often as each message's body says."""
    if "raise_error" in event:
        raise RuntimeError("Test exception (this is intentional)")
    if "Records" not in event:
        return None
    began = time.time()
    does = os.environ["DOES"]
    time.sleep(float(os.environ.get("SECONDS", "0")))
    failed = [] if does == "echo" else [each for each in event["Records"] if fails(each)]
    answer = {"batchItemFailures": [{"itemIdentifier": each["messageId"]} for each in failed]}
    if "ANSWER" in os.environ:
        answer = json.loads(os.environ["ANSWER"])
    error = "failed attempt" if failed and does == "raise" else None
    note({
        "event": event, "error": error, "result": answer, "began": began, "ended": time.time(),
        "function_version": context.function_version, "CUSTOM_VAR": os.environ.get("CUSTOM_VAR"),
    })
    if error:
        raise RuntimeError(error)
    return answer


def fails(record):
    tried = int(record["attributes"]["ApproximateReceiveCount"])
    return tried <= json.loads(record["body"])["fail_attempts"]


def note(invocation):
    path = pathlib.Path(os.environ["FOLDER"], uuid.uuid4().hex)
    path.write_text(json.dumps(invocation))
    path.rename(path.with_suffix(".json"))
'''

CONSUMES_QUEUES = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"},
    }
)


class Stage:
    """The embedded AWS, the role of all calls, and a folder in which functions record events."""

    def __init__(self, session: boto3.Session, endpoint: str, folder: Path) -> None:
        make: Callable[..., Any] = session.client
        self.lambdas, self.sqs, iam = (
            make(service, endpoint_url=endpoint, config=Config(max_pool_connections=AT_ONCE))
            for service in ("lambda", "sqs", "iam")
        )
        self.folder = folder
        self.name = f"queues-{uuid4()}"
        role = iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=ASSUMED_BY_LAMBDA)
        self.role_arn = role["Role"]["Arn"]
        named = {"RoleName": self.name, "PolicyName": "consume"}
        iam.put_role_policy(**named, PolicyDocument=CONSUMES_QUEUES)
        self.made: list[Callable[[], object]] = [
            lambda: iam.delete_role(RoleName=self.name),
            lambda: iam.delete_role_policy(**named),
        ]
        self.echo = self.function(DOES="echo")

    def end(self) -> None:
        for undo in reversed(self.made):
            undo()

    def function(self, timeout: int = 30, **settings: str) -> str:
        """Make a function whose process has started; return its name."""
        code = io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            archive.writestr("handler.py", FUNCTION)
        name = f"function-{uuid4()}"
        self.lambdas.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=self.role_arn,
            Handler="handler.handler",
            Code={"ZipFile": code.getvalue()},
            Timeout=timeout,
            Environment={"Variables": settings | {"FOLDER": str(self.folder)}},
        )
        self.made.append(lambda: self.lambdas.delete_function(FunctionName=name))
        while "FunctionError" in self.lambdas.invoke(FunctionName=name, Payload="{}"):
            pass  # a busy machine took longer than its timeout to start it
        return name

    def failing(self, **settings: str) -> str:
        """Make a function whose timeout ends before its messages reappear."""
        return self.function(REAPPEAR_SECONDS, **settings)

    def queue(self, suffix: str = "", **attributes: Any) -> "Queue":
        """Make a queue."""
        name = f"queue-{uuid4()}{suffix}"
        texts = {each: str(value) for each, value in attributes.items()}
        url = self.sqs.create_queue(QueueName=name, Attributes=texts)["QueueUrl"]
        self.made.append(lambda: self.sqs.delete_queue(QueueUrl=url))
        return Queue(self.sqs, url, f"arn:aws:sqs:us-east-1:{'0' * 12}:{name}")

    def mapping(self, queue: "Queue", function: str, **settings: Any) -> Document:
        created: Document = self.lambdas.create_event_source_mapping(
            EventSourceArn=queue.arn, FunctionName=function, **settings
        )
        self.made.append(lambda: self.lambdas.delete_event_source_mapping(UUID=created["UUID"]))
        return created

    def invocations(self, queue: "Queue") -> list[Document]:
        """Return the records of functions about a queue's messages, in order."""
        noted = [json.loads(path.read_text()) for path in self.folder.glob("*.json")]
        mine = [
            each for each in noted if each["event"]["Records"][0]["eventSourceARN"] == queue.arn
        ]
        return sorted(mine, key=lambda each: float(each["began"]))

    def events(self, queue: "Queue") -> list[Document]:
        """Return the events that functions got from a queue."""
        return [each["event"] for each in self.invocations(queue)]

    def records(self, queue: "Queue") -> list[Document]:
        """Return the records in these events, in the order of their bodies."""
        records = [record for event in self.events(queue) for record in event["Records"]]
        return sorted(records, key=lambda record: str(record["body"]))


@dataclass
class Queue:
    """A queue of the embedded AWS."""

    sqs: Any
    url: str
    arn: str

    def send(self, *bodies: str, **each: Any) -> Document:
        entries = [
            {"Id": f"message-{number}", "MessageBody": body}
            | {name: value(number) for name, value in each.items()}
            for number, body in enumerate(bodies, 1)
        ]
        answer: Document = self.sqs.send_message_batch(QueueUrl=self.url, Entries=entries)
        return answer

    def left(self) -> int:
        """Return the number of messages, visible or not."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)

    def received(self, **wanted: Any) -> Document:
        answer: Document = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=10, **wanted
        )
        return answer


def wait_until(condition: Callable[[], bool]) -> None:
    patience = Patience(WAIT_SECONDS_MAX)
    while not condition():
        assert not patience.is_over(), "it never came"
        time.sleep(0.1)
