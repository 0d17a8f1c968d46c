"""Closes gaps of the embedded AWS: a split or merged shard keeps its records.

On AWS such a shard closes. It stays listed and readable until its records expire, and its children
name it as their parent
(https://docs.aws.amazon.com/streams/latest/dev/kinesis-using-sdk-java-after-resharding.html).
The emulator (1.5.33) deletes it with its records. Also, its iterators are indices, which skip
records once older ones expire, and it stores each for five minutes. Here an iterator contains the
sequence number before its place, so nothing is stored.

GetRecords also returns `RecordsBehindLatest`, the number of records still to come. AWS has no such
field.

The parameters `kinesis` and `streams` below are ministack's modules of these services.
"""

import base64
import json
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple

PAGE_RECORDS_MAX = 10_000
RECENT_RECORDS = 256
"""Nearly every reader is within these; older records may be packed (`emulator.gaps.keeping`)."""
PAGE_BYTES_MAX = 10 * 1024 * 1024
SAME_BOUNDARY_BITS = 20
"""Boundaries closer than 1/2^20 of a range count as equal, so that no tiny shards are made."""

Response = tuple[int, dict[str, str], bytes]
Stream = dict[str, Any]
Shard = dict[str, Any]
Record = dict[str, Any]
sequence_of = itemgetter("SequenceNumber")


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    keep_closed_shards(modules.service("kinesis"))
    count_what_is_behind(modules.service("dynamodb_streams"))


class Refused(Exception):
    """The request gets AWS's error of this code and message."""

    def __init__(self, code: str, message: str) -> None:
        """Keep AWS's error code and the message."""
        super().__init__(message)
        self.code = code


def keep_closed_shards(kinesis: Any) -> None:
    """Make the emulator close shards instead of deleting them."""
    kinesis._next_sequence_number = rising_sequence_numbers(kinesis)
    kinesis._resolve_stream = partial(resolve_stream, kinesis._resolve_stream)
    kinesis._route_to_shard = route
    kinesis._shard_out = partial(describe_shard, kinesis._shard_out)
    kinesis._describe_stream_summary = partial(summary, kinesis, kinesis._describe_stream_summary)
    kinesis._split_shard = answering(kinesis, split_shard)
    kinesis._merge_shards = answering(kinesis, merge_shards)
    kinesis._update_shard_count = answering(kinesis, update_shard_count)
    kinesis._start_position = partial(start_position, kinesis._start_position)
    kinesis._get_shard_iterator = partial(get_iterator, kinesis, kinesis._get_shard_iterator)
    kinesis._get_records = answering(kinesis, get_records)


def answering(
    kinesis: Any, operation: Callable[[Any, dict[str, Any]], dict[str, Any]]
) -> Callable[[dict[str, Any]], Response]:
    """Return an operation in the emulator's form: its answer or Refused becomes a response."""

    def respond(data: dict[str, Any]) -> Response:
        try:
            response: Response = kinesis.json_response(operation(kinesis, data))
        except Refused as refused:
            response = kinesis.error_response_json(refused.code, str(refused), 400)
        return response

    return respond


def rising_sequence_numbers(kinesis: Any) -> Callable[[], str]:
    """Return a source of sequence numbers that rise even if the clock is set back."""
    newest_ms = 0

    def next_sequence_number() -> str:
        nonlocal newest_ms
        with kinesis._sequence_lock:
            kinesis._sequence_counter += 1
            newest_ms = max(newest_ms, int(time.time() * 1000))
            return f"{newest_ms:020d}{kinesis._sequence_counter:010d}"

    return next_sequence_number


# Shards, open and closed.


def is_closed(shard: Shard) -> bool:
    """Return whether the shard was split or merged."""
    return "ending_sequence_number" in shard


def open_shards(stream: Stream) -> list[str]:
    """Return the ids of the open shards, in the order of their hash ranges."""
    still = {key: shard for key, shard in stream["shards"].items() if not is_closed(shard)}
    return sorted(still, key=lambda key: int(still[key]["starting_hash_key"]))


def resolve_stream(
    resolve: Callable[[dict[str, Any]], tuple[str | None, Stream | None]], data: dict[str, Any]
) -> tuple[str | None, Stream | None]:
    """Return the stream that a request names, without closed shards whose records all expired."""
    name, stream = resolve(data)
    if stream:
        cutoff = time.time() - stream["RetentionPeriodHours"] * 3600
        for key, shard in list(stream["shards"].items()):
            if is_closed(shard) and shard["closed_at"] < cutoff:
                del stream["shards"][key]
    return name, stream


