"""The engine's decisions, as pure functions: what to deliver together, and what to do after it.

Each rule says where it comes from: documented by AWS, recorded from AWS, or inferred from these.
https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html
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
"""Reserved for the JSON around the records: brackets, a tumbling window's fields except state."""
STATE_BYTES_MAX = 1024 * 1024
BACKOFF_SECONDS_FIRST = 0.5
BACKOFF_SECONDS_MAX = 60.0
BACKOFF_JITTER = 0.5, 0.85
"""The wait is a random share of the pause, between these two."""
JSON_BEGINNINGS = {b"{", b"["}
SUCCESS: tuple[Any, ...] = (None, "", [], {})
"""Answers that report no failure, besides an object without one (recorded)."""

Matches = Callable[[Record], bool]


# Filter


def filter_of(mapping: Mapping) -> Matches | None:
    """Return a test that a record passes any of the mapping's patterns; None if all records pass.

    Raises InvalidPattern.
    """
    patterns = [compile_pattern(pattern) for pattern in mapping.patterns]
    if not patterns:
        return None

    def match(event: dict[str, Any]) -> bool:
        return any(pattern.matches(event) for pattern in patterns)

    if mapping.service == DYNAMODB:  # patterns match the whole record, whose numbers are texts
        return lambda record: match(record.event)
    needs_digits = any(pattern.needs_digits for pattern in patterns)

    def passes(record: Record) -> bool:
        kinesis = record.event["kinesis"]
        raw = a2b_base64(kinesis["data"])
        if needs_digits:
            return match({**kinesis, "data": decoded(raw, exactly)})
        if not match({**kinesis, "data": decoded(raw, quickly)}):
            return False
        return has_short_numbers(raw) or match({**kinesis, "data": decoded(raw, exactly)})

    return passes


def decoded(raw: bytes, parse: Callable[[bytes], Any]) -> Any:
    """Return a Kinesis record's data as patterns match them: JSON, else text, else None.

    Data that aren't a JSON object or array are a text, which no pattern for an object matches.
    None: they aren't text either.
    """
    with suppress(ValueError):
        if raw.lstrip()[:1] in JSON_BEGINNINGS:
            return parse(raw)
    with suppress(ValueError):
        return raw.decode()
    return None


def exactly(raw: bytes) -> Any:
    """Return JSON's value with all its digits; raise ValueError."""
    return parse_event(raw.decode())


def quickly(raw: bytes) -> Any:
    """Return JSON's value with a float in place of each number of many digits; raise ValueError."""
    parsed = from_json(raw, allow_inf_nan=False)
    return parsed if has_each_key_once(raw, parsed) else exactly(raw)


def has_each_key_once(raw: bytes, parsed: Any) -> bool:
    """Return True if no object of a JSON document has a key twice; False if one may have.

    `parsed`: the document as the fast parser reads it, which keeps a repeated key's last value.
    The test is fast: as many colons as there are keys, on top and in the objects there, means that
    each of them is there once, and that nothing is nested deeper. Most records are such documents.
    """
    if not isinstance(parsed, dict):
        return False
    colons = raw.count(b":")
    return colons == len(parsed) or colons == len(parsed) + sum(
        len(each) for each in parsed.values() if type(each) is dict
    )


AS_DIGITS = bytes(ord("0") if chr(each) in "0123456789." else ord(" ") for each in range(256))


def has_short_numbers(raw: bytes) -> bool:
    """Return whether every number has at most 15 digits, which the nearest float tells.

    False also for other texts with 16 digits and points in a row.
    """
    return b"0" * 16 not in raw.translate(AS_DIGITS)


# Batch


def lane_of(key: str, lanes: int) -> int:
    """Return the lane of a key. It never changes, so a key's records stay in order."""
    return zlib.crc32(key.encode(errors="surrogatepass")) % lanes


def is_full(count: int, size_bytes: int, batch_size: int, state_bytes: int = 0) -> bool:
    """Return whether a batch may take no further record."""
    return count >= batch_size or size_bytes >= payload_room(state_bytes)


