"""Closes a gap of the embedded AWS: CloudWatch's logs and metrics of functions.

On AWS (https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html)
log lines in the embedded metric format become metrics, and the values of a minute are stored as
values with counts. The emulator (1.5.33) ignores such lines. It stores every value of every
invocation for two weeks, and makes a log stream for each invocation. It waits a short time for the
log of an invocation; later lines appear with a later invocation, or never.
"""

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

from emulator.gaps.alarms import watched

Point = dict[str, Any]
Event = dict[str, Any]

MINUTE_SECONDS = 60
METRICS_SECONDS = 14 * 24 * 3600
LATE_MINUTES = 5
"""A value that is at most this late is still counted with equal values of its minute."""
EVENTS_KEPT, OLD_EVENTS_KEPT, OLD_MS = 2_000, 250, 5 * 60_000
"""The limits of a function's log: all lines, lines older than OLD_MS, and that age. A log that
reaches twice a limit loses its older half."""
LOG_SECONDS_MAX = 2.0
LOG_POLL_SECONDS = 0.02
END_OF_LOG = "\x1eend of an invocation's log"
ANSWERS = (
    '_real_stdout.write(json.dumps({"status": "ok", "result": result}) + "\\n")',
    (
        '_real_stdout.write(json.dumps({"status": "error", "error": str(e), '
        '"trace": traceback.format_exc()}) + "\\n")'
    ),
)
"""The last statements of an invocation in the emulator's worker, verbatim."""


def close(modules: Any) -> None:
    """Close this gap in the emulator's modules (`emulator.gaps.Modules`)."""
    cloudwatch, logs = modules.service("cloudwatch"), modules.service("cloudwatch_logs")
    keep_metrics_by_minute(cloudwatch)
    metrics_from_logs(logs, cloudwatch)
    one_log_stream_a_day(modules.service("lambda_svc"), logs)
    whole_logs(modules.core("lambda_runtime"))


class Minutes(list[Point]):
    """The points of one metric; equal values of a minute are one point with a count."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self._latest: dict[tuple[int, float], Point] = {}
        self._newest_minute = 0
        self._lock = threading.Lock()

    def append(self, point: Point) -> None:
        """Add a point; an equal value in the same minute gets its count instead."""
        at = point["Timestamp"]
        minute = int(at // MINUTE_SECONDS)
        with self._lock:
            if self:
                point["Dimensions"] = self[0][
                    "Dimensions"
                ]  # all points of a metric share one object
            if "_stat" in point:
                super().append(point)
                return
            if minute > self._newest_minute:
                self._newest_minute = minute
                self._forget_minutes_before(minute - LATE_MINUTES)
            same = self._latest.get((minute, point["Value"]))
            if same is None:
                self._latest[minute, point["Value"]] = point
                super().append(point)
            else:
                same["Count"] = same.get("Count", 1.0) + point.get("Count", 1.0)
                same["Timestamp"] = max(at, same["Timestamp"])

    def forget_before(self, at: float) -> None:
        """Drop the points before a time."""
        with self._lock:
            self[:] = [point for point in self if point["Timestamp"] >= at]
            self._forget_minutes_before(int(at // MINUTE_SECONDS))

    def _forget_minutes_before(self, oldest: int) -> None:
        """Forget the places of values in minutes before `oldest`."""
        self._latest = {key: each for key, each in self._latest.items() if key[0] >= oldest}


def keep_metrics_by_minute(cloudwatch: Any) -> None:
    """Make a metric in `ministack.services.cloudwatch` grow with time, not with use."""
    swept_at = time.time()

    def bucket(key: tuple[Any, ...]) -> Minutes:
        points: Minutes | None = cloudwatch._metrics.get(key)
        if points is None:
            points = cloudwatch._metrics[key] = Minutes()
        return points

    def sweep() -> None:
        """Drop points older than two weeks, now and then; the emulator copied all at each call."""
        nonlocal swept_at
        now = time.time()
        if now - swept_at > MINUTE_SECONDS:
            swept_at = now
            for points in list(cloudwatch._metrics.values()):
                points.forget_before(now - METRICS_SECONDS)

    record = cloudwatch.record_metric

    def record_rounded(name_space: str, name: str, value: float, *rest: Any, **named: Any) -> None:
        """Round durations to milliseconds, so that a minute has few different values."""
        record(name_space, name, round(value), *rest, **named)

    cloudwatch._metric_bucket = bucket
    cloudwatch._evict_old_metrics = sweep
    cloudwatch.record_metric = record_rounded


def metrics_from_logs(cloudwatch_logs: Any, cloudwatch: Any) -> None:
    """Make metrics of log lines in the embedded metric format."""
    append = cloudwatch_logs._append_log_events

    def append_and_count(stream: Any, events: list[Event]) -> None:
        append(stream, events)
        names = set()
        for event in events:
            for namespace, name, point in embedded_points(event["message"]):
                key = (namespace, name, cloudwatch._dims_key(point["Dimensions"]))
                cloudwatch._metric_bucket(key).append(point)
                names.add((namespace, name))
        for alarm in list(cloudwatch._alarms.values()):
            if watched(alarm) in names:
                cloudwatch._evaluate_alarm(alarm)

    cloudwatch_logs._append_log_events = append_and_count


def embedded_points(message: str) -> Iterator[tuple[str, str, Point]]:
    """Return the metrics in a log line as (namespace, name, point); none for other lines."""
    if '"CloudWatchMetrics"' not in message:
        return
    try:
        document = json.loads(message)
        for directive in document["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = {name: str(document[name]) for name in names}
                for metric in directive["Metrics"]:
                    values = document[metric["Name"]]
                    for value in values if isinstance(values, list) else [values]:
                        point = {
                            "Timestamp": document["_aws"]["Timestamp"] / 1000,
                            "Value": float(value),
                            "Unit": sys.intern(metric.get("Unit", "None")),
                            "Dimensions": dimensions,
                        }
                        yield directive["Namespace"], metric["Name"], point
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # CloudWatch, too, ignores lines that it can't read


def whole_logs(lambda_runtime: Any) -> None:
    """Make `ministack.core.lambda_runtime` log everything that an invocation wrote.

    The worker marks the end of its log before it answers, so reading waits no longer than needed.
    """
    script = lambda_runtime._PYTHON_WORKER_SCRIPT
    for answer in ANSWERS:
        written = answer.removeprefix("_real_stdout.write(").removesuffix(")")
        marked = (
            f"_line = {written}; print({END_OF_LOG!r}, file=sys.stderr, flush=True); "
            "_real_stdout.write(_line)"
        )
        if script.count(answer) != 1:
            raise RuntimeError(f"this version of ministack has no such statement: {answer}")
        script = script.replace(answer, marked)
    lambda_runtime._PYTHON_WORKER_SCRIPT = script
    bounded = lambda_runtime.Worker._drain_stderr_bounded

    def drain(worker: Any) -> str:
        is_python = str(worker.config.get("Runtime", "python")).startswith("python")
        return until_marked(worker) if is_python else str(bounded(worker))

    lambda_runtime.Worker._drain_stderr_bounded = drain


def until_marked(worker: Any) -> str:
    """Return a worker's log up to the mark, or up to its end if the worker ended."""
    lines: list[str] = []
    deadline = time.monotonic() + LOG_SECONDS_MAX
    while time.monotonic() < deadline:
        is_ended = not worker._stderr_thread.is_alive()
        try:
            line = worker._stderr_queue.get(timeout=LOG_POLL_SECONDS)
        except queue.Empty:
            if is_ended:
                break
            continue
        head, mark, _ = line.partition(END_OF_LOG)
        if head or not mark:
            lines.append(head)
        if mark:
            break
    return "\n".join(lines)


