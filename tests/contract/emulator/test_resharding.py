"""Streams in the embedded AWS: a shard's records survive its split or merge, in order."""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from emulator.gaps import resharding
from emulator.gaps.resharding import Place

HASH_KEYS = 2**128
DAY_SECONDS = 24 * 3600
FIRST = "shardId-000000000000"


@pytest.fixture
def kinesis(embedded_endpoint: str, aws_environment: None) -> Any:  # noqa: ARG001
    return boto3.client("kinesis", endpoint_url=embedded_endpoint)


@pytest.fixture
def stream(kinesis: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A stream, of one shard unless the test's parameters say otherwise."""
    name = f"Stream-{uuid.uuid4()}"
    kinesis.create_stream(StreamName=name, ShardCount=getattr(request, "param", 1))
    yield name
    kinesis.delete_stream(StreamName=name)


def put(kinesis: Any, stream: str, *texts: str, hash_key: int = 0) -> list[str]:
    """Put records in this order; return their sequence numbers."""
    return [
        kinesis.put_record(
            StreamName=stream, Data=text, PartitionKey="key", ExplicitHashKey=str(hash_key)
        )["SequenceNumber"]
        for text in texts
    ]


def shards(kinesis: Any, stream: str) -> dict[str, dict[str, Any]]:
    listed = kinesis.list_shards(StreamName=stream)["Shards"]
    return {shard["ShardId"]: shard for shard in listed}


def is_open(shard: dict[str, Any]) -> bool:
    return "EndingSequenceNumber" not in shard["SequenceNumberRange"]


def hashes(shard: dict[str, Any]) -> tuple[int, int]:
    found = shard["HashKeyRange"]
    return int(found["StartingHashKey"]), int(found["EndingHashKey"])


def parents(shard: dict[str, Any]) -> set[str]:
    named = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
    return {each for each in named if each}


def iterator(kinesis: Any, stream: str, shard_id: str = FIRST, **start: str) -> str:
    start = start or {"ShardIteratorType": "TRIM_HORIZON"}
    got = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard_id, **start)
    return str(got["ShardIterator"])


def texts(page: dict[str, Any]) -> list[str]:
    return [record["Data"].decode() for record in page["Records"]]


def split_in_half(kinesis: Any, stream: str, shard_id: str = FIRST) -> int:
    """Split a shard; return the hash key where its upper half begins."""
    first, last = hashes(shards(kinesis, stream)[shard_id])
    middle = (first + last) // 2 + 1
    kinesis.split_shard(StreamName=stream, ShardToSplit=shard_id, NewStartingHashKey=str(middle))
    return middle


def open_count(kinesis: Any, stream: str) -> int:
    described = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    return int(described["OpenShardCount"])


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