def route(hash_key: int, stream: Stream) -> str:
    """Return the id of the open shard for a hash key."""
    for key, shard in stream["shards"].items():
        if is_closed(shard):
            continue
        if int(shard["starting_hash_key"]) <= hash_key <= int(shard["ending_hash_key"]):
            return str(key)
    return open_shards(stream)[0]


def describe_shard(
    describe: Callable[[str, Shard], dict[str, Any]], key: str, shard: Shard
) -> dict[str, Any]:
    """Return the shard in the form of ListShards."""
    description = describe(key, shard)
    if is_closed(shard):
        ending = shard["ending_sequence_number"]
        description["SequenceNumberRange"]["EndingSequenceNumber"] = ending
    return description


def summary(
    kinesis: Any, describe: Callable[[dict[str, Any]], Response], data: dict[str, Any]
) -> Response:
    """Answer DescribeStreamSummary with the number of open shards."""
    response = describe(data)
    _, stream = kinesis._resolve_stream(data)
    if not stream:
        return response
    answer = json.loads(response[2])
    answer["StreamDescriptionSummary"]["OpenShardCount"] = len(open_shards(stream))
    counted: Response = kinesis.json_response(answer)
    return counted


# SplitShard, MergeShards, UpdateShardCount.


def split_shard(kinesis: Any, data: dict[str, Any]) -> dict[str, Any]:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SplitShard.html."""
    stream, where = stream_of(kinesis, data)
    key = data.get("ShardToSplit", "")
    shard = open_shard(stream, key, where)
    first, last = int(shard["starting_hash_key"]), int(shard["ending_hash_key"])
    at = number(data, "NewStartingHashKey")
    if not first + 1 < at < last:
        raise Refused(
            "InvalidArgumentException",
            f"NewStartingHashKey {at} used in SplitShard() on shard {key} in {where} is not both "
            f"greater than one plus the shard's StartingHashKey {first} and less than the shard's "
            f"EndingHashKey {last}.",
        )
    split(kinesis, stream, key, at)
    return {}


def merge_shards(kinesis: Any, data: dict[str, Any]) -> dict[str, Any]:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_MergeShards.html."""
    stream, where = stream_of(kinesis, data)
    lower, upper = data.get("ShardToMerge", ""), data.get("AdjacentShardToMerge", "")
    end = int(open_shard(stream, lower, where)["ending_hash_key"])
    if end + 1 != int(open_shard(stream, upper, where)["starting_hash_key"]):
        raise Refused(
            "InvalidArgumentException",
            f"Shards {lower} and {upper} in {where} are not an adjacent pair of shards eligible "
            "for merging",
        )
    merge(kinesis, stream, lower, upper)
    return {}


def update_shard_count(kinesis: Any, data: dict[str, Any]) -> dict[str, Any]:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html.

    It splits and merges, as AWS does, so every shard has its parents, and a reader that reads
    parents first gets each partition key's records in order. Intermediate shards are closed, empty.
    """
    stream, _ = stream_of(kinesis, data)
    current, target = len(open_shards(stream)), number(data, "TargetShardCount", least=1)
    for is_beyond, bound in (
        (target > 2 * current, "up over double"),
        (2 * target < current, "down below half"),
    ):
        if is_beyond:
            raise Refused(
                "LimitExceededException",
                f"UpdateShardCount cannot scale {bound} your current open shard count. "
                f"Current open shard count: {current}, Target shard count: {target}",
            )
    reshard(kinesis, stream, target)
    return {
        "StreamName": stream["StreamName"],
        "CurrentShardCount": current,
        "TargetShardCount": target,
        "StreamARN": stream["StreamARN"],
    }


def number(data: dict[str, Any], member: str, least: int = 0) -> int:
    """Return a member of the request as a whole number; raise Refused if it is too small."""
    value = str(data.get(member, ""))
    if value.isdecimal() and int(value) >= least:
        return int(value)
    raise Refused(
        "ValidationException",
        f"1 validation error detected: Value '{value}' at '{member[0].lower()}{member[1:]}' failed "
        f"to satisfy constraint: Member must have value greater than or equal to {least}",
    )


def stream_of(kinesis: Any, data: dict[str, Any]) -> tuple[Stream, str]:
    """Return the stream that the request names, and its name for messages."""
    name, stream = kinesis._resolve_stream(data)
    where = f"{name} under account {kinesis.get_account_id()}"
    if not stream:
        raise Refused("ResourceNotFoundException", f"Stream {where} not found.")
    return stream, f"stream {where}"


def open_shard(stream: Stream, key: str, where: str) -> Shard:
    """Return the open shard of this id; raise Refused if it is missing or closed."""
    shard: Shard | None = stream["shards"].get(key)
    if shard is None:
        raise Refused("ResourceNotFoundException", f"Could not find shard {key} in {where}.")
    if is_closed(shard):
        raise Refused(
            "InvalidArgumentException",
            f"Shard {key} in {where} has already been merged or split, and thus is not eligible "
            "for merging or splitting.",
        )
    return shard


def split(kinesis: Any, stream: Stream, key: str, at: int) -> None:
    """Split an open shard: its upper half begins at the hash key `at`."""
    shard = close_shard(kinesis, stream, key)
    first, last = int(shard["starting_hash_key"]), int(shard["ending_hash_key"])
    add_child(kinesis, stream, (first, at - 1), key)
    add_child(kinesis, stream, (at, last), key)


def merge(kinesis: Any, stream: Stream, lower: str, upper: str) -> str:
    """Merge two adjacent open shards; return the child's id."""
    first = int(close_shard(kinesis, stream, lower)["starting_hash_key"])
    last = int(close_shard(kinesis, stream, upper)["ending_hash_key"])
    return add_child(kinesis, stream, (first, last), lower, upper)


