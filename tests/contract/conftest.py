"""Where the adapters' tests run: DynamoDB in the embedded AWS, the rest in moto.

moto can't run batches of PartiQL statements with parameters, which is how items are written.
"""

import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import moto
import pytest

from emulator import embedded
from emulator.instance import REGION
from local.instance import Instance, unused
from local.tools import tool
from tests.waiting import Patience

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

READY_SECONDS_MAX = 10
ROOT = embedded.new_key()
"""The key of the account's root, in moto and in what these tests start."""


@pytest.fixture(scope="session")
def embedded_instance() -> Iterator[Instance]:
    own = unused("contract")
    own.create()
    try:
        yield own
    finally:
        own.remove()


@pytest.fixture(scope="session")
def embedded_endpoint(embedded_instance: Instance) -> Iterator[str]:
    """Address of an embedded AWS that ends with the tests, or with the process that runs them."""
    aws = embedded.start(embedded_instance, tool("aws", "python"), root=ROOT)
    try:
        yield f"http://127.0.0.1:{aws.port}"
    finally:
        aws.stop()
        assert aws.process.stdin is not None
        aws.process.stdin.close()


@pytest.fixture(scope="session")
def session() -> boto3.Session:
    """Reads the SDK's data once. Moto is loaded before it is made, so it has moto's hooks."""
    moto.mock_aws()
    return boto3.Session(ROOT.key_id, ROOT.secret, region_name=REGION)


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch, session: boto3.Session) -> None:
    """Nobody's credentials; whoever runs the tests has none that they could reach."""
    settings = {"REGION": REGION, "DEFAULT_REGION": REGION}
    settings |= {"ACCESS_KEY_ID": ROOT.key_id, "SECRET_ACCESS_KEY": ROOT.secret}
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("PROFILE", "SESSION_TOKEN", "ENDPOINT_URL"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)


@pytest.fixture
def in_moto(aws_environment: None, session: boto3.Session) -> Iterator[None]:  # noqa: ARG001
    with moto.mock_aws(config={"core": {"mock_credentials": False}}):
        boto3.DEFAULT_SESSION = session
        yield


@pytest.fixture
def embedded_dynamodb(embedded_endpoint: str, aws_environment: None) -> "DynamoDBClient":  # noqa: ARG001
    client: DynamoDBClient = embedded_client(embedded_endpoint, "dynamodb")
    return client


@cache
def embedded_client(endpoint: str, service: str) -> Any:
    """A client of the embedded AWS's root, shared: most tests do less than it takes to make one."""
    return boto3.client(service, endpoint_url=endpoint)  # type: ignore[call-overload]


def create_table(dynamodb: Any, name: str, *key: str, index: dict[str, Any] | None = None) -> None:
    """A table whose key is made of strings, with an index by a string and a number."""
    definitions = [{"AttributeName": each, "AttributeType": "S"} for each in key]
    indexes = {}
    if index:
        keys = (each["AttributeName"] for each in index["KeySchema"])
        definitions += [
            {"AttributeName": name, "AttributeType": kind}
            for name, kind in zip(keys, "SN", strict=True)
        ]
        indexes = {"GlobalSecondaryIndexes": [index]}
    dynamodb.create_table(
        TableName=name,
        KeySchema=key_schema(*key),
        AttributeDefinitions=definitions,
        BillingMode="PAY_PER_REQUEST",
        **indexes,
    )
    patience = Patience(READY_SECONDS_MAX)
    while dynamodb.describe_table(TableName=name)["Table"]["TableStatus"] != "ACTIVE":
        assert not patience.is_over()
        time.sleep(0.02)


def key_schema(*names: str) -> list[dict[str, str]]:
    kinds = ("HASH", "RANGE")
    return [
        {"AttributeName": name, "KeyType": kind} for name, kind in zip(names, kinds, strict=False)
    ]


STATUS_INDEX = {
    "IndexName": "status",
    "KeySchema": key_schema("status_bucket", "first_breach_ms"),
    "Projection": {"ProjectionType": "ALL"},
}
