"""The pipeline's own metrics, read from the functions' logs (CloudWatch embedded metric format).

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

NAMESPACE = "Telemetry"
SERVICES = ("ingest", "drain", "aggregate", "alert", "dispatch", "notify", "redrive")
LAG_SECONDS = 10.0
OVERLAP_MS = 2000
"""A read starts this long before the last line seen, since lines may appear late."""

LogLine = dict[str, Any]


def embedded_metrics(message: str) -> dict[str, float]:
    """Return a log line's metrics by name, lists as their sums; empty for a line without any."""
    try:
        document = json.loads(message)
        directives = document["_aws"]["CloudWatchMetrics"]
        declared = [
            metric["Name"]
            for directive in directives
            if directive["Namespace"].partition("/")[0] == NAMESPACE
            for metric in directive["Metrics"]
        ]
        return {name: total(document[name]) for name in declared}
    except (ValueError, KeyError, TypeError):
        return {}


def total(values: float | list[float]) -> float:
    """Return the sum of a metric's values: one number or a list."""
    return float(sum(values)) if isinstance(values, list) else float(values)


class Tally:
    """Running totals of the pipeline's metrics, and the recent lag."""

    def __init__(self) -> None:
        """Start at zero."""
        self._totals: Counter[str] = Counter()
        self._lags: list[tuple[float, float]] = []

    def add(self, metrics: dict[str, float], now: float) -> None:
        """Add the metrics of a line that was written at `now`, a monotonic time in s."""
        for name, value in metrics.items():
            if name == "ReadingLag":
                self._lags.append((now, value))
            else:
                self._totals[name] += int(value)

    def __getitem__(self, name: str) -> int:
        """Return a metric's total."""
        return self._totals[name]

    @property
    def settled(self) -> int:
        """The number of readings that were stored, duplicates or quarantined."""
        return self["ReadingsStored"] + self["ReadingsDuplicate"] + self["ReadingsQuarantined"]

    def lag_ms(self, now: float) -> float | None:
        """Return the largest lag of the last 10 s, in ms; None if nothing was stored in them."""
        self._lags = [(at, lag) for at, lag in self._lags if at >= now - LAG_SECONDS]
        return max((lag for _, lag in self._lags), default=None)


class LogReader:
    """Reads new metrics from a stack's log groups, each line once."""

    def __init__(self, logs: Any, stack: str, since_ms: int) -> None:
        """Read with a boto3 client of CloudWatch Logs, from `since_ms`."""
        self._logs = logs
        self._stack = stack
        self._since_ms = dict.fromkeys(SERVICES, since_ms)
        self._seen: dict[str, dict[str, int]] = {service: {} for service in SERVICES}

    def read(self, tally: Tally) -> None:
        """Add every new line of every group to the tally, with the time of the line."""
        now, now_ms = time.monotonic(), time.time() * 1000
        for service in SERVICES:
            for line in self._new_lines(service):
                age_seconds = max(0.0, (now_ms - line["timestamp"]) / 1000)
                tally.add(embedded_metrics(line["message"]), now - age_seconds)

    def _new_lines(self, service: str) -> Iterator[LogLine]:
        seen = self._seen[service]
        for line in self._lines(service):
            identity = (
                line.get("eventId")
                or f"{line['logStreamName']}/{line['timestamp']}/{hash(line['message'])}"
            )
            if identity not in seen:
                seen[identity] = line["timestamp"]
                yield line
        if seen:
            start = max(max(seen.values()) - OVERLAP_MS, self._since_ms[service])
            self._since_ms[service] = start
            self._seen[service] = {identity: at for identity, at in seen.items() if at >= start}

    def _lines(self, service: str) -> Iterable[LogLine]:
        query = {
            "logGroupName": f"/aws/lambda/{self._stack}-{service}",
            "startTime": self._since_ms[service],
            "filterPattern": '"CloudWatchMetrics"',
        }
        try:
            while True:
                page = self._logs.filter_log_events(**query)
                yield from page["events"]
                if "nextToken" not in page:
                    return
                query["nextToken"] = page["nextToken"]
        except self._logs.exceptions.ResourceNotFoundException:
            return