class TestSplit:
    def test_a_split_shard_stays_listed_and_readable_with_its_end(
        self, kinesis: Any, stream: str
    ) -> None:
        last = put(kinesis, stream, "a", "b")[-1]
        split_in_half(kinesis, stream)
        parent = shards(kinesis, stream)[FIRST]
        assert int(parent["SequenceNumberRange"]["EndingSequenceNumber"]) >= int(last)
        assert texts(kinesis.get_records(ShardIterator=iterator(kinesis, stream))) == ["a", "b"]

    def test_its_children_halve_its_hash_keys_name_it_and_begin_after_its_end(
        self, kinesis: Any, stream: str
    ) -> None:
        middle = split_in_half(kinesis, stream)
        parent, lower, upper = shards(kinesis, stream).values()
        assert (hashes(lower), hashes(upper)) == ((0, middle - 1), (middle, HASH_KEYS - 1))
        end = int(parent["SequenceNumberRange"]["EndingSequenceNumber"])
        for child in (lower, upper):
            assert is_open(child)
            assert parents(child) == {FIRST}
            assert int(child["SequenceNumberRange"]["StartingSequenceNumber"]) > end

    def test_records_put_after_a_split_go_to_the_children(self, kinesis: Any, stream: str) -> None:
        middle = split_in_half(kinesis, stream)
        put(kinesis, stream, "low", hash_key=middle - 1)
        put(kinesis, stream, "high", hash_key=middle)
        found = {
            shard_id: texts(kinesis.get_records(ShardIterator=iterator(kinesis, stream, shard_id)))
            for shard_id in shards(kinesis, stream)
        }
        assert list(found.values()) == [[], ["low"], ["high"]]

    def test_only_open_shards_are_counted(self, kinesis: Any, stream: str) -> None:
        split_in_half(kinesis, stream)
        assert open_count(kinesis, stream) == 2
        assert len(shards(kinesis, stream)) == 3

    def test_the_end_of_a_closed_shard_names_its_children_and_no_next_iterator(
        self, kinesis: Any, stream: str
    ) -> None:
        put(kinesis, stream, "a", "b")
        middle = split_in_half(kinesis, stream)
        page = kinesis.get_records(ShardIterator=iterator(kinesis, stream), Limit=1)
        assert "ChildShards" not in page
        page = kinesis.get_records(ShardIterator=page["NextShardIterator"])
        assert texts(page) == ["b"]
        assert "NextShardIterator" not in page
        _, lower, upper = shards(kinesis, stream)
        assert page["ChildShards"] == [
            {
                "ShardId": shard_id,
                "ParentShards": [FIRST],
                "HashKeyRange": {"StartingHashKey": str(start), "EndingHashKey": str(end)},
            }
            for shard_id, start, end in ((lower, 0, middle - 1), (upper, middle, HASH_KEYS - 1))
        ]

    def test_an_iterator_from_before_a_split_reads_to_the_shards_end(
        self, kinesis: Any, stream: str
    ) -> None:
        before = iterator(kinesis, stream, ShardIteratorType="LATEST")
        put(kinesis, stream, "a")
        split_in_half(kinesis, stream)
        page = kinesis.get_records(ShardIterator=before)
        assert texts(page) == ["a"]
        assert "NextShardIterator" not in page

    def test_a_closed_shard_is_not_split_again(self, kinesis: Any, stream: str) -> None:
        middle = split_in_half(kinesis, stream)
        with pytest.raises(ClientError, match=f"Shard {FIRST} in stream {stream} under ") as error:
            kinesis.split_shard(
                StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(middle)
            )
        assert code_of(error) == "InvalidArgumentException"
        assert len(shards(kinesis, stream)) == 3

    @pytest.mark.parametrize("start", [0, 1, HASH_KEYS - 1])
    def test_a_half_without_hash_keys_is_refused(
        self, kinesis: Any, stream: str, start: int
    ) -> None:
        with pytest.raises(ClientError, match=f"NewStartingHashKey {start} used in ") as error:
            kinesis.split_shard(
                StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(start)
            )
        assert code_of(error) == "InvalidArgumentException"

    def test_a_shard_that_is_not_there_is_not_split(self, kinesis: Any, stream: str) -> None:
        with pytest.raises(ClientError, match="Could not find shard shardId-9 ") as error:
            kinesis.split_shard(StreamName=stream, ShardToSplit="shardId-9", NewStartingHashKey="9")
        assert code_of(error) == "ResourceNotFoundException"


@pytest.mark.parametrize("stream", [3], indirect=True)
class TestMerge:
    def test_merged_shards_stay_readable_and_their_child_names_both(
        self, kinesis: Any, stream: str
    ) -> None:
        put(kinesis, stream, "a")
        lower, upper, _ = before = shards(kinesis, stream)
        kinesis.merge_shards(StreamName=stream, ShardToMerge=lower, AdjacentShardToMerge=upper)
        put(kinesis, stream, "b")
        after = shards(kinesis, stream)
        (child,) = after.keys() - before.keys()
        assert (after[child]["ParentShardId"], after[child]["AdjacentParentShardId"]) == (
            lower,
            upper,
        )
        assert hashes(after[child]) == (0, hashes(before[upper])[1])
        assert open_count(kinesis, stream) == 2
        page = kinesis.get_records(ShardIterator=iterator(kinesis, stream, lower))
        assert texts(page) == ["a"]
        assert [each["ParentShards"] for each in page["ChildShards"]] == [[lower, upper]]
        page = kinesis.get_records(ShardIterator=iterator(kinesis, stream, child))
        assert texts(page) == ["b"]

    @pytest.mark.parametrize(("lower", "upper"), [(0, 2), (1, 0), (1, 1)])
    def test_shards_that_do_not_adjoin_in_order_are_not_merged(
        self, kinesis: Any, stream: str, lower: int, upper: int
    ) -> None:
        ids = list(shards(kinesis, stream))
        with pytest.raises(ClientError, match="are not an adjacent pair of shards") as error:
            kinesis.merge_shards(
                StreamName=stream, ShardToMerge=ids[lower], AdjacentShardToMerge=ids[upper]
            )
        assert code_of(error) == "InvalidArgumentException"

    def test_a_closed_shard_is_not_merged_again(self, kinesis: Any, stream: str) -> None:
        lower, upper, top = shards(kinesis, stream)
        kinesis.merge_shards(StreamName=stream, ShardToMerge=lower, AdjacentShardToMerge=upper)
        with pytest.raises(ClientError, match="already been merged or split") as error:
            kinesis.merge_shards(StreamName=stream, ShardToMerge=upper, AdjacentShardToMerge=top)
        assert code_of(error) == "InvalidArgumentException"


