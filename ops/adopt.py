"""`adopt`: import the resources that a deleted stack left into a new one, before `make deploy`.

CloudFormation keeps data of a deleted stack for 90 days, by its id: ListStacks, DescribeStacks,
ListStackResources and GetTemplate (CloudFormation API Reference,
https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_Operations.html).
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from ops.command_types import Subparsers
from ops.errors import OpsError
from ops.retained import Deleted, Import, Retained, import_of, next_parameters
from ops.target import Target, described, outputs_of

KNOWN_DAYS = 90
POLL_SECONDS = 2.0
LINE_SECONDS = 10.0  # between lines where there is no terminal
CHANGE_SET = "adopt"
TEXT = (
    "Import what a deleted stack left (tables, buckets, key) into a new one, before `make deploy`."
)
DESCRIPTION = f"""\
{TEXT}

It finds the newest deleted stack of the environment's name that has left resources, and imports
them into a new stack of this name. No resource is made, changed or deleted. Then it shows the
command that deploys the rest, with the deleted stack's parameters. It can be stopped and run again
at any moment. CloudFormation knows a deleted stack for {KNOWN_DAYS} days.
"""
MISSING = {
    "404",
    "NotFoundException",
    "ResourceNotFoundException",
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDoesNotExist",
}
"""The error codes for a missing resource."""


def add(added: Subparsers) -> list[argparse.ArgumentParser]:
    """Add `adopt`."""
    parser = added.add_parser(
        "adopt",
        help=TEXT,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--yes", action="store_true", help="don't ask")
    text = "leave this resource out, so that the deployment makes another; may be repeated"
    parser.add_argument("--without", action="append", default=[], metavar="LOGICAL_ID", help=text)
    parser.set_defaults(does=adopt)
    return [parser]


def adopt(options: argparse.Namespace, target: Target, console: Console) -> int:
    """Import the resources of the newest deleted stack, or follow an import that has begun."""
    formation = target.connect("cloudformation")
    try:
        status = status_of(formation, target.stack)
        if status not in (None, "IMPORT_IN_PROGRESS", "IMPORT_COMPLETE"):
            raise OpsError(exists(target.stack, status))
        deleted = newest_deleted(target, options.without)
        if status is None:
            made = import_of(deleted)
            tell(target.stack, deleted, made, console)
            if not options.yes and not confirmed(console):
                return 1
            begin(formation, target.stack, made)
        follow(formation, target.stack, len(deleted.retained), console)
    except (ClientError, BotoCoreError) as error:
        raise OpsError(f"stack {target.stack}: {error}") from None
    console.print(
        f"[green]✓[/] stack {target.stack} has what was left; deploy the rest onto it:",
        highlight=False,
        soft_wrap=True,
    )
    command = next_command(options.env, next_parameters(deleted))
    console.print(command, highlight=False, markup=False, soft_wrap=True)
    return 0


def exists(stack: str, status: str | None) -> str:
    """Return why nothing can be adopted: the stack exists."""
    reason = f"stack {stack} exists, {status}: "
    if status == "DELETE_IN_PROGRESS":
        return reason + "adopt once it is deleted"
    if status in ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE"):
        return (
            reason + "it is what a failed deployment has left, and has no resources. "
            f"`aws cloudformation delete-stack --stack-name {stack}` removes it; then adopt"
        )
    return reason + "adopt makes a new one of what a deleted stack has left"


def status_of(formation: Any, stack: str) -> str | None:
    """Return a stack's status; None if there is none of that name, or it was deleted."""
    found = described(formation, stack)
    return None if found is None else str(found["StackStatus"])


def newest_deleted(target: Target, without: Collection[str]) -> Deleted:
    """Return the newest deleted stack of the target's name that has left resources.

    A stack without parameters was imported and never deployed. The stack before it left the same
    resources and has the parameters, so that one is returned. Raise OpsError if there is none, or
    if a resource is gone since.
    """
    formation = target.connect("cloudformation")
    deleted = list(newest_first(formation, target.stack))
    have_left = [(each, left) for each in deleted if (left := dict(left_by(formation, each)))]
    if not have_left:
        raise OpsError(nothing_left(target.stack, bool(deleted)))
    stacks = [formation.describe_stacks(StackName=each)["Stacks"][0] for each, _ in have_left]
    place = next((n for n, stack in enumerate(stacks) if stack.get("Parameters")), 0)
    _, left = have_left[place]
    for name in set(without) - left.keys():
        raise OpsError(f"--without {name}: it isn't among what was left, {', '.join(left)}")
    kept = {name: found for name, found in left.items() if name not in without}
    return known_of(target, stacks[place], kept)


