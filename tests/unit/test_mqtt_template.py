"""What the template says of MQTT that only AWS would show."""

from tests.template import TEMPLATE, resources

TEXT = TEMPLATE.read_text("utf-8")


def test_each_rule_has_an_error_action_into_the_overflow_queue() -> None:
    for name, rule in resources(TEXT, "AWS::IoT::TopicRule").items():
        error_action = rule["TopicRulePayload"]["ErrorAction"]
        assert error_action["Sqs"]["QueueUrl"] == "OverflowQueue", name


def test_an_alarm_watches_every_way_in_which_an_acknowledged_message_can_be_lost() -> None:
    alarms = resources(TEXT, "AWS::CloudWatch::Alarm").values()
    watched = {(alarm["MetricName"], alarm["Dimensions"][0]["Value"]) for alarm in alarms}
    rules = resources(TEXT, "AWS::IoT::TopicRule")
    lost = {
        (what, each) for what in ("ErrorActionFailure", "RuleMessageThrottled") for each in rules
    }
    assert watched >= lost | {("DestinationDeliveryFailures", "IngestFunction")}
