"""What `make first-hour` takes from the README, and what it misses in an output."""

import os
import subprocess

import pytest

from tests.readme.__main__ import EXPECTED, HEADING, ROOT, missing, ten_lines


def test_the_readme_has_its_lines_and_no_fixed_date() -> None:
    lines = ten_lines((ROOT / "README.md").read_text("utf-8"))
    assert lines.startswith("make up")
    assert "date +%s" in lines
    assert "20" + "26-" not in lines


def test_a_readme_without_the_block_is_told() -> None:
    with pytest.raises(ValueError, match="no ```sh block"):
        ten_lines(f"{HEADING}\nnothing here\n")


OUTPUT = """\
++ date +%s
+ curl -s http://127.0.0.1:1/devices/device-0001/readings -d '{"temperature": 39.5}'
{"accepted": 1, "rejected": [], "partly": []}+ python -m local query windows device-0001 --wait 60s
device-0001: 1 window

  minute                 metric        readings   mean    min     max     stddev   last
 --------------------------------------------------------------------------------------
  2026-11-27T10:00:00Z   temperature   1          39.50   39.50   39.50   0.00     39.50

+ python -m local query alerts --wait 60s
1 alert, open

  device        rule          first breach               lasted   peak
 ----------------------------------------------------------------------
  device-0001   overheating   2026-11-27T10:00:01.000Z   0 ms     39.5

+ python -m local notices --wait 60s
sent at               change    rule         severity  device       value  by
2026-11-27T10:00:02Z  opened    overheating  critical  device-0001  39.5   EventBridge, SNS
+ python -m local devices --for 20s --devices 20
  397 readings accepted from 20 devices in 19.2 s: 21 a second
"""


@pytest.mark.parametrize(
    ("was", "became", "lacks"),
    [
        ('"accepted": 1', '"accepted": 0', "the answer to the post"),
        ("39.50   39.50   39.50", "39.40   39.40   39.40", "the window's mean"),
        ("1 alert, open", "0 alerts, open", "the alert"),
        ("opened    overheating", "cleared   overheating", "the notice"),
        ("397 readings accepted from 20", "0 readings accepted from 2", "the fleet's readings"),
    ],
)
def test_each_result_that_an_output_lacks_is_named(was: str, became: str, lacks: str) -> None:
    assert missing(OUTPUT) == []
    assert missing(OUTPUT.replace(was, became)) == [lacks]
    assert missing("") == list(EXPECTED)


def test_printed_commands_are_no_results() -> None:
    """`bash -x` prints each of the README's commands, with the value that it posts."""
    lines = ten_lines((ROOT / "README.md").read_text("utf-8"))
    idle = "".join(f"{name}() {{ :; }}; " for name in ("make", "source", "curl", "python"))
    printed = subprocess.run(
        ["bash", "-c", f"{idle} set -x; {lines}"],
        env={**os.environ, "API_URL": "u", "DEVICE_ID": "overheating", "DEVICE_TOKEN": "t"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "39.5" in printed.stderr
    assert missing(printed.stdout + printed.stderr) == list(EXPECTED)
