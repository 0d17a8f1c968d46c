"""Values of the engine: mappings, records, batches and the answers of functions."""

import json
from collections.abc import Mapping as Document
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Self

NO_LIMIT = -1
KINESIS = "kinesis"
DYNAMODB = "dynamodb"


@dataclass(frozen=True)
class Mapping:
    """An event source mapping's configuration, as ListEventSourceMappings gives it.

    https://docs.aws.amazon.com/lambda/latest/api/API_EventSourceMappingConfiguration.html
    """

    uuid: str
    source_arn: str
    function_arn: str
    is_enabled: bool = True
    batch_size: int = 100
    batching_window_seconds: int = 0
    parallelization_factor: int = 1
    starting_position: str = "TRIM_HORIZON"
    starting_at_ms: int | None = None
    retries_max: int = NO_LIMIT
    age_seconds_max: int = NO_LIMIT
    bisects: bool = False
    reports_item_failures: bool = False
    tumbling_window_seconds: int = 0
    patterns: tuple[str, ...] = ()
    destination_arn: str | None = None

    @classmethod
    def from_api(cls, found: Document[str, Any]) -> Self:
        """Read the API's answer; a field that it leaves out has AWS's default."""
        on_failure = (found.get("DestinationConfig") or {}).get("OnFailure") or {}
        filters = (found.get("FilterCriteria") or {}).get("Filters") or []
        return cls(
            uuid=found["UUID"],
            source_arn=found["EventSourceArn"],
            function_arn=found["FunctionArn"],
            is_enabled=found.get("State") not in {"Disabling", "Disabled", "Deleting"},
            batch_size=int(found.get("BatchSize") or cls.batch_size),
            batching_window_seconds=int(found.get("MaximumBatchingWindowInSeconds") or 0),
            parallelization_factor=int(found.get("ParallelizationFactor") or 1),
            starting_position=found.get("StartingPosition") or cls.starting_position,
            starting_at_ms=epoch_ms(found.get("StartingPositionTimestamp")),
            retries_max=limit(found.get("MaximumRetryAttempts")),
            age_seconds_max=limit(found.get("MaximumRecordAgeInSeconds")),
            bisects=bool(found.get("BisectBatchOnFunctionError")),
            reports_item_failures="ReportBatchItemFailures"
            in (found.get("FunctionResponseTypes") or []),
            tumbling_window_seconds=int(found.get("TumblingWindowInSeconds") or 0),
            patterns=tuple(each["Pattern"] for each in filters),
            destination_arn=on_failure.get("Destination") or None,
        )

    @property
    def service(self) -> str:
        """The source's service, as its ARN names it."""
        return self.source_arn.split(":")[2]


def limit(value: int | None) -> int:
    """Return a limit of the API's answer; NO_LIMIT where it is missing."""
    return NO_LIMIT if value is None else int(value)


def epoch_ms(moment: datetime | float | None) -> int | None:
    """Return a time of the API's answer in ms since 1970; None where it is missing."""
    if moment is None:
        return None
    return round((moment.timestamp() if isinstance(moment, datetime) else float(moment)) * 1000)


def json_bytes(value: Any) -> bytes:
    """Return a value as the JSON that functions get; lone surrogates are encoded, too."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="surrogatepass")


class Record(NamedTuple):
    """A record of a stream."""

    sequence: str
    key: str
    """Records of one key stay in order: Kinesis's partition key, DynamoDB's item key."""
    arrived_ms: int
    size_bytes: int
    """The bytes that it adds to the invocation's payload."""
    event: dict[str, Any]
    """The element of `Records` that the function gets."""


class Batch(NamedTuple):
    """Records that are delivered together, and the attempts made with exactly these."""

    records: tuple[Record, ...]
    invocations: int = 0
    """How often the function ran on them since the last progress or split."""
    refusals: int = 0
    """How many attempts in a row didn't run the function at all."""


class Answer(NamedTuple):
    """The result of an invocation that ran."""

    payload: Any = None
    function_error: str | None = None
    """"Unhandled" when the function raised, ran out of time or died."""
    request_id: str = ""
    executed_version: str = "$LATEST"
    status_code: int = 200


class Start(NamedTuple):
    """The place at which reading a shard begins."""

    kind: str
    """TRIM_HORIZON, AT_TIMESTAMP or AFTER_SEQUENCE_NUMBER; never LATEST, which moves."""
    value: str | int | None = None
    """Milliseconds since 1970, or a sequence number."""


AT_TIMESTAMP = "AT_TIMESTAMP"
AFTER = "AFTER_SEQUENCE_NUMBER"
TRIM_HORIZON = Start("TRIM_HORIZON")


class Shard(NamedTuple):
    """A shard as the source lists it."""

    shard_id: str
    parents: tuple[str, ...] = ()
    is_closed: bool = False


class Page(NamedTuple):
    """The result of one fetch."""

    records: list[Record]
    cursor: str | None
    """The cursor of the next fetch; None at the end of a closed shard."""
    behind_ms: int = 0
    """Time between these records and the stream's end; 0 when all was fetched."""
    behind_records: int | None = None
    """How many records are still to be fetched; None if the source doesn't know."""
