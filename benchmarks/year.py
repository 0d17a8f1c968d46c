"""Sends a public data set, a year of hourly temperatures, through the pipeline and compares means.

The data is Seattle's of 2010 (package vega_datasets, in °F). `python -m local devices --csv` posts
it, shifted so that the year ends now. The means of its months, read back as windows, are compared
with the means from the file, by event time. It exits with 1 if one differs by more than 1e-9 °C.
"""

import csv
import statistics
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from vega_datasets import local_data

from local.api import Api
from local.instance import named

NAME = "year"
DEVICE = "seattle"
RETENTION_DAYS = 400
LOCAL = (sys.executable, "-m", "local")
TOLERANCE_CELSIUS = 1e-9

Months = dict[str, list[float]]


def post(path: str) -> None:
    """Bring up an instance that keeps windows for a year, and post the file to it."""
    up = ("up", "--name", NAME, "--retention-days", str(RETENTION_DAYS))
    subprocess.run([*LOCAL, *up], check=True)
    columns = ("--time-column", "date", "--time-format", "%Y/%m/%d %H:%M")
    metric = ("--metric", "temperature=temp", "--celsius-from", "fahrenheit")
    devices = ("devices", "--name", NAME, "--csv", path, "--device", DEVICE, *columns, *metric)
    subprocess.run([*LOCAL, *devices, "--speed", "max", "--ends-now", "--check"], check=True)


def recorded(path: str, shift: timedelta) -> Months:
    """Return the file's temperatures in °C, by their month after the shift."""
    months: Months = defaultdict(list)
    with Path(path).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            at = datetime.strptime(row["date"], "%Y/%m/%d %H:%M").replace(tzinfo=UTC) + shift
            months[at.strftime("%Y-%m")].append((float(row["temp"]) - 32) * 5 / 9)
    return months


def stored() -> tuple[Months, datetime]:
    """Return the API's windows' means by month, and the time of the latest reading."""
    state = named(NAME).deployed()
    months: Months = defaultdict(list)
    now = datetime.now(UTC)
    with Api(state.api_url, state.tokens["operator"]) as api:
        start = (now - timedelta(days=RETENTION_DAYS)).isoformat()
        for window in api.windows(DEVICE, start, (now + timedelta(minutes=1)).isoformat()):
            if window["count"] != 1:
                raise SystemExit(f"{window['minute']} has {window['count']} readings, not 1")
            months[window["minute"][:7]].append(window["metrics"]["temperature"]["mean"])
        latest = datetime.fromisoformat(api.device(DEVICE)["latest"]["recorded_at"])
    return months, latest


def main() -> None:
    path = str(local_data.seattle_temps.filepath)
    try:
        post(path)
        found, latest = stored()
    finally:
        subprocess.run([*LOCAL, "down", "--name", NAME], check=False)
    last = datetime(2010, 12, 31, 23, tzinfo=UTC)
    expected = recorded(path, latest - last)
    print("month    readings  mean °C, from the file  from the pipeline")
    wrong = 0
    for month in sorted(expected | found):
        ours, theirs = found.get(month, []), expected.get(month, [])
        means = statistics.fmean(theirs or [0]), statistics.fmean(ours or [0])
        differs = len(ours) != len(theirs) or abs(means[0] - means[1]) > TOLERANCE_CELSIUS
        wrong += differs
        print(f"{month} {len(ours):>9} {means[0]:>23.6f} {means[1]:>18.6f}{'  differs' * differs}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
