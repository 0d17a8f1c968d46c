"""The alerts table: key (device_id, rule_region), the present or latest episode of each.

An item says in `change` what its last write did, so the table's stream can be filtered for what
is worth a notice: `opened` (and later `cleared`), not `extended`.
"""

import base64
import json
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from telemetry.aws.items import Attributes, CompareAndSet, Items
from telemetry.domain.episode import Breach, Episode, EpisodeKey, Joined, join
from telemetry.domain.notice import Notice, notice_id
from telemetry.domain.times import to_iso
from telemetry.errors import Rejected

KEY = ("device_id", "rule_region")
OPEN_INDEX = "open"
POSITION = {"first_breach_ms": "N", "device_id": "S", "rule_region": "S"}  # in a bucket of it
# Open episodes are spread over this many partitions of the index, by device, so that a whole
# fleet that breaches at once isn't bound by one partition's 1,000 writes a second.
OPEN_BUCKETS = 16


class Alerts:
    """Joins breaches into this region's episodes; `severities` are the rules', by name."""

    def __init__(self, items: Items, region: str, severities: Mapping[str, str]) -> None:
        self._region = region
        self._severities = severities
        self._states: CompareAndSet[EpisodeKey, Episode, Joined] = CompareAndSet(
            items, self._to_item, to_episode
        )

    def join(self, breaches: Mapping[EpisodeKey, list[Breach]]) -> dict[EpisodeKey, Joined]:
        """Join each key's breaches; a key that is missing from the answer could not be written."""
        return self._states.apply({key: _joining(group) for key, group in breaches.items()})

    def _to_item(self, key: EpisodeKey, joined: Joined) -> Attributes:
        episode = joined.state
        if episode is None:
            raise ValueError("a join of no breaches is never written")
        return {
            "device_id": {"S": key.device_id},
            "rule_region": {"S": f"{key.rule}#{self._region}"},
            "rule": {"S": key.rule},
            "region": {"S": self._region},
            "severity": {"S": self._severities[key.rule]},
            "change": {"S": "opened" if joined.opened else "extended"},
            "open_bucket": {"N": str(zlib.crc32(key.device_id.encode()) % OPEN_BUCKETS)},
            "episode": {"N": str(episode.number)},
            "first_breach_ms": {"N": str(episode.first_breach_ms)},
            "last_breach_ms": {"N": str(episode.last_breach_ms)},
            "peak": {"N": repr(episode.peak)},
            "cleared_ms": _optional("N", episode.cleared_ms),
            "trace_id": _optional("S", episode.trace_id),
        }


def _joining(group: list[Breach]) -> Callable[[Episode | None], Joined]:
    return lambda episode: join(episode, group)


def _optional(kind: str, value: Any) -> dict[str, Any]:
    return {"NULL": True} if value is None else {kind: str(value)}


def to_episode(item: Attributes) -> Episode:
    """The episode in an item of the table or of its stream."""
    cleared_ms = item["cleared_ms"].get("N")
    return Episode(
        int(item["episode"]["N"]),
        int(item["first_breach_ms"]["N"]),
        int(item["last_breach_ms"]["N"]),
        float(item["peak"]["N"]),
        item["trace_id"].get("S"),
        None if cleared_ms is None else int(cleared_ms),
    )


def to_notice(item: Attributes) -> Notice:
    """The notice about an item's last change."""
    episode = to_episode(item)
    device_id, rule = item["device_id"]["S"], item["rule"]["S"]
    region, change = item["region"]["S"], item["change"]["S"]
    return Notice(
        notice_id(device_id, rule, region, episode.number, change),
        change,
        device_id,
        rule,
        item["severity"]["S"],
        region,
        episode.number,
        to_iso(episode.first_breach_ms),
        to_iso(episode.last_breach_ms),
        episode.peak,
        episode.trace_id,
    )


class Page(NamedTuple):
    """Some alerts, and the cursor to the next (None: that was all)."""

    alerts: list[dict[str, Any]]
    next: str | None


class AlertReader:
    """Reads episodes for the query API."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def open(self, limit: int, cursor: str | None) -> Page:
        """Up to `limit` open episodes; raises Rejected for a cursor that isn't one of ours."""
        bucket, start = _from_cursor(cursor) if cursor else (0, None)
        alerts: list[dict[str, Any]] = []
        while bucket < OPEN_BUCKETS and len(alerts) < limit:
            items, start = self._query(bucket, limit - len(alerts), start)
            alerts += [_document(item) for item in items]
            if start is None:
                bucket += 1
        return Page(alerts, _to_cursor(bucket, start) if bucket < OPEN_BUCKETS else None)

    def _query(
        self, bucket: int, limit: int, start: Attributes | None
    ) -> tuple[list[Attributes], Attributes | None]:
        more = {"ExclusiveStartKey": start} if start else {}
        answer = self._dynamodb.query(
            TableName=self._table,
            IndexName=OPEN_INDEX,
            KeyConditionExpression="open_bucket = :bucket",
            ExpressionAttributeValues={":bucket": {"N": str(bucket)}},
            Limit=limit,
            **more,
        )
        return answer["Items"], answer.get("LastEvaluatedKey")


def _document(item: Attributes) -> dict[str, Any]:
    """An open episode as the API shows it."""
    episode = to_episode(item)
    return {
        "device_id": item["device_id"]["S"],
        "rule": item["rule"]["S"],
        "severity": item["severity"]["S"],
        "region": item["region"]["S"],
        "episode": episode.number,
        "status": "open",
        "first_breach_at": to_iso(episode.first_breach_ms),
        "last_breach_at": to_iso(episode.last_breach_ms),
        "peak": episode.peak,
        "trace_id": episode.trace_id,
    }


def _to_cursor(bucket: int, start: Attributes | None) -> str:
    """Where the next page starts: a bucket, and the last item listed of it, if any was."""
    position = [start[name][kind] for name, kind in POSITION.items()] if start else []
    return base64.urlsafe_b64encode(json.dumps([bucket, *position]).encode()).decode()


def _from_cursor(cursor: str) -> tuple[int, Attributes | None]:
    try:
        bucket, *position = json.loads(base64.urlsafe_b64decode(cursor))
        if bucket not in range(OPEN_BUCKETS) or not _is_position(position):
            raise ValueError(cursor)
    except (ValueError, TypeError, RecursionError):
        reason = "is not a cursor that this API gave"
        raise Rejected(reason, field="cursor", value=cursor) from None
    if not position:
        return bucket, None
    named = zip(POSITION.items(), position, strict=True)
    start = {name: {kind: value} for (name, kind), value in named}
    return bucket, {"open_bucket": {"N": str(bucket)}, **start}


def _is_position(position: list[Any]) -> bool:
    """Whether it is empty, or what an item's key is made of."""
    if not position:
        return True
    texts = all(isinstance(value, str) and value for value in position)
    if not texts or len(position) != len(POSITION):
        return False
    return re.fullmatch("[0-9]{1,15}", position[0]) is not None
