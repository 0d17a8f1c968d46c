"""The alerts table: key (device_id, rule_region), the latest episode of each.

An item's `change` says what its last write did. A filter on the table's stream passes the changes
that get a notice: `opened` and `cleared`, not `extended`.
"""

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from telemetry.aws.items import Attributes, CompareAndSet, Items
from telemetry.domain.episode import Breach, Changed, Episode, EpisodeKey, clear, join
from telemetry.domain.notice import Notice, notice_id
from telemetry.domain.times import to_iso
from telemetry.domain.token import SUBJECT
from telemetry.errors import Rejected

KEY = ("device_id", "rule_region")
STATUS_INDEX = "status"
# key of an item within one bucket of the status index, with DynamoDB's types
POSITION = {"first_breach_ms": "N", "device_id": "S", "rule_region": "S"}
AT_MS = re.compile("0|[1-9][0-9]{0,14}")
RULE_REGION = re.compile("[a-z][a-z0-9-]{0,63}#[a-z0-9-]{1,32}")
# Episodes of one status are spread over this many partitions of the index, by device. Otherwise a
# fleet that breaches all at once would be limited to one partition's 1,000 writes a second.
BUCKETS = 16
OPEN, CLEARED = STATUSES = ("open", "cleared")
SWEEP_PAGE = 100  # episodes a call
# The fields of an episode in the API.
EPISODE_FIELDS = (
    *("device_id", "rule", "severity", "region", "episode", "status", "first_breach_at"),
    *("last_breach_at", "cleared_at", "ended_by", "previous_cleared_at", "peak", "trace_id"),
)


class Alerts:
    """Joins breaches into this region's episodes, and clears them; severities are by rule."""

    def __init__(self, items: Items, region: str, severities: Mapping[str, str]) -> None:
        self._region = region
        self._severities = severities
        self._states: CompareAndSet[EpisodeKey, Episode, Changed] = CompareAndSet(
            items, self._to_item, to_episode
        )

    def join(
        self,
        breaches: Mapping[EpisodeKey, list[Breach]],
        unreadable: dict[EpisodeKey, Rejected] | None = None,
    ) -> dict[EpisodeKey, Changed]:
        """Join each key's breaches; a key that is missing from the answer couldn't be written.

        If this code can't read the key's item, `unreadable` gets the key and the reason.
        """
        changes = {key: _joining(group) for key, group in breaches.items()}
        return self._states.apply(changes, unreadable)

    def clear(
        self, recoveries: Mapping["StoredEpisode", int], ended_by: str | None = None
    ) -> dict[EpisodeKey, Changed]:
        """Clear each episode at an instant (epoch ms), unless a later breach has joined it.

        A key that is missing from the answer couldn't be written.
        """
        for stored in recoveries:
            self._states.learn(*stored)
        changes = {stored.key: _clearing(at_ms, ended_by) for stored, at_ms in recoveries.items()}
        return self._states.apply(changes)

    def _to_item(self, key: EpisodeKey, changed: Changed) -> Attributes:
        episode = changed.state
        if episode is None:
            raise ValueError("a change of nothing is never written")
        # if the rule isn't shipped any more, the item keeps its severity
        severity = self._severities.get(key.rule)
        return {
            **({"severity": {"S": severity}} if severity else {}),
            "device_id": {"S": key.device_id},
            "rule_region": {"S": f"{key.rule}#{self._region}"},
            "rule": {"S": key.rule},
            "region": {"S": self._region},
            "change": {"S": changed.change},
            "status_bucket": {"S": _status_bucket(_status(episode), _bucket(key.device_id))},
            "episode": {"N": str(episode.number)},
            "first_breach_ms": {"N": str(episode.first_breach_ms)},
            "last_breach_ms": {"N": str(episode.last_breach_ms)},
            "peak": {"N": repr(episode.peak)},
            "since_ms": _optional("N", episode.since_ms),
            "cleared_ms": _optional("N", episode.cleared_ms),
            "trace_id": _optional("S", episode.trace_id),
            "ended_by": _optional("S", episode.ended_by),
        }


def _joining(group: list[Breach]) -> Callable[[Episode | None], Changed]:
    return lambda episode: join(episode, group)


