"""Whether readings are stored: a window's item has them, in any region and generation."""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from telemetry.domain.admission import MAX_READINGS  # noqa: E402
from telemetry.domain.bundle import content  # noqa: E402
from telemetry.domain.decoders.compression import unpacked  # noqa: E402
from telemetry.domain.decoders.text import json_documents, lines  # noqa: E402
from telemetry.domain.reading import Reading  # noqa: E402
from telemetry.domain.times import MINUTE_MS, minute_of, to_iso_minute  # noqa: E402
from telemetry.domain.validation import parse  # noqa: E402
from telemetry.domain.window import decode  # noqa: E402
from telemetry.errors import Rejected  # noqa: E402

CONDITION = "device_id = :device AND begins_with(minute_region, :minute)"
TEXTS = {"json": json_documents, "ndjson": lines}


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
    """Yield the readings in a quarantined record, as the functions of this version take it.

    None if they take none of it, or if it is a message in a binary format.
    """
    try:
        data = data_of(line)
        if line["source"] == "mqtt":
            readings = of_message(json.loads(data))
        elif line["source"] in ("kinesis", "overflow"):
            readings = content(data).readings
        else:
            return
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Rejected):
        return
    for each in readings:
        if each.metrics:
            yield Sample(each.device_id, each.recorded_at_ms, tuple(sorted(each.metrics)))


def to_stream(line: Line) -> bytes:
    """Return a record's bytes for the stream, in a form that event filters can compare."""
    return packs.comparable(data_of(line))


def of_message(event: dict[str, Any]) -> list[Reading]:
    """Return the readings in a message in JSON or JSON lines; raise ValueError for others."""
    form = (event.get("format") or "json").removesuffix("-gzip")
    if form not in TEXTS:
        raise ValueError(form)
    body = unpacked(base64.b64decode(event["body"]), None)
    readings = []
    for document in TEXTS[form](body, MAX_READINGS):
        if isinstance(document, dict):
            with suppress(Rejected):
                readings.append(parse(document, event["device_id"]).reading)
    return readings
