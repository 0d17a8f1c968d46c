"""What Athena sees of the archive: a table that takes anything, partitions up to now, its views.

The last tests bring faults back, and see them found.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import prod
from typing import Any

import pytest
from telemetry.domain.archive_layout import prefix_at
from telemetry.domain.reading import DEVICE_FIELDS, FIELDS

from contract.athena import TYPES
from tests.athena import Athena, definition
from tests.template.expanded import templates
from tests.template.rendered import Deployed, Stack, deployed

Table = dict[str, Any]
NOW = datetime(2027, 11, 21, 7, 30, tzinfo=UTC)
JAVA = {"yyyy-MM-dd": "%Y-%m-%d", "HH": "%H"}  # of java.time's formats, those that are used
TRINO = dict(TYPES.values())  # of Glue's types
DUCKDB = {"varchar": "VARCHAR", "double": "DOUBLE", "timestamp(3)": "TIMESTAMP_MS"}


@pytest.fixture(scope="module")
def stack() -> Deployed:
    return deployed(templates())


def inputs(stack: Deployed, kind: str) -> dict[str, Table]:
    """Glue's tables of a kind, by their names."""
    tables = [each.properties["TableInput"] for each in stack.of("AWS::Glue::Table")]
    return {each["Name"]: each for each in tables if each["TableType"] == kind}


def typed_columns(table: Table) -> list[str]:
    """What a record could fail a query by: any column but text.

    AWS Knowledge Center, "HIVE_BAD_DATA: Error parsing field value", example 1; its cure is text.
    LazySimpleSerDe leaves text as it is:
    https://docs.aws.amazon.com/athena/latest/ug/lazy-simple-serde.html.
    """
    columns = table["StorageDescriptor"]["Columns"]
    faults = [f"{each['Name']} is {each['Type']}" for each in columns if each["Type"] != "string"]
    serde = table["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"]
    if not serde.endswith(".LazySimpleSerDe"):
        faults.append(f"{serde} reads each record by its fields")
    return faults


def partitions(table: Table, now: datetime) -> int:
    """How many partitions Athena plans for a query that names none.

    https://docs.aws.amazon.com/athena/latest/ug/partition-projection-supported-types.html
    """
    return prod(projected(table, key["Name"], now) for key in table["PartitionKeys"])


def projected(table: Table, key: str, now: datetime) -> int:
    """How many values a partition's key has."""
    parameters = table["Parameters"]
    first, last = parameters[f"projection.{key}.range"].split(",")
    if parameters[f"projection.{key}.type"] == "integer":
        return int(last) - int(first) + 1
    form = JAVA[parameters[f"projection.{key}.format"]]
    unit = (parameters[f"projection.{key}.interval"], parameters[f"projection.{key}.interval.unit"])
    assert unit == ("1", "DAYS")
    end = now if last == "NOW" else datetime.strptime(last, form).replace(tzinfo=UTC)
    return (end - datetime.strptime(first, form).replace(tzinfo=UTC)).days + 1


def location(table: Table, at: datetime) -> str:
    """Where Athena looks for what came at a time, below the table's location."""
    parameters: Mapping[str, str] = table["Parameters"]
    digits = int(parameters["projection.hour.digits"])
    day = at.strftime(JAVA[parameters["projection.day.format"]])
    return f"day={day}/hour={at.hour:0{digits}}/"


def prefix(stack: Deployed, at: datetime) -> str:
    """Where Firehose puts it, below its bucket.

    https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html
    """
    (firehose,) = stack.of("AWS::KinesisFirehose::DeliveryStream")
    text = firehose.properties["ExtendedS3DestinationConfiguration"]["Prefix"]
    return re.sub(r"!\{timestamp:([^}]*)\}", lambda found: at.strftime(JAVA[found[1]]), text)


def test_no_record_of_the_stream_can_fail_a_query(stack: Deployed) -> None:
    tables = inputs(stack, "EXTERNAL_TABLE")
    assert {name: typed_columns(table) for name, table in tables.items()} == {"records": []}


def test_a_query_that_names_no_day_plans_the_hours_of_the_days_up_to_now(stack: Deployed) -> None:
    table = inputs(stack, "EXTERNAL_TABLE")["records"]
    days = (NOW - datetime(2026, 1, 1, tzinfo=UTC)).days + 1
    assert partitions(table, NOW) == 24 * days


def test_athena_replay_and_firehose_have_one_name_for_an_hour(stack: Deployed) -> None:
    table = inputs(stack, "EXTERNAL_TABLE")["records"]
    (bucket,) = {each.name for each in stack.of("AWS::S3::Bucket") if "archive" in each.name}
    for at in (NOW, datetime(2026, 1, 2, 23, 59, 59, tzinfo=UTC)):
        found = prefix(stack, at)
        assert found == prefix_at(int(at.timestamp() * 1000))
        looked_for = f"{table['StorageDescriptor']['Location']}{location(table, at)}"
        assert looked_for == f"s3://{bucket}/{found}"


def test_each_view_has_the_columns_that_glue_and_trino_are_told_of(stack: Deployed) -> None:
    views = inputs(stack, "VIRTUAL_VIEW")
    assert list(views) == ["readings", "readings_once"]
    told = {name: definition(view["ViewOriginalText"]) for name, view in views.items()}
    athena = Athena({name: each["originalSql"] for name, each in told.items()})
    (database,) = stack.of("AWS::Glue::Database")
    for name, view in views.items():
        assert (told[name]["catalog"], told[name]["schema"]) == ("awsdatacatalog", database.name)
        columns = [(each["name"], each["type"]) for each in told[name]["columns"]]
        assert athena.columns(name) == [(column, DUCKDB[kind]) for column, kind in columns]
        in_glue = [(each["Name"], each["Type"]) for each in view["StorageDescriptor"]["Columns"]]
        assert [(column, TRINO[kind]) for column, kind in in_glue] == columns
        assert view["Parameters"]["presto_view"] == "true"
    assert [name for name, _ in athena.columns("readings")] == [*FIELDS, "day", "hour"]
    assert [name for name, _ in athena.columns("readings_once")] == [*DEVICE_FIELDS]
    athena.close()


def test_the_database_of_a_name_with_hyphens_needs_no_quotes() -> None:
    parameters = {"Name": "our-first-fleet"}
    made = Stack("stacks/archive.yaml", "any", parameters, templates()).resources()
    (database,) = [each.name for each in made if each.type == "AWS::Glue::Database"]
    assert database == "our_first_fleet_archive"


BY_FIELDS = {
    "Columns": [{"Name": "device_id", "Type": "string"}, {"Name": "recorded_at", "Type": "bigint"}],
    "SerdeInfo": {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe"},
}
RANGES = {"year": "2026,2100", "month": "1,12", "day": "1,31", "hour": "0,23"}


def test_a_table_that_has_a_records_fields_as_columns_is_told_of() -> None:
    assert typed_columns({"StorageDescriptor": BY_FIELDS}) == [
        "recorded_at is bigint",
        "org.openx.data.jsonserde.JsonSerDe reads each record by its fields",
    ]


def test_partitions_of_numbers_alone_are_planned_into_the_next_century() -> None:
    parameters = {f"projection.{key}.type": "integer" for key in RANGES}
    parameters |= {f"projection.{key}.range": each for key, each in RANGES.items()}
    table = {"PartitionKeys": [{"Name": key} for key in RANGES], "Parameters": parameters}
    assert partitions(table, NOW) == 669_600
