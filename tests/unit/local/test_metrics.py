import json
import time
from typing import Any

from local.trial.metrics import LogReader, Tally, embedded_metrics


def line(namespace: str = "Telemetry", **metrics: Any) -> str:
    """Return a log line as Powertools writes it."""
    declared = [{"Name": name, "Unit": "Count"} for name in metrics]
    directive = {"Namespace": namespace, "Dimensions": [["service"]], "Metrics": declared}
    aws = {"Timestamp": 1, "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": aws, "service": "aggregate", "not_declared": 7, **metrics})


def test_the_declared_metrics_of_a_line_are_read_and_lists_summed() -> None:
    message = line(ReadingsStored=[3.0, 4.0], ReadingsDuplicate=1)
    assert embedded_metrics(message) == {"ReadingsStored": 7.0, "ReadingsDuplicate": 1.0}


def test_other_lines_have_no_metrics() -> None:
    start = "START RequestId: 1 Version: $LATEST"
    for message in (start, '{"level": "INFO"}', "[]", '"text"', line("Other", ReadingsStored=1)):
        assert embedded_metrics(message) == {}


def test_a_tally_counts_metrics_and_settled_readings() -> None:
    tally = Tally()
    tally.add({"ReadingsStored": 5.0, "ReadingsDuplicate": 2.0}, now=0)
    tally.add({"ReadingsStored": 1.0, "ReadingsQuarantined": 3.0}, now=1)
    assert tally["ReadingsStored"] == 6
    assert tally.settled == 11


def test_the_lag_is_the_largest_of_the_last_seconds() -> None:
    tally = Tally()
    tally.add({"ReadingLag": 900.0}, now=100)
    tally.add({"ReadingLag": 300.0}, now=105)
    assert tally.lag_ms(now=109) == 900
    assert tally.lag_ms(now=111) == 300
    assert tally.lag_ms(now=116) is None


def test_an_old_lag_is_not_recent_even_if_it_is_read_late() -> None:
    logs, tally, now_ms = Logs(), Tally(), int(time.time() * 1000)
    for age_ms, lag in ((300_000, 21_800.0), (1_000, 40.0)):
        message = line(ReadingLag=lag)
        logs.lines.append({"timestamp": now_ms - age_ms, "message": message, "logStreamName": "s"})
    LogReader(logs, "telemetry", since_ms=0).read(tally)
    assert tally.lag_ms(time.monotonic()) == 40.0
    assert tally.lag_ms(time.monotonic() + 10) is None


class Logs:
    """CloudWatch Logs with one group's lines, in pages of two."""

    class exceptions:  # noqa: N801 - as boto3 names it
        class ResourceNotFoundException(Exception):
            pass

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.queries: list[dict[str, Any]] = []

    def filter_log_events(self, **query: Any) -> dict[str, Any]:
        if query["logGroupName"] != "/aws/lambda/telemetry-aggregate":
            raise self.exceptions.ResourceNotFoundException
        self.queries.append(query)
        found = [each for each in self.lines if each["timestamp"] >= query["startTime"]]
        start = int(query.get("nextToken", 0))
        page: dict[str, Any] = {"events": found[start : start + 2]}
        return page | ({"nextToken": str(start + 2)} if len(found) > start + 2 else {})

    def write(self, at_ms: int, stored: int, stream: str) -> None:
        message = line(ReadingsStored=stored)
        self.lines.append({"timestamp": at_ms, "message": message, "logStreamName": stream})


def test_each_line_is_counted_once_over_many_looks_and_pages() -> None:
    logs, tally = Logs(), Tally()
    reader = LogReader(logs, "telemetry", since_ms=0)
    for number in range(5):
        logs.write(at_ms=10_000, stored=1, stream=f"s{number}")
    reader.read(tally)
    logs.write(at_ms=10_000, stored=10, stream="s9")  # of the same moment, but seen later
    logs.write(at_ms=60_000, stored=100, stream="s9")
    reader.read(tally)
    reader.read(tally)
    assert tally["ReadingsStored"] == 115


def test_a_look_asks_only_for_new_lines() -> None:
    logs, tally = Logs(), Tally()
    reader = LogReader(logs, "telemetry", since_ms=5_000)
    logs.write(at_ms=50_000, stored=1, stream="s")
    reader.read(tally)
    reader.read(tally)
    assert [query["startTime"] for query in logs.queries] == [5_000, 48_000]
