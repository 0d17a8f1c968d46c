"""Closes gaps of the embedded AWS: a stack can't delete full buckets and protected tables.

CloudFormation deletes with the services' own operations. So a bucket with objects stays
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteBucket.html), and a table with deletion
protection stays, too
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/WorkingWithTables.Basics.html).
A global table has that setting for each replica
(https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-dynamodb-globaltable-replicaspecification.html).
The emulator (1.5.33) deletes both with their content, and ignores a replica's settings.
"""

from typing import Any

BUCKET = "AWS::S3::Bucket"
TABLE, GLOBAL_TABLE = "AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable"
NOT_EMPTY = (
    "The bucket you tried to delete is not empty. You must delete all versions in the bucket. "
    "(Service: S3, Status Code: 409)"
)
PROTECTED = (
    "Resource cannot be deleted as it is currently protected against deletion. Disable deletion "
    "protection first. (Service: DynamoDb, Status Code: 400)"
)
SETTING = "DeletionProtectionEnabled"

Document = dict[str, Any]


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    handlers = modules.service("cloudformation.provisioners")._RESOURCE_HANDLERS
    keep_full_buckets(handlers, modules.service("s3"))
    keep_protected_tables(handlers, modules.service("dynamodb"), modules.core("responses"))


def keep_full_buckets(handlers: Document, s3: Any) -> None:
    """Make a stack fail to delete a bucket that isn't empty."""
    delete = handlers[BUCKET]["delete"]

    def delete_if_empty(name: str, properties: Document) -> None:
        bucket = s3._buckets.get(name)
        if bucket is not None and (bucket["objects"] or s3._bucket_has_versions(name)):
            raise ValueError(NOT_EMPTY)
        delete(name, properties)

    handlers[BUCKET]["delete"] = delete_if_empty


def keep_protected_tables(handlers: Document, dynamodb: Any, responses: Any) -> None:
    """Make a stack fail to delete a protected table, and apply a replica's protection setting."""
    create, update = handlers[GLOBAL_TABLE]["create"], handlers[GLOBAL_TABLE]["update"]

    def protect(name: str, properties: Document) -> None:
        dynamodb._tables[name][SETTING] = is_protected(properties, responses.get_region())

    def create_protected(logical_id: str, properties: Document, stack: str) -> Any:
        created = create(logical_id, properties, stack)
        protect(created[0], properties)
        return created

    def update_protected(name: str, old: Document, new: Document, stack: str) -> Any:
        updated = update(name, old, new, stack)
        protect(updated[0], new)
        return updated

    handlers[GLOBAL_TABLE] |= {"create": create_protected, "update": update_protected}
    for kind in (TABLE, GLOBAL_TABLE):
        handlers[kind]["delete"] = unless_protected(dynamodb, handlers[kind]["delete"])


def unless_protected(dynamodb: Any, delete: Any) -> Any:
    """Return `delete` changed to fail for a protected table."""

    def delete_unprotected(name: str, properties: Document) -> None:
        if (dynamodb._tables.get(name) or {}).get(SETTING):
            raise ValueError(PROTECTED)
        delete(name, properties)

    return delete_unprotected


def is_protected(properties: Document, region: str) -> bool:
    """Return whether a global table's replica in a region has deletion protection."""
    replicas = [each for each in properties.get("Replicas") or [] if each.get("Region") == region]
    return any(str(each.get(SETTING, False)).lower() == "true" for each in replicas)
