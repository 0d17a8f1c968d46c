"""Stacks in the embedded AWS: create, change, import and delete them, and wait for the end."""

import json
import time
import uuid
from typing import Any

from tests.contract.conftest import embedded_client
from tests.waiting import Patience

END_SECONDS_MAX = 30
Document = dict[str, Any]


class Formation:
    """The embedded CloudFormation; each call waits until its stack has ended."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.formation = self.client("cloudformation")

    def client(self, service: str) -> Any:
        return embedded_client(self.endpoint, service)

    def delete(self, stack: Document) -> Document:
        """Delete a stack; return it afterwards."""
        self.formation.delete_stack(StackName=stack["StackName"])
        return self.ended(stack["StackId"])

    def ended(self, stack_id: str) -> Document:
        """Wait until a stack's operation has ended; return the stack."""
        patience = Patience(END_SECONDS_MAX)
        while True:
            stack: Document = self.formation.describe_stacks(StackName=stack_id)["Stacks"][0]
            if not stack["StackStatus"].endswith("_IN_PROGRESS"):
                return stack
            assert not patience.is_over(), stack["StackStatus"]
            time.sleep(0.02)


class Stacks(Formation):
    """Stacks of a few resources."""

    def create(self, resources: Document, **options: Any) -> Document:
        """Create a stack; return it once that has ended."""
        name = options.pop("name", f"stack-{uuid.uuid4().hex[:8]}")
        body = json.dumps({"Resources": resources})
        made = self.formation.create_stack(StackName=name, TemplateBody=body, **options)
        return self.ended(made["StackId"])

    def update(self, stack: Document, resources: Document, **sections: Document) -> Document:
        """Update a stack; return it once that has ended."""
        body = json.dumps({"Resources": resources} | sections)
        self.formation.update_stack(StackName=stack["StackName"], TemplateBody=body)
        return self.ended(stack["StackId"])

    def reasons(self, stack: Document) -> str:
        """Return the reasons in the stack's events."""
        events = self.formation.describe_stack_events(StackName=stack["StackId"])["StackEvents"]
        return str([event.get("ResourceStatusReason", "") for event in events])

    def resources(self, stack: Document) -> dict[str, str]:
        """Return the physical ids of a stack's resources, by logical id."""
        listed = self.formation.list_stack_resources(StackName=stack["StackId"])
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in listed["StackResourceSummaries"]
        }
