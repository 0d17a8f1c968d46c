"""Gaps of the embedded AWS, closed: a global table can be imported; no role goes with an import.

CloudFormation takes AWS::DynamoDB::GlobalTable by its TableName
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/resource-import-supported-resources.html;
seen in iann0036/cfn-stack-rename, pull request 5). A RoleARN in a change set of type IMPORT is
refused in the words in which Outputs and Tags are. The emulator (1.5.33) imports a Table, but no
GlobalTable, and looks at no role.
"""

from collections.abc import Callable
from typing import Any

GLOBAL_TABLE = "AWS::DynamoDB::GlobalTable"
TABLE = "AWS::DynamoDB::Table"
FROZEN = "As part of the import operation, you cannot modify or add [RoleArn]"

Handler = Callable[[dict[str, list[str]]], Any]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    changesets = modules.service("cloudformation.changesets")
    made = modules.service("cloudformation.provisioners")._RESOURCE_HANDLERS
    changesets._IMPORT_LOOKUPS[GLOBAL_TABLE] = changesets._IMPORT_LOOKUPS[TABLE]
    made[GLOBAL_TABLE]["import"] = made[TABLE]["import"]
    handlers = modules.service("cloudformation.handlers")._ACTION_HANDLERS
    error = modules.service("cloudformation.helpers")._error
    handlers["CreateChangeSet"] = without_role(handlers["CreateChangeSet"], error)


def without_role(create: Handler, error: Callable[[str, str], Any]) -> Handler:
    """Return CreateChangeSet as one that refuses an import with a role."""

    def create_change_set(parameters: dict[str, list[str]]) -> Any:
        kind = parameters.get("ChangeSetType", [""])[0]
        if kind == "IMPORT" and parameters.get("RoleARN", [""])[0]:
            return error("ValidationError", FROZEN)
        return create(parameters)

    return create_change_set