def update(kinesis: Any, stream: str, count: int) -> dict[str, Any]:
    answer: dict[str, Any] = kinesis.update_shard_count(
        StreamName=stream, TargetShardCount=count, ScalingType="UNIFORM_SCALING"
    )
    return answer


class TestUpdateShardCount:
    @pytest.mark.parametrize(
        ("stream", "target"),
        [(before, after) for before in (1, 2, 3, 5) for after in (1, 2, 3, 4, 5, 6, 10)
         if before <= 2 * after <= 4 * before],
        indirect=["stream"],
    )  # fmt: skip
    def test_the_open_shards_share_all_hash_keys_evenly(
        self, kinesis: Any, stream: str, target: int
    ) -> None:
        update(kinesis, stream, target)
        found = sorted(hashes(each) for each in shards(kinesis, stream).values() if is_open(each))
        assert len(found) == target == open_count(kinesis, stream)
        assert (found[0][0], found[-1][1]) == (0, HASH_KEYS - 1)
        assert all(low[1] + 1 == high[0] for low, high in pairwise(found))
        sizes = [last - first + 1 for first, last in found]
        assert max(sizes) - min(sizes) < HASH_KEYS / target / 1_000_000

    @pytest.mark.parametrize("stream", [3], indirect=True)
    def test_doubling_splits_each_shard_once(self, kinesis: Any, stream: str) -> None:
        before = shards(kinesis, stream)
        answer = update(kinesis, stream, 6)
        assert (answer["CurrentShardCount"], answer["TargetShardCount"]) == (3, 6)
        after = shards(kinesis, stream)
        new = [parents(after[each]) for each in after.keys() - before.keys()]
        assert sorted(map(sorted, new)) == sorted([each] for each in before for _ in range(2))

    @pytest.mark.parametrize("stream", [6], indirect=True)
    def test_halving_merges_each_pair_once(self, kinesis: Any, stream: str) -> None:
        before = shards(kinesis, stream)
        update(kinesis, stream, 3)
        after = shards(kinesis, stream)
        ids = list(before)
        new = [parents(after[each]) for each in after.keys() - before.keys()]
        assert sorted(map(sorted, new)) == [ids[0:2], ids[2:4], ids[4:6]]

    @pytest.mark.parametrize(("stream", "target"), [(3, 4), (5, 3)], indirect=["stream"])
    def test_reading_parents_first_keeps_each_hash_keys_order(
        self, kinesis: Any, stream: str, target: int
    ) -> None:
        keys = {f"key{n:02}": HASH_KEYS // 17 * n for n in range(17)}
        for name, key in keys.items():
            put(kinesis, stream, f"{name} before", hash_key=key)
        update(kinesis, stream, target)
        for name, key in keys.items():
            put(kinesis, stream, f"{name} after", hash_key=key)
        found = read_parents_first(kinesis, stream)
        assert len(found) == 2 * len(keys)
        for name in keys:
            of_key = [text for text in found if text.startswith(name)]
            assert of_key == [f"{name} before", f"{name} after"]

    @pytest.mark.parametrize(
        ("stream", "target", "bound"),
        [(1, 3, "up over double"), (3, 1, "down below half")],
        indirect=["stream"],
    )
    def test_more_than_double_or_less_than_half_is_refused(
        self, kinesis: Any, stream: str, target: int, bound: str
    ) -> None:
        once = Config(retries={"max_attempts": 0})  # the SDK would retry it like throttling
        client = boto3.client("kinesis", endpoint_url=kinesis.meta.endpoint_url, config=once)
        with pytest.raises(ClientError, match=f"cannot scale {bound}") as error:
            update(client, stream, target)
        assert code_of(error) == "LimitExceededException"


def read_parents_first(kinesis: Any, stream: str) -> list[str]:
    """Return every record; a shard is read after all of its parents."""
    listed = shards(kinesis, stream)
    found: list[str] = []
    done: set[str] = set()
    while len(done) < len(listed):
        ready = [each for each in listed if each not in done and parents(listed[each]) <= done]
        shard_id = max(ready)
        found += texts(kinesis.get_records(ShardIterator=iterator(kinesis, stream, shard_id)))
        done.add(shard_id)
    return found


class TestGetRecords:
    def test_the_records_behind_a_page_are_counted(self, kinesis: Any, stream: str) -> None:
        put(kinesis, stream, "a", "b", "c")
        page, behind = with_behind(kinesis, ShardIterator=iterator(kinesis, stream), Limit=1)
        assert behind == 2
        _, behind = with_behind(kinesis, ShardIterator=page["NextShardIterator"])
        assert behind == 0

    def test_a_page_ends_at_10_megabytes(self, kinesis: Any, stream: str) -> None:
        for _ in range(11):
            kinesis.put_record(StreamName=stream, Data=b"x" * 1_000_000, PartitionKey="key")
        page = kinesis.get_records(ShardIterator=iterator(kinesis, stream))
        assert len(page["Records"]) == 10
        page = kinesis.get_records(ShardIterator=page["NextShardIterator"])
        assert len(page["Records"]) == 1

    def test_an_iterator_starts_at_or_after_a_sequence_number(
        self, kinesis: Any, stream: str
    ) -> None:
        sequences = put(kinesis, stream, "a", "b", "c")
        for kind, expected in (("AT", ["b", "c"]), ("AFTER", ["c"])):
            start = {
                "ShardIteratorType": f"{kind}_SEQUENCE_NUMBER",
                "StartingSequenceNumber": sequences[1],
            }
            page = kinesis.get_records(ShardIterator=iterator(kinesis, stream, **start))
            assert texts(page) == expected

    def test_an_iterator_that_was_never_given_is_refused(self, kinesis: Any) -> None:
        with pytest.raises(ClientError) as error:
            kinesis.get_records(ShardIterator="none")
        assert code_of(error) == "ExpiredIteratorException"

    def test_changes_of_a_table_behind_a_page_are_counted(self, embedded_endpoint: str) -> None:
        table, changes = streamed_table(embedded_endpoint, "counted")
        dynamodb = boto3.client("dynamodb", endpoint_url=embedded_endpoint)
        streams = boto3.client("dynamodbstreams", endpoint_url=embedded_endpoint)
        for name in "abc":
            dynamodb.put_item(TableName=table, Item={"name": {"S": name}})
        shard = streams.describe_stream(StreamArn=changes)["StreamDescription"]["Shards"][0]
        start = streams.get_shard_iterator(
            StreamArn=changes, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        page, behind = with_behind(streams, ShardIterator=start, Limit=1)
        assert behind == 2
        dynamodb.delete_table(TableName=table)
        page, behind = with_behind(streams, ShardIterator=page["NextShardIterator"], Limit=1)
        assert behind == 1, "a closed stream's are counted, too"
        page, behind = with_behind(streams, ShardIterator=page["NextShardIterator"])
        assert (len(page["Records"]), behind) == (1, 0)


def with_behind(client: Any, **request: Any) -> tuple[dict[str, Any], int]:
    """Return GetRecords' answer, and its field that the SDK doesn't know."""
    counts: list[int] = []

    def note(http_response: Any, **_: Any) -> None:
        counts.append(json.loads(http_response.content)["RecordsBehindLatest"])

    client.meta.events.register("after-call.*.GetRecords", note)
    return client.get_records(**request), counts[-1]


def streamed_table(endpoint: str, name: str) -> tuple[str, str]:
    dynamodb = boto3.client("dynamodb", endpoint_url=endpoint)
    created = dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "name", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "name", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    return name, created["TableDescription"]["LatestStreamArn"]


# Behaviour that takes minutes or a day: the functions are called directly.


def test_a_closed_shard_disappears_when_all_its_records_have_expired() -> None:
    now = time.time()
    closed = {"ending_sequence_number": "9", "records": []}
    shards = {
        "expired": closed | {"closed_at": now - DAY_SECONDS - 1},
        "closed": closed | {"closed_at": now - DAY_SECONDS + 60},
        "open": {"records": []},
    }
    stream = {"RetentionPeriodHours": 24, "shards": shards}
    resharding.resolve_stream(lambda _: ("readings", stream), {})
    assert list(shards) == ["closed", "open"]


def test_sequence_numbers_rise_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1000.0, 999.0, 1001.0])
    monkeypatch.setattr(time, "time", lambda: next(times))
    emulator = SimpleNamespace(_sequence_lock=threading.Lock(), _sequence_counter=0)
    number = resharding.rising_sequence_numbers(emulator)
    found = [number() for _ in range(3)]
    assert found == sorted(found)


