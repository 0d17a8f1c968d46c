"""What a running function tells: JSON logs, metrics, traces.

The names of metrics are the domain's words; `accepted = stored + duplicate + quarantined` can be
checked on them. Their dimension is the function (POWERTOOLS_SERVICE_NAME in the template).
"""

import functools
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit

Handler = Callable[[dict[str, Any], Any], Any]

log = Logger()
_metrics = Metrics(namespace="Telemetry")
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
            if _metrics.metric_set:
                _metrics.flush_metrics()

    return log.inject_lambda_context(wrapper)


def count(**amounts: int) -> None:
    """Add to metrics, by name; zeros too, so that a graph has no gaps."""
    for name, amount in amounts.items():
        _metrics.add_metric(name=name, unit=MetricUnit.Count, value=amount)


def milliseconds(**durations: int) -> None:
    """Add durations to metrics, by name."""
    for name, duration in durations.items():
        _metrics.add_metric(name=name, unit=MetricUnit.Milliseconds, value=duration)


def current_trace_id() -> str | None:
    """The X-Ray trace that this invocation belongs to (`1-…`), None where there is none."""
    header = os.environ.get("_X_AMZN_TRACE_ID", "")
    parts = dict(part.split("=", 1) for part in header.split(";") if "=" in part)
    root = parts.get("Root", "")
    return root if TRACE_ID.fullmatch(root) else None


def link(name: str, trace_ids: Iterable[str | None], **annotations: str | int) -> None:
    """Leave a subsegment that links this invocation's trace to those its records came on.

    Kinesis carries no trace context, so the trace id travels in the reading. X-Ray shows the
    links as "linked traces", and finds annotations: `annotation.source_trace_id = "1-…"`.
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
