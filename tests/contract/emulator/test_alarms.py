"""Alarms in the embedded CloudWatch: by exact dimensions, by period, and on queries."""

import json
import time
import uuid
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.waiting import Patience

END_SECONDS_MAX = 10


class Watched:
    """A test's own namespace, with an alarm on it."""

    def __init__(self, endpoint: str) -> None:
        self.client: Any = boto3.client("cloudwatch", endpoint_url=endpoint)
        self.name = f"Test/{uuid.uuid4()}"

    def put(self, value: float, **dimensions: str) -> None:
        named = [{"Name": name, "Value": each} for name, each in dimensions.items()]
        datum: Any = {"MetricName": "Failures", "Value": value, "Dimensions": named}
        self.client.put_metric_data(Namespace=self.name, MetricData=[datum])

    def alarm(self, **settings: Any) -> None:
        own: Any = {"Threshold": 0, "ComparisonOperator": "GreaterThanThreshold"}
        own |= {"EvaluationPeriods": 1, "TreatMissingData": "notBreaching"}
        self.client.put_metric_alarm(AlarmName=self.name, **(own | settings))

    def on_metric(self, **dimensions: str) -> None:
        named = [{"Name": name, "Value": each} for name, each in dimensions.items()]
        metric = {"Namespace": self.name, "MetricName": "Failures", "Dimensions": named}
        self.alarm(**metric, Statistic="Sum", Period=60)

    def query(self, ending: str) -> str:
        return f'SELECT SUM(Failures) FROM "{self.name}"' + ending  # noqa: S608 - Metrics Insights

    def described(self) -> Any:
        return self.client.describe_alarms(AlarmNames=[self.name])["MetricAlarms"][0]

    @property
    def state(self) -> str:
        return str(self.described()["StateValue"])


@pytest.fixture
def watched(embedded_endpoint: str, aws_environment: None) -> Watched:  # noqa: ARG001
    return Watched(embedded_endpoint)


def test_a_metric_with_more_dimensions_is_a_different_metric(watched: Watched) -> None:
    watched.on_metric(RuleName="reading")
    watched.put(1, RuleName="reading", ActionType="kinesis")
    watched.put(1, RuleName="other")
    watched.put(1)
    assert watched.state == "OK"
    watched.put(1, RuleName="reading")
    assert watched.state == "ALARM"


def test_an_alarm_waits_for_its_number_of_breaching_periods(watched: Watched) -> None:
    metric = {"Namespace": watched.name, "MetricName": "Failures"}
    watched.alarm(**metric, Statistic="Sum", Period=60, EvaluationPeriods=2)
    watched.put(1)
    assert watched.state == "OK"


def test_a_query_finds_its_metrics_with_any_other_dimensions(watched: Watched) -> None:
    query = watched.query(" WHERE RuleName = 'reading'")
    metrics = [{"Id": "lost", "Expression": query, "Period": 60, "ReturnData": True}]
    watched.alarm(Metrics=metrics)
    assert watched.described()["Metrics"] == metrics
    assert "MetricName" not in watched.described()
    watched.put(1, RuleName="other", ActionType="kinesis")
    assert watched.state == "OK"
    watched.put(1, RuleName="reading", ActionType="kinesis")
    assert watched.state == "ALARM"


def test_an_unsupported_query_is_refused(watched: Watched) -> None:
    query = {"Id": "q", "Expression": "SELECT SUM(Failures) FROM Own GROUP BY Rule", "Period": 60}
    with pytest.raises(ClientError, match="'GROUP' isn't supported here"):
        watched.alarm(Metrics=[query])
    assert not watched.client.describe_alarms(AlarmNames=[watched.name])["MetricAlarms"]


def test_a_request_for_a_metric_without_dimensions_gets_no_other(watched: Watched) -> None:
    watched.put(1, RuleName="reading")
    watched.put(2)
    span = {"StartTime": time.time() - 300, "EndTime": time.time() + 60}
    metric: Any = {"Namespace": watched.name, "MetricName": "Failures"}
    found = watched.client.get_metric_statistics(
        **metric, **span, Period=300, Statistics=["Sum"]
    )["Datapoints"]  # fmt: skip
    assert sum(each["Sum"] for each in found) == 2
    stat = {"Metric": metric, "Period": 300, "Stat": "Sum"}
    queried = watched.client.get_metric_data(
        MetricDataQueries=[{"Id": "q", "MetricStat": stat}], **span
    )["MetricDataResults"]  # fmt: skip
    assert sum(queried[0]["Values"]) == 2


@pytest.mark.parametrize(("ending", "status"), [("", "CREATE"), (" GROUP BY Rule", "ROLLBACK")])
def test_cloudformation_makes_an_alarm_on_a_query_or_fails(
    watched: Watched, embedded_endpoint: str, ending: str, status: str
) -> None:
    query = {"Id": "lost", "Period": "60", "ReturnData": "true"}
    query["Expression"] = watched.query(ending)
    properties = {
        "AlarmName": watched.name,
        "Metrics": [query],
        "Threshold": 0,
        "ComparisonOperator": "GreaterThanThreshold",
        "EvaluationPeriods": 1,
    }
    template = {"Resources": {"A": {"Type": "AWS::CloudWatch::Alarm", "Properties": properties}}}
    formation = boto3.client("cloudformation", endpoint_url=embedded_endpoint)
    name = f"stack-{uuid.uuid4()}"
    formation.create_stack(StackName=name, TemplateBody=json.dumps(template))
    patience = Patience(END_SECONDS_MAX)
    while (found := formation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"]).endswith(
        "_IN_PROGRESS"
    ):
        assert not patience.is_over()
        time.sleep(0.02)
    assert found == f"{status}_COMPLETE"
    if status == "CREATE":
        watched.put(1, Any="dimension")
        assert watched.state == "ALARM"