def emulator_with(records: list[dict[str, Any]]) -> Any:
    """The part of the emulator that reads a stream "s" with one shard."""
    return SimpleNamespace(
        _shard_iterators={},
        _streams={"s": {"shards": {"0": {"records": records}}}},
        _expire_records=lambda _stream: None,
        _ensure_base64=str,
        ITERATOR_EXPIRY_SECONDS=300,
        json_response=lambda answer: (200, {}, json.dumps(answer).encode()),
        get_account_id=lambda: "123456789012",
    )


def records_of(sequences: str) -> list[dict[str, Any]]:
    return [
        {"SequenceNumber": each, "Data": "", "PartitionKey": each, "ApproximateArrivalTimestamp": 0}
        for each in sequences
    ]


def test_an_iterator_past_its_age_is_refused() -> None:
    old = resharding.iterator(Place("s", "0", "", time.time() - 301))
    with pytest.raises(resharding.Refused) as refused:
        resharding.get_records(emulator_with([]), {"ShardIterator": old})
    assert refused.value.code == "ExpiredIteratorException"


def test_an_iterator_keeps_its_place_when_records_before_it_expire() -> None:
    records = records_of("1234")
    emulator = emulator_with(records)
    emulator._expire_records = lambda _stream: records.__delitem__(slice(2))
    token = resharding.iterator(Place("s", "0", "2", time.time()))
    page = resharding.get_records(emulator, {"ShardIterator": token, "Limit": 1})
    assert [each["SequenceNumber"] for each in page["Records"]] == ["3"]
    after = resharding.place_at(page["NextShardIterator"])
    assert after is not None
    assert after.after == "3"


