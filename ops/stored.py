"""Whether readings are stored: a window's item has them, in any region and generation."""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from ops.errors import OpsError
from ops.quarantine_store import Line, data_of
from ops.target import Target

LAYER = Path(__file__).parent.parent / "layers" / "telemetry"
if str(LAYER) not in sys.path:
    sys.path.append(str(LAYER))  # the functions' own code decodes windows

from telemetry.domain import pack as packs  # noqa: E402
from telemetry.domain.times import MINUTE_MS, from_iso, minute_of, to_iso_minute  # noqa: E402
from telemetry.domain.window import decode  # noqa: E402
from telemetry.errors import Rejected  # noqa: E402

CONDITION = "device_id = :device AND begins_with(minute_region, :minute)"
NO_METRICS = {"recorded_at", "received_at", "replayed_at"}


class Sample(NamedTuple):
    """A reading's identity, and the metrics that its window must have."""

    device_id: str
    at_ms: int
    metrics: tuple[str, ...]


class Windows:
    """The windows table of a stack; `why` is the reason if it can't be read, otherwise empty."""

    def __init__(self, target: Target) -> None:
        """Use the table that the stack's output names."""
        self.why = ""
        try:
            self._table = target.output("WindowsTable")
            self._dynamodb = target.connect("dynamodb")
        except (OpsError, KeyError, ClientError, BotoCoreError) as error:
            self.why = f"the windows can't be looked into: {error}"

    def have(self, found: Sequence[Sample]) -> bool:
        """Return whether there are samples, and all of them are stored."""
        return bool(found) and not self.why and all(self._has(sample) for sample in found)

    def _has(self, sample: Sample) -> bool:
        minute_ms = minute_of(sample.at_ms)
        try:
            answer = self._dynamodb.query(
                TableName=self._table,
                KeyConditionExpression=CONDITION,
                ExpressionAttributeValues={
                    ":device": {"S": sample.device_id},
                    ":minute": {"S": f"{to_iso_minute(minute_ms)}#"},
                },
                ConsistentRead=True,
            )
        except (ClientError, BotoCoreError) as error:
            self.why = f"the windows can't be looked into: {error}"
            return False
        for item in answer["Items"]:
            try:
                window = decode(bytes(item["readings"]["B"]))
            except Rejected:
                continue
            metrics = window.get(sample.at_ms % MINUTE_MS, {})
            if all(name in metrics for name in sample.metrics) and metrics:
                return True
        return False


def samples(line: Line) -> Iterator[Sample]:
    """Yield the readings in a quarantined record; none if this code can't decode it."""
    try:
        data = data_of(line)
        if line["source"] == "mqtt":
            event = json.loads(data)
            documents = of_message(event)
            device_id = event["device_id"]
        elif line["source"] in ("kinesis", "overflow"):
            pack = packs.decode(data)
            alone = [data] if pack is None else pack.documents
            documents, device_id = [json.loads(each) for each in alone], None
        else:
            return
        found = [sample_of(each, device_id) for each in documents]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return
    except Rejected:  # a malformed pack
        return
    yield from found


def to_stream(line: Line) -> bytes:
    """Return a record's bytes for the stream, in a form that event filters can compare."""
    return packs.comparable(data_of(line))


def of_message(event: dict[str, Any]) -> list[Any]:
    """Return the documents of a message in JSON or JSON lines; raise ValueError for others."""
    body = base64.b64decode(event["body"])
    match event.get("format") or "json":
        case "json":
            document = json.loads(body)
            return document if isinstance(document, list) else [document]
        case "ndjson":
            return [json.loads(line) for line in body.splitlines() if line.strip()]
        case other:
            raise ValueError(other)


def sample_of(document: dict[str, Any], device_id: str | None) -> Sample:
    """Return a document's sample; raise ValueError, TypeError or KeyError if it isn't a reading."""
    recorded_at = document["recorded_at"]
    at_ms = from_iso(recorded_at) if isinstance(recorded_at, str) else recorded_at
    if isinstance(at_ms, bool) or at_ms != int(at_ms):
        raise ValueError(recorded_at)
    metrics = sorted(
        name
        for name, value in document.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in NO_METRICS
    )
    named = document.get("device_id", device_id) if device_id is None else device_id
    if not isinstance(named, str) or not metrics:
        raise ValueError(named)
    return Sample(named, int(at_ms), tuple(metrics))