def _clearing(at_ms: int, ended_by: str | None) -> Callable[[Episode | None], Changed]:
    return lambda episode: clear(episode, at_ms, ended_by)


def _status(episode: Episode) -> str:
    return OPEN if episode.is_open else CLEARED


def _bucket(device_id: str) -> int:
    return zlib.crc32(device_id.encode()) % BUCKETS


def _status_bucket(status: str, bucket: int) -> str:
    """Return a partition key of the index: `open#06`."""
    return f"{status}#{bucket:02}"


def _optional(kind: str, value: Any) -> dict[str, Any]:
    return {"NULL": True} if value is None else {kind: str(value)}


def to_episode(item: Attributes) -> Episode:
    """Return the episode in an item of the table or its stream; raise Rejected if it has none."""
    with _reading_an_episode():
        return Episode(
            int(item["episode"]["N"]),
            int(item["first_breach_ms"]["N"]),
            int(item["last_breach_ms"]["N"]),
            float(item["peak"]["N"]),
            item["trace_id"].get("S"),
            _instant(item["since_ms"]),
            _instant(item["cleared_ms"]),
            item.get("ended_by", {}).get("S"),
        )


@contextmanager
def _reading_an_episode() -> Iterator[None]:
    """Raise Rejected for an item that this code can't read: newer code, or a person, wrote it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Rejected(f"is not an episode that this code can read: {error!r}") from None


def _instant(value: dict[str, Any]) -> int | None:
    return int(value["N"]) if "N" in value else None


def _shown(at_ms: int | None) -> str | None:
    return None if at_ms is None else to_iso(at_ms)


def to_notice(item: Attributes) -> Notice:
    """Return the notice about an item's last change; raise Rejected if it has no episode."""
    episode = to_episode(item)
    with _reading_an_episode():
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
            _shown(episode.cleared_ms),
            episode.reason,
        )


class Page(NamedTuple):
    """Some alerts, and the cursor to the next page (None: this is the last page)."""

    alerts: list[dict[str, Any]]
    next: str | None


class StoredEpisode(NamedTuple):
    """An episode and its version as the index had them, which may be slightly outdated."""

    key: EpisodeKey
    episode: Episode
    version: int


Listed = StoredEpisode  # the name by which scripts outside of the repository import it


class UnreadableEpisode(NamedTuple):
    """An episode that can't be read, or a whole bucket of the index (`key` is None)."""

    key: EpisodeKey | None
    why: str


