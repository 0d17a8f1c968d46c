"""Gaps of the embedded AWS, closed: CloudFormation makes nothing that is there already.

A table by the name of another is refused: `Resource of type 'AWS::DynamoDB::GlobalTable' with
identifier '…' already exists.` So is a policy on a bucket that has one: `The bucket policy already
exists on bucket …`, as many have met (aws-cloudformation/cloudformation-coverage-roadmap, issue
1068; aws-samples/aws-cdk-examples, issue 1022), though PutBucketPolicy itself would replace it.
The emulator (1.5.33) puts an empty table in the place of the one that is there, and the new policy
in the place of the old.
"""

from collections.abc import Callable, Container
from typing import Any

POLICY = "AWS::S3::BucketPolicy"
TABLES = ("AWS::DynamoDB::GlobalTable", "AWS::DynamoDB::Table")

Create = Callable[[str, dict[str, Any], str], Any]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    made = modules.service("cloudformation.provisioners")._RESOURCE_HANDLERS
    dynamodb, s3 = modules.service("dynamodb"), modules.service("s3")
    for kind in TABLES:
        reason = f"Resource of type '{kind}' with identifier '{{name}}' already exists."
        made[kind]["create"] = new_only(made[kind]["create"], dynamodb._tables, "TableName", reason)
    reason = "The bucket policy already exists on bucket {name}."
    made[POLICY]["create"] = new_only(made[POLICY]["create"], s3._bucket_policies, "Bucket", reason)


def new_only(create: Create, existing: Container[str], named_by: str, reason: str) -> Create:
    """Return `create` as one that raises ValueError where the name is taken.

    An update calls the emulator's functions past its table of handlers, and this with them.
    """

    def create_new(logical_id: str, properties: dict[str, Any], stack_name: str) -> Any:
        name = properties.get(named_by)
        if name and name in existing:
            raise ValueError(reason.format(name=name))
        return create(logical_id, properties, stack_name)

    return create_new
