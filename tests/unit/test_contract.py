"""The contracts: which versions may follow which, and what derives from them."""

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from telemetry.domain.no_measurement import load as load_metrics
from telemetry.domain.validation import parse
from telemetry.errors import Rejected

from contract.__main__ import ROOT, main
from contract.athena import resources, views
from contract.derived import (
    CLIENT,
    json_schema,
    metrics_table,
    proto,
    registry,
)
from contract.evolution import check, snake_case
from contract.versions import ContractBroken, Version, load
from tests.template import loaded

METRIC = {"number": 3, "type": ["null", "double"], "default": None, "doc": "Of the air"}
RANGE = {"unit": "°C", "minimum": -90.0, "maximum": 150.0}
FIELDS: list[dict[str, Any]] = [
    {"name": "device_id", "number": 1, "type": "string", "doc": "Who", "example": "pump-17"},
    {"name": "recorded_at", "number": 2, "type": "long", "doc": "When; in ms"},
    {"name": "temperature", **METRIC, **RANGE},
    {"name": "trace_id", "type": "string", "default": "", "doc": "How", "stamped_by": "ingest"},
]
INSTANT = {"type": "long", "logicalType": "timestamp-millis"}
HUMIDITY = {**METRIC, "name": "humidity", "number": 4, "unit": "%RH", "minimum": 0, "maximum": 100}


def version(number: int, fields: list[dict[str, Any]]) -> Version:
    schema = {"type": "record", "name": "Reading", "doc": "A fact. One", "version": number}
    return Version(number, f"schemas/reading/v{number}.avsc", {**schema, "fields": fields})


def having(*fields: dict[str, Any], without: str = "", **changes: Any) -> list[dict[str, Any]]:
    """The fields with others besides, without one, or with the temperature changed."""
    kept = [copy.deepcopy(each) for each in FIELDS if each["name"] != without]
    for each in kept:
        if each["name"] == "temperature":
            each.update(changes)
    return [*kept, *fields]


def problems(*versions: list[dict[str, Any]]) -> list[str]:
    """What is wrong with these as the versions of a reading."""
    numbered = [version(number, fields) for number, fields in enumerate(versions, 1)]
    try:
        check({"reading": numbered})
    except ContractBroken as broken:
        return broken.problems
    return []


def test_a_metric_may_be_added_removed_and_its_range_widened() -> None:
    wider = having({**HUMIDITY, "minimum": -1.5}, maximum=200.0)
    assert problems(FIELDS, having(HUMIDITY), wider, having(without="temperature")) == []


def test_a_version_reads_what_every_one_before_it_wrote() -> None:
    needed = {**HUMIDITY, "type": "double"}
    del needed["default"]
    (first, second) = [
        each for each in problems(FIELDS, FIELDS, having(needed)) if "have it" in each
    ]
    said = "v3.avsc: field humidity: version 1 doesn't have it: a default is needed"
    assert said in first
    assert "version 2 doesn't have it" in second


def test_a_type_that_cannot_read_the_older_one_is_named_with_its_field() -> None:
    wrong = problems(FIELDS, having(type=["null", "string"]))
    said = "can't read what version 1 wrote: reader union lacking writer type: DOUBLE"
    assert f"schemas/reading/v2.avsc: field temperature: {said}" in wrong


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (
            having({**HUMIDITY, "name": "airHumidity"}),
            "airHumidity: is not in snake case; air_humidity",
        ),
        (having(HUMIDITY, HUMIDITY), "humidity: is there twice"),
        (having(number=9), "temperature: number is 9; it was 3 and stays 3"),
        (
            having({**HUMIDITY, "number": 3}),
            "humidity: number 3 is temperature's for ever; 4 is free",
        ),
        (having({**HUMIDITY, "number": None}), "humidity: number is null; 4 is the next free"),
        (having({**HUMIDITY, "number": 19_500}), "humidity: number is 19500; 4 is the next"),
        (having({**HUMIDITY, "number": True}), "humidity: number is true; 4 is the next"),
        (having({**HUMIDITY, "doc": " "}), 'humidity: doc is " "; it says what it is'),
        (having({**HUMIDITY, "unit": ""}), 'humidity: unit is ""; it says °C or the like'),
        (having({**HUMIDITY, "minimum": "0"}), 'humidity: minimum is "0"; a metric has one'),
        (
            having({**HUMIDITY, "maximum": float("inf")}),
            "humidity: maximum is Infinity; a metric has one",
        ),
        (having({**HUMIDITY, "minimum": 100}), "humidity: minimum 100 is not below maximum 100"),
        (
            having({**HUMIDITY, "type": "double", "default": 0.0}),
            'type is "double"; a metric\'s is',
        ),
        (
            having({**HUMIDITY, "default": 0.5, "type": ["double", "null"]}),
            "default is 0.5; a metric",
        ),
        (having({**HUMIDITY, "name": "hour"}), "hour: is what the archive calls a partition"),
        (having(minimum=-80.0), "temperature: minimum is -80.0; it was -90.0, or below it"),
        (having(maximum=149.0), "temperature: maximum is 149.0; it was 150.0, or above it"),
        (having(unit="K"), "temperature: unit is 'K'; a metric keeps its unit, '°C'"),
        (having(without="device_id"), "device_id: is missing"),
    ],
)
def test_what_may_not_follow_is_named_with_file_field_value_and_what_would_be_right(
    later: list[dict[str, Any]], said: str
) -> None:
    wrong = problems(FIELDS, later)
    assert any(each.startswith("schemas/reading/v2.avsc: field") and said in each for each in wrong)


