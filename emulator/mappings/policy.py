"""The engine's decisions, as pure functions: what to deliver together, and what follows from it.

What AWS documents or was recorded doing is said where it is done; what is inferred from either
says so. https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html
"""

import random
import zlib
from binascii import a2b_base64
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic_core import from_json

from emulator.event_pattern import compile_pattern, parse_event
from emulator.mappings.model import DYNAMODB, NO_LIMIT, Answer, Batch, Mapping, Record

PAYLOAD_BYTES_MAX = 6 * 1024 * 1024
PAYLOAD_BYTES_FRAME = 1024
"""Left for what surrounds the records: brackets, and a tumbling window's fields but its state."""
STATE_BYTES_MAX = 1024 * 1024
BACKOFF_SECONDS_FIRST = 0.5
BACKOFF_SECONDS_MAX = 60.0
BACKOFF_JITTER = 0.5, 0.85
"""The share of the pause that is waited."""
JSON_BEGINNINGS = {b"{", b"["}
SUCCESS: tuple[Any, ...] = (None, "", [], {})
"""Answers that report no failure, besides an object without one (recorded)."""

Matches = Callable[[Record], bool]


# Filter


def filter_of(mapping: Mapping) -> Matches | None:
    """Return what tells whether a record passes any of the mapping's patterns; None: all pass.

    Raises `InvalidPattern`.
    """
    patterns = [compile_pattern(pattern) for pattern in mapping.patterns]
    if not patterns:
        return None
    seen = changed_item if mapping.service == DYNAMODB else decoded_record

    def passes(record: Record) -> bool:
        event = seen(record)
        return any(pattern.matches(event) for pattern in patterns)

    return passes


def changed_item(record: Record) -> dict[str, Any]:
    """Return what a DynamoDB record's pattern sees: all of it."""
    return record.event


def decoded_record(record: Record) -> dict[str, Any]:
    """Return what a Kinesis record's pattern sees: the record, with its data decoded.

    Data that isn't a JSON object or array is a text; a pattern for an object doesn't match it.
    """
    kinesis: dict[str, Any] = record.event["kinesis"]
    return {**kinesis, "data": decoded(kinesis["data"])}


def decoded(data: str) -> Any:
    """Return base64 data as JSON, else as a text; None if it is neither."""
    raw = a2b_base64(data)
    with suppress(ValueError):
        if raw.lstrip()[:1] in JSON_BEGINNINGS:
            found = from_json(raw, allow_inf_nan=False)
            return found if has_each_key_once(raw, found) else parse_event(raw.decode())
    with suppress(ValueError):
        return raw.decode()
    return None


def has_each_key_once(raw: bytes, found: Any) -> bool:
    """Tell, quickly, that no object of a JSON document has a key twice; False if it may have one.

    `found` is what the quick parser, which keeps the last of them, has made of it: with as many
    colons as keys on top, each is there once, and nothing is nested. A record's is mostly so.
    """
    return isinstance(found, dict) and raw.count(b":") == len(found)


# Batch


def lane_of(key: str, lanes: int) -> int:
    """Return the lane of a key: always the same, so that a key's records stay in order."""
    return zlib.crc32(key.encode(errors="surrogatepass")) % lanes


def is_full(count: int, size_bytes: int, batch_size: int, state_bytes: int = 0) -> bool:
    """Tell whether no further record may join a batch."""
    return count >= batch_size or size_bytes >= payload_room(state_bytes)


def payload_room(state_bytes: int = 0) -> int:
    """Return the bytes that records may take of a payload."""
    return PAYLOAD_BYTES_MAX - PAYLOAD_BYTES_FRAME - state_bytes


def take(
    queue: deque[Record], batch_size: int, before_ms: int | None = None, state_bytes: int = 0
) -> tuple[Record, ...]:
    """Take from the queue what makes a batch: by number, payload, and end of a tumbling window.

    A first record is taken whatever its size: it would never fit.
    """
    taken: list[Record] = []
    room = payload_room(state_bytes)
    while queue and len(taken) < batch_size:
        record = queue[0]
        room -= record.size_bytes
        if taken and room < 0:
            break
        if before_ms is not None and record.arrived_ms >= before_ms:
            break
        taken.append(queue.popleft())
    return tuple(taken)