def nothing_left(stack: str, is_known: bool) -> str:
    """Return why there is nothing to adopt; `is_known`: CloudFormation knows a deleted stack."""
    if is_known:
        return f"stack {stack} was deleted, and nothing of it was retained"
    return (
        f"CloudFormation knows no deleted stack {stack} in this region. It forgets one after "
        f"{KNOWN_DAYS} days, and adopt goes by nothing else: see docs/operations.md"
    )


def newest_first(formation: Any, stack: str) -> Iterator[str]:
    """Yield the ids of deleted stacks of a name, the newest first."""
    pages = formation.get_paginator("list_stacks").paginate(StackStatusFilter=["DELETE_COMPLETE"])
    found = [each for page in pages for each in page["StackSummaries"]]
    for each in sorted(found, key=lambda each: each["DeletionTime"], reverse=True):
        if each["StackName"] == stack:
            yield each["StackId"]


class Left(NamedTuple):
    """A resource that its stack's deletion skipped."""

    type: str
    physical_id: str


def left_by(formation: Any, stack_id: str) -> Iterator[tuple[str, Left]]:
    """Yield the resources that a deleted stack has left, with their logical ids."""
    for page in formation.get_paginator("list_stack_resources").paginate(StackName=stack_id):
        for each in page["StackResourceSummaries"]:
            if each["ResourceStatus"] == "DELETE_SKIPPED" and each.get("PhysicalResourceId"):
                yield (
                    each["LogicalResourceId"],
                    Left(each["ResourceType"], each["PhysicalResourceId"]),
                )


def known_of(target: Target, stack: Mapping[str, Any], left: Mapping[str, Left]) -> Deleted:
    """Return a deleted stack's data; raise OpsError if a resource that it left is gone."""
    stack_id, formation = stack["StackId"], target.connect("cloudformation")
    template = formation.get_template(StackName=stack_id, TemplateStage="Processed")["TemplateBody"]
    if not isinstance(template, Mapping):  # JSON is read, and what SAM's transform makes is JSON
        raise OpsError(f"{stack_id} has a template of YAML: SAM's transform hasn't made it")
    retained = {}
    for logical_id, (kind, physical_id) in left.items():
        try:
            retained[logical_id] = Retained(
                kind, physical_id, attributes_of(target, kind, physical_id)
            )
        except ClientError as error:
            if error.response["Error"]["Code"] not in MISSING:
                raise
            raise OpsError(
                f"{logical_id} ({physical_id}) was retained, and is gone since; "
                f"with --without {logical_id} the deployment makes another"
            ) from None
    return Deleted(
        stack_id,
        template,
        {each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])},
        outputs_of(stack),
        retained,
    )


def attributes_of(target: Target, kind: str, physical_id: str) -> dict[str, str]:
    """Return a resource's attributes for Fn::GetAtt; raise ClientError or OpsError if gone."""
    return ATTRIBUTES[kind](target, physical_id) if kind in ATTRIBUTES else {}


def of_table(target: Target, name: str) -> dict[str, str]:
    """Return a table's attributes."""
    table = target.connect("dynamodb").describe_table(TableName=name)["Table"]
    return {"Arn": table["TableArn"]}


def of_bucket(target: Target, name: str) -> dict[str, str]:
    """Check that a bucket exists; no retained resource uses its attributes."""
    target.connect("s3").head_bucket(Bucket=name)
    return {}


