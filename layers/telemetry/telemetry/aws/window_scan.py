"""The whole windows table, for rebuilds only: scan segments, get items, delete items."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.chunks import chunks
from telemetry.aws.items import Attributes
from telemetry.aws.windows import KEY
from telemetry.errors import Unavailable

ATTEMPTS = 8
KEYS_A_GET, KEYS_A_DELETE = 100, 25  # the limits of BatchGetItem and BatchWriteItem


class ScanPage(NamedTuple):
    """Some items, and the key after which the next page starts (None: this is the last page)."""

    items: list[Attributes]
    next: Attributes | None


class WindowTable:
    """Items of the windows table, all read consistently. Raises Unavailable."""

    def __init__(
        self, dynamodb: Any, table: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._sleep = sleep

    def scan(self, segment: int, segments: int, after: Attributes | None) -> ScanPage:
        """Return a page of one of the table's segments."""
        more = {"ExclusiveStartKey": after} if after else {}
        answer = self._call(
            self._dynamodb.scan,
            TableName=self._table,
            Segment=segment,
            TotalSegments=segments,
            ConsistentRead=True,
            **more,
        )
        return ScanPage(answer["Items"], answer.get("LastEvaluatedKey"))

    def get(self, keys: Sequence[Attributes]) -> dict[tuple[str, str], Attributes]:
        """Return the existing items among `keys`, by key."""
        found: dict[tuple[str, str], Attributes] = {}
        for chunk in chunks(keys, lambda _key: 0, KEYS_A_GET, 1):
            left = {self._table: {"Keys": chunk, "ConsistentRead": True}}
            for attempt in range(ATTEMPTS):
                answer = self._call(self._dynamodb.batch_get_item, RequestItems=left)
                found |= {key_of(item): item for item in answer["Responses"].get(self._table, [])}
                left = answer.get("UnprocessedKeys") or {}
                if not left:
                    break
                self._sleep(0.05 * 2**attempt)
            else:
                raise Unavailable("the windows table throttles")
        return found

    def delete(self, keys: Sequence[Attributes]) -> None:
        """Delete items."""
        for chunk in chunks(keys, lambda _key: 0, KEYS_A_DELETE, 1):
            left = {self._table: [{"DeleteRequest": {"Key": key}} for key in chunk]}
            for attempt in range(ATTEMPTS):
                answer = self._call(self._dynamodb.batch_write_item, RequestItems=left)
                left = answer.get("UnprocessedItems") or {}
                if not left:
                    break
                self._sleep(0.05 * 2**attempt)
            else:
                raise Unavailable("the windows table throttles")

    @staticmethod
    def _call(operation: Callable[..., dict[str, Any]], **request: Any) -> dict[str, Any]:
        try:
            return operation(**request)
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"windows table: {error}") from error


def key_of(item: Attributes) -> tuple[str, str]:
    """Return an item's key, as texts."""
    return item[KEY[0]]["S"], item[KEY[1]]["S"]


def to_key(device_id: str, minute_region: str) -> Attributes:
    """Return an item's key in DynamoDB's form."""
    return {KEY[0]: {"S": device_id}, KEY[1]: {"S": minute_region}}
