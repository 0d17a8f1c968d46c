"""Closes gaps of the embedded AWS: a nested stack behaves like any other stack.

On AWS the template of a nested stack gets the same transforms, limits and rules as a root's. Its
exports are exported, and if it fails, it rolls back before its parent does
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-nested-stacks.html). Its
retained resources stay when it is deleted
(https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html).
The emulator (1.5.33) makes a nested stack's resources with separate code. That code has no
transforms, no rollback, no exports and no DeletionPolicy at deletion, and counts a failed deletion
as done. Here the code for root stacks deploys and deletes nested stacks, too.
"""

import asyncio
import contextvars
import copy
import os
import re
import secrets
import string
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from emulator.gaps.nested_cleanup import (
    OPERATION,
    UPDATING,
    Operation,
    clean_up_after_roots,
    undoing,
)

TYPE = "AWS::CloudFormation::Stack"
AUTO_EXPAND = "CAPABILITY_AUTO_EXPAND"
NAME_CHARACTERS = string.ascii_uppercase + string.digits
NAME_END = 13
"""The number of random characters at the end of a nested stack's name, as seen on AWS."""
KEPT_FOR_ROLL_BACK = (
    "_resources", "_template", "_template_body", "_resolved_params", "_conditions", "Parameters",
    "Tags", "Outputs",
)  # fmt: skip
"""The fields that the emulator restores when an update fails."""

Document = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]
Resource = tuple[str, Document]
"""CloudFormation's: its id and its attributes."""


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    nested = NestedStacks(modules)
    provisioners = modules.service("cloudformation.provisioners")
    provisioners._RESOURCE_HANDLERS[TYPE] = {
        "create": nested.create,
        "update": nested.update,
        "update_with_logical_id": True,
        "delete": nested.delete,
    }
    always_visit(modules.service("cloudformation.stacks"), nested)
    clean_up_after_roots(modules)
    may_have_changed(modules.service("cloudformation.changesets"))
    handlers = modules.service("cloudformation.handlers")
    show_aws_addresses(handlers, modules.core("responses"))
    show_parents(handlers, modules.service("cloudformation"))


