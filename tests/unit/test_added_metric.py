"""Adding a metric is one new schema version and `make schemas`: no code."""

import json
from pathlib import Path

import pytest
import yaml

from tests.added_metric import Added, add_metric, copied_to, run
from tests.template import loaded, resources

# A reading with the metric, on its way: validated, put on the stream, taken from it, kept in a
# window; a breach of the rule; and one out of its range.
COURSE = """
import json
from telemetry.domain import reading, validation, window
from telemetry.domain.rule import breaching_value, shipped_rules

document = {"device_id": "pump-1", "recorded_at": 1795224600000, "wobble": 9.5}
taken = validation.decode(reading.encode(validation.parse(document).reading)).reading
kept = window.decode(window.encode(window.add_readings(None, [taken]).state))
print(json.dumps({
    "metrics": dict(taken.metrics),
    "mean": window.summarize(kept)["wobble"].mean,
    "breaches": {rule.name: breaching_value(rule, taken) for rule in shipped_rules()},
}))
validation.parse(document | {"wobble": 500.5})
"""

Copy = tuple[Path, Added]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder = copied_to(tmp_path_factory.mktemp("copy"))
    added = add_metric(folder)
    stale = run(folder, "-m", "contract", "--check")
    assert (stale.returncode, stale.stderr.count("run `make schemas`")) == (1, 7), stale
    made = run(folder, "-m", "contract")
    assert made.returncode == 0, made
    again = run(folder, "-m", "contract", "--check")
    assert again.returncode == 0, again
    return folder, added


def test_a_new_metric_is_validated_kept_in_windows_and_alerted_on(copy: Copy) -> None:
    folder, _ = copy
    ran = run(folder, "-c", COURSE)
    assert json.loads(ran.stdout) == {
        "metrics": {"wobble": 9.5},
        "mean": 9.5,
        "breaches": {"overheating": None, "shaking": 9.5},
    }
    said = "wobble: 500.5 is above 500.0 mm/s"
    assert ran.stderr.strip().endswith(f"Rejected: {said}")


def test_a_new_metric_is_registered_archived_and_lets_its_breaches_through(
    copy: tuple[Path, Added],
) -> None:
    folder, added = copy
    contracts = (folder / "stacks/contracts.yaml").read_text("utf-8")
    version = resources(contracts, "AWS::Glue::SchemaVersion")[f"ReadingSchemaV{added.version}"]
    assert json.loads(version["SchemaDefinition"])["fields"][-1]["name"] == "wobble"
    ids = loaded(contracts)["Outputs"]["ReadingVersionIds"]["Value"][1]
    assert ids[added.version - 1] == f"ReadingSchemaV{added.version}.VersionId"
    archive = (folder / "stacks/archive.yaml").read_text("utf-8")
    views = resources(archive, "AWS::Glue::Table")
    for view in ("ReadingsView", "ReadingsOnceView"):
        columns = views[view]["TableInput"]["StorageDescriptor"]["Columns"]
        assert {"Name": "wobble", "Type": "double"} in columns
    template = (folder / "template.yaml").read_text("utf-8")
    alert = resources(template, "AWS::Serverless::Function")["AlertFunction"]["Events"]
    filters = alert["Breaches"]["Properties"]["FilterCriteria"]["Filters"]
    assert [yaml.safe_load(each["Pattern"]) for each in filters] == [
        {"data": {"temperature": [{"numeric": [">", 38]}]}},
        {"data": {"wobble": [{"numeric": [">", 7.1]}]}},
    ]


def test_a_new_metric_is_in_what_devices_are_given_and_in_the_documents(
    copy: tuple[Path, Added],
) -> None:
    folder, added = copy
    proto = (folder / "schemas/reading.proto").read_text("utf-8")
    assert f"  optional double wobble = {added.number};" in proto
    body = json.loads((folder / "schemas/reading.schema.json").read_text("utf-8"))
    assert body["$defs"]["reading"]["properties"]["wobble"]["maximum"] == 500.0
    row = f"| `wobble` | mm/s | 0 to 500 | {added.version} | Velocity of a bearing"
    assert row in (folder / "docs/metrics.md").read_text("utf-8")
    local = run(folder, "-c", "from local.fleet.reading import METRICS; print(METRICS[-1])")
    assert local.stdout == "wobble\n", local.stderr
