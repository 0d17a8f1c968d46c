"""What the broker asks of the embedded AWS: rules, certificates, and the services of actions."""

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
"""Four calls each, 43 ms of the embedded AWS: more than a device's message. AWS itself remembers a
policy for minutes."""
PERMISSION_SECONDS = 5.0
SERVICE = "iot.amazonaws.com"
SUPPORTED = ("kinesis", "lambda", "sqs")


class Principal(NamedTuple):
    """A certificate, as IoT knows it: whether it may be used, its things, its policies."""

    certificate_id: str
    is_active: bool
    things: tuple[str, ...]
    policies: tuple[Mapping[str, Any], ...]


class Remembered(Generic[T]):
    """What was looked up, for a while."""

    def __init__(self, seconds: float, look_up: Callable[[str], T]) -> None:
        """Remember what `look_up` gives, by its argument."""
        self._seconds = seconds
        self._look_up = look_up
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, T]] = {}

    def get(self, key: str) -> T:
        """Return it, looked up if it is too old."""
        with self._lock:
            at, value = self._found.get(key, (0.0, None))
        if value is None or time.monotonic() - at > self._seconds:
            value = self._look_up(key)
            with self._lock:
                self._found[key] = (time.monotonic(), value)
        return value

    def forget(self, key: str) -> None:
        """Have it looked up again when it is asked for next."""
        with self._lock:
            self._found.pop(key, None)


class Iot:
    """IoT's control plane."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Ask the endpoint, as the account's root."""
        self._endpoint = endpoint
        self._rules = Remembered(RULES_SECONDS, lambda _key: self._list_rules())
        self._principals = Remembered(PRINCIPAL_SECONDS, self._find_principal)
        self._account = ""

    def rules(self) -> Sequence[Rule]:
        """Return the rules that are deployed and enabled; raise Unreachable."""
        return self._rules.get("")

    def _list_rules(self) -> Sequence[Rule]:
        iot, found = self._endpoint.client("iot"), []
        more: dict[str, str] = {}
        try:
            while True:
                page = iot.list_topic_rules(**more)
                for each in page["rules"]:
                    rule = iot.get_topic_rule(ruleName=each["ruleName"])["rule"]
                    found.append(Rule.from_api(each["ruleArn"], rule))
                if not page.get("nextToken"):
                    return [rule for rule in found if rule]
                more = {"nextToken": page["nextToken"]}
        except (ClientError, BotoCoreError) as error:
            raise Unreachable(str(error)) from error

    def principal(self, certificate_id: str) -> Principal:
        """Return a certificate; one that isn't registered is not active. Raise Unreachable."""
        return self._principals.get(certificate_id)

    def forget(self, certificate_id: str) -> None:
        """Have a certificate looked up anew: what is remembered may be older than a connection."""
        self._principals.forget(certificate_id)

    def _find_principal(self, certificate_id: str) -> Principal:
        iot = self._endpoint.client("iot")
        try:
            found = iot.describe_certificate(certificateId=certificate_id)["certificateDescription"]
            arn = found["certificateArn"]
            things = tuple(iot.list_principal_things(principal=arn)["things"])
            attached = iot.list_attached_policies(target=arn)["policies"]
            documents = (
                json.loads(iot.get_policy(policyName=each["policyName"])["policyDocument"])
                for each in attached
            )
            return Principal(certificate_id, found["status"] == "ACTIVE", things, tuple(documents))
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return Principal(certificate_id, False, (), ())
            raise Unreachable(str(error)) from error
        except BotoCoreError as error:
            raise Unreachable(str(error)) from error

    def arn(self, kind: str, name: str) -> str:
        """Return the name of what policies are about: `topic`, `client`, `topicfilter`."""
        if not self._account:
            self._account = self._endpoint.client("sts").get_caller_identity()["Account"]
        return f"arn:aws:iot:{self._endpoint.region}:{self._account}:{kind}/{name}"


class AwsActions:
    """Actions on the services: Kinesis and SQS as the rule's role, functions as the IoT service."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Act on the endpoint."""
        self._endpoint = endpoint
        self._permissions = Remembered(PERMISSION_SECONDS, self._policy_of)

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
        """Invoke a function asynchronously, if its policy lets this rule."""
        if not any(permits(each, rule.arn) for each in self._permissions.get(function_arn)):
            raise ActionFailed(f"{function_arn} has no permission for {SERVICE} and {rule.arn}")
        self._endpoint.client("lambda").invoke(
            FunctionName=function_arn, InvocationType="Event", Payload=data
        )

    def _policy_of(self, function_arn: str) -> list[dict[str, Any]]:
        try:
            found = self._endpoint.client("lambda").get_policy(FunctionName=function_arn)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return []
            raise
        statements: list[dict[str, Any]] = json.loads(found["Policy"])["Statement"]
        return statements


def permits(statement: Mapping[str, Any], rule_arn: str) -> bool:
    """Return whether a statement of a function's policy lets a rule invoke it."""
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
    """Return the endpoint; the pools of the mappings' engine aren't used."""
    pool = ThreadPoolExecutor(1)
    return Endpoint(url, region, root, pool, pool)