class NestedStacks:
    """Deploys and deletes nested stacks; each call runs in a thread beside the event loop."""

    def __init__(self, modules: Any) -> None:
        """Keep the modules of the emulator's CloudFormation."""
        self._modules = modules
        self._app = modules.app
        self._all = modules.service("cloudformation")
        self._engine = modules.service("cloudformation.engine")
        self._handlers = modules.service("cloudformation.handlers")
        self._helpers = modules.service("cloudformation.helpers")
        self._provisioners = modules.service("cloudformation.provisioners")
        self._responses = modules.core("responses")
        self._stacks = modules.service("cloudformation.stacks")

    def create(self, logical_id: str, properties: Document, parent_name: str) -> Resource:
        """Create a nested stack; raise ValueError with AWS's reason."""
        prepared = self._prepared(properties, parent_name)
        responses, parent = self._responses, self._all._stacks[parent_name]
        name = f"{parent_name}-{logical_id}-" + "".join(
            secrets.choice(NAME_CHARACTERS) for _ in range(NAME_END)
        )
        where = f"{responses.get_region()}:{responses.get_account_id()}"
        stack_id = f"arn:aws:cloudformation:{where}:stack/{name}/{responses.new_uuid()}"
        stack = {
            "StackName": name,
            "StackId": stack_id,
            "StackStatusReason": "",
            "CreationTime": responses.now_iso(),
            "Outputs": [],
            "DisableRollback": parent.get("DisableRollback", False),
            "ParentId": parent["StackId"],
            "RootId": parent.get("RootId", parent["StackId"]),
            "_parent_stack_name": parent_name,
            "_region": responses.get_region(),
            "_resources": {},
        }
        self._all._stacks[name] = stack
        self._all._stack_events[stack_id] = []
        reason = self._deploy(stack, prepared, None)
        if reason:
            if stack["DisableRollback"]:
                record = {"LogicalResourceId": logical_id, "ResourceType": TYPE}
                record |= {"PhysicalResourceId": stack_id, "ResourceStatus": "CREATE_FAILED"}
                parent["_resources"][logical_id] = record | {
                    "Properties": properties,
                    "Attributes": {},
                    "Timestamp": responses.now_iso(),
                }
            else:
                with suppress(ValueError):  # its events name the resources that couldn't be deleted
                    self.delete(stack_id, properties)
            raise ValueError(f"Embedded stack {stack_id} was not successfully created: {reason}")
        return stack_id, outputs(stack)

    def update(
        self, stack_id: str, _old: Document, new: Document, parent_name: str, logical_id: str = ""
    ) -> Resource:
        """Update a nested stack; raise ValueError with AWS's reason."""
        stack = self._handlers._resolve_stack(stack_id)
        if stack is None:
            return self.create(logical_id, new, parent_name)
        operation = OPERATION.get()
        if operation is not None and stack["StackId"] in operation.updated:
            return self._undo(stack, operation)
        prepared = self._prepared(new, parent_name, stack)
        if is_unchanged(stack, prepared):
            return stack["StackId"], outputs(stack)
        previous = {name: copy.deepcopy(stack.get(name)) for name in KEPT_FOR_ROLL_BACK}
        reason = self._deploy(stack, prepared, previous)
        if reason:
            raise ValueError(
                f"Embedded stack {stack_id} was not successfully updated. Currently in "
                f"{stack['StackStatus']} with reason: {reason}"
            )
        if operation is not None:
            operation.updated[stack["StackId"]] = undoing(self._modules, stack, previous)
        return stack["StackId"], outputs(stack)

    def _undo(self, stack: Document, operation: Operation) -> Resource:
        """Restore a nested stack to its state before its root's failed update."""
        name, stack_id = stack["StackName"], stack["StackId"]
        undo = operation.updated.pop(stack_id)
        operation.keep_all_of(name)
        self._wait(self._stacks._roll_back_operation(name, stack_id, stack, undo))
        stack["_conditions"] = undo["previous_stack"]["_conditions"]
        if stack["StackStatus"] != "UPDATE_ROLLBACK_COMPLETE":
            raise ValueError(f"Embedded stack {stack_id} was not successfully rolled back")
        return stack_id, outputs(stack)

    def delete(self, stack_id: str, _properties: Document) -> None:
        """Delete a nested stack except its retained resources; raise ValueError if that fails."""
        stack = self._handlers._resolve_stack(stack_id)
        if stack is None or stack["StackStatus"] == "DELETE_COMPLETE":
            return
        self._wait(self._stacks._delete_stack_async(stack["StackName"], stack["StackId"]))
        if stack["StackStatus"] != "DELETE_COMPLETE":
            reason = stack.get("StackStatusReason", "")
            raise ValueError(f"Embedded stack {stack_id} was not successfully deleted: {reason}")

    def _prepared(
        self, properties: Document, parent_name: str, stack: Document | None = None
    ) -> Document:
        """Return a stack's fields by these properties: template, parameters and so on.

        Raises ValueError for anything that AWS refuses before it creates resources.
        """
        engine, body = self._engine, self._template_body(properties.get("TemplateURL"))
        sent = engine._parse_template(body)
        provided = provided_parameters(properties.get("Parameters") or {})
        previous = (stack or {}).get("_resolved_params", {})
        try:
            template = engine._apply_transforms(sent, provided, previous)
        except Exception as error:  # the SAM translator raises its own types
            raise ValueError(f"Template format error: {error}") from error
        self._check_capabilities(sent, template, parent_name)
        unknown = [each["Key"] for each in provided if each["Key"] not in parameters_of(template)]
        if unknown:
            raise ValueError(f"Parameters: [{', '.join(unknown)}] do not exist in the template")
        values = engine._resolve_parameters(template, provided, previous)
        conditions = engine._evaluate_conditions(template, values)
        engine.validate_template_support(template, conditions, params=values)
        tags = self._provisioners._tag_map(properties.get("Tags")).items()
        return {
            "Description": template.get("Description", ""),
            "Parameters": [
                {"ParameterKey": name, "ParameterValue": each["Value"], "NoEcho": each["NoEcho"]}
                for name, each in values.items()
            ],
            "Tags": [
                {"Key": key, "Value": value} for key, value in tags if not key.startswith("aws:")
            ],
            "Capabilities": self._capabilities(parent_name),
            "_template": template,
            "_template_body": body,
            "_resolved_params": values,
            "_conditions": conditions,
        }

    def _template_body(self, url: Any) -> str:
        """Return the template's text, which AWS accepts only from S3."""
        if not url:
            raise ValueError("Property TemplateURL cannot be empty.")
        body, refused = self._helpers._resolve_template({"TemplateURL": [url]})
        if refused is not None or not body:
            raise ValueError(f"TemplateURL {url} has no template")
        return str(body)

    def _capabilities(self, parent_name: str) -> list[str]:
        """Return the parent's capabilities, which also count for its nested stacks."""
        return list((self._all._stacks.get(parent_name) or {}).get("Capabilities", []))

    def _check_capabilities(self, sent: Document, template: Document, parent_name: str) -> None:
        """Raise ValueError if the parent's capabilities don't cover a nested template.

        A macro adds resources that the template doesn't show, so it needs CAPABILITY_AUTO_EXPAND
        (https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/serverless-sam-template-nested-applications.html).
        """
        handlers = self._handlers
        required = handlers._required_iam_capabilities(template)
        if handlers._uses_macro(sent):
            required.append(AUTO_EXPAND)
        missing = handlers._missing_capabilities(set(self._capabilities(parent_name)), required)
        if missing:
            raise ValueError(handlers._insufficient_capabilities_message(missing))

    def _deploy(self, stack: Document, prepared: Document, previous: Document | None) -> str:
        """Create or update a stack; return the parent's reason for its failure, empty if none."""
        verb = "CREATE" if previous is None else "UPDATE"
        name, stack_id = stack["StackName"], stack["StackId"]
        stack |= prepared
        stack |= {"StackStatus": f"{verb}_IN_PROGRESS", "StackStatusReason": ""}
        stack["LastUpdatedTime"] = self._responses.now_iso()
        events = self._all._stack_events[stack_id]
        self._stacks._add_event(
            stack_id, name, name, TYPE, f"{verb}_IN_PROGRESS", physical_id=stack_id
        )
        before = len(events)
        self._wait(
            self._stacks._deploy_stack_async(
                name, stack_id, prepared["_template"], prepared["_resolved_params"],
                stack["DisableRollback"], prepared["Tags"], is_update=previous is not None,
                previous_stack=previous,
            ),
            updating=name if previous is not None else "",
        )  # fmt: skip
        if stack["StackStatus"] == f"{verb}_COMPLETE":
            return ""
        return why_failed(events[before:], name)

    def _wait(self, work: Coroutine[Any, Any, None], updating: str = "") -> None:
        """Run a coroutine in the event loop, as for a root stack, and wait for its end."""
        context = contextvars.copy_context()
        context.run(self._forget_parent)
        context.run(UPDATING.set, updating)
        loop = self._app._MAIN_LOOP
        context.run(asyncio.run_coroutine_threadsafe, work, loop).result()

    def _forget_parent(self) -> None:
        """Clear the emulator's notes about the parent's resource, which aren't for the child's."""
        provisioners = self._provisioners
        provisioners._NAME_SEED.set("")
        provisioners._RETAIN_REPLACED.set(False)
        provisioners._DEFERRED_PREDECESSOR_DELETES.set(None)


