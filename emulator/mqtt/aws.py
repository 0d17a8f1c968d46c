"""The broker's calls to the embedded AWS: rules, certificates, and the services of actions."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from emulator.mappings.aws import Endpoint
from emulator.mappings.ports import OutsideProblem
from emulator.mqtt import sql
from emulator.mqtt.rules import ActionFailed, Rule, Unreachable
from emulator.sigv4 import Key

T = TypeVar("T")
RULES_SECONDS = 1.0
PRINCIPAL_SECONDS = 10.0
"""A look-up takes four calls and 43 ms of the embedded AWS, more than a device's message does. AWS
itself caches a policy for minutes."""
PERMISSION_SECONDS = 5.0
SERVICE = "iot.amazonaws.com"
SUPPORTED = ("kinesis", "lambda", "sqs")


class Principal(NamedTuple):
    """A certificate registered with IoT: whether it is active, its things, its policies."""

    certificate_id: str
    is_active: bool
    things: tuple[str, ...]
    policies: tuple[Mapping[str, Any], ...]


class Cached(Generic[T]):
    """A cache of looked-up values, each kept for some seconds."""

    def __init__(self, seconds: float, look_up: Callable[[str], T]) -> None:
        """Cache the results of `look_up` by its argument."""
        self._seconds = seconds
        self._look_up = look_up
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, T]] = {}

    def get(self, key: str) -> T:
        """Return the value of `key`; look it up if it is missing or too old."""
        with self._lock:
            at, value = self._found.get(key, (0.0, None))
        if value is None or time.monotonic() - at > self._seconds:
            value = self._look_up(key)
            with self._lock:
                self._found[key] = (time.monotonic(), value)
        return value

    def forget(self, key: str) -> None:
        """Drop the cached value of `key`."""
        with self._lock:
            self._found.pop(key, None)


class Iot:
    """IoT's control plane."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Call the endpoint as the account's root."""
        self._endpoint = endpoint
        self._rules = Cached(RULES_SECONDS, lambda _key: self._list_rules())
        self._principals = Cached(PRINCIPAL_SECONDS, self._find_principal)
        self._account = ""

    def rules(self) -> Sequence[Rule]:
        """Return the deployed rules that are enabled; raise Unreachable."""
        return self._rules.get("")

    def _list_rules(self) -> Sequence[Rule]:
        iot, deployed = self._endpoint.client("iot"), []
        more: dict[str, str] = {}
        try:
            while True:
                page = iot.list_topic_rules(**more)
                for each in page["rules"]:
                    rule = iot.get_topic_rule(ruleName=each["ruleName"])["rule"]
                    deployed.append(Rule.from_api(each["ruleArn"], rule))
                if not page.get("nextToken"):
                    return [rule for rule in deployed if rule]
                more = {"nextToken": page["nextToken"]}
        except (ClientError, BotoCoreError) as error:
            raise Unreachable(str(error)) from error

    def principal(self, certificate_id: str) -> Principal:
        """Return a certificate, inactive if it isn't registered; raise Unreachable."""
        return self._principals.get(certificate_id)

    def forget(self, certificate_id: str) -> None:
        """Drop a cached certificate, which may be older than a new connection."""
        self._principals.forget(certificate_id)

    def _find_principal(self, certificate_id: str) -> Principal:
        iot = self._endpoint.client("iot")
        try:
            description = iot.describe_certificate(certificateId=certificate_id)[
                "certificateDescription"
            ]
            arn = description["certificateArn"]
            things = tuple(iot.list_principal_things(principal=arn)["things"])
            attached = iot.list_attached_policies(target=arn)["policies"]
            documents = (
                json.loads(iot.get_policy(policyName=each["policyName"])["policyDocument"])
                for each in attached
            )
            return Principal(
                certificate_id, description["status"] == "ACTIVE", things, tuple(documents)
            )
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return Principal(certificate_id, False, (), ())
            raise Unreachable(str(error)) from error
        except BotoCoreError as error:
            raise Unreachable(str(error)) from error

    def arn(self, kind: str, name: str) -> str:
        """Return the ARN of a resource in policies; `kind`: `topic`, `client`, `topicfilter`."""
        if not self._account:
            self._account = self._endpoint.client("sts").get_caller_identity()["Account"]
        return f"arn:aws:iot:{self._endpoint.region}:{self._account}:{kind}/{name}"


