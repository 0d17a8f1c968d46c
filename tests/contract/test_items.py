"""Versioned items: the table in memory and DynamoDB are held to one behaviour."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from telemetry.aws.items import (
    Attributes,
    Conflict,
    Denied,
    DynamoItems,
    Failed,
    Items,
    Write,
    Written,
)

from tests.contract.conftest import create_table
from tests.fakes import MemoryItems

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY = ("device_id", "minute_region")
fresh = map(str, itertools.count())  # device ids that no other test has used


class Table:
    """Items, and what is in them."""

    def __init__(self, items: Items, read: Callable[[str, str], Attributes | None]) -> None:
        self.items = items
        self.read = read

    def write(self, *writes: Write) -> list[Any]:
        return list(self.items.write(writes))


@pytest.fixture(scope="session")
def table_name() -> str:
    return "telemetry-windows"


@pytest.fixture
def dynamo_table(embedded_dynamodb: "DynamoDBClient", table_name: str) -> Table:
    with suppress(embedded_dynamodb.exceptions.ResourceInUseException):
        create_table(embedded_dynamodb, table_name, *KEY)

    def read(device_id: str, minute_region: str) -> Attributes | None:
        key = {"device_id": {"S": device_id}, "minute_region": {"S": minute_region}}
        answer = embedded_dynamodb.get_item(TableName=table_name, Key=key, ConsistentRead=True)
        return answer.get("Item")  # type: ignore[return-value]

    return Table(DynamoItems(embedded_dynamodb, table_name, KEY), read)


@pytest.fixture
def memory_table() -> Table:
    items = MemoryItems(KEY)
    return Table(items, lambda device_id, minute: items.stored.get((device_id, minute)))


@pytest.fixture(params=["memory", "dynamodb"])
def table(request: pytest.FixtureRequest) -> Table:
    name = "memory_table" if request.param == "memory" else "dynamo_table"
    found: Table = request.getfixturevalue(name)
    return found


def item(device_id: str, version: int, data: bytes = b"", minute: str = "m") -> Attributes:
    return {
        "device_id": {"S": device_id},
        "minute_region": {"S": minute},
        "readings": {"B": data},
        "cleared_ms": {"NULL": True},
        "version": {"N": str(version)},
    }


EVERY_BYTE = bytes(range(256))


def test_an_item_is_inserted_where_there_is_none(table: Table) -> None:
    device = next(fresh)
    written = item(device, 1, EVERY_BYTE)
    assert table.write(Write(written, 0)) == [Written()]
    assert table.read(device, "m") == written


def test_an_insert_where_there_is_one_changes_nothing_and_answers_what_is_there(
    table: Table,
) -> None:
    device = next(fresh)
    first = item(device, 1, EVERY_BYTE)
    table.write(Write(first, 0))
    assert table.write(Write(item(device, 1, b"other"), 0)) == [Conflict(first)]
    assert table.read(device, "m") == first


def test_an_update_from_the_version_that_is_there_takes_place(table: Table) -> None:
    device = next(fresh)
    table.write(Write(item(device, 1, b"one"), 0))
    assert table.write(Write(item(device, 2, b"two"), 1)) == [Written()]
    assert table.read(device, "m") == item(device, 2, b"two")


@pytest.mark.parametrize("expected", [1, 3])
def test_an_update_from_another_version_changes_nothing_and_answers_what_is_there(
    table: Table, expected: int
) -> None:
    device = next(fresh)
    table.write(Write(item(device, 1), 0), Write(item(device, 1, minute="n"), 0))
    current = item(device, 2, EVERY_BYTE)
    table.write(Write(current, 1))
    zombie = Write(item(device, expected + 1, b"zombie"), expected)
    assert table.write(zombie) == [Conflict(current)]
    assert table.read(device, "m") == current


def test_an_update_of_an_item_that_is_gone_says_so(table: Table) -> None:
    device = next(fresh)
    assert table.write(Write(item(device, 2), 1)) == [Conflict(None)]
    assert table.read(device, "m") is None


def test_attributes_that_a_write_does_not_name_stay(table: Table) -> None:
    device = next(fresh)
    table.write(Write({**item(device, 1), "severity": {"S": "critical"}}, 0))
    table.write(Write(item(device, 2), 1))
    assert table.read(device, "m") == {**item(device, 2), "severity": {"S": "critical"}}


def test_each_write_of_many_is_answered_alone_and_in_order(table: Table) -> None:
    device = next(fresh)
    present = item(device, 1, b"first", minute="7")
    table.write(Write(present, 0))
    writes = [Write(item(device, 1, minute=str(index)), 0) for index in range(60)]
    writes[30] = Write(item(device, 5, minute="30"), 4)
    expected: list[Any] = [Written()] * 60
    expected[7], expected[30] = Conflict(present), Conflict(None)
    assert table.write(*writes) == expected
    assert table.read(device, "59") is not None


def test_no_writes_have_no_outcomes(table: Table) -> None:
    assert table.write() == []


def test_items_of_the_largest_window_are_written_and_answered(table: Table) -> None:
    device = next(fresh)
    largest = [item(device, 1, EVERY_BYTE * 800, minute=str(index)) for index in range(30)]
    assert table.write(*(Write(each, 0) for each in largest)) == [Written()] * 30
    assert table.write(Write(largest[3], 0)) == [Conflict(largest[3])]


writes = st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.binary(max_size=3))


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # the tables may be shared: every example has devices of its own
@given(st.lists(st.lists(writes, max_size=3, unique_by=lambda write: write[0]), max_size=8))
def test_memory_answers_any_writes_as_dynamodb_does(
    memory_table: Table, dynamo_table: Table, batches: list[list[tuple[str, int, bytes]]]
) -> None:
    prefix = next(fresh)
    for batch in batches:
        group = [
            Write(item(prefix, expected + 1, data, minute=name), expected)
            for name, expected, data in batch
        ]
        assert memory_table.write(*group) == dynamo_table.write(*group)
    for name in "abc":
        assert memory_table.read(prefix, name) == dynamo_table.read(prefix, name)


# What only DynamoDB does: fail.


def test_a_table_that_is_away_fails_every_write(embedded_dynamodb: "DynamoDBClient") -> None:
    gone = DynamoItems(embedded_dynamodb, "no-such-table", KEY)
    assert gone.write([Write(item("a", 1), 0), Write(item("b", 1), 0)]) == [Failed(), Failed()]


class Recorder:
    """A client that takes every statement, but the calls that fail."""

    def __init__(self, failing_calls: Sequence[int] = ()) -> None:
        self.sizes: list[int] = []
        self.bytes: list[int] = []
        self.failing_calls = failing_calls

    def batch_execute_statement(self, *, Statements: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        self.sizes.append(len(Statements))
        values = (value for statement in Statements for value in statement["Parameters"])
        self.bytes.append(sum(len(value.get("B", b"")) for value in values))
        if len(self.sizes) in self.failing_calls:
            raise EndpointConnectionError(endpoint_url="https://dynamodb")
        return {"Responses": [{} for _ in Statements]}


def test_no_call_has_more_statements_than_dynamodb_takes() -> None:
    client = Recorder()
    items = DynamoItems(client, "windows", KEY)
    assert items.write([Write(item(str(index), 1), 0) for index in range(60)]) == [Written()] * 60
    assert client.sizes == [25, 25, 10]


def test_no_call_is_larger_than_dynamodb_takes() -> None:
    client = Recorder()
    large = [Write(item(str(index), 1, bytes(390_000)), 0) for index in range(50)]
    assert DynamoItems(client, "windows", KEY).write(large) == [Written()] * 50
    assert sum(client.sizes) == 50
    assert max(client.bytes) * 4 / 3 < 16 * 1024 * 1024  # in base64


def test_a_call_that_fails_fails_its_own_writes_alone() -> None:
    items = DynamoItems(Recorder(failing_calls=[2]), "windows", KEY)
    outcomes = items.write([Write(item(str(index), 1), 0) for index in range(60)])
    assert outcomes == [Written()] * 25 + [Failed()] * 25 + [Written()] * 10


class Scripted:
    """DynamoItems over answers written down here."""

    def __init__(self) -> None:
        client = boto3.client("dynamodb")
        self.stub = Stubber(client)
        self.stub.activate()
        self.items = DynamoItems(client, "windows", KEY)

    def refusing(self, code: str) -> "Scripted":
        error = {"Error": {"Code": code, "Message": "no"}}
        self.stub.add_response("batch_execute_statement", {"Responses": [error]})
        return self


class Generous:
    """A client that refuses each statement with what is there, where it is asked for that."""

    def __init__(self, current: Attributes) -> None:
        self.current = current

    def batch_execute_statement(self, *, Statements: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        return {"Responses": [{"Error": self.error(each)} for each in Statements]}

    def error(self, statement: dict[str, Any]) -> dict[str, Any]:
        is_asked = statement.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
        return {"Code": "ConditionalCheckFailed", **({"Item": self.current} if is_asked else {})}


def test_a_conflict_that_brings_its_item_costs_no_read() -> None:
    current = item("a", 7, b"theirs")
    items = DynamoItems(Generous(current), "windows", KEY)
    assert items.write([Write(item("a", 2), 1)]) == [Conflict(current)]


@pytest.mark.parametrize("code", ["ThrottlingError", "InternalServerError", "ValidationError"])
def test_a_statement_refused_for_another_reason_has_failed(code: str) -> None:
    assert Scripted().refusing(code).items.write([Write(item("a", 1), 0)]) == [Failed()]


def test_a_statement_or_a_call_that_the_role_may_not_make_is_denied() -> None:
    writes = [Write(item("a", 1), 0), Write(item("b", 1), 0)]
    assert Scripted().refusing("AccessDenied").items.write(writes[:1]) == [Denied()]
    scripted = Scripted()
    scripted.stub.add_client_error("batch_execute_statement", "AccessDeniedException")
    assert scripted.items.write(writes) == [Denied(), Denied()]


@pytest.mark.parametrize("code", ["DuplicateItem", "ConditionalCheckFailed"])
def test_a_conflict_answered_without_its_item_is_read(code: str) -> None:
    scripted = Scripted().refusing(code)
    current = item("a", 7, b"theirs")
    scripted.stub.add_response(
        "get_item",
        {"Item": current},
        {
            "TableName": "windows",
            "Key": {"device_id": {"S": "a"}, "minute_region": {"S": "m"}},
            "ConsistentRead": True,
        },
    )
    assert scripted.items.write([Write(item("a", 2), 1)]) == [Conflict(current)]


def test_a_conflict_whose_item_cannot_be_read_has_failed() -> None:
    scripted = Scripted().refusing("DuplicateItem")
    scripted.stub.add_client_error("get_item", "ProvisionedThroughputExceededException")
    assert scripted.items.write([Write(item("a", 1), 0)]) == [Failed()]