def parameters_of(template: Document) -> Document:
    """Return the parameters that a template declares."""
    return template.get("Parameters") or {}


def provided_parameters(given: Any) -> list[Document]:
    """Return a nested stack's parameters in a request's form; raise ValueError for lists.

    Each value is a string; a list must be a string with commas
    (https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-cloudformation-stack.html).
    """
    if not isinstance(given, dict) or any(isinstance(each, list | dict) for each in given.values()):
        raise ValueError(
            "Value of property Parameters must be an object with String (or simple type) properties"
        )
    return [{"Key": key, "Value": text_of(value)} for key, value in given.items()]


def text_of(value: Any) -> str:
    """Return a parameter's value as text, as CloudFormation writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def outputs(stack: Document) -> Document:
    """Return the attributes of a nested stack for Fn::GetAtt."""
    return {f"Outputs.{each['OutputKey']}": each["OutputValue"] for each in stack["Outputs"]}


def is_unchanged(stack: Document, prepared: Document) -> bool:
    """Return whether an update would change nothing in a stack and its nested stacks."""
    types = {each.get("Type") for each in prepared["_template"].get("Resources", {}).values()}
    compared = ("_template", "_resolved_params", "Tags")
    return (
        TYPE not in types
        and stack["StackStatus"].endswith("_COMPLETE")
        and all(stack.get(name) == prepared[name] for name in compared)
    )


def why_failed(events: list[Document], stack_name: str) -> str:
    """Return the reason for a stack's failure, by the operation's events."""
    failed: dict[str, list[str]] = {"create": [], "update": []}
    reason = ""
    for event in events:
        verb, _, outcome = event["ResourceStatus"].rpartition("_")
        if outcome != "FAILED" or verb.lower() not in failed:
            continue
        if event["LogicalResourceId"] == stack_name:
            reason = reason or event["ResourceStatusReason"]
        else:
            failed[verb.lower()].append(event["LogicalResourceId"])
    reasons = [
        f"The following resource(s) failed to {verb}: [{', '.join(names)}]. "
        for verb, names in failed.items()
        if names
    ]
    return "".join(reasons) or reason


def always_visit(stacks: Any, nested: NestedStacks) -> None:
    """Make an update check every nested stack: its template may differ under the same URL."""
    update_resource = stacks._update_resource

    def update_or_visit(
        kind: str, physical_id: str, old: Document, new: Document, parent_name: str,
        logical_id: str | None = None, old_attributes: Document | None = None,
    ) -> Resource:  # fmt: skip
        if kind == TYPE:
            return nested.update(physical_id, old, new, parent_name, logical_id or "")
        found: Resource = update_resource(
            kind, physical_id, old, new, parent_name, logical_id, old_attributes
        )
        return found

    stacks._update_resource = update_or_visit


def may_have_changed(changesets: Any) -> None:
    """Make a change set list every nested stack, because its content is unknown before its update.

    The ChangeSource of these changes is Automatic
    (https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_ResourceChangeDetail.html).
    An import doesn't count them as changes.
    """
    diff, import_changes = changesets._diff_resources, changesets._import_changes

    def diff_and_nested(
        old: Document, new: Document, resources: Document | None = None, *rest: Any
    ) -> list[Document]:
        changes: list[Document] = diff(old, new, resources, *rest)
        known = {each["ResourceChange"]["LogicalResourceId"] for each in changes}
        for name, definition in new.get("Resources", {}).items():
            if definition.get("Type") == TYPE and name in (resources or {}) and name not in known:
                changes.append(automatic_change(name, (resources or {})[name]))
        return changes

    def changes_of_import(
        to_import: list[Document], template: Document, changes: list[Document]
    ) -> Any:
        return import_changes(
            to_import, template, [each for each in changes if not is_automatic(each)]
        )

    changesets._diff_resources = diff_and_nested
    changesets._import_changes = changes_of_import


def automatic_change(name: str, resource: Document) -> Document:
    """Return the change of a nested stack whose properties are unchanged."""
    detail = {
        "Target": {"Attribute": "Properties", "RequiresRecreation": "Never"},
        "Evaluation": "Dynamic",
        "ChangeSource": "Automatic",
    }
    change = {
        "Action": "Modify",
        "LogicalResourceId": name,
        "PhysicalResourceId": resource["PhysicalResourceId"],
        "ResourceType": TYPE,
        "Replacement": "False",
        "Scope": ["Properties"],
        "Details": [detail],
    }
    return {"ResourceChange": change}


def is_automatic(change: Document) -> bool:
    """Return whether a change is listed only because a nested stack's content is unknown."""
    details = change["ResourceChange"].get("Details") or []
    return [each.get("ChangeSource") for each in details] == ["Automatic"]