class AlertReader:
    """Reads episodes by status: for the query API, and for `sweep`."""

    def __init__(self, dynamodb: Any, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def list_page(self, status: str, limit: int, cursor: str | None) -> Page:
        """Return up to `limit` episodes of a status; raise Rejected for another status' cursor."""
        bucket, start = (0, None) if cursor is None else _from_cursor(cursor, status)
        alerts: list[dict[str, Any]] = []
        while bucket < BUCKETS and len(alerts) < limit:
            name = _status_bucket(status, bucket)
            items, start = self._query(name, limit - len(alerts), start)
            alerts += [_document(item) for item in items]
            if start is None:
                bucket += 1
        return Page(alerts, _to_cursor(status, bucket, start) if bucket < BUCKETS else None)

    def open_in(
        self, region: str, first_bucket: int
    ) -> Iterator[StoredEpisode | UnreadableEpisode]:
        """Yield the open episodes that `region` writes, bucket by bucket from `first_bucket`.

        An UnreadableEpisode stands for one that can't be read; the others are still listed.
        """
        for offset in range(BUCKETS):
            name = _status_bucket(OPEN, (first_bucket + offset) % BUCKETS)
            start = None
            while True:
                try:
                    items, start = self._query(name, SWEEP_PAGE, start)
                except (ClientError, BotoCoreError) as error:
                    yield UnreadableEpisode(None, f"{name} of the index can't be read: {error}")
                    break
                yield from (_stored_episode(item) for item in items if _region(item) == region)
                if start is None:
                    break

    def _query(
        self, status_bucket: str, limit: int, start: Attributes | None
    ) -> tuple[list[Attributes], Attributes | None]:
        more = {"ExclusiveStartKey": start} if start else {}
        answer = self._dynamodb.query(
            TableName=self._table,
            IndexName=STATUS_INDEX,
            KeyConditionExpression="status_bucket = :bucket",
            ExpressionAttributeValues={":bucket": {"S": status_bucket}},
            Limit=limit,
            **more,
        )
        return answer["Items"], answer.get("LastEvaluatedKey")


def _region(item: Attributes) -> str:
    """Return the region that writes an item, from its sort key."""
    region: str = item["rule_region"]["S"].rpartition("#")[2]
    return region


def _key(item: Attributes) -> EpisodeKey:
    """Return an episode's device and rule, from the item's key."""
    return EpisodeKey(item["device_id"]["S"], item["rule_region"]["S"].rpartition("#")[0])


def _stored_episode(item: Attributes) -> StoredEpisode | UnreadableEpisode:
    try:
        with _reading_an_episode():
            return StoredEpisode(_key(item), to_episode(item), int(item["version"]["N"]))
    except Rejected as error:
        return UnreadableEpisode(_key(item), error.reason)


def _document(item: Attributes) -> dict[str, Any]:
    """Return an episode in the API's form; for one that can't be read, its key and the reason."""
    try:
        with _reading_an_episode():
            return _episode_document(item, to_episode(item))
    except Rejected as error:
        key = _key(item)
        return {
            **dict.fromkeys(EPISODE_FIELDS),
            "device_id": key.device_id,
            "rule": key.rule,
            "region": _region(item),
            "status": item["status_bucket"]["S"].partition("#")[0],
            "unreadable": error.reason,
        }


def _episode_document(item: Attributes, episode: Episode) -> dict[str, Any]:
    return {
        "device_id": item["device_id"]["S"],
        "rule": item["rule"]["S"],
        "severity": item["severity"]["S"],
        "region": item["region"]["S"],
        "episode": episode.number,
        "status": _status(episode),
        "first_breach_at": to_iso(episode.first_breach_ms),
        "last_breach_at": to_iso(episode.last_breach_ms),
        "cleared_at": _shown(episode.cleared_ms),
        "ended_by": episode.reason,
        "previous_cleared_at": _shown(episode.since_ms),
        "peak": episode.peak,
        "trace_id": episode.trace_id,
    }


def _to_cursor(status: str, bucket: int, start: Attributes | None) -> str:
    """Return a cursor: a status, its bucket, and the position of the last listed item, if any."""
    position = [start[name][kind] for name, kind in POSITION.items()] if start else []
    return base64.urlsafe_b64encode(json.dumps([status, bucket, *position]).encode()).decode()


def _from_cursor(cursor: str, status: str) -> tuple[int, Attributes | None]:
    """Return the bucket and the item in a cursor; raise Rejected for any other text."""
    try:
        of_status, bucket, *position = json.loads(base64.urlsafe_b64decode(cursor))
        start = _start(position, status, bucket)
        # a cursor has only one spelling: no 3.0 or true for a bucket, no blanks, no other digits
        if of_status not in STATUSES or _to_cursor(of_status, bucket, start) != cursor:
            raise ValueError(cursor)
    except (ValueError, TypeError, RecursionError):
        reason = "is not a cursor that this API gave"
        raise Rejected(reason, field="cursor", value=cursor) from None
    if of_status != status:
        reason = f"is of alerts that are {of_status}, and these are to be {status}: leave it out"
        raise Rejected(reason, field="cursor", value=cursor)
    return bucket, start


def _start(position: list[Any], status: str, bucket: Any) -> Attributes | None:
    """Return the item of a bucket that a page ended with; raise ValueError for an invalid one."""
    if type(bucket) is not int or bucket not in range(BUCKETS):
        raise ValueError(bucket)
    if not position:
        return None
    at_ms, device_id, rule_region = position
    for text, pattern in ((at_ms, AT_MS), (device_id, SUBJECT), (rule_region, RULE_REGION)):
        if not pattern.fullmatch(text):
            raise ValueError(text)
    if _bucket(device_id) != bucket:
        raise ValueError(bucket)
    named = zip(POSITION.items(), position, strict=True)
    start = {name: {kind: value} for (name, kind), value in named}
    return {"status_bucket": {"S": _status_bucket(status, bucket)}, **start}