def test_a_range_that_was_widened_stays_so() -> None:
    assert problems(FIELDS, having(maximum=200.0), FIELDS) == [
        "schemas/reading/v3.avsc: field temperature: maximum is 150.0; it was 200.0, or above it"
    ]


def test_a_metric_without_its_range_lacks_it() -> None:
    missing = {key: value for key, value in HUMIDITY.items() if key != "maximum"}
    said = "maximum is missing; a metric has one, a finite number in its unit"
    assert problems(FIELDS, having(missing)) == [f"schemas/reading/v2.avsc: field humidity: {said}"]


def test_the_number_of_a_removed_field_is_never_used_again() -> None:
    again = {**HUMIDITY, "number": 3}
    gone = having(without="temperature")
    assert problems(FIELDS, gone, [*gone, again]) == [
        "schemas/reading/v3.avsc: field humidity: number 3 is temperature's for ever; 4 is free"
    ]


def test_a_field_of_the_pipelines_has_no_number() -> None:
    stamped = {"name": "at", "number": 7, "type": "long", "default": 0, "stamped_by": "ingest"}
    wrong = problems(having({**stamped, "doc": "When"}))
    assert "field at: number 7: the pipeline's fields have none" in wrong[0]


@pytest.mark.parametrize(
    ("name", "near"), [("AirTemp", "air_temp"), ("pH", "p_h"), ("2nd", "nd"), ("°", "a_name")]
)
def test_a_name_near_by_is_proposed(name: str, near: str) -> None:
    assert snake_case(name) == near


# Files.


def committed(root: Path) -> Path:
    """A copy of what `make schemas` reads and writes."""
    read_and_written = [
        *("schemas", "rules.yaml", "influx.yaml", "metrics.yaml", "template.yaml", "stacks"),
        *("docs/metrics.md", CLIENT),
    ]
    listed = subprocess.check_output(["git", "ls-files", *read_and_written], cwd=ROOT, text=True)
    for name in listed.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    return root


Edit = Callable[[Path], object]


def renamed(folder: Path) -> None:
    (folder / "schemas/window/v1.avsc").rename(folder / "schemas/window/one.avsc")


def renumbered(folder: Path) -> None:
    (folder / "schemas/reading/v3.avsc").rename(folder / "schemas/reading/v5.avsc")


def copied(folder: Path) -> None:
    (folder / "schemas/window/v2.avsc").write_bytes(
        (folder / "schemas/window/v1.avsc").read_bytes()
    )


def changed(folder: Path) -> None:
    path = folder / "schemas/reading/v2.avsc"
    path.write_text(path.read_text("utf-8").replace("Who measured", "Which device"), "utf-8")


def removed(folder: Path) -> None:
    (folder / "schemas/reading/v3.avsc").unlink()


def broken(folder: Path) -> None:
    (folder / "schemas/alert/v2.avsc").write_text("{")


def listed(folder: Path) -> None:
    (folder / "schemas/alert/v2.avsc").write_text('["null"]')


def unmarked(folder: Path) -> None:
    path = folder / "stacks/archive.yaml"
    path.write_text(path.read_text("utf-8").replace("# end views", "# views end"), "utf-8")


def unreadable(folder: Path) -> None:
    (folder / "stacks/contracts.yaml").write_text("Resources: {", "utf-8")