def show_aws_addresses(handlers: Any, responses: Any) -> None:
    """Make GetTemplate show the URLs of uploaded nested templates with S3's host.

    The SAM CLI writes the URL to which it uploaded a template; here that has the emulator's host.
    `sam delete` can read only S3's.
    """
    get_template = handlers._ACTION_HANDLERS["GetTemplate"]
    uploaded = re.compile(
        rf"http://(?:127\.0\.0\.1|localhost):{os.environ['GATEWAY_PORT']}/(?=[\w./-]+\.template\b)"
    )

    def get_with_addresses(parameters: Document) -> Response:
        status, headers, body = get_template(parameters)
        address = f"https://s3.{responses.get_region()}.amazonaws.com/"
        return status, headers, uploaded.sub(address, body.decode()).encode()

    handlers._ACTION_HANDLERS["GetTemplate"] = get_with_addresses


def show_parents(handlers: Any, all_stacks: Any) -> None:
    """Make DescribeStacks return a nested stack's parent and root, as on AWS."""
    describe = handlers._ACTION_HANDLERS["DescribeStacks"]

    def describe_with_parents(parameters: Document) -> Response:
        status, headers, body = describe(parameters)
        text = body.decode()
        for stack in all_stacks._stacks.values():
            if stack.get("ParentId"):
                own = f"<StackId>{stack['StackId']}</StackId>"
                parent = f"<ParentId>{stack['ParentId']}</ParentId>"
                text = text.replace(own, f"{own}{parent}<RootId>{stack['RootId']}</RootId>")
        return status, headers, text.encode()

    handlers._ACTION_HANDLERS["DescribeStacks"] = describe_with_parents