def one_log_stream_a_day(lambda_svc: Any, cloudwatch_logs: Any) -> None:
    """Write a function's log to one stream a day, which has its latest lines."""
    ids = count()

    def emit(
        func: dict[str, Any],
        request_id: str,
        log_text: str,
        error: bool,  # noqa: ARG001 - the emulator passes it
        duration_ms: int,
        *,
        log_source: str | None = None,  # noqa: ARG001 - there are no containers here
    ) -> None:
        config = func.get("config") or func
        name, version = config.get("FunctionName", "unknown"), config.get("Version", "$LATEST")
        group = (config.get("LoggingConfig") or {}).get("LogGroup") or f"/aws/lambda/{name}"
        stream = log_stream(cloudwatch_logs, group, version)
        now_ms = time.time_ns() // 1_000_000
        report = f"REPORT RequestId: {request_id}\tDuration: {duration_ms} ms"
        lines = [
            f"START RequestId: {request_id} Version: {version}",
            *log_text.splitlines(),
            f"END RequestId: {request_id}",
            f"{report}\tMemory Size: {config.get('MemorySize', 128)} MB",
        ]
        events = [
            {"timestamp": now_ms, "message": line, "ingestionTime": now_ms, "eventId": f"{id_:056}"}
            for line, id_ in zip(lines, ids, strict=False)
        ]
        cloudwatch_logs._append_log_events(stream, events)
        with cloudwatch_logs._log_events_lock:
            del stream["events"][: surplus(stream["events"], now_ms)]

    lambda_svc._emit_lambda_logs = emit


def surplus(events: Sequence[Event], now_ms: int) -> int:
    """Return how many of a log's oldest lines to drop."""
    for kept, age_ms in ((EVENTS_KEPT, 0), (OLD_EVENTS_KEPT, OLD_MS)):
        if len(events) > 2 * kept and events[kept]["timestamp"] <= now_ms - age_ms:
            return kept
    return 0


def log_stream(cloudwatch_logs: Any, group_name: str, version: str) -> dict[str, Any]:
    """Return today's log stream of a function's version; make it if it is missing."""
    now = datetime.now(UTC)
    now_ms = round(now.timestamp() * 1000)
    groups = cloudwatch_logs._log_groups
    if group_name not in groups:
        groups[group_name] = {
            "arn": cloudwatch_logs._make_group_arn(group_name),
            "creationTime": now_ms,
            "retentionInDays": None,
            "tags": {},
            "subscriptionFilters": {},
            "streams": {},
        }
    stream: dict[str, Any] = groups[group_name]["streams"].setdefault(
        f"{now:%Y/%m/%d}/[{version}]",
        {
            "events": [],
            "uploadSequenceToken": "1",
            "creationTime": now_ms,
            "firstEventTimestamp": None,
            "lastEventTimestamp": None,
            "lastIngestionTime": None,
        },
    )
    return stream
