"""Counts come back from CloudWatch by metric, stage and minute."""

from datetime import UTC, datetime

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from telemetry.aws.counters import Counters
from telemetry.domain.accounting import ACCEPTED, METRICS, STORED
from telemetry.domain.times import MINUTE_MS, minute_of
from telemetry.errors import Unavailable

NOW_MS = minute_of(int(datetime.now(UTC).timestamp() * 1000))
NAMESPACE = "Telemetry/counters"


def put(name: str, stage: str, minute_ms: int, *values: float, namespace: str = NAMESPACE) -> None:
    boto3.client("cloudwatch").put_metric_data(
        Namespace=namespace,
        MetricData=[
            {
                "MetricName": name,
                "Dimensions": [{"Name": "service", "Value": stage}],
                "Timestamp": datetime.fromtimestamp(minute_ms / 1000, UTC),
                "Value": value,
                "Unit": "Count",
            }
            for value in values
        ],
    )


def test_counts_are_summed_by_minute_and_told_apart_by_stage_and_stack(in_moto: None) -> None:  # noqa: ARG001
    earlier = NOW_MS - 5 * MINUTE_MS
    put("ReadingsAccepted", "ingest", earlier, 3, 4)
    put("ReadingsAccepted", "ingest", earlier + MINUTE_MS, 5)
    put("ReadingsAccepted", "ingest", NOW_MS, 1_000)  # not in the span
    put("ReadingsAccepted", "other", earlier, 1_000)
    put("ReadingsAccepted", "ingest", earlier, 1_000, namespace="Telemetry/other")
    counters = Counters(boto3.client("cloudwatch"), NAMESPACE)
    counts = counters.by_minute(METRICS, earlier, NOW_MS)
    assert counts[ACCEPTED] == {earlier: 7, earlier + MINUTE_MS: 5}
    assert counts[STORED] == {}


def test_a_cloudwatch_that_does_not_answer_is_unavailable() -> None:
    class Down:
        def get_paginator(self, _name: str) -> "Down":
            return self

        def paginate(self, **_query: object) -> list[dict[str, object]]:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1")

    with pytest.raises(Unavailable, match="CloudWatch"):
        Counters(Down(), NAMESPACE).by_minute(METRICS, 0, NOW_MS)