def close_shard(kinesis: Any, stream: Stream, key: str) -> Shard:
    """Close a shard, with a last sequence number after its records and before its children's."""
    shard: Shard = stream["shards"][key]
    shard["ending_sequence_number"] = kinesis._next_sequence_number()
    shard["closed_at"] = time.time()
    return shard


def add_child(
    kinesis: Any, stream: Stream, hashes: tuple[int, int], parent: str, adjacent: str | None = None
) -> str:
    """Add an open shard for a range of hash keys, both ends included; return its id."""
    key = f"shardId-{kinesis._max_shard_index(stream) + 1:012d}"
    stream["shards"][key] = {
        "records": [],
        "starting_hash_key": str(hashes[0]),
        "ending_hash_key": str(hashes[1]),
        "starting_sequence_number": kinesis._next_sequence_number(),
        "parent_shard_id": parent,
        "adjacent_parent_shard_id": adjacent,
    }
    return key


def reshard(kinesis: Any, stream: Stream, target: int) -> None:
    """Split at every missing boundary, then merge the shards between two boundaries."""
    starts = wanted_starts(kinesis, stream, target)
    for start in starts[1:]:
        key = route(start, stream)
        if int(stream["shards"][key]["starting_hash_key"]) < start:
            split(kinesis, stream, key, start)
    for first, end in pairwise([*starts, kinesis.MAX_HASH_KEY + 1]):
        inside = [
            key
            for key in open_shards(stream)
            if first <= int(stream["shards"][key]["starting_hash_key"]) < end
        ]
        merged = inside[0]
        for key in inside[1:]:
            merged = merge(kinesis, stream, merged, key)


def wanted_starts(kinesis: Any, stream: Stream, target: int) -> list[int]:
    """Return the starts of `target` equal ranges; an existing boundary nearby is used instead."""
    there = [int(stream["shards"][key]["starting_hash_key"]) for key in open_shards(stream)]
    same = kinesis.MAX_HASH_KEY // target >> SAME_BOUNDARY_BITS
    starts = []
    for first, _ in kinesis._compute_hash_ranges(target):
        wanted = int(first)
        starts.append(next((each for each in there if abs(each - wanted) <= same), wanted))
    return starts


# Iterators and pages.


class Place(NamedTuple):
    """The place of an iterator."""

    stream: str
    shard_id: str
    after: str
    """The sequence number before the place; empty at the beginning."""
    at: float
    """The time when the iterator was made."""


def start_position(
    find: Callable[..., int | None], records: list[Record], kind: str, sequence: str, at: Any
) -> int | None:
    """Return the index of an iterator's first record; a sequence number is found by bisection."""
    if kind == "AT_SEQUENCE_NUMBER":
        return bisect_left(records, sequence, key=sequence_of)
    if kind == "AFTER_SEQUENCE_NUMBER":
        return bisect_right(records, sequence, key=sequence_of)
    return find(records, kind, sequence, at)


def get_iterator(
    kinesis: Any, get: Callable[[dict[str, Any]], Response], data: dict[str, Any]
) -> Response:
    """Answer GetShardIterator with a place that doesn't move when records expire."""
    response = get(data)
    if response[0] != 200:
        return response
    state = kinesis._shard_iterators.pop(json.loads(response[2])["ShardIterator"])
    records = kinesis._streams[state["stream"]]["shards"][state["shard_id"]]["records"]
    position = state["position"]
    after = sequence_of(records[position - 1]) if position else ""
    token = iterator(Place(state["stream"], state["shard_id"], after, state["created_at"]))
    given: Response = kinesis.json_response({"ShardIterator": token})
    return given


