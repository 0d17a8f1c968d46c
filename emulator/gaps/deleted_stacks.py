"""Closes gaps of the embedded AWS: a deleted stack is shown for 90 days, by its id only.

Its resources are listed with the status DELETE_COMPLETE or, if retained, DELETE_SKIPPED. Its
template and outputs can be read, and its name is free
(https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ListStackResources.html,
API_DescribeStacks.html, API_GetTemplate.html, API_ListStacks.html).
The emulator (1.5.33) forgets each resource that it deletes, forgets a stack once another has its
name, and shows a deleted stack by its name, too. An instance never runs for 90 days, so nothing
expires here.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Document = dict[str, Any]
DELETED_RESOURCES = "_gone_resources"
"""The key under which a stack that is being deleted stores its former resources."""


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
    """Return `delete`, which deletes a stack, changed to store the stack's former resources."""

    async def delete_and_remember(name: str, stack_id: str, *args: Any, **options: Any) -> None:
        stack = formation._stacks.get(name)
        if stack is None:
            return
        before = dict(stack["_resources"])
        await delete(name, stack_id, *args, **options)
        deleted = stack.setdefault(DELETED_RESOURCES, {})
        for logical_id, status in newest_statuses(formation._stack_events[stack_id]).items():
            if logical_id in before and logical_id not in stack["_resources"]:
                deleted[logical_id] = before[logical_id] | {"ResourceStatus": status}
        if stack["StackStatus"] == "DELETE_COMPLETE":
            stack["_resources"] = stack.pop(DELETED_RESOURCES)
            stack["DeletionTime"] = now()
            del formation._stacks[name]
            formation._stacks[stack_id] = stack

    return delete_and_remember


def newest_statuses(events: list[Document]) -> dict[str, str]:
    """Return the last status of each resource in a stack's events, which are in order."""
    return {event["LogicalResourceId"]: event["ResourceStatus"] for event in events}
