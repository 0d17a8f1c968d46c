"""Observability of a running function: JSON logs, metrics, traces.

The names of metrics are the domain's words, their namespace is the stack's
(POWERTOOLS_METRICS_NAMESPACE in the template), their dimension the function
(POWERTOOLS_SERVICE_NAME). `telemetry.domain.accounting` says which of them must balance.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from telemetry.domain.times import minute_of

Handler = Callable[[dict[str, Any], Any], Any]

log = Logger()
NAMESPACE = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "Telemetry")
_metrics = Metrics(namespace=NAMESPACE)
_metrics_of_minute: dict[int, EphemeralMetrics] = {}
_tracer = Tracer(auto_patch=False)

# https://docs.aws.amazon.com/xray/latest/devguide/xray-api-sendingdata.html#xray-api-traceids
TRACE_ID = re.compile("1-[0-9a-f]{8}-[0-9a-f]{24}")
TRACES_LINKED = 50  # links on one subsegment; a segment document has 64 kB


def observed(handler: Handler) -> Handler:
    """Give each invocation its log context, flush its metrics, trace its AWS calls."""
    _tracer.patch(modules=["botocore"])

    @functools.wraps(handler)
    def wrapper(event: dict[str, Any], context: Any) -> Any:
        try:
            return handler(event, context)
        finally:
            _flush()

    return log.inject_lambda_context(wrapper)


def _flush() -> None:
    """Write the counts: those of the present minute, then those of each other minute."""
    if _metrics.metric_set:
        _metrics.flush_metrics()
    for metrics in _metrics_of_minute.values():
        metrics.flush_metrics()
    _metrics_of_minute.clear()


def count(**amounts: int) -> None:
    """Add to metrics, by name; also zeros, so that graphs have no gaps."""
    for name, amount in amounts.items():
        _metrics.add_metric(name=name, unit=MetricUnit.Count, value=amount)


def count_at(at_ms: int, **amounts: int) -> None:
    """Add to metrics of the minute of an instant; CloudWatch takes them up to 14 days late."""
    minute_ms = minute_of(at_ms)
    metrics = _metrics_of_minute.get(minute_ms)
    if metrics is None:
        metrics = _metrics_of_minute[minute_ms] = EphemeralMetrics(namespace=NAMESPACE)
        metrics.timestamp = minute_ms
    for name, amount in amounts.items():
        metrics.add_metric(name=name, unit=MetricUnit.Count, value=amount)


def write_counts() -> None:
    """Write the counts so far, before a step after which no retry would count them again."""
    _flush()


def milliseconds(**durations: int) -> None:
    """Add durations to metrics, by name."""
    for name, duration in durations.items():
        _metrics.add_metric(name=name, unit=MetricUnit.Milliseconds, value=duration)


def current_trace_id() -> str | None:
    """Return the id of this invocation's X-Ray trace (`1-…`), None if there is none."""
    header = os.environ.get("_X_AMZN_TRACE_ID", "")
    parts = dict(part.split("=", 1) for part in header.split(";") if "=" in part)
    root = parts.get("Root", "")
    return root if TRACE_ID.fullmatch(root) else None


def link(name: str, trace_ids: Iterable[str | None], **annotations: str | int) -> None:
    """Add a subsegment that links this invocation's trace to the traces of its records.

    Kinesis carries no trace context, so the trace id travels in the reading. X-Ray shows the links
    as "linked traces", and can search by annotation: `annotation.source_trace_id = "1-…"`.
    """
    wanted = sorted({trace_id for trace_id in trace_ids if trace_id})[:TRACES_LINKED]
    if not wanted:
        return
    with _tracer.provider.in_subsegment(name) as entity:
        subsegment: Any = entity  # the SDK has no types for links
        subsegment.put_annotation("source_trace_id", wanted[0])
        for key, value in annotations.items():
            subsegment.put_annotation(key, value)
        # the form in which Lambda itself links the traces of SQS messages
        subsegment.links = [
            {"trace_id": trace_id, "attributes": {"aws.xray.reserved.link_type": "parent"}}
            for trace_id in wanted
        ]
