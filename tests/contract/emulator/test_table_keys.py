"""Keys in the embedded DynamoDB have AWS's limits of length, wherever a request names a key."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

HASH_MAX, RANGE_MAX = 2048, 1024  # bytes of UTF-8
LONG_HASH, LONG_RANGE = "x" * (HASH_MAX + 1), "x" * (RANGE_MAX + 1)
Ask = Callable[["DynamoDBClient", str, str, str], Any]


@pytest.fixture
def table(embedded_dynamodb: "DynamoDBClient") -> str:
    name = f"keys-{uuid.uuid4().hex[:8]}"
    embedded_dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in "pis"],
        KeySchema=[
            {"AttributeName": "p", "KeyType": "HASH"},
            {"AttributeName": "s", "KeyType": "RANGE"},
        ],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "index",
                "KeySchema": [{"AttributeName": "i", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
    return name


def key(p: str, s: str) -> dict[str, Any]:
    return {"p": {"S": p}, "s": {"S": s}}


def query(dynamodb: "DynamoDBClient", table: str, p: str, s: str) -> Any:
    return dynamodb.query(
        TableName=table,
        KeyConditionExpression="#p = :p AND s BETWEEN :s AND :z",
        ExpressionAttributeNames={"#p": "p"},
        ExpressionAttributeValues={":p": {"S": p}, ":s": {"S": s}, ":z": {"S": f"{s}z"}},
    )


def query_from(dynamodb: "DynamoDBClient", table: str, p: str, s: str) -> Any:
    return dynamodb.query(
        TableName=table,
        IndexName="index",
        KeyConditionExpression="i = :i",
        ExpressionAttributeValues={":i": {"S": "a"}},
        ExclusiveStartKey={"i": {"S": "a"}, **key(p, s)},
    )


def insert(dynamodb: "DynamoDBClient", table: str, p: str, s: str) -> Any:
    return dynamodb.execute_statement(
        Statement=f"INSERT INTO \"{table}\" VALUE {{'p': ?, 's': ?}}",
        Parameters=[{"S": p}, {"S": s}],
    )


ASKS: dict[str, Ask] = {
    "get": lambda dynamodb, table, p, s: dynamodb.get_item(TableName=table, Key=key(p, s)),
    "put": lambda dynamodb, table, p, s: dynamodb.put_item(TableName=table, Item=key(p, s)),
    "delete": lambda dynamodb, table, p, s: dynamodb.delete_item(TableName=table, Key=key(p, s)),
    "query": query,
    "query from": query_from,
    "insert": insert,
}


@pytest.mark.parametrize(
    ("p", "s", "says"),
    [
        (LONG_HASH, "a", "2048 bytes"),
        ("é" * 1025, "a", "2048 bytes"),
        ("a", LONG_RANGE, "1024 bytes"),
        ("", "a", "empty string value. Key: p"),
        ("a", "", "empty string value. Key: s"),
    ],
    ids=["long hash", "long hash in UTF-8", "long range", "empty hash", "empty range"],
)
@pytest.mark.parametrize("ask", ASKS)
def test_a_key_that_aws_refuses_is_refused(
    embedded_dynamodb: "DynamoDBClient", table: str, ask: str, p: str, s: str, says: str
) -> None:
    with pytest.raises(ClientError, match=says) as caught:
        ASKS[ask](embedded_dynamodb, table, p, s)
    assert caught.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize("ask", ASKS)
def test_the_longest_keys_are_accepted(
    embedded_dynamodb: "DynamoDBClient", table: str, ask: str
) -> None:
    # of a range, the other end is one byte longer
    s = "x" * (RANGE_MAX - 1 if ask == "query" else RANGE_MAX)
    ASKS[ask](embedded_dynamodb, table, "x" * HASH_MAX, s)
