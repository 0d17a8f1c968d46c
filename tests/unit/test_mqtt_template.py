"""What the template says of MQTT that only AWS would show."""

import re
from typing import Any

from tests.template import everywhere


def test_each_rule_has_an_error_action_into_the_overflow_queue() -> None:
    for name, rule in everywhere("AWS::IoT::TopicRule").items():
        error_action = rule["TopicRulePayload"]["ErrorAction"]
        assert error_action["Sqs"]["QueueUrl"] == "OverflowQueue", name


def test_an_alarm_watches_every_way_in_which_an_acknowledged_message_can_be_lost() -> None:
    alarms = everywhere("AWS::CloudWatch::Alarm").values()
    watched = {watched_by(alarm) for alarm in alarms}
    ways = ("ErrorActionFailure", "RuleMessageThrottled", "ParseError")
    lost = {(what, each) for what in ways for each in everywhere("AWS::IoT::TopicRule")}
    assert watched >= lost | {("DestinationDeliveryFailures", "${Name}-ingest")}


QUERY = re.compile(r'SELECT SUM\((\w+)\) FROM "AWS/IoT" WHERE RuleName = \'\$\{(\w+)\}\'')


def watched_by(alarm: dict[str, Any]) -> tuple[str, str]:
    """A metric, and the value of its first dimension."""
    if "MetricName" in alarm:
        return alarm["MetricName"], alarm["Dimensions"][0]["Value"]
    found = QUERY.fullmatch(alarm["Metrics"][0]["Expression"])
    assert found
    return found[1], found[2]