def iterator(place: Place) -> str:
    """Return the token of a place."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def place_at(token: str) -> Place | None:
    """Return the place of a token; None for an invalid token."""
    try:
        return Place(*json.loads(base64.urlsafe_b64decode(token)))
    except (ValueError, TypeError):
        return None


def get_records(kinesis: Any, data: dict[str, Any]) -> dict[str, Any]:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html."""
    place, stream, shard = place_of(kinesis, data.get("ShardIterator", ""))
    kinesis._expire_records(stream)
    records = shard["records"]
    recent = max(0, len(records) - RECENT_RECORDS)
    is_recent = bool(records) and sequence_of(records[recent]) <= place.after
    begin = bisect_right(records, place.after, lo=recent if is_recent else 0, key=sequence_of)
    end = page_end(
        records, begin, min(int(data.get("Limit") or PAGE_RECORDS_MAX), PAGE_RECORDS_MAX)
    )
    encryption = stream.get("EncryptionType", "NONE")
    answer = {
        "Records": [shown_record(kinesis, each, encryption) for each in records[begin:end]],
        "MillisBehindLatest": behind_ms(records, end),
        "RecordsBehindLatest": len(records) - end,
    }
    if is_closed(shard) and end == len(records):
        return answer | {"ChildShards": children(stream, place.shard_id)}
    after = sequence_of(records[end - 1]) if end > begin else place.after
    return answer | {"NextShardIterator": iterator(place._replace(after=after, at=time.time()))}


def place_of(kinesis: Any, token: str) -> tuple[Place, Stream, Shard]:
    """Return an iterator's place, stream and shard; raise Refused if it isn't valid."""
    place = place_at(token)
    if place is None or time.time() - place.at > kinesis.ITERATOR_EXPIRY_SECONDS:
        raise Refused("ExpiredIteratorException", "Iterator has expired or is invalid")
    stream = kinesis._streams.get(place.stream) or {"shards": {}}
    shard = stream["shards"].get(place.shard_id)
    if shard is None:
        raise Refused(
            "ResourceNotFoundException",
            f"Shard {place.shard_id} in stream {place.stream} under account "
            f"{kinesis.get_account_id()} does not exist",
        )
    return place, stream, shard


def page_end(records: list[Record], begin: int, limit: int) -> int:
    """Return a page's end from `begin`: up to `limit` records or 10 MB, at least one record."""
    room = PAGE_BYTES_MAX
    stop = min(begin + limit, len(records))
    for index in range(begin, stop):
        record = records[index]
        room -= len(record["Data"]) * 3 // 4 + len(record["PartitionKey"])
        if room < 0 and index > begin:
            return index
    return stop


def shown_record(kinesis: Any, record: Record, encryption: str) -> Record:
    """Return the record in the form of GetRecords."""
    return record | {"Data": kinesis._ensure_base64(record["Data"]), "EncryptionType": encryption}


def behind_ms(records: list[Record], end: int) -> int:
    """Return the age of the first record after the page, in ms; 0 if there is none."""
    if end == len(records):
        return 0
    return max(0, int((time.time() - records[end]["ApproximateArrivalTimestamp"]) * 1000))


def children(stream: Stream, parent: str) -> list[dict[str, Any]]:
    """Return the children of a closed shard in the form of GetRecords."""
    found = []
    for key, shard in sorted(stream["shards"].items()):
        parents = [shard.get("parent_shard_id"), shard.get("adjacent_parent_shard_id")]
        if parent in parents:
            hashes = {
                "StartingHashKey": shard["starting_hash_key"],
                "EndingHashKey": shard["ending_hash_key"],
            }
            known = [each for each in parents if each]
            found.append({"ShardId": key, "ParentShards": known, "HashKeyRange": hashes})
    return found


def count_what_is_behind(streams: Any) -> None:
    """Make GetRecords of `ministack.services.dynamodb_streams` count the records after a page."""
    respond = streams.json_response

    def respond_with_count(answer: dict[str, Any]) -> Response:
        if "Records" in answer:
            behind = records_behind(streams, answer.get("NextShardIterator"))
            answer["RecordsBehindLatest"] = behind
        response: Response = respond(answer)
        return response

    streams.json_response = respond_with_count


def records_behind(streams: Any, token: str | None) -> int:
    """Return the number of a table's changes after an iterator."""
    if token is None:
        return 0
    place = streams._decode_iterator(token)
    table = {"account_id": place["a"], "region": place["r"]}
    info = streams._enabled_stream_info(place["t"], **table)
    if info and info["StreamArn"] == place["arn"]:
        end = streams._ddb.stream_end_position(place["t"], **table)
    else:
        closed = streams._ddb.closed_stream(place["arn"])
        end = closed["trimmed"] + len(closed["records"]) if closed else place["p"]
    return int(end - place["p"])
