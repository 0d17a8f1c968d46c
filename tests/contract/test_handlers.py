"""Every function as Lambda runs it: wired to its settings, over the events in `events/`.

The tables are in the embedded AWS, everything else is in moto.
"""

import gzip
import importlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import boto3
import pytest
from telemetry.aws import clients, observe
from telemetry.aws.registry import Registry
from telemetry.domain import window
from telemetry.domain.times import from_iso
from telemetry.domain.token import Grant
from telemetry.errors import Rejected, TelemetryError

from local.events import NOT_STAMPED, stamped
from tests.contract.conftest import STATUS_INDEX, create_table

ROOT = Path(__file__).parents[2]
FUNCTIONS = sorted(path.parent.name for path in ROOT.glob("functions/*/handler.py"))
EVENTS = sorted(path.stem for path in ROOT.glob("events/*.json"))
NOW_MS = from_iso("2026-11-21T01:31:00Z")  # soon after the events' readings
LATER_MS = NOW_MS + 61 * 86_400_000  # when readings of then are refused
SECRET = "sample-sample-sample-sample-sample-sample-x"  # the events' tokens have it
ARCHIVED = "readings/day=2026-11-21/hour=01/archive-1.gz"
READING = (
    b'{"device_id":"pump-17","recorded_at":1795224600000,"temperature":21.5,'
    b'"received_at":1795224601000}'
)
CONTEXT = SimpleNamespace(
    function_name="telemetry-function",
    memory_limit_in_mb=256,
    invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:telemetry-function",
    aws_request_id="7d0c9a3e-0000-4000-8000-000000000000",
    get_remaining_time_in_millis=lambda: 60_000,
)
serials = itertools.count()