def unruly(folder: Path) -> None:
    (folder / "rules.yaml").write_text("rules: []")


def mismapped(folder: Path) -> None:
    (folder / "influx.yaml").write_text("device: {tags: [host]}\nunmaped: ignore")


def unmeasured(folder: Path) -> None:
    (folder / "metrics.yaml").write_text("no_measurement: [{metric: temp, values: [85]}]")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (renamed, "schemas/window/one.avsc: is not named for its version, as v1.avsc is"),
        (renumbered, "schemas/reading/v5.avsc: is number 3 of the files; v3.avsc is not there"),
        (copied, "schemas/window/v2.avsc: version is 1; the file's name says 2"),
        (broken, "schemas/alert/v2.avsc: is not JSON"),
        (listed, "schemas/alert/v2.avsc: is not an Avro record with a list of named fields"),
        (
            changed,
            "v2.avsc: differs from what stacks/contracts.yaml registers as version 2",
        ),
        (removed, "v3.avsc: is gone, and stacks/contracts.yaml registers it: put it back"),
        (unmarked, "archive.yaml: the lines `# begin views` and `# end views` are not there"),
        (unreadable, "stacks/contracts.yaml: is not YAML, so the registered versions are unknown"),
        (unmeasured, "metrics.yaml: no_measurement[0].metric: is not one of temperature, humid"),
        (unruly, "rules.yaml: `rules` is not a list of one rule or more"),
        (mismapped, "influx.yaml: unmaped: "),
    ],
)
def test_files_that_cannot_be_are_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: Edit, said: str
) -> None:
    edit(committed(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert main([], tmp_path) == 1
    assert said in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("schemas/reading.proto", "battery"),
        ("schemas/reading.schema.json", "battery"),
        ("docs/metrics.md", "battery"),
        (f"{CLIENT}/schemas/reading/v3.avsc", "battery"),
        ("stacks/archive.yaml", "{Name: battery"),
        ("stacks/archive.yaml", "AS _battery_"),
        ("template.yaml", "{Pattern: '"),
        ("stacks/contracts.yaml", "ReadingSchemaV2.VersionId"),
        ("stacks/contracts.yaml", "BACKWARD"),
    ],
)
def test_a_stale_file_is_named_with_the_command_and_then_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, mark: str
) -> None:
    stale = committed(tmp_path) / name
    right = stale.read_text("utf-8")
    stale.write_text(right.replace(mark, "cell"), "utf-8")
    assert main(["--check"], tmp_path) == 1
    said = f"{name}: is not what schemas/, rules.yaml and metrics.yaml say; run `make schemas`\n"
    assert capsys.readouterr().err == said
    assert stale.read_text("utf-8") != right
    assert main([], tmp_path) == 0
    assert stale.read_text("utf-8") == right
    assert main(["--check"], tmp_path) == 0


def test_what_is_committed_is_what_the_schemas_say() -> None:
    assert main(["--check"]) == 0


# What is generated, from two versions that have all there is: a field removed, one added.

BOTH = [version(1, FIELDS), version(2, having(HUMIDITY, without="temperature"))]


def test_the_protobuf_keeps_the_number_and_the_name_of_a_removed_field() -> None:
    assert (
        proto(BOTH)
        == """\
// generated by `make schemas` from schemas/reading/v2.avsc.

syntax = "proto3";

package telemetry;

// What a request brings.
message Readings {
  repeated Reading readings = 1;
}

message Reading {
  reserved 3;
  reserved "temperature";
  // Who
  string device_id = 1;
  // When
  int64 recorded_at = 2;
  // Of the air; %RH, 0 to 100
  optional double humidity = 4;
}
"""
    )


def test_a_removed_fields_number_is_kept_by_all_later_versions() -> None:
    third = version(3, having(HUMIDITY, without="temperature"))
    assert 'reserved 3;\n  reserved "temperature";' in proto([*BOTH, third])


def test_the_table_of_metrics_says_since_when() -> None:
    table, _, notes = metrics_table(BOTH).partition("\n\n`battery`")
    assert table.endswith("|---|---|---|---|---|\n| `humidity` | %RH | 0 to 100 | 2 | Of the air |")
    (example,) = re.findall(r"```yaml\n(.*?)```", notes, re.DOTALL)
    assert load_metrics(example).keys() == {"temperature", "battery"}


