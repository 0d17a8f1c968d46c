"""The broker's calls to IoT, and its actions, with fake services."""

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from emulator.mappings.aws import Endpoint
from emulator.mqtt import sql
from emulator.mqtt.aws import AwsActions, Cached, Iot
from emulator.mqtt.rules import ActionFailed, Rule, Unreachable

ROLE, FUNCTION = "arn:role", "arn:function"
MESSAGE = sql.Message("telemetry/pump-1/readings", b"{}", "pump-1", "cert-1", 1_000)
RULE = Rule("readings", "arn:rule", None, [], None)
ALLOW = {
    "Effect": "Allow",
    "Action": "lambda:InvokeFunction",
    "Principal": {"Service": "iot.amazonaws.com"},
    "Condition": {"ArnLike": {"AWS:SourceArn": "arn:rule"}},
}
GONE = ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "Get")
DENIED = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "Put")


class Services:
    """An endpoint whose services give preset answers and record their requests."""

    region = "us-east-1"

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []

    def client(self, _service: str, role: str | None = None) -> "Services":
        self.role = role
        return self

    def __getattr__(self, operation: str) -> Any:
        def answer(**request: Any) -> Any:
            self.asked.append((operation, self.role, request))
            found = self.answers.get(operation, {})
            if isinstance(found, Exception):
                raise found
            return found

        return answer


def endpoint(services: Services) -> Endpoint:
    return cast("Endpoint", services)


def run(services: Services, action: Mapping[str, Any], message: sql.Message = MESSAGE) -> None:
    AwsActions(endpoint(services)).run(RULE, action, message, b"data")


def test_a_record_goes_on_the_stream_as_the_rules_role_under_the_key_of_its_template() -> None:
    services = Services()
    kinesis = {"streamName": "readings", "partitionKey": "${topic(2)}", "roleArn": ROLE}
    run(services, {"kinesis": kinesis})
    record = {"StreamName": "readings", "PartitionKey": "pump-1", "Data": b"data"}
    assert services.asked == [("put_record", ROLE, record)]


def test_a_message_goes_to_a_queue_as_the_rules_role() -> None:
    services = Services()
    run(services, {"sqs": {"queueUrl": "q", "roleArn": ROLE, "useBase64": False}})
    assert services.asked == [("send_message", ROLE, {"QueueUrl": "q", "MessageBody": "data"})]


def test_a_function_is_invoked_if_its_policy_allows_the_rule() -> None:
    services = Services(get_policy={"Policy": json.dumps({"Statement": [ALLOW]})})
    run(services, {"lambda": {"functionArn": FUNCTION}})
    invoked = {"FunctionName": FUNCTION, "InvocationType": "Event", "Payload": b"data"}
    assert services.asked[-1] == ("invoke", None, invoked)


@pytest.mark.parametrize(
    ("answers", "action", "problem"),
    [
        ({}, {"s3": {}}, "the action s3 isn't supported here; kinesis, lambda, sqs are"),
        ({}, {"sqs": {"queueUrl": "q", "roleArn": ROLE, "useBase64": True}}, "useBase64"),
        ({"put_record": DENIED}, {"kinesis": {"partitionKey": "a"}}, "AccessDenied"),
        ({}, {"kinesis": {"partitionKey": "${gone}"}}, "gives neither text nor a number"),
        ({}, {"kinesis": {"partitionKey": "${newuuid()}"}}, "newuuid.. isn't supported"),
        ({"get_policy": GONE}, {"lambda": {"functionArn": FUNCTION}}, "has no permission for"),
        ({"get_policy": DENIED}, {"lambda": {"functionArn": FUNCTION}}, "AccessDenied"),
        (
            {"get_policy": {"Policy": json.dumps({"Statement": [{**ALLOW, "Effect": "Deny"}]})}},
            {"lambda": {"functionArn": FUNCTION}},
            "arn:function has no permission for iot.amazonaws.com and arn:rule",
        ),
    ],
)
def test_an_action_that_fails_says_why(
    answers: dict[str, Any], action: dict[str, Any], problem: str
) -> None:
    common = {"streamName": "readings", "roleArn": ROLE}
    whole = {kind: {**common, **details} for kind, details in action.items()}
    services = Services(**answers)
    with pytest.raises(ActionFailed, match=problem):
        run(services, whole)
    assert "invoke" not in [operation for operation, _, _ in services.asked]