def batching_window_end(previous_end_ms: int, window_seconds: int, now_ms: int) -> int:
    """Return when the batching window of records that are there now ends.

    The window starts when the previous invocation ends (documented); one that passes with nothing
    is followed by another (inferred), so that records always wait a window at most.
    """
    window_ms = window_seconds * 1000
    passed = max(0, now_ms - previous_end_ms) // window_ms
    return previous_end_ms + (passed + 1) * window_ms


# What follows an invocation


class Step(NamedTuple):
    """What follows an invocation that has run."""

    done: int = 0
    """How many of the batch's first records need nothing more."""
    rest: tuple[Batch, ...] = ()
    """What is to be delivered next, in this order."""
    discarded: Batch | None = None
    """What is given up."""


def first_failed(answer: Answer, batch: Batch, mapping: Mapping) -> int | None:
    """Return where in the batch the function failed, None where nowhere.

    A partial response names items, and all from the lowest on counts as failed. Where it can't be
    read (an identifier that is empty, null or of no record of the batch; another key), the whole
    batch has failed (recorded). So it has where a tumbling window's answer has no state.
    """
    if answer.function_error is not None:
        return 0
    payload = answer.payload
    if mapping.tumbling_window_seconds and not (isinstance(payload, dict) and "state" in payload):
        return 0
    if not mapping.reports_item_failures or payload in SUCCESS:
        return None
    if not isinstance(payload, dict):
        return 0
    failures = payload.get("batchItemFailures")
    if failures in (None, []):
        return None
    if not isinstance(failures, list):
        return 0
    places = {record.sequence: place for place, record in enumerate(batch.records)}
    named = [each.get("itemIdentifier") if isinstance(each, dict) else None for each in failures]
    return min(places.get(name, 0) if isinstance(name, str) else 0 for name in named)


def after(batch: Batch, failed_at: int | None, mapping: Mapping) -> Step:
    """Decide what follows an invocation that has run on `batch`.

    - Progress starts a fresh budget of retries for what is left (recorded).
    - Bisecting halves a batch and uses up no retries (documented); the left half goes first, each
      half has a count of its own (inferred). A partial response splits the batch where it says
      (documented); where that is the first record, it is halved as after an error (inferred).
    - N retries are N + 1 invocations (recorded).
    - A tumbling window's last invocation, which has no records, is tried until it succeeds
      (documented).
    """
    records = batch.records
    if failed_at is None:
        return Step(done=len(records))
    if failed_at:
        return Step(done=failed_at, rest=(Batch(records[failed_at:]),))
    if mapping.bisects and len(records) > 1:
        middle = (len(records) + 1) // 2
        return Step(rest=(Batch(records[:middle]), Batch(records[middle:])))
    tried = batch._replace(invocations=batch.invocations + 1, refusals=0)
    if records and mapping.retries_max != NO_LIMIT and tried.invocations > mapping.retries_max:
        return Step(discarded=tried)
    return Step(rest=(tried,))


def refused(batch: Batch) -> Batch:
    """Return the batch after an attempt in which the function didn't run: no retry is used up."""
    return batch._replace(refusals=batch.refusals + 1)


def wait_seconds(batch: Batch, chance: random.Random) -> float:
    """Return how long to wait before the batch is tried, 0 if it wasn't yet.

    Exponential with jitter (inferred; so that 8 invocations fit into 60 s, as recorded).
    """
    tried = batch.invocations + batch.refusals
    if tried == 0:
        return 0.0
    longest = min(BACKOFF_SECONDS_FIRST * 2.0 ** min(tried - 1, 16), BACKOFF_SECONDS_MAX)
    return longest * chance.uniform(*BACKOFF_JITTER)


def expired(records: tuple[Record, ...], mapping: Mapping, now_ms: int) -> int:
    """Return how many of the first records are too old to be delivered."""
    if mapping.age_seconds_max == NO_LIMIT:
        return 0
    oldest_ms = now_ms - mapping.age_seconds_max * 1000
    fresh = (place for place, record in enumerate(records) if record.arrived_ms > oldest_ms)
    return next(fresh, len(records))


def expires_in_seconds(batch: Batch, mapping: Mapping, now_ms: int) -> float:
    """Return how long the batch's last record may still be delivered."""
    if mapping.age_seconds_max == NO_LIMIT:
        return float("inf")
    return batch.records[-1].arrived_ms / 1000 + mapping.age_seconds_max - now_ms / 1000


# Tumbling windows


def tumbling_start(arrived_ms: int, window_seconds: int) -> int:
    """Return when the tumbling window of a record began, in ms: by arrival (documented)."""
    window_ms = window_seconds * 1000
    return arrived_ms // window_ms * window_ms