def payload_room(state_bytes: int = 0) -> int:
    """Return how many bytes of a payload the records may fill."""
    return PAYLOAD_BYTES_MAX - PAYLOAD_BYTES_FRAME - state_bytes


def take(
    queue: deque[Record], batch_size: int, before_ms: int | None = None, state_bytes: int = 0
) -> tuple[Record, ...]:
    """Take the next batch from the queue, up to the batch size, payload size and window end.

    The first record is always taken. Otherwise a record that is too large would stay
    in the queue forever.
    """
    batch: list[Record] = []
    room = payload_room(state_bytes)
    while queue and len(batch) < batch_size:
        record = queue[0]
        room -= record.size_bytes
        if batch and room < 0:
            break
        if before_ms is not None and record.arrived_ms >= before_ms:
            break
        batch.append(queue.popleft())
    return tuple(batch)


def batching_window_end(previous_end_ms: int, window_seconds: int, now_ms: int) -> int:
    """Return when the batching window of the records that are there now ends, in ms since 1970.

    The window starts when the previous invocation ends (documented). After an empty window another
    one starts (inferred), so a record never waits longer than one window.
    """
    window_ms = window_seconds * 1000
    passed = max(0, now_ms - previous_end_ms) // window_ms
    return previous_end_ms + (passed + 1) * window_ms


# What follows an invocation


class Step(NamedTuple):
    """What to do after an invocation that ran."""

    done: int = 0
    """How many of the batch's first records are finished."""
    rest: tuple[Batch, ...] = ()
    """Batches to deliver next, in this order."""
    discarded: Batch | None = None
    """The batch that is given up."""


def first_failed(answer: Answer, batch: Batch, mapping: Mapping) -> int | None:
    """Return the index of the first failed record of a batch; None if none failed.

    A partial response names records, and all records from the lowest one on count as failed. A
    response that can't be read (an identifier that is empty, null or of no record of the batch;
    another key) fails the whole batch (recorded). So does a tumbling window's answer without state.
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
    """Return what to do after an invocation that ran on `batch`.

    - After progress, the remaining records get the full number of retries again (recorded).
    - Bisecting halves a batch and uses up no retries (documented). The left half goes first, and
      each half counts its own retries (inferred). A partial response splits the batch at the record
      that it names (documented). If that is the first record, the batch is halved, as after an
      error (inferred).
    - N retries are N + 1 invocations (recorded).
    - A tumbling window's last invocation, which has no records, is retried until it succeeds
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


def after_refusal(batch: Batch) -> Batch:
    """Return the batch after an attempt that didn't run the function: it uses up no retry."""
    return batch._replace(refusals=batch.refusals + 1)


def wait_seconds(batch: Batch, chance: random.Random) -> float:
    """Return how many seconds to wait before the batch is tried; 0 before its first attempt.

    Exponential with jitter (inferred: 8 invocations fit into 60 s, as recorded).
    """
    tried = batch.invocations + batch.refusals
    if tried == 0:
        return 0.0
    longest = min(BACKOFF_SECONDS_FIRST * 2.0 ** min(tried - 1, 16), BACKOFF_SECONDS_MAX)
    return longest * chance.uniform(*BACKOFF_JITTER)


def expired_count(records: tuple[Record, ...], mapping: Mapping, now_ms: int) -> int:
    """Return how many of the first records are too old to be delivered."""
    if mapping.age_seconds_max == NO_LIMIT:
        return 0
    oldest_ms = now_ms - mapping.age_seconds_max * 1000
    fresh = (place for place, record in enumerate(records) if record.arrived_ms > oldest_ms)
    return next(fresh, len(records))


def expires_in_seconds(batch: Batch, mapping: Mapping, now_ms: int) -> float:
    """Return for how many seconds the batch's last record may still be delivered."""
    if mapping.age_seconds_max == NO_LIMIT:
        return float("inf")
    return batch.records[-1].arrived_ms / 1000 + mapping.age_seconds_max - now_ms / 1000


# Tumbling windows


def tumbling_start(arrived_ms: int, window_seconds: int) -> int:
    """Return when the tumbling window of a record's arrival began, in ms (documented)."""
    window_ms = window_seconds * 1000
    return arrived_ms // window_ms * window_ms