THREE = [*BOTH, version(3, having(HUMIDITY, doc="A long  doc " + "of words " * 30))]


def test_the_stack_registers_a_schema_and_its_further_versions_in_order() -> None:
    text = registry({"reading": THREE})
    stack = loaded(text)["Resources"]
    assert stack["ReadingSchema"]["Properties"]["Description"] == "A fact"
    assert stack["ReadingSchemaV3"]["DependsOn"] == "ReadingSchemaV2"
    definitions = [
        json.loads(stack[each]["Properties"]["SchemaDefinition"])
        for each in ("ReadingSchema", "ReadingSchemaV2", "ReadingSchemaV3")
    ]
    assert definitions == [each.schema for each in THREE]
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 120


def test_each_field_of_a_schema_begins_a_line() -> None:
    lines = registry({"reading": BOTH}).splitlines()
    begun = [line for line in lines if line.startswith('        {"')]
    assert len(begun) == sum(1 + len(each.fields) for each in BOTH)


def test_ingest_is_told_the_ids_in_the_order_of_the_versions() -> None:
    outputs = loaded(registry({"reading": THREE}))["Outputs"]
    assert outputs["ReadingVersionIds"]["Value"] == [
        ",",
        [
            "ReadingSchema.InitialSchemaVersionId",
            "ReadingSchemaV2.VersionId",
            "ReadingSchemaV3.VersionId",
        ],
    ]


def test_another_region_is_given_the_ids_with_their_versions() -> None:
    first, second = "${ReadingSchema.InitialSchemaVersionId}=1", "${ReadingSchemaV2.VersionId}=2"
    outputs = loaded(registry({"reading": BOTH}))["Outputs"]
    assert outputs["ReadingSchemaIds"]["Value"] == [",", [first, second]]


def test_the_archives_views_have_a_column_for_each_field_of_its_type() -> None:
    fields = [
        *having(HUMIDITY, without="temperature"),
        {"name": "at", "type": ["null", INSTANT], "stamped_by": "ingest", "doc": "When"},
    ]
    every, once = views(version(3, fields), {})
    assert every.columns == [
        ("device_id", "string", "varchar"),
        ("recorded_at", "bigint", "bigint"),
        ("trace_id", "string", "varchar"),
        ("humidity", "double", "double"),
        ("at", "timestamp", "timestamp(3)"),
        ("day", "string", "varchar"),
        ("hour", "string", "varchar"),
    ]
    assert [column.name for column in once.columns] == ["device_id", "recorded_at", "humidity"]


def test_a_views_definition_is_folded_into_one_line_of_json() -> None:
    text = "\n".join(resources(BOTH[1], {}))
    every, _ = loaded(text).values()
    _, given = every["Properties"]["TableInput"]["ViewOriginalText"]
    folded = json.loads(given["View"]["Fn::Base64"])
    assert folded["originalSql"].split() == views(BOTH[1], {})[0].sql.split()
    assert {each["name"] for each in folded["columns"]} >= {"humidity", "day", "hour"}
    assert max(map(len, text.splitlines())) <= 120


DOCUMENT = {"device_id": "pump-17", "recorded_at": 1_795_224_600_000, "temperature": 21.5}


@pytest.mark.parametrize(
    "document",
    [
        DOCUMENT,
        DOCUMENT | {"recorded_at": "2026-11-21T01:30:00Z", "humidity": 40, "battery": None},
        DOCUMENT | {"temperature": 150.0},
        DOCUMENT | {"temperature": 150.5},
        DOCUMENT | {"temperature": "21.5"},
        DOCUMENT | {"temperature": None},
        DOCUMENT | {"device_id": "pump 17"},
        DOCUMENT | {"wind": 3.0},
        DOCUMENT | {"trace_id": "1-67891233-abcdef012345678912345678"},
        DOCUMENT | {"recorded_at": 1.5},
        {"recorded_at": 1_795_224_600_000, "device_id": "pump-17"},
        {"device_id": "pump-17", "temperature": 21.5},
        [DOCUMENT],
        7,
    ],
)
def test_the_json_schema_takes_what_the_validator_takes_whole(document: Any) -> None:
    newest = load(ROOT)["reading"][-1]
    validator = jsonschema.Draft202012Validator(json.loads(json_schema(newest)))
    documents = document if isinstance(document, list) else [document]
    try:
        is_whole = not any(parse(each).refused for each in documents)
    except Rejected:
        is_whole = False
    assert validator.is_valid(document) == is_whole
