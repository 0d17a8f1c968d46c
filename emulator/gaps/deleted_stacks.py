"""Gaps of the embedded AWS, closed: a deleted stack is known for 90 days, by its id alone.

What it had is listed with what became of it: DELETE_COMPLETE or, where it was retained,
DELETE_SKIPPED; and its template and outputs can be read. Its name is free
(https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ListStackResources.html,
API_DescribeStacks.html, API_GetTemplate.html, API_ListStacks.html).
The emulator (1.5.33) forgets each resource as it deletes it, forgets a stack once another has its
name, and answers for a deleted one by its name, too. Ninety days it never lives.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Document = dict[str, Any]
GONE = "_gone_resources"
"""Where a stack that is being deleted keeps what it had."""


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    formation = modules.service("cloudformation")
    stacks = modules.service("cloudformation.stacks")
    deleting = remembering(formation, stacks._delete_stack_async, modules.core("responses").now_iso)
    stacks._delete_stack_async = deleting
    modules.service("cloudformation.handlers")._delete_stack_async = deleting


def remembering(
    formation: Any, delete: Callable[..., Awaitable[None]], now: Callable[[], str]
) -> Callable[..., Awaitable[None]]:
    """Return `delete`, which deletes a stack, as one that remembers what it was."""

    async def delete_and_remember(name: str, stack_id: str, *args: Any, **options: Any) -> None:
        stack = formation._stacks.get(name)
        if stack is None:
            return
        before = dict(stack["_resources"])
        await delete(name, stack_id, *args, **options)
        gone = stack.setdefault(GONE, {})
        for logical_id, status in newest_statuses(formation._stack_events[stack_id]).items():
            if logical_id in before and logical_id not in stack["_resources"]:
                gone[logical_id] = before[logical_id] | {"ResourceStatus": status}
        if stack["StackStatus"] == "DELETE_COMPLETE":
            stack["_resources"] = stack.pop(GONE)
            stack["DeletionTime"] = now()
            del formation._stacks[name]
            formation._stacks[stack_id] = stack

    return delete_and_remember


def newest_statuses(events: list[Document]) -> dict[str, str]:
    """The last status of each resource, by a stack's events in order."""
    return {event["LogicalResourceId"]: event["ResourceStatus"] for event in events}