class Resources(NamedTuple):
    """What the functions use, empty, and how to look into it."""

    dynamodb: Any
    tables: dict[str, str]
    queues: dict[str, str]
    sqs: Any

    def items(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.dynamodb.scan(TableName=self.tables[table])["Items"]
        return found

    def quarantined(self) -> list[Any]:
        """What is in quarantine."""
        s3 = boto3.client("s3")
        listed = s3.list_objects_v2(Bucket="failures", Prefix="quarantine/").get("Contents", [])
        bodies = [s3.get_object(Bucket="failures", Key=each["Key"])["Body"] for each in listed]
        return [json.loads(line) for body in bodies for line in body.read().splitlines()]

    def messages(self, queue: str) -> list[Any]:
        answer = self.sqs.receive_message(QueueUrl=self.queues[queue], MaxNumberOfMessages=10)
        return [json.loads(message["Body"]) for message in answer.get("Messages", [])]


@pytest.fixture
def resources(
    embedded_dynamodb: Any,
    embedded_endpoint: str,
    in_moto: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Resources:
    serial = next(serials)
    tables = {name: f"t{serial}-{name}" for name in ("windows", "alerts", "devices")}
    create_table(embedded_dynamodb, tables["windows"], "device_id", "minute_region")
    create_table(
        embedded_dynamodb, tables["alerts"], "device_id", "rule_region", index=STATUS_INDEX
    )
    create_table(embedded_dynamodb, tables["devices"], "device_id")
    Registry(embedded_dynamodb, tables["devices"]).create(
        [(Grant("device-0001", "device"), SECRET)], "2026-11-21T01:30:00.000Z"
    )
    boto3.client("kinesis").create_stream(StreamName="readings", ShardCount=1)
    s3 = boto3.client("s3")
    for bucket in ("archive", "failures"):
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket="archive", Key=ARCHIVED, Body=gzip.compress(READING + b"\n"))
    boto3.client("events").create_event_bus(Name="notices")
    sqs = boto3.client("sqs")
    urls = {
        name: sqs.create_queue(QueueName=name)["QueueUrl"]
        for name in ("overflow", "notices", "notices_dead_letters", "failures")
    }
    topic = boto3.client("sns").create_topic(Name="notices")["TopicArn"]
    secret = boto3.client("secretsmanager").create_secret(Name="admin", SecretString=SECRET)
    environment = {
        "AWS_ENDPOINT_URL_DYNAMODB": embedded_endpoint,
        "ADMIN_SECRET_ARN": secret["ARN"],
        "ARCHIVE_BUCKET": "archive",
        "ARCHIVE_BUFFER_SECONDS": "300",
        "EVENT_BUS_NAME": "notices",
        "FAILURES_BUCKET": "failures",
        "NOTICES_TOPIC_ARN": topic,
        "PIPELINE_NAME": "telemetry",
        "POWERTOOLS_METRICS_NAMESPACE": "Telemetry",
        "READING_SCHEMA_IDS": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "REGISTRY_NAME": "telemetry",
        "STREAM_NAME": "readings",
        "PACK_READINGS": "true",
        "WINDOW_RETENTION_DAYS": "30",
        **{f"{name.upper()}_TABLE": table for name, table in tables.items()},
        **{f"{name.upper()}_URL": url for name, url in urls.items()},
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Resources(embedded_dynamodb, tables, urls, sqs)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """A function's module in a new execution environment, at the events' time or another."""

    def starting(function: str, now_ms: int = NOW_MS) -> ModuleType:
        clients.client.cache_clear()
        module = importlib.import_module(f"functions.{function}.handler")
        module.wired.cache_clear()
        if hasattr(module, "time"):
            clock = SimpleNamespace(time=lambda: now_ms / 1000)
            monkeypatch.setattr(module, "time", clock)
        return module

    return starting


def event(name: str) -> Any:
    return json.loads((ROOT / "events" / f"{name}.json").read_text("utf-8"))


def message_ids(name: str) -> list[str]:
    return [record["messageId"] for record in event(name)["Records"]]


def all_done(answer: Any, _resources: Resources) -> bool:
    return bool(answer == {"batchItemFailures": []})


def comes_back(name: str, index: int) -> Callable[[Any, Resources], bool]:
    expected = {"batchItemFailures": [{"itemIdentifier": message_ids(name)[index]}]}
    return lambda answer, _resources: answer == expected


def responds(status: int, *words: str) -> Callable[[Any, Resources], bool]:
    def check(answer: Any, _resources: Resources) -> bool:
        return answer["statusCode"] == status and all(word in answer["body"] for word in words)

    return check


def effect(expected: str) -> Callable[[Any, Resources], bool]:
    def check(answer: Any, _resources: Resources) -> bool:
        return bool(answer["policyDocument"]["Statement"][0]["Effect"] == expected)

    return check


def stored(answer: Any, resources: Resources) -> bool:
    return all_done(answer, resources) and bool(resources.items("windows"))


def four_stored(answer: Any, resources: Resources) -> bool:
    (item,) = resources.items("windows")
    readings = window.decode(item["readings"]["B"])
    return stored(answer, resources) and sorted(readings) == [6_000, 7_000, 8_000, 9_000]


def quarantined(answer: Any, resources: Resources) -> bool:
    # the poison is put aside, what came with it is stored
    return stored(answer, resources) and resources.quarantined() != []


def put_aside(function: str) -> Callable[[Any, Resources], bool]:
    """One record in quarantine, put there by this function."""

    def shown(answer: Any, resources: Resources) -> bool:
        functions = [line["function"] for line in resources.quarantined()]
        return all_done(answer, resources) and functions == [function]

    return shown


def on_stream(function: str, aside: int) -> Callable[[Any, Resources], bool]:
    """A reading of a device that speaks MQTT, and so many documents in quarantine."""

    def shown(_answer: Any, resources: Resources) -> bool:
        kinesis = boto3.client("kinesis")
        iterator = kinesis.get_shard_iterator(
            StreamName="readings", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
        )
        (record,) = kinesis.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
        reading = json.loads(record["Data"])
        counted_by = {"ingest": None, "drain": "mqtt"}[function]
        is_stamped = reading["received_at"] > 0 and reading.get("via") == counted_by
        functions = [line["function"] for line in resources.quarantined()]
        return is_stamped and functions == [function] * aside

    return shown


def nothing_left(answer: Any, _resources: Resources) -> bool:
    return bool(answer["left"] == 0 and not answer["more"])


def opened(answer: Any, resources: Resources) -> bool:
    changes = [item["change"]["S"] for item in resources.items("alerts")]
    return all_done(answer, resources) and changes != [] and set(changes) == {"opened"}


def announced(answer: Any, resources: Resources) -> bool:
    notices = resources.messages("notices")
    return all_done(answer, resources) and len(notices) == len(event("dispatch")["Records"])


def published(answer: Any, resources: Resources) -> bool:
    claims = [item["state"]["S"] for item in resources.items("alerts")]
    # by two ways each
    return all_done(answer, resources) and claims == ["done"] * 2 * len(event("notify")["Records"])


def measured(answer: Any, _resources: Resources) -> bool:
    return bool(answer == {"unaccounted": 0})


def sent_back(answer: Any, _resources: Resources) -> bool:
    kinesis = boto3.client("kinesis")
    iterator = kinesis.get_shard_iterator(
        StreamName="readings", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )
    records = kinesis.get_records(ShardIterator=iterator["ShardIterator"])["Records"]
    is_done = (answer["token"], answer["done"]) == (None, 1)
    copy = {**json.loads(READING), "replayed_at": answer["as_of_ms"]}
    return is_done and [json.loads(record["Data"]) for record in records] == [copy]


def begun(answer: Any, resources: Resources) -> bool:
    (pointer,) = resources.items("windows")
    return (answer["generation"], pointer["building"]) == (1, {"N": "1"})


# What each event in `events/` shows; a new one needs its line here.
SHOWS: dict[str, Callable[[Any, Resources], bool]] = {
    "account": measured,
    "account-ask": responds(200, '"unaccounted": 0'),
    "account-rejected": responds(400, '"from"'),
    "aggregate": four_stored,
    "aggregate-poison": quarantined,
    "alert": opened,
    "alert-poison": opened,
    "authorize": effect("Allow"),
    "authorize-unknown-token": effect("Deny"),
    "dispatch": announced,
    "dispatch-poison": put_aside("dispatch"),
    "drain": all_done,
    "drain-mqtt": on_stream("drain", 0),
    "drain-poison": put_aside("drain"),
    "ingest": responds(202, '"accepted"'),
    "ingest-lines": lambda answer, _resources: answer["statusCode"] == 204,
    "ingest-lines-rejected": responds(400, "partial write: line 2, column 35"),
    "ingest-mqtt": on_stream("ingest", 1),
    "ingest-rejected": responds(202, '"rejected": [{'),
    "notify": published,
    "notify-poison": comes_back("notify-poison", 0),
    "query": responds(200, '"windows"'),
    "query-rejected": responds(400, '"from"'),
    "rebuild": begun,
    "redrive": nothing_left,
    "register": responds(201, '"token"'),
    "register-rejected": responds(400),
    "replay": sent_back,
    "sweep": lambda answer, _resources: answer == {"seen": 0, "cleared": 0},
}
# Their events say only what time it is.
SCHEDULED = {"sweep"}
RAISES: dict[str, type[Exception]] = {
    "rebuild-rejected": Rejected,
    "redrive-poison": Rejected,
    "replay-rejected": Rejected,
}


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_shows_its_case(
    name: str, resources: Resources, start: Callable[[str], ModuleType]
) -> None:
    module = start(name.partition("-")[0])
    if name in RAISES:
        with pytest.raises(RAISES[name]):
            module.handler(event(name), CONTEXT)
        return
    answer = module.handler(event(name), CONTEXT)
    json.dumps(answer)  # Lambda does that
    assert SHOWS[name](answer, resources), answer


@pytest.mark.parametrize("name", sorted(SHOWS.keys() - set(NOT_STAMPED)))
def test_a_stamped_event_shows_the_same_two_months_later(
    name: str, resources: Resources, start: Callable[..., ModuleType]
) -> None:
    module = start(name.partition("-")[0], LATER_MS)
    answer = module.handler(stamped(event(name), LATER_MS), CONTEXT)
    assert SHOWS[name](answer, resources), answer


def test_as_it_lies_an_event_of_ingest_expires(
    resources: Resources,  # noqa: ARG001
    start: Callable[..., ModuleType],
) -> None:
    answer = start("ingest", LATER_MS).handler(event("ingest"), CONTEXT)
    assert answer["statusCode"] == 400
    assert "is older than windows are kept" in answer["body"]


@pytest.mark.parametrize("function", sorted({*FUNCTIONS} - SCHEDULED))
def test_each_function_has_an_event_and_one_that_shows_its_failure_path(function: str) -> None:
    assert function in EVENTS
    assert any(name.startswith(f"{function}-") for name in EVENTS)


def test_no_event_is_of_no_function() -> None:
    assert {name.partition("-")[0] for name in EVENTS} == set(FUNCTIONS)
    assert set(EVENTS) == SHOWS.keys() | RAISES.keys()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_without_its_settings_says_which_it_lacks(
    function: str, start: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = ("ADMIN_SECRET_ARN", "EVENT_BUS_NAME", "STREAM_NAME", "NOTICES_URL")
    for name in (*lacking, "POWERTOOLS_METRICS_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TelemetryError, match=r"(TABLE|NAME|URL|NAMESPACE) is not set"):
        start(function).wired()


def test_counts_are_written_where_cloudwatch_finds_them(
    resources: Resources,  # noqa: ARG001
    start: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    observe._metrics.clear_metrics()
    observe._metrics_of_minute.clear()
    start("aggregate").handler(event("aggregate-poison"), CONTEXT)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    present, received = (line for line in lines if "_aws" in line)
    assert names_and_units(present) == {
        "ReadingsConflicting": "Count",
        "RecordsQuarantined": "Count",
        "ReadingLag": "Milliseconds",
    }
    names = {f"Readings{name}" for name in ("Foreign", "Stored", "Duplicate", "Quarantined")}
    names |= {"MetricsRefused", "MetricsLeftOut"}
    assert names_and_units(received) == dict.fromkeys(names, "Count")
    assert received["_aws"]["Timestamp"] == from_iso("2026-11-21T01:30:00Z")
    total = len(event("aggregate-poison")["Records"])
    amounts = [received[f"Readings{name}"] for name in ("Stored", "Duplicate", "Quarantined")]
    assert sum(sum(amount) for amount in amounts) == total


def names_and_units(line: Any) -> dict[str, str]:
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == observe.NAMESPACE
    return {each["Name"]: each["Unit"] for each in directive["Metrics"]}


def test_metrics_are_written_though_the_function_fails(
    resources: Resources,  # noqa: ARG001
    start: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    observe._metrics.clear_metrics()
    monkeypatch.setenv("WINDOWS_TABLE", "no-such-table")
    monkeypatch.setattr("telemetry.aws.items.ROUNDS", 1)
    with pytest.raises(TelemetryError):
        start("aggregate").handler(event("aggregate"), CONTEXT)
    written = capsys.readouterr().out
    assert '"ReadingLag":[' in written
    assert "ReadingsStored" not in written  # nothing of it is done, all of it comes again
