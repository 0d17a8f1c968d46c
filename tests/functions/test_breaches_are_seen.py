"""No breach is missed by the alert's filter, whatever its digits and its way in.

The filter is as strict as AWS documents. Each way runs the functions behind it: what a reading's
value becomes in a window decides whether `alert` must have seen it.
"""

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.aws import mqtt
from telemetry.aws import stream as streams
from telemetry.aws.mqtt import Message
from telemetry.aws.overflow import Overflow
from telemetry.aws.pace import Pace
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.aws.stream import Stream
from telemetry.aws.windows import KEY, Windows
from telemetry.domain.rule import filter_pattern, shipped_rules
from telemetry.domain.unseen import limits_of
from telemetry.domain.window import decode

from emulator.mappings.model import Mapping, Record
from emulator.mappings.policy import filter_of
from emulator.mqtt import sql
from functions.aggregate import handler as aggregate
from functions.drain import handler as drain
from functions.ingest import handler as ingest
from tests import writers
from tests.fakes import KnownSchemas, MemoryItems, MemoryKinesis, MemoryS3, MemorySqs
from tests.functions.incoming import NOW_MS, TRACE, kinesis, request, sqs
from tests.template import everywhere

RETENTION_MS = 30 * 86_400_000
LIMITS = limits_of(shipped_rules())
PATTERNS = tuple(json.dumps(each) for each in filter_pattern(shipped_rules()))
LETS_THROUGH = filter_of(
    Mapping("m1", "arn:aws:kinesis:eu-west-1:000000000000:stream/readings", "f", patterns=PATTERNS)
)
(RULE,) = [
    sql.parse(rule["TopicRulePayload"]["Sql"])
    for name, rule in everywhere("AWS::IoT::TopicRule").items()
    if name == "ReadingRule"
]


def passes_filter(data: bytes) -> bool:
    assert LETS_THROUGH
    (event,) = kinesis([data])["Records"]
    return LETS_THROUGH(Record("1", "pump-1", NOW_MS, 0, event))


class Pipeline:
    """The way from a device to the stream, from there to windows, and what `alert` sees of it."""

    def __init__(self, *, is_packing: bool) -> None:
        self.kinesis, self.sqs, self.bucket = MemoryKinesis(), MemorySqs(), MemoryS3()
        self.stream = Stream(self.kinesis, "readings", lambda _seconds: None, is_packing=is_packing)
        self.quarantine = Quarantine(self.bucket, "failures")

    def https(self, event: dict[str, Any]) -> None:
        overflow = Overflow(Queue(self.sqs, "overflow"))
        schemas = KnownSchemas()
        answer = ingest.run(event, NOW_MS, RETENTION_MS, self.stream, overflow, schemas, TRACE)
        assert answer["statusCode"] in (202, 204)

    def post(self, data: bytes, content_type: str) -> None:
        event = request("POST", "/devices/{device_id}/readings", None, {"device_id": "pump-1"})
        body = base64.b64encode(data).decode()
        headers = {"Content-Type": content_type}
        self.https({**event, "headers": headers, "body": body, "isBase64Encoded": True})

    def message(self, data: bytes, form: str) -> None:
        topic = f"telemetry/pump-1/batch/{form}"
        event = mqtt.to_event(Message(topic, "pump-1", form, data, NOW_MS))
        overflow = Overflow(Queue(self.sqs, "overflow"))
        schemas = KnownSchemas()
        ingest.run_message(
            event, RETENTION_MS, self.stream, overflow, self.quarantine, schemas, TRACE
        )

    def drained(self, body: str) -> None:
        event = sqs([body])
        event["Records"][0]["attributes"] = {"SentTimestamp": str(NOW_MS)}
        drain.run(event, self.stream, self.quarantine, RETENTION_MS, KnownSchemas())

    def put(self, data: bytes) -> None:
        self.stream.put_lines([("pump-1", data)])

    def flow(self) -> tuple[list[float], list[float]]:
        """Return the temperatures that are stored, and those that `alert` sees."""
        items = MemoryItems(KEY)
        seen: list[float] = []
        windows = Windows(items, "eu-west-1", RETENTION_MS, lambda: (0,))
        while self.kinesis.records:
            records = [record["Data"] for record in self.kinesis.records]
            self.kinesis.records.clear()
            through = [each for each in records if passes_filter(each)]
            seen += [
                record.reading.metrics["temperature"]
                for record in streams.decode(kinesis(through))
                if record.reading  # otherwise only `aggregate` looks at it
            ]
            aggregate.run(
                kinesis(records), NOW_MS, windows, self.quarantine, self.stream, Pace(), LIMITS
            )
        assert self.bucket.lines() == []
        stored = [decode(item["readings"]["B"]) for item in items.stored.values()]
        temperatures = [each["temperature"] for window in stored for each in window.values()]
        return temperatures, seen


