"""Counts come back from CloudWatch by metric, stage and minute; in the embedded AWS also from logs.

moto's CloudWatch doesn't tell namespaces apart, so this one is the embedded AWS's.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from telemetry.aws.counters import Counters
from telemetry.domain.accounting import ACCEPTED, METRICS, STORED
from telemetry.domain.times import MINUTE_MS, minute_of
from telemetry.errors import Unavailable

NOW_MS = minute_of(int(datetime.now(UTC).timestamp() * 1000))
NAMESPACE = "Telemetry/counters"

Connect = Callable[[str], Any]


@pytest.fixture
def aws(embedded_endpoint: str, aws_environment: None) -> Connect:  # noqa: ARG001
    return lambda service: boto3.client(service, endpoint_url=embedded_endpoint)  # type: ignore[call-overload]


def put(aws: Connect, minute_ms: int, *values: float, **other: str) -> None:
    """Publish values of ingest's ReadingsAccepted, or of `other`."""
    dimension = {"Name": "service", "Value": other.get("stage", "ingest")}
    data = {
        "MetricName": "ReadingsAccepted",
        "Dimensions": [dimension],
        "Timestamp": datetime.fromtimestamp(minute_ms / 1000, UTC),
        "Unit": "Count",
    }
    aws("cloudwatch").put_metric_data(
        Namespace=other.get("namespace", NAMESPACE),
        MetricData=[{**data, "Value": value} for value in values],
    )


def test_counts_are_summed_by_minute_and_told_apart_by_stage_and_stack(aws: Connect) -> None:
    earlier = NOW_MS - 5 * MINUTE_MS
    put(aws, earlier, 3, 4, 4)
    put(aws, earlier + MINUTE_MS, 5)
    put(aws, NOW_MS, 1_000)  # not in the span
    put(aws, earlier, 1_000, stage="other")
    put(aws, earlier, 1_000, namespace="Telemetry/other")
    counts = Counters(aws("cloudwatch"), NAMESPACE).by_minute(METRICS, earlier, NOW_MS)
    assert counts[ACCEPTED] == {earlier: 11, earlier + MINUTE_MS: 5}
    assert counts[STORED] == {}


def test_metrics_logged_in_the_embedded_metric_format_are_counted(aws: Connect) -> None:
    logs, namespace = aws("logs"), "Telemetry/logged"
    earlier = NOW_MS - 3 * MINUTE_MS
    metrics = [{"Name": "ReadingsAccepted", "Unit": "Count"}]
    directive = {"Namespace": namespace, "Dimensions": [["service"]], "Metrics": metrics}
    document: dict[str, Any] = {"_aws": {"Timestamp": earlier, "CloudWatchMetrics": [directive]}}
    document |= {"service": "ingest", "ReadingsAccepted": [2.0, 3.0]}
    damaged = {"_aws": {"CloudWatchMetrics": [{"Namespace": namespace}]}}
    messages = [json.dumps(document), "ordinary", json.dumps(damaged), json.dumps(document)]
    logs.create_log_group(logGroupName="logged")
    logs.create_log_stream(logGroupName="logged", logStreamName="one")
    logs.put_log_events(
        logGroupName="logged",
        logStreamName="one",
        logEvents=[{"timestamp": NOW_MS, "message": message} for message in messages],
    )
    counts = Counters(aws("cloudwatch"), namespace).by_minute(METRICS, earlier, NOW_MS)
    assert counts[ACCEPTED] == {earlier: 10}


class Answering:
    """A CloudWatch whose answers these are."""

    def __init__(self, *pages: list[dict[str, Any]]) -> None:
        self.pages = pages

    def get_paginator(self, _name: str) -> "Answering":
        return self

    def paginate(self, **_query: object) -> list[dict[str, Any]]:
        return [{"MetricDataResults": page} for page in self.pages]


def result(status: str, *minutes_ms: int) -> dict[str, Any]:
    """Of the first metric that was asked for: one in each of these minutes."""
    at = [datetime.fromtimestamp(minute_ms / 1000, UTC) for minute_ms in minutes_ms]
    return {"Id": "m0", "StatusCode": status, "Timestamps": at, "Values": [1.0] * len(at)}


def test_counts_that_come_in_several_pages_are_all_there() -> None:
    pages = [result("PartialData", MINUTE_MS)], [result("Complete", 0)]
    counts = Counters(Answering(*pages), NAMESPACE).by_minute([ACCEPTED], 0, NOW_MS)
    assert counts == {ACCEPTED: {0: 1, MINUTE_MS: 1}}


@pytest.mark.parametrize("status", ["InternalError", "Forbidden"])
def test_a_count_that_cloudwatch_failed_to_tell_is_not_taken_for_zero(status: str) -> None:
    answering = Answering([result(status)])
    with pytest.raises(Unavailable, match=f"CloudWatch's metric m0 can't be read: {status}"):
        Counters(answering, NAMESPACE).by_minute([ACCEPTED], 0, NOW_MS)


def test_a_cloudwatch_that_does_not_answer_is_unavailable() -> None:
    class Down:
        def get_paginator(self, _name: str) -> "Down":
            return self

        def paginate(self, **_query: object) -> list[dict[str, object]]:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1")

    with pytest.raises(Unavailable, match="CloudWatch"):
        Counters(Down(), NAMESPACE).by_minute(METRICS, 0, NOW_MS)
