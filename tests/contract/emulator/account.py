"""CloudFormation in the embedded AWS, as tests of stacks use it."""

import json
import time
import uuid
from typing import Any

import boto3

ALL_CAPABILITIES = ("CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND")
END_SECONDS_MAX = 30
Document = dict[str, Any]


class Account:
    """What the tests use of the embedded AWS; every name in it ends with a suffix of its own."""

    def __init__(self, endpoint: str) -> None:
        self.suffix = uuid.uuid4().hex[:8]
        self.bucket = f"templates-{self.suffix}"
        self.endpoint = endpoint
        self.formation, self.s3, self.sqs = map(self.client, ("cloudformation", "s3", "sqs"))
        self.s3.create_bucket(Bucket=self.bucket)

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.endpoint)  # type: ignore[call-overload]

    def upload(self, template: Document) -> str:
        """Upload a template; return its URL."""
        key = f"{uuid.uuid4().hex}.template"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(template))
        return f"https://s3.us-east-1.amazonaws.com/{self.bucket}/{key}"

    def create(
        self, template: Document, capabilities: tuple[str, ...] = ALL_CAPABILITIES, **options: Any
    ) -> Document:
        """Create a stack; return it once that has ended."""
        name = f"root-{uuid.uuid4().hex[:8]}"
        made = self.formation.create_stack(
            StackName=name,
            TemplateBody=json.dumps(template),
            Capabilities=list(capabilities),
            **options,
        )
        return self.ended(made["StackId"])

    def update(self, stack: Document, template: Document) -> Document:
        """Update a stack; return it once that has ended."""
        self.formation.update_stack(
            StackName=stack["StackName"],
            TemplateBody=json.dumps(template),
            Capabilities=list(ALL_CAPABILITIES),
        )
        return self.ended(stack["StackId"])

    def delete(self, stack: Document) -> Document:
        """Delete a stack; return it once that has ended."""
        self.formation.delete_stack(StackName=stack["StackName"])
        return self.ended(stack["StackId"])

    def ended(self, stack_id: str) -> Document:
        """The stack once nothing happens to it any more."""
        deadline = time.monotonic() + END_SECONDS_MAX
        while True:
            stack: Document = self.formation.describe_stacks(StackName=stack_id)["Stacks"][0]
            if not stack["StackStatus"].endswith("_IN_PROGRESS"):
                return stack
            assert time.monotonic() < deadline, stack["StackStatus"]
            time.sleep(0.02)

    def child(self, stack: Document, logical_id: str = "Child") -> Document:
        """A nested stack."""
        return self.ended(self.physical(stack, logical_id))

    def physical(self, stack: Document, logical_id: str) -> str:
        """The id of what a stack made."""
        return str(self.event(stack, logical_id, "PhysicalResourceId"))

    def event(self, stack: Document, logical_id: str, key: str) -> Any:
        """What the newest event of a resource says that says it at all."""
        events = self.events(stack)
        return next(e[key] for e in events if e["LogicalResourceId"] == logical_id and e.get(key))

    def events(self, stack: Document) -> list[Document]:
        """What happened to a stack, the newest first."""
        listed = self.formation.describe_stack_events(StackName=stack["StackId"])
        events: list[Document] = listed["StackEvents"]
        return events

    def resources(self, stack: Document) -> set[str]:
        """The logical ids of what a stack has."""
        listed = self.formation.list_stack_resources(StackName=stack["StackId"])
        return {each["LogicalResourceId"] for each in listed["StackResourceSummaries"]}

    def named(self, name: str) -> str:
        """A name that no other test has."""
        return f"{name}-{self.suffix}"

    def queue(self, name: str, **attributes: Any) -> Document:
        """The definition of a queue."""
        own = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": self.named(name)}}
        return own | attributes

    def has_queue(self, name: str) -> bool:
        listed = self.sqs.list_queues(QueueNamePrefix=self.named(name)).get("QueueUrls", [])
        return bool(listed)

    def nested(self, template: Document, **properties: Any) -> Document:
        """The definition of a nested stack."""
        url = {"TemplateURL": self.upload(template)}
        return {"Type": "AWS::CloudFormation::Stack", "Properties": url | properties}
