"""Closes a gap of the embedded AWS: limits of a key's length hold wherever a request names a key.

A partition key's value has 1 to 2,048 bytes, a sort key's 1 to 1,024 (DynamoDB Developer Guide,
"Quotas and limits in Amazon DynamoDB",
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html). The emulator
(1.5.33) checks that only if a request has a whole key (GetItem, PutItem, DeleteItem, UpdateItem,
batches, transactions). It accepts any length in a Query's condition, in the ExclusiveStartKey of a
Query or Scan, and in PartiQL's INSERT, where it also accepts an empty sort key. It is inferred that
AWS applies these limits to a Query's condition.
"""

from collections.abc import Callable, Iterator
from typing import Any

Response = tuple[int, dict[str, str], bytes]
Value = dict[str, Any]


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    check_keys(modules.service("dynamodb"))


def check_keys(dynamodb: Any) -> None:
    """Make `ministack.services.dynamodb` check keys in every request."""
    insert = dynamodb._partiql_insert

    def insert_checked(table: Any, parsed: Any) -> Response:
        item = parsed.get("item", {})
        error = wrong_key(dynamodb, table, item.get("M", item) if isinstance(item, dict) else {})
        refused: Response = error or insert(table, parsed)
        return refused

    dynamodb._partiql_insert = insert_checked
    for name in ("_query", "_scan"):
        setattr(dynamodb, name, checked(dynamodb, getattr(dynamodb, name)))


def checked(dynamodb: Any, read: Callable[[Any], Response]) -> Callable[[Any], Response]:
    """Return `read`, a Query or a Scan, with a check of its keys before it."""

    def read_checked(data: Any) -> Response:
        table = dynamodb._tables.get(dynamodb._normalize_table_name(data.get("TableName")))
        return (table and wrong_read(dynamodb, table, data)) or read(data)

    return read_checked


def wrong_read(dynamodb: Any, table: Any, data: Any) -> Response | None:
    """Return the refusal of a Query or Scan whose condition or start has an invalid key."""
    start = data.get("ExclusiveStartKey")
    keys = [start] if isinstance(start, dict) else []
    keys += [{name: value} for name, value in compared(dynamodb, data)]
    schemas = [(table["pk_name"], table["sk_name"])]
    for index in (
        *table.get("GlobalSecondaryIndexes", []),
        *table.get("LocalSecondaryIndexes", []),
    ):
        if index["IndexName"] == data.get("IndexName"):
            named = {each["KeyType"]: each["AttributeName"] for each in index["KeySchema"]}
            schemas.append((named.get("HASH"), named.get("RANGE")))
    for key in keys:
        for pk_name, sk_name in schemas:
            error = wrong_key(dynamodb, {"pk_name": pk_name, "sk_name": sk_name}, key)
            if error:
                return error
    return None


def compared(dynamodb: Any, data: Any) -> Iterator[tuple[str, Value]]:
    """Return the attributes in a Query's condition, each with its value."""
    names, values = (
        data.get("ExpressionAttributeNames") or {},
        data.get("ExpressionAttributeValues"),
    )
    attribute = ""
    try:
        tokens = dynamodb._tokenize(data.get("KeyConditionExpression") or "")
    except Exception:  # noqa: BLE001 - the emulator itself refuses an unreadable condition
        return
    for kind, text, *_ in tokens:
        if kind == "NAME_REF":
            attribute = names.get(text, "")
        elif kind == "IDENT" and text.lower() not in {"and", "between", "begins_with"}:
            attribute = text
        elif kind == "VALUE_REF" and text in (values or {}):
            yield attribute, values[text]


def wrong_key(dynamodb: Any, table: Any, key: dict[str, Value]) -> Response | None:
    """Return the refusal of a key with an empty or too long value, or None."""
    for name in (table["pk_name"], table["sk_name"]):
        error: Response | None = dynamodb._empty_key_value_error(name, key.get(name))
        if error:
            return error
    too_long: Response | None = dynamodb._key_length_error(key, table["pk_name"], table["sk_name"])
    return too_long