def documents(texts: list[str], **more: Any) -> list[str]:
    """Return readings in JSON, an instant each, with their temperatures as written."""
    rest = "".join(f',"{name}":{json.dumps(value)}' for name, value in more.items())
    return [
        f'{{"recorded_at":{NOW_MS + at},"temperature":{text}{rest}}}'
        for at, text in enumerate(texts)
    ]


def listed(texts: list[str], **more: Any) -> bytes:
    return f"[{','.join(documents(texts, **more))}]".encode()


def values(texts: list[str]) -> list[dict[str, Any]]:
    return [
        {"device_id": "pump-1", "recorded_at": NOW_MS + at, "temperature": float(text)}
        for at, text in enumerate(texts)
    ]


def in_lines(texts: list[str]) -> dict[str, Any]:
    """Return a write of line protocol; the temperatures are written in degrees Fahrenheit."""
    lines = [
        f"t,device_id=pump-1 temperature_f={float(text) * 1.8 + 32!r} {NOW_MS + at}"
        for at, text in enumerate(texts)
    ]
    query = {"db": "telegraf", "precision": "ms"}
    who = {"subject": "site", "role": "gateway", "prefix": ""}
    return request("POST", "/write", "\n".join(lines), None, query, **who)


def by_rule(text: str) -> bytes:
    """Return what the rule of a reading's topic puts on the stream."""
    data = documents([text])[0].encode()
    sent = sql.Message("telemetry/pump-1/readings", data, "pump-1", "certificate", NOW_MS)
    assert RULE.selects(sent)
    return RULE.result(sent)


def of_failed_action(text: str) -> str:
    """Return what the rule's error action puts into the overflow queue."""
    document = {
        "ruleName": "telemetry_ReadingRule_1",
        "topic": "telemetry/pump-1/readings",
        "clientId": "pump-1",
        "base64OriginalPayload": base64.b64encode(documents([text])[0].encode()).decode(),
        "failures": [{"failedAction": "KinesisAction", "failedResource": "readings"}],
    }
    return json.dumps(document)


def each(of_one: Callable[[Pipeline, str], None]) -> Callable[[Pipeline, list[str]], None]:
    def send(pipeline: Pipeline, texts: list[str]) -> None:
        of_one(pipeline, texts[0])

    return send


WAYS: dict[str, Callable[[Pipeline, list[str]], None]] = {
    "JSON": lambda to, texts: to.post(listed(texts), "application/json"),
    "Avro": lambda to, texts: to.post(writers.glue(values(texts)), "application/avro"),
    "Protobuf": lambda to, texts: to.post(writers.readings(values(texts)), "application/protobuf"),
    "line protocol": lambda to, texts: to.https(in_lines(texts)),
    "batches over MQTT": lambda to, texts: to.message(listed(texts), "json"),
    "Avro over MQTT": lambda to, texts: to.message(writers.glue(values(texts)), "avro"),
    "a reading over MQTT": each(lambda to, text: to.put(by_rule(text))),
    "the overflow queue": each(lambda to, text: to.drained(of_failed_action(text))),
    "another producer": each(lambda to, text: to.put(documents([text], device_id="p")[0].encode())),
    "its list": lambda to, texts: to.put(listed(texts, device_id="p")),
    "its aggregation": lambda to, texts: to.put(
        writers.kpl(text.encode() for text in documents(texts, device_id="p"))
    ),
}


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


NEAR = st.floats(37, 40) | st.floats(38, 38.0001) | st.floats(-89, 149)
TENTHS = st.integers(370, 500).map(lambda tenths: tenths / 10)
TEXTS = st.builds(
    str.format,
    st.sampled_from(["{:.17g}", "{:.15g}", "{:.9g}", "{:.8e}", "{:.7f}", "{:.2f}", "{!r}"]),
    NEAR | NEAR.map(float32) | TENTHS | TENTHS.map(float32),
)


@pytest.mark.parametrize("way", WAYS)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), is_packing=st.booleans())
def test_every_breach_comes_to_the_alerts_by_every_way_in(
    way: str, texts: list[str], is_packing: bool
) -> None:
    pipeline = Pipeline(is_packing=is_packing)
    WAYS[way](pipeline, texts)
    stored, seen = pipeline.flow()
    assert stored
    assert {each for each in stored if each > 38} == {each for each in seen if each > 38}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "text", ["38.299999237060547", "38.333333333333336", "38.1234567", "38.20000000000000284", "39"]
)
def test_an_ordinary_breach_of_many_digits_comes_to_the_alerts(way: str, text: str) -> None:
    pipeline = Pipeline(is_packing=True)
    WAYS[way](pipeline, [text])
    stored, seen = pipeline.flow()
    assert stored == seen
    assert stored == [pytest.approx(float(text), abs=1e-12)]
