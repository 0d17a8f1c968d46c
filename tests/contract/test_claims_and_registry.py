"""Claims and grants: the stores in memory and DynamoDB are held to one behaviour."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from telemetry.aws.claims import Claims
from telemetry.aws.registry import AdminSecret, Registry
from telemetry.domain.token import Grant
from telemetry.errors import Unavailable

from tests.contract.conftest import create_table
from tests.fakes import MemoryClaims, MemoryRegistry, MemorySecret

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

NOW, LEASE = 1_795_224_600, 30
CREATED_AT = "2026-11-21T01:30:00.000Z"


@pytest.fixture
def dynamodb(in_moto: None) -> "DynamoDBClient":  # noqa: ARG001
    return boto3.client("dynamodb")


@pytest.fixture(params=["memory", "dynamodb"])
def claims(request: pytest.FixtureRequest) -> Claims:
    if request.param == "memory":
        return MemoryClaims()
    dynamodb = request.getfixturevalue("dynamodb")
    create_table(dynamodb, "alerts", "device_id", "rule_region")
    return Claims(dynamodb, "alerts")


class TestClaims:
    def test_the_first_to_ask_takes_it(self, claims: Claims) -> None:
        assert claims.take("pump-1", "a/sns", NOW, LEASE) == "taken"

    def test_it_is_held_until_its_lease_is_over(self, claims: Claims) -> None:
        claims.take("pump-1", "a/sns", NOW, LEASE)
        assert claims.take("pump-1", "a/sns", NOW, LEASE) == "held"
        assert claims.take("pump-1", "a/sns", NOW + LEASE, LEASE) == "held"
        assert claims.take("pump-1", "a/sns", NOW + LEASE + 1, LEASE) == "taken"
        assert claims.take("pump-1", "a/sns", NOW + LEASE + 2, LEASE) == "held"

    def test_what_is_done_is_done_for_ever(self, claims: Claims) -> None:
        claims.take("pump-1", "a/sns", NOW, LEASE)
        claims.done("pump-1", "a/sns")
        assert claims.take("pump-1", "a/sns", NOW + 1, LEASE) == "done"
        assert claims.take("pump-1", "a/sns", NOW + 10 * LEASE, LEASE) == "done"

    def test_each_device_and_name_has_a_claim_of_its_own(self, claims: Claims) -> None:
        claims.take("pump-1", "a/sns", NOW, LEASE)
        assert claims.take("pump-1", "a/bus", NOW, LEASE) == "taken"
        assert claims.take("pump-2", "a/sns", NOW, LEASE) == "taken"


def test_a_claim_expires_long_after_queues_deliver_nothing_more(dynamodb: "DynamoDBClient") -> None:
    create_table(dynamodb, "alerts", "device_id", "rule_region")
    claims = Claims(dynamodb, "alerts")
    claims.take("pump-1", "a/sns", NOW, LEASE)
    claims.done("pump-1", "a/sns")
    (item,) = dynamodb.scan(TableName="alerts")["Items"]
    assert int(item["expires_at"]["N"]) == NOW + 30 * 86_400
    # no episode: neither the table's stream filter nor the index of open ones takes it for one
    assert item.keys().isdisjoint({"change", "region", "status_bucket"})


def take(claims: Claims) -> None:
    claims.take("pump-1", "a/sns", NOW, LEASE)


def done(claims: Claims) -> None:
    claims.done("pump-1", "a/sns")


@pytest.mark.parametrize(("operation", "ask"), [("put_item", take), ("update_item", done)])
def test_claims_whose_table_is_away_are_unavailable(
    operation: str, ask: Callable[[Claims], None]
) -> None:
    client = boto3.client("dynamodb", config=Config(retries={"total_max_attempts": 1}))
    claims = Claims(client, "alerts")
    with Stubber(client) as stub:
        stub.add_client_error(operation, "ProvisionedThroughputExceededException")
        with pytest.raises(Unavailable):
            ask(claims)


def test_claims_whose_endpoint_is_away_are_unavailable() -> None:
    class Away:
        def put_item(self, **_arguments: object) -> None:
            raise EndpointConnectionError(endpoint_url="https://dynamodb")

        update_item = put_item

    with pytest.raises(Unavailable):
        take(Claims(Away(), "alerts"))
    with pytest.raises(Unavailable):
        done(Claims(Away(), "alerts"))


@pytest.fixture(params=["memory", "dynamodb"])
def registry(request: pytest.FixtureRequest) -> Registry:
    if request.param == "memory":
        return MemoryRegistry()
    dynamodb = request.getfixturevalue("dynamodb")
    create_table(dynamodb, "devices", "device_id")
    return Registry(dynamodb, "devices")


PLANT = Grant("plant", "gateway", "plant-7-")
PUMP = Grant("pump-1", "device")


class TestRegistry:
    def test_a_grant_is_found_by_its_subject_and_secret(self, registry: Registry) -> None:
        assert registry.create([(PLANT, "secret-a"), (PUMP, "secret-b")], CREATED_AT) == []
        assert registry.find("plant", "secret-a") == PLANT
        assert registry.find("pump-1", "secret-b") == PUMP

    def test_a_wrong_secret_finds_nothing(self, registry: Registry) -> None:
        registry.create([(PLANT, "secret-a"), (PUMP, "secret-b")], CREATED_AT)
        assert registry.find("plant", "secret-b") is None
        assert registry.find("plant", "") is None
        assert registry.find("nobody", "secret-a") is None

    def test_all_are_created_or_none(self, registry: Registry) -> None:
        registry.create([(PUMP, "first")], CREATED_AT)
        assert registry.create([(PLANT, "x"), (PUMP, "second")], CREATED_AT) == ["pump-1"]
        assert registry.find("plant", "x") is None
        assert registry.find("pump-1", "first") == PUMP

    def test_a_hundred_are_created_at_once(self, registry: Registry) -> None:
        grants = [(Grant(f"pump-{index}", "device"), "secret") for index in range(100)]
        assert registry.create(grants, CREATED_AT) == []
        assert registry.find("pump-99", "secret") == Grant("pump-99", "device")
        taken = registry.create(grants[40:60], CREATED_AT)
        assert taken == [f"pump-{index}" for index in range(40, 60)]

    def test_a_removed_subject_is_gone_and_free_again(self, registry: Registry) -> None:
        registry.create([(PUMP, "first")], CREATED_AT)
        assert registry.remove("pump-1") is True
        assert registry.remove("pump-1") is False
        assert registry.find("pump-1", "first") is None
        assert registry.create([(PUMP, "second")], CREATED_AT) == []


def test_a_grant_is_looked_up_as_it_is_now_and_not_as_a_replica_remembers_it() -> None:
    client = boto3.client("dynamodb")
    with Stubber(client) as stub:
        asked = {
            "TableName": "devices",
            "Key": {"device_id": {"S": "pump-1"}},
            "ConsistentRead": True,
        }
        stub.add_response("get_item", {}, asked)
        assert Registry(client, "devices").find("pump-1", "secret") is None
        stub.assert_no_pending_responses()


def test_no_secret_is_in_the_table(dynamodb: "DynamoDBClient") -> None:
    create_table(dynamodb, "devices", "device_id")
    Registry(dynamodb, "devices").create([(PUMP, "a-secret")], CREATED_AT)
    assert "a-secret" not in str(dynamodb.scan(TableName="devices")["Items"])


def test_the_admins_secret_is_the_stacks_and_a_rotated_one_counts_at_once(in_moto: None) -> None:  # noqa: ARG001
    secretsmanager = boto3.client("secretsmanager")
    arn = secretsmanager.create_secret(Name="telemetry/admin", SecretString="first")["ARN"]
    for secret in (AdminSecret(secretsmanager, arn), MemorySecret("first")):
        assert secret.matches("first")
        assert not secret.matches("second")
        assert not secret.matches("")
    secretsmanager.put_secret_value(SecretId=arn, SecretString="second")
    secret = AdminSecret(secretsmanager, arn)
    assert secret.matches("second")
    assert not secret.matches("first")