class AwsActions:
    """Runs actions: Kinesis and SQS with the rule's role, functions as the IoT service."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Run actions on the services of `endpoint`."""
        self._endpoint = endpoint
        self._permissions = Cached(PERMISSION_SECONDS, self._policy_of)

    def run(self, rule: Rule, action: Mapping[str, Any], message: sql.Message, data: bytes) -> None:
        """Run one action; raise ActionFailed."""
        ((kind, of_kind),) = action.items()
        if kind not in SUPPORTED:
            known = ", ".join(SUPPORTED)
            raise ActionFailed(f"the action {kind} isn't supported here; {known} are")
        try:
            match kind:
                case "kinesis":
                    self._put(of_kind, message, data)
                case "lambda":
                    self._invoke(rule, of_kind["functionArn"], data)
                case _:
                    self._send(of_kind, data)
        except (
            ClientError,
            BotoCoreError,
            OutsideProblem,
            sql.Undocumented,
            sql.SqlError,
        ) as error:
            raise ActionFailed(str(error)) from error
        except (
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # of the action or the data: no retry helps
            raise ActionFailed(f"the action {kind} doesn't fit this message: {error!r}") from error

    def _put(self, action: Mapping[str, Any], message: sql.Message, data: bytes) -> None:
        key = sql.template(action["partitionKey"])(message)
        self._endpoint.client("kinesis", action["roleArn"]).put_record(
            StreamName=action["streamName"], PartitionKey=key, Data=data
        )

    def _send(self, action: Mapping[str, Any], data: bytes) -> None:
        if action.get("useBase64"):
            raise ActionFailed("useBase64 of the action sqs isn't supported here")
        self._endpoint.client("sqs", action["roleArn"]).send_message(
            QueueUrl=action["queueUrl"], MessageBody=data.decode()
        )

    def _invoke(self, rule: Rule, function_arn: str, data: bytes) -> None:
        """Invoke a function asynchronously, if its policy allows this rule to do so."""
        if not any(permits(each, rule.arn) for each in self._permissions.get(function_arn)):
            raise ActionFailed(f"{function_arn} has no permission for {SERVICE} and {rule.arn}")
        self._endpoint.client("lambda").invoke(
            FunctionName=function_arn, InvocationType="Event", Payload=data
        )

    def _policy_of(self, function_arn: str) -> list[dict[str, Any]]:
        try:
            answer = self._endpoint.client("lambda").get_policy(FunctionName=function_arn)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return []
            raise
        statements: list[dict[str, Any]] = json.loads(answer["Policy"])["Statement"]
        return statements


def permits(statement: Mapping[str, Any], rule_arn: str) -> bool:
    """Return whether a statement of a function's policy allows a rule to invoke it."""
    principal = statement.get("Principal", {})
    condition = statement.get("Condition", {})
    sources = {**condition.get("ArnLike", {}), **condition.get("ArnEquals", {})}
    source = next((value for key, value in sources.items() if key.lower() == "aws:sourcearn"), None)
    return (
        statement.get("Effect") == "Allow"
        and statement.get("Action") == "lambda:InvokeFunction"
        and isinstance(principal, dict)
        and principal.get("Service") == SERVICE
        and source in (None, rule_arn)
    )


def endpoint_at(url: str, region: str, root: Key) -> Endpoint:
    """Return the endpoint without thread pools, which only the mappings' engine uses."""
    pool = ThreadPoolExecutor(1)
    return Endpoint(url, region, root, pool, pool)
