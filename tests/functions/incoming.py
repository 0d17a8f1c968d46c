"""Events as AWS hands them to the functions, cut to what the functions read, and a few readings."""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

from telemetry.domain import reading as readings_of
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso

NOW_MS = from_iso("2026-11-21T01:30:00Z")
SHARD = "shardId-000000000003"
TRACE = "1-67891233-abcdef012345678912345678"


def reading(device_id: str = "pump-1", at_ms: int = NOW_MS, **metrics: float) -> Reading:
    return Reading(device_id, at_ms, metrics or {"temperature": 20.0}, NOW_MS, TRACE)


def number(index: int) -> str:
    """Return the sequence number of a batch's record."""
    return f"4954511523{index:04}"


def kinesis(records: Iterable[Reading | bytes]) -> dict[str, Any]:
    """Return a batch of a stream's shard, with records as readings or as given."""
    return {"Records": [_stream_record(index, record) for index, record in enumerate(records)]}


def _stream_record(index: int, record: Reading | bytes) -> dict[str, Any]:
    data = record if isinstance(record, bytes) else readings_of.encode(record)
    return {
        "eventSource": "aws:kinesis",
        "eventID": f"{SHARD}:{number(index)}",
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "pump-1",
            "sequenceNumber": number(index),
            "data": base64.b64encode(data).decode(),
            "approximateArrivalTimestamp": 1795224600.25,
        },
    }


def documents_in(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the readings in what was put on a stream, each as a record of its own."""
    return [each for record in records for each in unpacked(json.loads(record["Data"]))]


def unpacked(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a pack's readings as the documents of single records; a single record's is itself."""
    if not isinstance(document.get("readings"), dict):
        return [document]
    columns, low = document["readings"], document["low"]
    shared = {
        name: value
        for name, value in document.items()
        if name not in columns and name not in ("recorded_at", "low", "readings")
    }
    assert low.keys() == columns.keys() - {"after_ms"}
    return [
        {
            **shared,
            "recorded_at": document["recorded_at"] + after_ms,
            **{name: columns[name][at] for name in low if columns[name][at] is not None},
        }
        for at, after_ms in enumerate(columns["after_ms"])
    ]


def failed(*indexes: int) -> dict[str, Any]:
    """Return a partial batch response that names a stream's records."""
    return {"batchItemFailures": [{"itemIdentifier": number(index)} for index in indexes]}


def sqs(bodies: Sequence[str]) -> dict[str, Any]:
    """Return a batch of a queue's messages: m0, m1 and so on."""
    return {
        "Records": [
            {"messageId": f"m{index}", "body": body, "eventSource": "aws:sqs"}
            for index, body in enumerate(bodies)
        ]
    }


def changes(images: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch of a table's stream: the items after their changes."""
    return {
        "Records": [
            {
                "eventID": f"event{index}",
                "eventName": "INSERT",
                "dynamodb": {"NewImage": image, "SequenceNumber": number(index)},
            }
            for index, image in enumerate(images)
        ]
    }


def given_up(stage: str, event: dict[str, Any]) -> bytes:
    """Return Lambda's record of a batch that a stage's mapping gave up on."""
    arn = f"arn:aws:lambda:eu-west-1:123456789012:function:telemetry-{stage}"
    context = {"functionArn": arn, "condition": "RetryAttemptsExhausted"}
    return json.dumps({"requestContext": context, "payload": json.dumps(event)}).encode()


def request(
    method: str,
    resource: str,
    body: Any = None,
    path: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    **authorizer: str,
) -> dict[str, Any]:
    """Return a proxy event; a body that isn't text becomes JSON."""
    return {
        "httpMethod": method,
        "resource": resource,
        "pathParameters": path,
        "queryStringParameters": query,
        "requestContext": {"authorizer": authorizer},
        "body": body if isinstance(body, str | None) else json.dumps(body),
        "isBase64Encoded": False,
    }


def body_of(response: dict[str, Any]) -> Any:
    assert response["headers"]["Content-Type"] == "application/json"
    return json.loads(response["body"])
