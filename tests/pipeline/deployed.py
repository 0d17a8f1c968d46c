"""A deployed pipeline as its callers have it, and what AWS tells of it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx

from local import deployment
from local.api import Api, Json
from local.fleet.ledger import Ledger
from local.fleet.reading import MINUTE_MS, Reading
from local.fleet.rules import load as load_rules
from local.instance import ROOT, Instance, State
from local.session import issue_device_tokens
from local.trial.check import Difference, check, from_iso, iso
from tests.pipeline.instances import RETENTION_DAYS
from tests.waiting import Patience

T = TypeVar("T")
PATIENCE_SECONDS = 40.0  # an idle machine needs two
COMMAND_SECONDS_MAX = 600.0  # for one that hangs
POLL_SECONDS = 0.2
DAY_MS = 86_400_000


def becomes(
    look: Callable[[], T], expected: T | Callable[[T], bool], what: str, seconds: float = 0.0
) -> T:
    """What `look` gives once it is as expected; fails with what it gave last.

    The wait begins anew whenever that changes.
    """
    patience, before = Patience(seconds or PATIENCE_SECONDS), None
    is_there = expected if callable(expected) else lambda seen: bool(seen == expected)
    while not is_there(found := look()):
        if before is not None and found != before:
            patience.progressed()
        if patience.is_over():
            break
        before = found
        time.sleep(POLL_SECONDS)
    if not is_there(found) and callable(expected):
        raise AssertionError(f"{what}: not in time; the last seen was {found!r}")
    if not callable(expected):
        assert found == expected, what
    return found


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def minutes_ago(minutes: int) -> int:
    """The start, in epoch ms, of the minute so long ago."""
    return now_ms() // MINUTE_MS * MINUTE_MS - minutes * MINUTE_MS


def shown(time_ms: int) -> str:
    """A time as the API shows it: ISO 8601 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def at(minute_ms: int, second: float, **metrics: float) -> Json:
    """A device's document: metrics measured at a second of a minute."""
    return {"recorded_at": minute_ms + round(second * 1000), **metrics}


