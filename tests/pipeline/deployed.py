"""A deployed pipeline for tests: the callers' side and AWS's side."""

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
    """Call `look` until its result is as expected, and return it; fail with the last result.

    Each change of the result starts the wait anew.
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
    """Return the start, in epoch ms, of the minute that was `minutes` minutes ago."""
    return now_ms() // MINUTE_MS * MINUTE_MS - minutes * MINUTE_MS


def shown(time_ms: int) -> str:
    """Return a time in the API's format: ISO 8601 in UTC, with milliseconds."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def at(minute_ms: int, second: float, **metrics: float) -> Json:
    """Return a device's document: metrics measured at a second of a minute."""
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
        """Return an operator's connection."""
        return Api(self.state.api_url, self.state.tokens["operator"])

    def _client(self, service: str) -> Any:
        client = deployment.client(self.state, service)
        self._closing.callback(client.close)
        return client

    # Devices and gateways

    def token(self, subject: str) -> str:
        """Return a subject's token: the deployed admin's, operator's, gateway's, or a device's."""
        tokens = self.state.tokens
        return tokens.get(subject) or issue_device_tokens(self.instance, [subject]).tokens[subject]

    def post(self, path: str, subject: str, body: Any) -> httpx.Response:
        """Post `body` as JSON with `subject`'s token; return the API's answer."""
        return self.http.post(path, json=body, headers=bearer(self.token(subject)))

    def send(self, device_id: str, *documents: Json) -> Json:
        """Post a device's readings, which the pipeline must take; return its answer."""
        answer = self._sent(f"/devices/{device_id}/readings", device_id, list(documents))
        assert answer.status_code == 202, answer.text
        accepted: Json = answer.json()
        assert accepted["accepted"] == len(documents), accepted
        return accepted

    def relay(self, readings: Iterable[Reading], ledger: Ledger | None = None) -> Json:
        """Post readings by the gateway, which the pipeline must take; return its answer."""
        sent = list(readings)
        answer = self._sent("/readings", "gateway", [reading.body() for reading in sent])
        assert answer.status_code == 202, answer.text
        accepted: Json = answer.json()
        assert accepted["accepted"] == len(sent), accepted
        if ledger:
            ledger.accept(sent)
        return accepted

    def _sent(self, path: str, subject: str, documents: list[Any]) -> httpx.Response:
        """Return the answer to readings, which are sent again without one, as devices do."""
        patience = Patience(PATIENCE_SECONDS)
        while True:
            with suppress(httpx.TransportError):
                answer = self.post(path, subject, documents)
                if answer.status_code < 500 or patience.is_over():
                    return answer
            assert not patience.is_over(), f"no answer to POST {path}"

    def schema_ids(self) -> list[UUID]:
        """Return the ids of the reading schema's versions for `ingest`; empty without Glue."""
        name = f"{self.state.stack}-ingest"
        found = self.aws("lambda").get_function_configuration(FunctionName=name)
        told = found["Environment"]["Variables"].get("READING_SCHEMA_IDS", "")
        return [UUID(each) for each in told.split(",") if each and "=" not in each]

    # Operators

    def windows(self, device_id: str) -> dict[int, Json]:
        """Return all of a device's windows, by their minute's start."""
        span = iso(now_ms() - RETENTION_DAYS * DAY_MS), iso(now_ms() + 10 * MINUTE_MS)
        found = self.operator.windows(device_id, *span)
        return {from_iso(window["minute"]): window for window in found}

    def counts(self, device_id: str) -> dict[int, int]:
        """Return the number of readings in each of a device's windows."""
        return {minute: window["count"] for minute, window in self.windows(device_id).items()}

    def alerts(self, *device_ids: str, status: str = "open") -> list[Json]:
        """Return the alerts of these devices."""
        found = self.operator.alerts(status)
        return [alert for alert in found if alert["device_id"] in device_ids]

    def passed(self, minute_ms: int, *device_ids: str) -> None:
        """Wait until all readings that these devices have posted so far are in their windows.

        A device's next reading comes later on the same shard: once it shows, the others must, too.
        """
        for device_id in device_ids:
            self.send(device_id, at(minute_ms, 0, battery=1.0))
        for device_id in device_ids:
            last = f"the last reading of {device_id}"
            becomes(lambda name=device_id: self.counts(name).get(minute_ms), 1, last)  # type: ignore[misc]

    def differences(self, ledger: Ledger) -> list[Difference]:
        """Return the differences between the pipeline's answers and the ledger's devices."""
        return check(self.connect, ledger, load_rules(), is_alone=False).differences

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m local` for this instance, as an operator at a terminal."""
        line = [sys.executable, "-m", "local", *arguments, "--name", self.instance.name]
        return subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX, check=False
        )

    # AWS's side

    def made(self, logical_id: str) -> str:
        """Return the physical id of a resource, in any of the stacks."""
        resources = deployment.stack_resources(self.state)
        (found,) = [each for each in resources if each["LogicalResourceId"] == logical_id]
        return str(found["PhysicalResourceId"])

    def stored(self, prefix: str) -> list[str]:
        """Return minutes and regions of the windows of devices whose names start with `prefix`."""
        pages = self.aws("dynamodb").get_paginator("scan")
        return [
            item["minute_region"]["S"]
            for page in pages.paginate(TableName=self.outputs["WindowsTable"])
            for item in page["Items"]
            if item["device_id"]["S"].startswith(prefix)
        ]

    def waiting(self, output: str) -> int:
        """Return the number of a queue's messages, with those that a consumer has received."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.aws("sqs").get_queue_attributes(
            QueueUrl=self.outputs[output], AttributeNames=names
        )
        return sum(int(answer["Attributes"][name]) for name in names)

    def given_up(self, function: str) -> list[str]:
        """Return the keys of the batches that a function's mapping gave up on."""
        s3, bucket = self.aws("s3"), self.outputs["FailuresBucket"]
        name = f"{self.state.stack}-{function}"
        mappings = self.aws("lambda").list_event_source_mappings(FunctionName=name)
        prefix = f"aws/lambda/{mappings['EventSourceMappings'][0]['UUID']}/"
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return [each["Key"] for each in listed]

    def quarantined(self, partition_key: str | None = None) -> list[Json]:
        """Return each quarantined record once; with a partition key, only its records."""
        s3, bucket = self.aws("s3"), self.outputs["FailuresBucket"]
        listed = s3.list_objects_v2(Bucket=bucket, Prefix="quarantine/").get("Contents", [])
        bodies = [s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed]
        lines = [json.loads(line) for body in bodies for line in body.splitlines()]
        held = {line["name"]: line for line in lines}
        return [line for line in held.values() if partition_key in (None, line["partition_key"])]

    def logged(self, function: str, text: str, since_ms: int) -> list[str]:
        """Return a function's log lines with this text since then."""
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
