"""The document that a failure destination gets for a batch that was given up.

Its fields were recorded; the payload's form (a JSON text) is documented:
https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html
"""

import json
from datetime import UTC, datetime
from typing import Any

from emulator.mappings.model import DYNAMODB, Answer, Batch, Mapping

RETRIES_EXHAUSTED = "RetryAttemptsExhausted"
AGE_EXCEEDED = "RecordAgeExceeded"


def failure_document(
    mapping: Mapping,
    shard_id: str,
    batch: Batch,
    condition: str,
    answer: Answer | None,
    request_id: str,
    now_ms: int,
) -> dict[str, Any]:
    """Return the document: the batch, the reason, and the function's last answer.

    A batch that is too old has no answer; its invocations count as at least one.
    """
    document: dict[str, Any] = {
        "requestContext": {
            "requestId": request_id,
            "functionArn": mapping.function_arn,
            "condition": condition,
            "approximateInvokeCount": max(1, batch.invocations),
        }
    }
    if condition == RETRIES_EXHAUSTED and answer is not None:
        document["responseContext"] = {
            "statusCode": answer.status_code,
            "executedVersion": answer.executed_version,
            "functionError": answer.function_error,
        }
    is_dynamodb = mapping.service == DYNAMODB
    document["version"] = "1.0"
    document["timestamp"] = iso(now_ms, "milliseconds")
    first, last = batch.records[0], batch.records[-1]
    precision = "seconds" if is_dynamodb else "milliseconds"
    document["DDBStreamBatchInfo" if is_dynamodb else "KinesisBatchInfo"] = {
        "shardId": shard_id,
        "startSequenceNumber": first.sequence,
        "endSequenceNumber": last.sequence,
        "approximateArrivalOfFirstRecord": iso(first.arrived_ms, precision),
        "approximateArrivalOfLastRecord": iso(last.arrived_ms, precision),
        "batchSize": len(batch.records),
        "streamArn": mapping.source_arn,
    }
    return document


def with_payload(document: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """Return the document for a bucket: it also contains the function's event."""
    return document | {"payload": json.dumps(event, separators=(",", ":"))}


def object_key(mapping: Mapping, shard_id: str, object_id: str, now_ms: int) -> str:
    """Return the key of the document's object in a bucket."""
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    return f"aws/lambda/{mapping.uuid}/{shard_id}/{at:%Y/%m/%d}/{at:%Y-%m-%dT%H.%M.%S}-{object_id}"


def iso(time_ms: int, precision: str) -> str:
    """Return a time as AWS writes it; `precision` is `timespec` of `isoformat`."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")