def of_queue(target: Target, url: str) -> dict[str, str]:
    """Return a queue's attributes."""
    found = target.connect("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return {"Arn": found["Attributes"]["QueueArn"]}


def of_key(target: Target, key_id: str) -> dict[str, str]:
    """Return a key's attributes; raise OpsError if it isn't enabled."""
    key = target.connect("kms").describe_key(KeyId=key_id)["KeyMetadata"]
    if key["KeyState"] != "Enabled":
        raise OpsError(
            f"key {key_id} is {key['KeyState']}, so what it encrypts can't be read: "
            f"`aws kms cancel-key-deletion --key-id {key_id}` if it is to be deleted, then "
            f"`aws kms enable-key --key-id {key_id}`"
        )
    return {"Arn": key["Arn"]}


ATTRIBUTES: Mapping[str, Callable[[Target, str], dict[str, str]]] = {
    "AWS::DynamoDB::GlobalTable": of_table,
    "AWS::KMS::Key": of_key,
    "AWS::S3::Bucket": of_bucket,
    "AWS::SQS::Queue": of_queue,
}


def tell(stack: str, deleted: Deleted, made: Import, console: Console) -> None:
    """Print the resources that an import takes, and the properties that it leaves out."""
    console.print(f"{deleted.arn} has left:", highlight=False, soft_wrap=True)
    for logical_id, each in deleted.retained.items():
        text = f"  {logical_id:15} {each.type:27} {each.physical_id}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for name, gone in made.left_out.items():
        text = f"  without {name}, which needs {gone}: the deployment puts it back"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"They are imported into a new stack {stack}; nothing is made, changed or deleted.",
        highlight=False,
        soft_wrap=True,
    )


def confirmed(console: Console) -> bool:
    """Ask; raise OpsError if there is no input."""
    try:
        return console.input("Import them? \\[y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        raise OpsError("there is no terminal to answer at: give --yes") from None


def begin(formation: Any, stack: str, made: Import) -> None:
    """Begin an import; raise OpsError with CloudFormation's reason where it refuses."""
    created = formation.create_change_set(
        StackName=stack,
        ChangeSetName=CHANGE_SET,
        ChangeSetType="IMPORT",
        TemplateBody=json.dumps(made.template),
        ResourcesToImport=made.resources,
    )
    change_set, stack_id = created["Id"], created["StackId"]
    while True:
        found = formation.describe_change_set(ChangeSetName=change_set, StackName=stack_id)
        if not found["Status"].endswith(("PENDING", "IN_PROGRESS")):
            break
        time.sleep(POLL_SECONDS)
    if found["ExecutionStatus"] != "AVAILABLE":
        formation.delete_stack(StackName=stack_id)  # which has nothing yet
        raise OpsError(f"CloudFormation refuses the import: {found.get('StatusReason')}")
    formation.execute_change_set(ChangeSetName=change_set, StackName=stack_id)


def follow(formation: Any, stack: str, count: int, console: Console) -> None:
    """Show an import's progress until it ends; raise OpsError if it fails."""
    told = time.monotonic()
    try:
        with console.status("importing") as line:
            while (status := status_of(formation, stack) or "").endswith("IN_PROGRESS"):
                text = f"{imported(formation, stack)} of {count} imported"
                line.update(text)
                if not console.is_terminal and time.monotonic() - told >= LINE_SECONDS:
                    told = time.monotonic()
                    console.print(text, highlight=False)
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        console.print("the import goes on; run this again to see its end", highlight=False)
        raise
    if status != "IMPORT_COMPLETE":
        raise OpsError(
            f"the import ended, {status}: {why_failed(formation, stack)}. What was left is as it "
            f"was; `aws cloudformation delete-stack --stack-name {stack}` removes the new stack"
        )


def imported(formation: Any, stack: str) -> int:
    """Return the number of imported resources."""
    pages = formation.get_paginator("list_stack_resources").paginate(StackName=stack)
    statuses = Counter(
        each["ResourceStatus"] for page in pages for each in page["StackResourceSummaries"]
    )
    return statuses["IMPORT_COMPLETE"] + statuses["UPDATE_COMPLETE"]


def why_failed(formation: Any, stack: str) -> str:
    """Return the reason of the first failure; events come newest first."""
    pages = formation.get_paginator("describe_stack_events").paginate(StackName=stack)
    failed = [
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
        for page in pages
        for event in page["StackEvents"]
        if event["ResourceStatus"].endswith("_FAILED")
    ]
    return failed[-1] if failed else "no event says why"


def next_command(environment: str, parameters: Mapping[str, str]) -> str:
    """Return the shell command of the deployment that follows an import."""
    of_environment = "" if environment == "default" else f" ENV={environment}"
    given = " ".join(f"{name}={value}" for name, value in parameters.items())
    options = f' ARGS="--parameter-overrides {given}"' if given else ""
    return f"make deploy{of_environment}{options}"