class Pipeline:
    """A deployed pipeline; each test has devices of its own, so that none disturbs another."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.aws = cache(self._client)
        self._closing = ExitStack()
        self.http = self._closing.enter_context(
            httpx.Client(base_url=self.state.api_url, timeout=30, trust_env=False)
        )
        self.operator = self._closing.enter_context(self.connect())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._closing.close()

    @property
    def state(self) -> State:
        return self.instance.load()

    @property
    def outputs(self) -> dict[str, str]:
        return self.state.outputs

    def connect(self) -> Api:
        """A connection of an operator's."""
        return Api(self.state.api_url, self.state.tokens["operator"])

    def _client(self, service: str) -> Any:
        client = deployment.client(self.state, service)
        self._closing.callback(client.close)
        return client

    # Devices and gateways

    def token(self, subject: str) -> str:
        """A subject's token: of admin, operator or gateway as deployed, else of a new device."""
        tokens = self.state.tokens
        return tokens.get(subject) or issue_device_tokens(self.instance, [subject]).tokens[subject]

    def post(self, path: str, subject: str, body: Any) -> httpx.Response:
        """What the API answers to `subject` posting `body` as JSON."""
        return self.http.post(path, json=body, headers=bearer(self.token(subject)))

    def send(self, device_id: str, *documents: Json) -> Json:
        """Let a device post readings that the pipeline must take; its answer."""
        answer = self._sent(f"/devices/{device_id}/readings", device_id, list(documents))
        assert answer.status_code == 202, answer.text
        accepted: Json = answer.json()
        assert accepted["accepted"] == len(documents), accepted
        return accepted

    def relay(self, readings: Iterable[Reading], ledger: Ledger | None = None) -> Json:
        """Let the gateway post devices' readings that the pipeline must take; its answer."""
        sent = list(readings)
        answer = self._sent("/readings", "gateway", [reading.body() for reading in sent])
        assert answer.status_code == 202, answer.text
        accepted: Json = answer.json()
        assert accepted["accepted"] == len(sent), accepted
        if ledger:
            ledger.accept(sent)
        return accepted

    def _sent(self, path: str, subject: str, documents: list[Any]) -> httpx.Response:
        """The answer to readings, which are sent again where there is none, as devices do."""
        patience = Patience(PATIENCE_SECONDS)
        while True:
            with suppress(httpx.TransportError):
                answer = self.post(path, subject, documents)
                if answer.status_code < 500 or patience.is_over():
                    return answer
            assert not patience.is_over(), f"no answer to POST {path}"

    def schema_ids(self) -> list[UUID]:
        """The ids of the reading schema's versions, as `ingest` is told them; none without Glue."""
        name = f"{self.state.stack}-ingest"
        found = self.aws("lambda").get_function_configuration(FunctionName=name)
        told = found["Environment"]["Variables"].get("READING_SCHEMA_IDS", "")
        return [UUID(each) for each in told.split(",") if each and "=" not in each]

    # Operators

    def windows(self, device_id: str) -> dict[int, Json]:
        """All of a device's windows, by their minute's start."""
        span = iso(now_ms() - RETENTION_DAYS * DAY_MS), iso(now_ms() + 10 * MINUTE_MS)
        found = self.operator.windows(device_id, *span)
        return {from_iso(window["minute"]): window for window in found}

    def counts(self, device_id: str) -> dict[int, int]:
        """How many readings each of a device's windows holds."""
        return {minute: window["count"] for minute, window in self.windows(device_id).items()}

    def alerts(self, *device_ids: str, status: str = "open") -> list[Json]:
        """The alerts of these devices."""
        found = self.operator.alerts(status)
        return [alert for alert in found if alert["device_id"] in device_ids]

    def passed(self, minute_ms: int, *device_ids: str) -> None:
        """Wait until all that these devices have posted so far is in their windows.

        A device's next reading comes behind it on the same shard: once that one shows, so must the
        rest.
        """
        for device_id in device_ids:
            self.send(device_id, at(minute_ms, 0, battery=1.0))
        for device_id in device_ids:
            last = f"the last reading of {device_id}"
            becomes(lambda name=device_id: self.counts(name).get(minute_ms), 1, last)  # type: ignore[misc]

    def differences(self, ledger: Ledger) -> list[Difference]:
        """What the pipeline shows of the ledger's devices otherwise than they know they sent."""
        return check(self.connect, ledger, load_rules(), is_alone=False).differences

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`python -m local`, as an operator at a terminal has it, for this instance."""
        line = [sys.executable, "-m", "local", *arguments, "--name", self.instance.name]
        return subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )

    # AWS's side

    def made(self, logical_id: str) -> str:
        """The physical id of a resource, in whichever of the stacks it is."""
        resources = deployment.stack_resources(self.state)
        (found,) = [each for each in resources if each["LogicalResourceId"] == logical_id]
        return str(found["PhysicalResourceId"])

    def stored(self, prefix: str) -> list[str]:
        """The minutes and regions of the windows of devices whose names start so."""
        pages = self.aws("dynamodb").get_paginator("scan")
        return [
            item["minute_region"]["S"]
            for page in pages.paginate(TableName=self.outputs["WindowsTable"])
            for item in page["Items"]
            if item["device_id"]["S"].startswith(prefix)
        ]

    def waiting(self, output: str) -> int:
        """How many messages a queue has, those that a consumer holds among them."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.aws("sqs").get_queue_attributes(
            QueueUrl=self.outputs[output], AttributeNames=names
        )
        return sum(int(answer["Attributes"][name]) for name in names)

    def given_up(self, function: str) -> list[str]:
        """The keys of the batches that a function's mapping gave up on."""
        s3, bucket = self.aws("s3"), self.outputs["FailuresBucket"]
        name = f"{self.state.stack}-{function}"
        mappings = self.aws("lambda").list_event_source_mappings(FunctionName=name)
        prefix = f"aws/lambda/{mappings['EventSourceMappings'][0]['UUID']}/"
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return [each["Key"] for each in listed]

    def quarantined(self, partition_key: str | None = None) -> list[Json]:
        """What is in quarantine, of one partition key if that is given; each record once."""
        s3, bucket = self.aws("s3"), self.outputs["FailuresBucket"]
        listed = s3.list_objects_v2(Bucket=bucket, Prefix="quarantine/").get("Contents", [])
        bodies = [s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed]
        lines = [json.loads(line) for body in bodies for line in body.splitlines()]
        held = {line["name"]: line for line in lines}
        return [line for line in held.values() if partition_key in (None, line["partition_key"])]

    def logged(self, function: str, text: str, since_ms: int) -> list[str]:
        """A function's log lines since then that have this text."""
        group = f"/aws/lambda/{self.state.stack}-{function}"
        pages = self.aws("logs").get_paginator("filter_log_events")
        return [
            event["message"]
            for page in pages.paginate(logGroupName=group, startTime=since_ms)
            for event in page["events"]
            if text in event["message"]
        ]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
