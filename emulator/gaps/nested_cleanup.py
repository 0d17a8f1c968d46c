"""Resources removed from a nested stack are deleted only after the root's update has succeeded.

On AWS an updated nested stack waits in UPDATE_COMPLETE_CLEANUP_IN_PROGRESS for its root's update.
Its removed resources are deleted after that, or kept if the root rolls back
("Nested stacks are stuck in UPDATE_COMPLETE_CLEANUP_IN_PROGRESS…",
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html). This module is
a part of `emulator.gaps.nested_stacks`, which applies it.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

Document = dict[str, Any]


class Deletion(NamedTuple):
    """A deletion to run once the root's update has succeeded; it may block the event loop."""

    stack_name: str
    delete: Callable[[], Any]
    is_blocking: bool


class Operation:
    """The changes that a root's operation made to its nested stacks.

    `updated`: the data to undo the update of each nested stack, by its id.
    """

    def __init__(self) -> None:
        """Start without changes."""
        self.deletions: list[Deletion] = []
        self.updated: dict[str, Document] = {}

    def keep_all_of(self, stack_name: str) -> None:
        """Drop all pending deletions of a nested stack."""
        self.deletions = [each for each in self.deletions if each.stack_name != stack_name]


OPERATION: ContextVar[Operation | None] = ContextVar("operation", default=None)
"""The operation of the current root."""
UPDATING: ContextVar[str] = ContextVar("updating", default="")
"""The name of the nested stack that is being updated; empty while it is rolled back."""


def clean_up_after_roots(modules: Any) -> None:
    """Make the emulator delete nested stacks' removed resources after their root's success."""
    stacks = modules.service("cloudformation.stacks")
    provisioners = modules.service("cloudformation.provisioners")
    note_deletions(stacks, provisioners)
    deploy = stacks._deploy_stack_async
    all_stacks = modules.service("cloudformation")._stacks

    async def deploy_and_clean_up(name: str, *request: Any, **options: Any) -> None:
        operation = Operation()
        OPERATION.set(operation)
        await deploy(name, *request, **options)
        stack = all_stacks.get(name) or {}
        if operation.deletions and stack.get("StackStatus") == "UPDATE_COMPLETE":
            stack["StackStatus"] = "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"
            for deletion in operation.deletions:
                await carry_out(stacks, deletion)
            stack["StackStatus"] = "UPDATE_COMPLETE"

    for name in ("handlers", "changesets"):
        modules.service(f"cloudformation.{name}")._deploy_stack_async = deploy_and_clean_up


async def carry_out(stacks: Any, deletion: Deletion) -> None:
    """Run a deletion; a resource that can't be deleted stays, as after any update."""
    try:
        if deletion.is_blocking:
            await stacks.run_reentrant(deletion.delete)
        else:
            deletion.delete()
    except Exception:
        stacks.logger.exception("not deleted after an update of %s", deletion.stack_name)


def note_deletions(stacks: Any, provisioners: Any) -> None:
    """Make the emulator store the deletions of a nested stack's update for later."""
    delete, roll_back = stacks._delete_resource, stacks._roll_back_operation
    delete_predecessor = provisioners._delete_predecessor

    def later(deletion: Callable[[], Any], is_blocking: bool = False) -> bool:
        operation, name = OPERATION.get(), UPDATING.get()
        if operation is None or not name:
            return False
        operation.deletions.append(Deletion(name, deletion, is_blocking))
        return True

    def delete_or_note(kind: str, *resource: Any) -> None:
        if not later(partial(delete, kind, *resource), stacks._runs_on_worker_thread(kind)):
            delete(kind, *resource)

    def delete_predecessor_or_note(own: Callable[..., Any], *given: Any, **named: Any) -> Any:
        def own_or_note(*args: Any, **options: Any) -> None:
            if not later(partial(own, *args, **options)):
                own(*args, **options)

        return delete_predecessor(own_or_note, *given, **named)

    async def roll_back_at_once(*request: Any, **options: Any) -> None:
        token = UPDATING.set("")
        try:
            await roll_back(*request, **options)
        finally:
            UPDATING.reset(token)

    stacks._delete_resource = delete_or_note
    stacks._roll_back_operation = roll_back_at_once
    provisioners._delete_predecessor = delete_predecessor_or_note


def undoing(modules: Any, stack: Document, previous: Document) -> Document:
    """Return the data with which the emulator can undo the update of a nested stack."""
    stacks = modules.service("cloudformation.stacks")
    engine = modules.service("cloudformation.engine")
    template, before, after = stack["_template"], previous["_resources"], stack["_resources"]
    order = engine._topological_sort(template.get("Resources", {}), stack["_conditions"])
    replaced = [
        name
        for name in order
        if name in before
        and before[name].get("PhysicalResourceId") != after[name].get("PhysicalResourceId")
    ]
    operation: Document = stacks._failed_operation(
        True, previous, order, None, None, replaced, False, template,
        stack["_resolved_params"], False, stack.get("Tags"), previous.get("Tags"),
    )  # fmt: skip
    return operation
