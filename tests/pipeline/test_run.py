"""The local run as a person starts it; its check finds losses."""

import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pytest
import vega_datasets

from local.fleet.ledger import Ledger
from local.fleet.reading import Reading
from local.instance import ROOT, named, unused
from local.trial.check import iso
from local.trial.report import Verdict
from tests.pipeline.deployed import COMMAND_SECONDS_MAX, Pipeline, becomes, minutes_ago
from tests.pipeline.planting import Plant, checked, count_twice, lose, sent
from tests.waiting import SLOW, TooSlow, slowness

RECORDED = Path(vega_datasets.__file__).parent / "_data" / "seattle-temps.csv"
UNKNOWN = 3
EACH_HOURS = 6  # of the file's hourly rows: all of them take a minute


def local(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m local`, as from a terminal."""
    command = [sys.executable, "-m", "local", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
    )
    if done.returncode == UNKNOWN and slowness() > SLOW:  # on an idle machine it is a failure
        raise TooSlow(done.stderr)
    return done


def test_a_run_starts_an_instance_checks_it_and_leaves_nothing_behind() -> None:
    name = unused("test").name
    ran = local("run", "--name", name, "--for", "5s", "--json", "--devices", "20")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    readings = result["readings"]
    assert result["ok"], result
    assert result["problems"] == result["differences"] == []
    assert readings["accepted"] == readings["posted"] > 0
    assert readings["accepted"] == readings["stored"] + readings["duplicate"]
    assert readings["stored"] == readings["distinct"]
    counted = result["accounting"]["stages"]
    assert counted["ingest"]["accepted"] == readings["accepted"]
    assert counted["aggregate"] == {
        "foreign": 0,
        "stored": readings["distinct"],
        "duplicate": readings["accepted"] - readings["distinct"],
        "quarantined": 0,
        "conflicting": 0,
        "metrics_refused": 0,
        "metrics_left_out": 0,
    }
    assert result["accounting"]["unaccounted"] == 0
    assert result["windows_checked"] >= 20
    assert result["alerts_expected"] == result["alerts_open"]
    assert not named(name).is_running()
    assert not named(name).folder.exists()


def test_the_check_finds_a_window_that_is_lost_and_one_that_is_changed(pipeline: Pipeline) -> None:
    minutes, ledger = [minutes_ago(4), minutes_ago(3), minutes_ago(2)], Ledger()
    pipeline.relay(
        [
            Reading("robbed", minute + second, {"temperature": 20.0})
            for minute in minutes
            for second in (1, 2, 3)
        ],
        ledger,
    )
    becomes(lambda: pipeline.differences(ledger), [], "all that was sent")
    dynamodb, table = pipeline.aws("dynamodb"), pipeline.outputs["WindowsTable"]
    (lost,) = dynamodb.query(  # of whichever generation counts
        TableName=table,
        KeyConditionExpression="device_id = :device AND begins_with(minute_region, :minute)",
        ExpressionAttributeValues={":device": {"S": "robbed"}, ":minute": {"S": iso(minutes[0])}},
    )["Items"]
    key = {name: lost[name] for name in ("device_id", "minute_region")}
    dynamodb.delete_item(TableName=table, Key=key)
    ledger.accept([Reading("robbed", minutes[1] + 9, {"temperature": 20.0})])  # never sent
    found = [str(difference) for difference in pipeline.differences(ledger)]
    assert found == [
        f"robbed window {iso(minutes[0])}: expected 3 readings, found none",
        f"robbed window {iso(minutes[1])} count: expected 4, found 3",
        f"robbed window {iso(minutes[1])} temperature count: expected 4, found 3",
    ]


@pytest.mark.parametrize("plant", [lose, count_twice])
def test_a_planted_fault_is_reported_as_wrong_and_an_unanswered_reading_is_not(
    pipeline: Pipeline, plant: Plant
) -> None:
    ledger, minute_ms = sent(pipeline, plant.__name__)
    right = checked(pipeline, ledger)
    assert (right.verdict, right.differences) == (Verdict.RIGHT, [])
    assert right.comparison.unanswered_there == 0
    device_id = ledger.devices[0]
    plant(pipeline, device_id, minute_ms)
    wrong = checked(pipeline, ledger)
    assert wrong.verdict is Verdict.WRONG
    assert {each.device_id for each in wrong.differences} == {device_id}


@pytest.mark.alone  # the check waits for other devices' pending work, too
def test_a_year_of_recorded_temperatures_has_its_monthly_means(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    header, *lines = RECORDED.read_text().splitlines()
    lines = lines[::EACH_HOURS]
    file = tmp_path / "temperatures.csv"
    file.write_text("\n".join([header, *lines]))
    of_file = ["--csv", str(file), "--device", "seattle", "--time-column", "date"]
    of_file += ["--metric", "temperature=temp", "--celsius-from", "fahrenheit"]
    pace = ["--speed", "max", "--ends-now"]
    ran = local("devices", "--name", pipeline.instance.name, *of_file, *pace, "--check", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["windows_checked"] == len(lines)

    rows = [line.split(",") for line in lines]
    written = [datetime.strptime(f"{date} +0000", "%Y/%m/%d %H:%M %z") for date, _ in rows]
    expected = by_month(zip(written, [(float(value) - 32) / 1.8 for _, value in rows], strict=True))
    windows = pipeline.windows("seattle").values()
    found = [(datetime.fromisoformat(window["minute"]), window["metrics"]) for window in windows]
    shift = max(time for time, _ in found) - max(written)
    means = by_month((time - shift, metrics["temperature"]["mean"]) for time, metrics in found)
    assert sorted(expected) == list(range(1, 13))
    for month, values in expected.items():
        assert len(means[month]) == len(values)
        assert statistics.fmean(means[month]) == pytest.approx(statistics.fmean(values), abs=1e-9)


def by_month(values: Iterable[tuple[datetime, float]]) -> dict[int, list[float]]:
    """Return values by the month of their measurement."""
    months: dict[int, list[float]] = defaultdict(list)
    for time, value in values:
        months[time.month].append(value)
    return months
