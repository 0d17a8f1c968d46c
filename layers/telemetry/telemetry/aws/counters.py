"""The functions' counts in CloudWatch, read back by minute."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.domain.accounting import Counts, Metric
from telemetry.errors import Unavailable

PERIOD_SECONDS = 60


class Counters:
    """Sums of metrics in one namespace, minute by minute."""

    def __init__(self, cloudwatch: Any, namespace: str) -> None:
        self._cloudwatch = cloudwatch
        self._namespace = namespace

    def by_minute(self, metrics: Sequence[Metric], from_ms: int, to_ms: int) -> Counts:
        """Return the metrics' sums in the whole minutes of [from, to); raise Unavailable."""
        counts: dict[Metric, dict[int, int]] = {metric: {} for metric in metrics}
        try:
            for result in self._results(metrics, from_ms, to_ms):
                minutes = counts[metrics[int(result["Id"].removeprefix("m"))]]
                for at, value in zip(result["Timestamps"], result["Values"], strict=True):
                    minutes[round(at.timestamp() * 1000)] = round(value)
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"CloudWatch's metrics can't be read: {error}") from error
        return counts

    def _results(
        self, metrics: Sequence[Metric], from_ms: int, to_ms: int
    ) -> Iterator[dict[str, Any]]:
        pages = self._cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=[self._query(place, each) for place, each in enumerate(metrics)],
            StartTime=datetime.fromtimestamp(from_ms / 1000, UTC),
            EndTime=datetime.fromtimestamp(to_ms / 1000, UTC),
        )
        for page in pages:
            for result in page["MetricDataResults"]:
                # PartialData: the next page has the rest. With another status, sums may be too low.
                if result["StatusCode"] not in ("Complete", "PartialData"):
                    raise Unavailable(
                        f"CloudWatch's metric {result['Id']} can't be read: {result['StatusCode']}"
                    )
                yield result

    def _query(self, place: int, metric: Metric) -> dict[str, Any]:
        named = {
            "Namespace": self._namespace,
            "MetricName": metric.name,
            "Dimensions": [{"Name": "service", "Value": metric.stage}],
        }
        stat = {"Metric": named, "Period": PERIOD_SECONDS, "Stat": "Sum"}
        return {"Id": f"m{place}", "MetricStat": stat}