CERTIFICATE = {"certificateDescription": {"certificateArn": "arn:cert", "status": "ACTIVE"}}
KNOWN = {
    "describe_certificate": CERTIFICATE,
    "list_principal_things": {"things": ["pump-1"]},
    "list_attached_policies": {"policies": [{"policyName": "device"}]},
    "get_policy": {"policyDocument": '{"Statement": []}'},
    "get_caller_identity": {"Account": "123456789012"},
}


@pytest.mark.parametrize(
    ("action", "data", "told"),
    [
        ({"sqs": {"queueUrl": "q", "roleArn": ROLE}}, b"\xff", "UnicodeDecodeError"),
        ({"kinesis": {"streamName": "readings", "roleArn": ROLE}}, b"data", "partitionKey"),
    ],
)
def test_an_action_that_does_not_fit_its_message_has_failed_and_is_not_an_unexpected_error(
    action: Mapping[str, Any], data: bytes, told: str
) -> None:
    with pytest.raises(ActionFailed, match=told):
        AwsActions(endpoint(Services())).run(RULE, action, MESSAGE, data)


def test_a_certificate_has_its_things_and_policies() -> None:
    found = Iot(endpoint(Services(**KNOWN))).principal("1f")
    assert found == ("1f", True, ("pump-1",), ({"Statement": []},))


@pytest.mark.parametrize("status", ["INACTIVE", "REVOKED", "PENDING_ACTIVATION"])
def test_only_an_active_certificate_is_active(status: str) -> None:
    described = {"certificateDescription": {"certificateArn": "arn:cert", "status": status}}
    services = Services(**{**KNOWN, "describe_certificate": described})
    assert Iot(endpoint(services)).principal("1f").is_active is False


def test_a_certificate_that_is_not_registered_has_no_permissions() -> None:
    found = Iot(endpoint(Services(describe_certificate=GONE))).principal("1f")
    assert found == ("1f", False, (), ())


@pytest.mark.parametrize("problem", [DENIED, EndpointConnectionError(endpoint_url="http://a")])
def test_a_failed_look_up_is_not_taken_for_an_unknown_certificate(problem: Exception) -> None:
    iot = Iot(endpoint(Services(describe_certificate=problem, list_topic_rules=problem)))
    with pytest.raises(Unreachable):
        iot.principal("1f")
    with pytest.raises(Unreachable):
        iot.rules()


def test_a_certificate_is_not_looked_up_for_each_message_but_when_it_is_forgotten() -> None:
    services = Services(**KNOWN)
    iot = Iot(endpoint(services))
    for _ in range(50):
        assert iot.principal("1f").is_active
    assert [asked[0] for asked in services.asked].count("describe_certificate") == 1
    services.answers["describe_certificate"] = GONE
    iot.forget("1f")
    assert not iot.principal("1f").is_active


def test_resources_in_policies_have_arns_of_the_account() -> None:
    services = Services(**KNOWN)
    iot = Iot(endpoint(services))
    assert iot.arn("topic", "a/b") == "arn:aws:iot:us-east-1:123456789012:topic/a/b"
    assert iot.arn("client", "c") == "arn:aws:iot:us-east-1:123456789012:client/c"
    assert len(services.asked) == 1  # the account is cached for good


def test_a_look_up_is_cached_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looked_up = [100.0], list[str]()

    def look_up(key: str) -> int:
        looked_up.append(key)
        return len(looked_up)

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    remembered = Cached(5.0, look_up)
    assert [remembered.get("a"), remembered.get("a"), remembered.get("b")] == [1, 1, 2]
    now[0] += 5.0
    assert remembered.get("a") == 1
    now[0] += 0.1
    assert (remembered.get("a"), looked_up) == (3, ["a", "b", "a"])
