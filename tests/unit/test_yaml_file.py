"""The YAML files that people write: a key that is there twice is refused, not dropped."""

from collections.abc import Callable

import pytest
import yaml
from telemetry.domain import influx_mapping, no_measurement, rule, yaml_file
from telemetry.domain.reading import METRICS as NAMES
from telemetry.errors import TelemetryError

RULE = """\
rules:
  - name: hot
    metric: temperature
    above: 38
    above: 83
    clears_below: 37
    severity: critical
"""
METRICS = """\
no_measurement:
  - {metric: temperature, values: [85]}
no_measurement: []
"""
MAPPING = """\
device: {tags: [host]}
metrics:
  - {field: t, metric: temperature, scale: 0.1, scale: 10}
"""


@pytest.mark.parametrize(
    ("load", "text", "key", "line"),
    [
        (rule.load_rules, RULE, "above", 5),
        (no_measurement.load, METRICS, "no_measurement", 3),
        (influx_mapping.load_mapping, MAPPING, "scale", 3),
    ],
)
def test_a_key_that_is_there_twice_is_refused_by_name_and_line(
    load: Callable[[str], object], text: str, key: str, line: int
) -> None:
    with pytest.raises(TelemetryError, match=f"key '{key}' is there twice") as raised:
        load(text)
    assert f"line {line}" in str(raised.value)


def test_each_mistake_is_told_once_with_its_place_and_value() -> None:
    entry = '{metric: sound, values: ["85", yes], devices: "a b"}'
    with pytest.raises(TelemetryError) as raised:
        no_measurement.load(f"no_measurement: [{entry}, {{metrik: temperature, values: []}}]")
    assert str(raised.value).removeprefix("metrics.yaml: ").split("; ") == [
        f"no_measurement[0].metric: is not one of {', '.join(NAMES)} (it is 'sound')",
        "no_measurement[0].values[0]: is not a finite number (it is '85')",
        "no_measurement[0].values[1]: is not a finite number (it is True)",
        "no_measurement[0].devices: does not match ^[A-Za-z0-9_*-]+$ (it is 'a b')",
        "no_measurement[1].metric: is required",
        "no_measurement[1].values: is empty (it is [])",
        "no_measurement[1].metrik: there is no such key (it is 'temperature')",
    ]


def test_keys_of_other_mappings_and_types_are_other_keys() -> None:
    text = "a: {b: 1}\nc: {b: 2}\n1: x\n'1': y\nd: &d {e: 1}\nf: {<<: *d, e: 2}"
    assert yaml_file.read(text) == yaml.safe_load(text)
