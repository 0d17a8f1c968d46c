"""The embedded AWS's logs and metrics: all that is readable is there, and memory is limited."""

import json
import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.gaps import cloudwatch
from emulator.gaps.cloudwatch import (
    END_OF_LOG,
    LATE_MINUTES,
    Minutes,
    embedded_points,
    one_log_stream_a_day,
    surplus,
    until_marked,
)


def point(at: float, value: float) -> dict[str, Any]:
    return {"Timestamp": at, "Value": value, "Unit": "Count", "Dimensions": {}}


def total(points: Minutes) -> float:
    return float(sum(each["Value"] * each.get("Count", 1.0) for each in points))


def test_equal_values_of_a_minute_take_no_more_memory() -> None:
    points = Minutes()
    for at in range(60, 120):
        points.append(point(at, 1.0))
        points.append(point(at, 0.0))
    assert len(points) == 2
    assert total(points) == 60
    assert {each["Timestamp"] for each in points} == {119}
    points.append(point(120, 1.0))
    assert len(points) == 3


def test_old_points_are_dropped_and_new_ones_still_added() -> None:
    points = Minutes()
    for at in (10, 70, 130):
        points.append(point(at, 5.0))
    points.forget_before(60)
    points.append(point(131, 5.0))
    assert [each["Timestamp"] for each in points] == [70, 131]
    assert total(points) == 15


def test_the_points_of_a_metric_share_their_dimensions() -> None:
    points = Minutes()
    for at in range(0, 6000, 60):
        points.append({**point(at, at), "Dimensions": {"service": "ingest"}})
    assert len(points) == 100
    assert {id(each["Dimensions"]) for each in points} == {id(points[0]["Dimensions"])}
    # minutes that get no more values take no memory besides their points
    assert len(points._latest) == LATE_MINUTES + 1


def test_a_value_that_comes_late_is_counted_however_late() -> None:
    points = Minutes()
    for at in (0, 60 * LATE_MINUTES, 30, 60 * 1000, 45):
        points.append(point(at, 5.0))
    assert total(points) == 25
    assert [each["Timestamp"] for each in points] == [30, 60 * LATE_MINUTES, 60_000, 45]


def test_statistic_sets_are_stored_as_they_were_published() -> None:
    points = Minutes()
    for at in (1, 2):
        points.append({**point(at, 5.0), "_stat": {"SampleCount": 2}})
    assert [each["Timestamp"] for each in points] == [1, 2]


def log_lines(count: int, seconds: float) -> list[dict[str, Any]]:
    return [{"timestamp": each * seconds * 1000} for each in range(count)]


@pytest.mark.parametrize(
    ("count", "seconds", "dropped"),
    [
        (4_000, 0.01, 0),  # of the last 40 seconds
        (4_001, 0.01, 2_000),
        (900, 0.4, 0),  # the 250th of the last six minutes is less than five old
        (1_100, 0.4, 250),
        (500, 60.0, 0),
        (501, 60.0, 250),
    ],
)
def test_a_log_has_its_latest_lines_and_few_old_ones(
    count: int, seconds: float, dropped: int
) -> None:
    now_ms = round(count * seconds * 1000)
    assert surplus(log_lines(count, seconds), now_ms) == dropped


def test_a_functions_log_is_cut_when_a_line_is_added() -> None:
    stream: dict[str, Any] = {"events": log_lines(1_000, 0.0)}
    group = {"streams": SimpleNamespace(setdefault=lambda *_: stream)}
    logs = SimpleNamespace(
        _log_groups={"/aws/lambda/ingest": group},
        _log_events_lock=threading.Lock(),
        _append_log_events=lambda stream, events: stream["events"].extend(events),
    )
    emulator = SimpleNamespace()
    one_log_stream_a_day(emulator, logs)
    emulator._emit_lambda_logs({"FunctionName": "ingest"}, "id", "a\nb", False, 5)
    assert len(stream["events"]) == 1_000 + 5 - 250
    assert "a" in [each.get("message") for each in stream["events"]]


def embedded(**values: Any) -> str:
    metrics = [{"Name": name, "Unit": "Count"} for name in values]
    directive = {"Namespace": "N", "Dimensions": [["service"]], "Metrics": metrics}
    aws = {"Timestamp": 60_500, "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": aws, "service": "ingest", **values})


def test_a_line_with_embedded_metrics_has_a_point_for_each_value() -> None:
    found = list(embedded_points(embedded(A=[1.0, 2.0], B=3)))
    assert [(name, each["Value"], each["Timestamp"]) for _, name, each in found] == [
        ("A", 1.0, 60.5),
        ("A", 2.0, 60.5),
        ("B", 3.0, 60.5),
    ]
    assert all(each["Dimensions"] == {"service": "ingest"} for *_, each in found)


@pytest.mark.parametrize(
    "line", ["", "CloudWatchMetrics", '{"CloudWatchMetrics": 1}', embedded(A="x"), embedded()]
)
def test_a_line_without_embedded_metrics_has_no_point(line: str) -> None:
    assert list(embedded_points(line)) == []


def worker(*lines: str, is_alive: bool = True) -> Any:
    logged: queue.Queue[str] = queue.Queue()
    for line in lines:
        logged.put(line)
    thread = SimpleNamespace(is_alive=lambda: is_alive)
    return SimpleNamespace(_stderr_queue=logged, _stderr_thread=thread)


def test_an_invocations_log_ends_at_its_mark() -> None:
    one = worker("a", "b", f"c{END_OF_LOG}", "of the next")
    assert until_marked(one) == "a\nb\nc"
    assert one._stderr_queue.get_nowait() == "of the next"
    assert until_marked(worker("a", END_OF_LOG)) == "a"


def test_a_log_that_comes_late_is_waited_for() -> None:
    slow = worker("a")
    later = threading.Timer(0.15, lambda: [slow._stderr_queue.put(s) for s in ("b", END_OF_LOG)])
    later.start()
    assert until_marked(slow) == "a\nb"
    later.join()


def test_the_log_of_a_worker_that_was_killed_ends_with_it() -> None:
    assert until_marked(worker("a", "half a li", is_alive=False)) == "a\nhalf a li"


def test_an_emulator_with_other_statements_in_its_worker_is_refused() -> None:
    other = SimpleNamespace(_PYTHON_WORKER_SCRIPT="print(result)")
    with pytest.raises(RuntimeError, match="has no such statement"):
        cloudwatch.whole_logs(other)