def test_iterators_take_no_memory() -> None:
    emulator = emulator_with(records_of("123"))

    def get(_request: dict[str, Any]) -> resharding.Response:
        state = {"stream": "s", "shard_id": "0", "position": 1, "created_at": time.time()}
        emulator._shard_iterators["given"] = state
        answered: resharding.Response = emulator.json_response({"ShardIterator": "given"})
        return answered

    given = json.loads(resharding.get_iterator(emulator, get, {})[2])["ShardIterator"]
    page = resharding.get_records(emulator, {"ShardIterator": given, "Limit": 1})
    page = resharding.get_records(emulator, {"ShardIterator": page["NextShardIterator"]})
    assert [each["SequenceNumber"] for each in page["Records"]] == ["3"]
    assert emulator._shard_iterators == {}


@pytest.mark.parametrize("token", ["", "none", "MQ==", "é", None])
def test_an_invalid_iterator_is_refused_as_an_expired_one(token: Any) -> None:
    with pytest.raises(resharding.Refused) as refused:
        resharding.get_records(emulator_with([]), {"ShardIterator": token})
    assert refused.value.code == "ExpiredIteratorException"


def test_an_iterator_of_a_deleted_shard_is_refused() -> None:
    token = resharding.iterator(Place("s", "1", "", time.time()))
    with pytest.raises(resharding.Refused) as refused:
        resharding.get_records(emulator_with([]), {"ShardIterator": token})
    assert refused.value.code == "ResourceNotFoundException"
