"""Event source mappings behave as AWS documents, in virtual time.

Each test names its feature, and whether AWS documents the behaviour or it is inferred. Recordings
are replayed in test_mappings_recorded.py.
"""

import asyncio
import json
from typing import Any

import pytest

from emulator.mappings.memory import EPOCH_MS, TABLE_STREAM_ARN, Throttled
from emulator.mappings.model import Start
from tests.mapping_rig import (
    BUCKET_ARN,
    QUEUE_ARN,
    Rig,
    deliver,
    failing_on,
    mapping,
    reporting,
    run,
    value,
)

as_aws = pytest.mark.as_aws


# Batches


@as_aws("batch_size", "documented")
def test_a_batch_has_at_most_batch_size_records_of_one_shard() -> None:
    assert deliver(range(7), batch_size=3).batches == [[0, 1, 2], [3, 4, 5], [6]]


@as_aws("batch_size", "documented")
def test_shards_have_separate_batches_at_the_same_time() -> None:
    async def story(rig: Rig) -> None:
        for shard in ("shardId-000000000000", "shardId-000000000001"):
            rig.put(shard[-1], shard_id=shard)
        await asyncio.sleep(1)

    rig = run(story, lambda _: asyncio.sleep(60), shards=2)
    assert (rig.batches, rig.at) == ([["0"], ["1"]], [0.0, 0.0])


@as_aws("batch_size", "documented")
def test_a_shard_without_new_records_is_polled_once_a_second() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(10.5)
        assert rig.stream.fetches == 11

    run(story)


@as_aws("batch_size", "documented")
def test_a_tables_stream_is_polled_four_times_a_second() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(10.1)
        assert rig.stream.fetches == 41

    run(story, source_arn=TABLE_STREAM_ARN)


@as_aws("batching_window", "documented")
def test_without_a_batching_window_a_single_record_goes_at_once() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(2.5)
        rig.put("lone")
        await asyncio.sleep(1)

    assert run(story).at == [3.0]  # at the next look


@as_aws("batching_window", "documented")
def test_the_batching_window_begins_when_the_previous_invocation_ends() -> None:
    async def story(rig: Rig) -> None:
        rig.put("first")
        await asyncio.sleep(5)
        for number in range(12):
            rig.put(number)
            await asyncio.sleep(1)
        await asyncio.sleep(10)

    rig = run(story, batching_window_seconds=4)
    assert rig.at == [4.0, 8.0, 12.0, 16.0, 20.0]
    assert rig.delivered == ["first", *range(12)]


@as_aws("batching_window", "inferred")
def test_records_wait_at_most_one_window_after_empty_windows() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(9)
        rig.put("late")
        await asyncio.sleep(10)

    assert run(story, batching_window_seconds=4).at == [12.0]


@as_aws("batching_window", "documented")
def test_a_full_batch_does_not_wait_for_its_window() -> None:
    rig = deliver(range(10), batch_size=5, batching_window_seconds=300, seconds=10)
    assert (rig.batches, rig.at) == ([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]], [0.0, 0.0])


@as_aws("payload_6mb", "documented")
def test_a_batch_goes_before_its_payload_exceeds_6_mb() -> None:
    rig = deliver(["x" * 700_000] * 10, batching_window_seconds=300, batch_size=100, seconds=900)
    sizes = [len(json.dumps(each.event)) for each in rig.sink.invocations]
    assert [len(batch) for batch in rig.batches] == [6, 4]
    assert max(sizes) <= 6 * 1024 * 1024
    assert rig.at[0] == 0.0


@as_aws("payload_6mb", "documented")
def test_a_tumbling_windows_state_counts_towards_the_6_mb() -> None:
    def stateful(_event: Any) -> dict[str, Any]:
        return {"state": {"x": "y" * 1_000_000}}

    async def story(rig: Rig) -> None:
        rig.put("first")
        await asyncio.sleep(3)
        rig.put(*["x" * 700_000] * 12)
        await asyncio.sleep(20)

    rig = run(story, stateful, tumbling_window_seconds=600)
    sizes = [len(json.dumps(each.event)) for each in rig.sink.invocations]
    assert 5_000_000 < max(sizes) <= 6 * 1024 * 1024
    assert len(rig.delivered) == 13


# Lanes


@as_aws("parallelization_factor", "documented")
def test_one_shard_has_as_many_batches_at_once_as_the_factor_says() -> None:
    most, running = 0, 0

    async def slow(_event: Any) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(10)
        running -= 1

    async def story(rig: Rig) -> None:
        for number in range(200):
            rig.put(number, key=f"device-{number}")
        await asyncio.sleep(100)

    rig = run(story, slow, parallelization_factor=4, batch_size=10)
    assert most == 4
    assert sorted(rig.delivered) == list(range(200))


@as_aws("parallelization_factor", "documented")
def test_records_of_one_key_stay_in_order_and_in_one_batch_at_a_time() -> None:
    running: set[str] = set()
    seen: dict[str, list[int]] = {}

    async def uneven(event: dict[str, Any]) -> None:
        keys = {record["kinesis"]["partitionKey"] for record in event["Records"]}
        assert not keys & running
        running.update(keys)
        await asyncio.sleep(len(event["Records"]) % 7)
        running.difference_update(keys)
        for record in event["Records"]:
            seen.setdefault(record["kinesis"]["partitionKey"], []).append(value(record))

    async def story(rig: Rig) -> None:
        for number in range(300):
            rig.put(number, key=f"device-{number % 13}")
            await asyncio.sleep(0.1)
        await asyncio.sleep(300)

    run(story, uneven, parallelization_factor=5, batch_size=7)
    assert seen == {f"device-{key}": list(range(key, 300, 13)) for key in range(13)}


@as_aws("parallelization_factor", "documented")
def test_a_failing_lane_delays_only_its_own_keys() -> None:
    async def story(rig: Rig) -> None:
        for number in range(100):
            rig.put(number, key=f"device-{number}")
        await asyncio.sleep(600)

    rig = run(story, failing_on(17), parallelization_factor=10)
    assert len(set(rig.delivered)) == 100
    done = [each for each in rig.batches if 17 not in each]
    assert len([each for batch in done for each in batch]) > 70


# Filters


@as_aws("filter_criteria", "documented")
def test_a_function_gets_records_that_match_any_of_the_patterns() -> None:
    hot = '{"data":{"temperature":[{"numeric":[">",38]}]}}'
    flat = '{"data":{"battery":[{"numeric":["<",3.3]}]}}'
    readings = [
        {"temperature": 20, "battery": 3.6},
        {"temperature": 41.5, "battery": 3.6},
        {"temperature": 20, "battery": 3.1},
    ]
    rig = deliver(readings, patterns=(hot, flat))
    assert rig.delivered == readings[1:]


@as_aws("filter_criteria", "documented")
def test_filters_run_before_batching() -> None:
    rig = deliver(range(100), patterns=('{"data":[{"anything-but":["x"]}]}',))
    assert rig.batches == [list(range(100))]  # a number isn't an object: a text
    even = [{"n": number % 2} for number in range(100)]
    rig = deliver(even, patterns=('{"data":{"n":[1]}}',), batch_size=10)
    assert [len(batch) for batch in rig.batches] == [10] * 5


@as_aws("filter_criteria", "documented")
def test_the_position_moves_past_filtered_records() -> None:
    rig = deliver([{"n": 1}] * 3, patterns=('{"data":{"n":[2]}}',), seconds=2)
    saved = rig.view()
    last = rig.stream.by_id["shardId-000000000000"].records[-1].sequence
    assert (saved["lanes"], saved["counts"]["filtered"], rig.batches) == ([last], 3, [])


@as_aws("filter_criteria", "documented")
def test_data_that_is_not_json_is_dropped_by_a_pattern_for_json() -> None:
    rig = deliver([b"\xff\x00", b"plain", b"{broken", {"n": 1}], patterns=('{"data":{"n":[1]}}',))
    assert rig.delivered == [{"n": 1}]


@as_aws("filter_criteria", "documented")
def test_a_filter_passes_over_a_number_with_more_digits_than_aws_compares() -> None:
    texts = (
        b"38.5 38.299999237060547 38.333333333333336 39.10000000000000142 20 3.9e1 38.1234567 1e2"
    )
    data = [
        frame % text
        for text in texts.split()
        for frame in (b'{"t":%s}', b'{"t":%s,"readings":{"t":[38.299999237060547],"low":{"t":1}}}')
    ]
    compared = b"38.5 38.5 3.9e1 3.9e1 1e2 1e2".split()
    for pattern in ('{"data":{"t":[{"numeric":[">",38]}]}}', '{"data":{"t":[38.5,39,100,39.1]}}'):
        rig = deliver(data, patterns=('{"data":{"t":["x"]}}', pattern))
        assert [each["t"] for each in rig.delivered] == [float(text) for text in compared]
    same = deliver(data, patterns=('{"data":{"t":[38.1234567]}}',))
    assert [each["t"] for each in same.delivered] == [38.1234567, 38.1234567]
    other = deliver(data, patterns=('{"data":{"t":[{"anything-but":38.5}]}}',))
    assert len(other.delivered) == len(data) - 2


@as_aws("filter_criteria", "inferred")
def test_a_repeated_key_matches_by_either_of_its_values() -> None:
    hot = '{"data":{"temperature":[{"numeric":[">",38]}],"site":{"name":["a:b"]}}}'
    data = [
        b'{"temperature": %d, "temperature": %d, "site": {"name": "%s", "name": "a:b"}}' % each
        for each in ((39, 20, b"c"), (20, 39, b"c"), (20, 21, b"c"), (39, 39, b"a:b"))
    ]
    one = [b'{"temperature":39,"site":{"name":"a:b"}}', b'{"temperature":20,"site":{"name":"a:b"}}']
    rig = deliver([*data, *one], patterns=(hot,))
    assert len(rig.delivered) == 4
    flat = '{"data":{"a":[1]}}'
    rig = deliver([b'{"a":1,"a":2}', b'{"a":2,"b":"a:1"}', b'{"a":1}'], patterns=(flat,))
    assert len(rig.delivered) == 2


@as_aws("filter_criteria", "documented")
def test_a_pattern_may_be_for_a_plain_text_or_for_the_record_itself() -> None:
    async def story(rig: Rig) -> None:
        rig.put(b"plain", b"other", key="a")
        rig.put(b"plain", key="b")
        await asyncio.sleep(5)

    rig = run(story, patterns=('{"data":["plain"],"partitionKey":["a"]}',))
    assert [len(each.event["Records"]) for each in rig.sink.invocations] == [1]


# Where to begin, and shards that split and merge


@as_aws("starting_position", "documented")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"starting_position": "TRIM_HORIZON"}, [0, 1, 2, 3]),
        ({"starting_position": "LATEST"}, [3]),
        ({"starting_position": "AT_TIMESTAMP", "starting_at_ms": EPOCH_MS + 10_000}, [1, 2, 3]),
    ],
)
def test_a_new_mapping_begins_at_its_starting_position(
    settings: dict[str, Any], expected: list[int]
) -> None:
    async def story(rig: Rig) -> None:
        await rig.kill()
        rig.put(0)
        await asyncio.sleep(10)
        rig.put(1)
        await asyncio.sleep(10)
        rig.put(2)
        rig.mappings.clear()
        rig.start()
        await asyncio.sleep(5)
        rig.mappings.append(mapping(**settings))
        await asyncio.sleep(5)
        rig.put(3)
        await asyncio.sleep(5)

    assert run(story).delivered == expected


@as_aws("starting_position", "documented")
def test_latest_skips_a_closed_shard() -> None:
    async def story(rig: Rig) -> None:
        rig.put("old")
        child = rig.stream.add_shard("shardId-000000000000")
        await asyncio.sleep(2)
        rig.put("new", shard_id=child)
        await asyncio.sleep(5)
        assert rig.view()["is_finished"]

    assert run(story, starting_position="LATEST").delivered == ["new"]


@as_aws("starting_position", "inferred")
def test_latest_stays_where_it_was_when_the_engine_dies_before_the_first_record() -> None:
    async def story(rig: Rig) -> None:
        rig.put("before")
        await asyncio.sleep(5)
        await rig.kill()
        rig.put("while it was dead")
        rig.start()
        await asyncio.sleep(5)

    rig = run(story, starting_position="LATEST")
    assert rig.delivered == ["while it was dead"]


@as_aws("parents_before_children", "inferred")
def test_a_split_shard_is_finished_before_its_children_begin() -> None:
    async def story(rig: Rig) -> None:
        parent = rig.stream.add_shard()
        rig.put(*range(50), shard_id=parent)
        children = [rig.stream.add_shard(parent), rig.stream.add_shard(parent)]
        for child in children:
            rig.put(f"of {child[-1]}", shard_id=child)
        await asyncio.sleep(100)

    rig = run(story, lambda _: asyncio.sleep(3), batch_size=10)
    assert rig.delivered[:50] == list(range(50))
    assert sorted(rig.delivered[50:]) == ["of 2", "of 3"]


@as_aws("parents_before_children", "inferred")
def test_a_merged_shard_waits_for_both_parents_even_when_one_is_stuck() -> None:
    async def story(rig: Rig) -> None:
        left, right = "shardId-000000000000", "shardId-000000000001"
        rig.put("good", shard_id=left)
        rig.put("bad", shard_id=right)
        child = rig.stream.add_shard(left, right)
        rig.put("child", shard_id=child)
        await asyncio.sleep(50)
        assert "child" not in rig.delivered
        rig.sink.function = lambda _event: None
        await asyncio.sleep(100)
        assert rig.delivered[-1] == "child"

    run(story, failing_on("bad"), shards=2)


@as_aws("parents_before_children", "inferred")
def test_shards_that_come_later_are_read_whole_also_by_a_mapping_of_the_latest() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(2)
        child = rig.stream.add_shard("shardId-000000000000")
        rig.put("early in the child", shard_id=child)
        await asyncio.sleep(5)

    assert run(story, starting_position="LATEST").delivered == ["early in the child"]


# Failures


@as_aws("max_retry_attempts", "documented")
def test_without_a_limit_a_batch_is_tried_until_it_succeeds() -> None:
    rig = deliver(["bad", "good"], failing_on("bad"), seconds=3600, batch_size=1)
    assert set(rig.delivered) == {"bad"}
    assert len(rig.batches) > 50


@as_aws("max_retry_attempts", "documented")
def test_n_retries_are_n_and_one_invocations_and_then_the_shard_goes_on() -> None:
    rig = deliver(["bad", "good"], failing_on("bad"), batch_size=1, retries_max=2)
    assert rig.delivered == ["bad"] * 3 + ["good"]
    assert rig.view()["counts"]["discarded"] == 1


@as_aws("max_retry_attempts", "documented")
def test_no_retries_is_one_invocation() -> None:
    rig = deliver(["bad", "good"], failing_on("bad"), batch_size=1, retries_max=0)
    assert rig.delivered == ["bad", "good"]


@as_aws("exponential_backoff", "inferred")
def test_pauses_double_up_to_a_minute_and_are_jittered() -> None:
    rig = deliver(["bad"], failing_on("bad"), seconds=600)
    pauses = [after - before for before, after in zip(rig.at, rig.at[1:], strict=False)]
    limits = [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert len(pauses) >= len(limits)
    for pause, most in zip(pauses, limits, strict=False):
        assert most / 2 - 0.001 <= pause <= most + 0.001
    assert len({round(pause % 1, 3) for pause in pauses}) > 3


@as_aws("throttles_free", "documented")
def test_throttles_use_up_no_retries() -> None:
    refusals = iter(range(20))

    def function(event: dict[str, Any]) -> None:
        if next(refusals, None) is not None:
            raise Throttled
        failing_on("bad")(event)

    rig = deliver(["bad"], function, retries_max=1, seconds=3600)
    assert rig.delivered == ["bad", "bad"]
    assert rig.view()["counts"]["throttles"] == 20


@as_aws("max_record_age", "documented")
def test_throttled_records_are_discarded_once_they_are_too_old() -> None:
    def refuse(_event: Any) -> None:
        raise Throttled

    rig = deliver(
        ["late"], refuse, age_seconds_max=60, retries_max=5, destination_arn=QUEUE_ARN, seconds=300
    )
    contexts = [each["requestContext"] for each in rig.documents]
    conditions = [(each["condition"], each["approximateInvokeCount"]) for each in contexts]
    assert conditions == [("RecordAgeExceeded", 1)]


@as_aws("max_record_age", "inferred")
def test_the_old_part_of_a_batch_is_discarded_and_the_rest_still_tried() -> None:
    async def story(rig: Rig) -> None:
        rig.put("old")
        await asyncio.sleep(30)
        rig.put("young")
        rig.start()
        await asyncio.sleep(29)
        rig.sink.function = lambda _event: None
        await asyncio.sleep(60)

    async def begun_later(rig: Rig) -> None:
        await rig.kill()
        await story(rig)

    rig = run(
        begun_later, failing_on("old", "young"), age_seconds_max=60, destination_arn=QUEUE_ARN
    )
    assert rig.batches[0] == ["old", "young"]
    assert rig.batches[-1] == ["young"]
    assert [each["KinesisBatchInfo"]["batchSize"] for each in rig.documents] == [1]


@as_aws("bisect_on_error", "documented")
@pytest.mark.parametrize("bad", [0, 37, 99])
def test_a_poison_record_is_isolated_in_as_many_splits_as_the_logarithm(bad: int) -> None:
    rig = deliver(
        range(100), failing_on(bad), bisects=True, retries_max=2, destination_arn=BUCKET_ARN
    )
    failed = [batch for batch in rig.batches if bad in batch]
    splits = [batch for batch in failed if len(batch) > 1]
    assert 6 <= len(splits) <= 7  # 100 is between 2**6 and 2**7
    assert [batch for batch in failed if len(batch) == 1] == [[bad]] * 3
    good = [each for batch in rig.batches if bad not in batch for each in batch]
    assert good == [each for each in range(100) if each != bad]  # once each, in order
    assert [each["KinesisBatchInfo"]["batchSize"] for each in rig.documents] == [1]


@as_aws("bisect_on_error", "inferred")
def test_the_left_half_goes_first_and_each_half_has_a_count_of_its_own() -> None:
    rig = deliver(range(4), failing_on(0, 3), bisects=True, retries_max=1)
    assert rig.batches == [[0, 1, 2, 3], [0, 1], [0], [0], [1], [2, 3], [2], [3], [3]]


@as_aws("bisect_on_error", "documented")
def test_splitting_uses_up_no_retries() -> None:
    rig = deliver(range(64), failing_on(63), bisects=True, retries_max=0, destination_arn=QUEUE_ARN)
    assert rig.batches[-1] == [63]
    assert rig.documents[0]["requestContext"]["approximateInvokeCount"] == 1


@as_aws("bisect_on_error", "documented")
def test_a_partial_response_splits_the_batch_at_the_record_that_it_names() -> None:
    rig = deliver(range(8), reporting(5), bisects=True, reports_item_failures=True, retries_max=1)
    assert rig.batches == [list(range(8)), [5, 6, 7], [5, 6], [5], [5], [6], [7]]


@as_aws("bisect_on_error", "inferred")
def test_a_partial_response_that_names_the_first_record_halves_the_batch() -> None:
    rig = deliver(range(4), reporting(0), bisects=True, reports_item_failures=True, retries_max=0)
    assert rig.batches == [[0, 1, 2, 3], [0, 1], [0], [1], [2, 3]]


@as_aws("report_batch_item_failures", "documented")
def test_all_records_from_the_lowest_failed_one_on_are_delivered_again() -> None:
    rig = deliver(range(6), reporting(2, 4), reports_item_failures=True, retries_max=1)
    again = [2, 3, 4, 5]
    assert rig.batches == [list(range(6)), again, again]


@as_aws("report_batch_item_failures", "documented")
def test_a_mapping_without_partial_responses_ignores_them() -> None:
    assert deliver(range(3), reporting(1)).batches == [[0, 1, 2]]


@as_aws("report_batch_item_failures", "inferred")
@pytest.mark.parametrize("answer", ["a text", 7, [1], {"batchItemFailures": "all"}])
def test_an_invalid_response_fails_the_whole_batch(answer: Any) -> None:
    rig = deliver(range(2), lambda _: answer, reports_item_failures=True, retries_max=1)
    assert rig.batches == [[0, 1], [0, 1]]


@as_aws("report_batch_item_failures", "inferred")
def test_an_object_without_failures_is_success() -> None:
    rig = deliver(range(2), lambda _: {"statusCode": 200}, reports_item_failures=True)
    assert rig.batches == [[0, 1]]


@as_aws("fresh_retry_budget", "documented")
def test_a_batch_with_several_bad_records_gets_past_each_of_them() -> None:
    rig = deliver(
        range(9), reporting(2, 5), reports_item_failures=True, retries_max=1, batch_size=3,
        destination_arn=QUEUE_ARN,
    )  # fmt: skip
    assert rig.batches == [[0, 1, 2], [2], [2], [3, 4, 5], [5], [5], [6, 7, 8]]
    starts = [each["KinesisBatchInfo"]["startSequenceNumber"] for each in rig.documents]
    records = rig.stream.by_id["shardId-000000000000"].records
    assert starts == [records[2].sequence, records[5].sequence]


# Failure destinations


@as_aws("on_failure_s3", "inferred")
def test_a_shard_stops_until_its_destination_accepts_the_failed_batch() -> None:
    async def story(rig: Rig) -> None:
        rig.destination.failures = 3
        rig.put("bad", "good")
        await asyncio.sleep(2)
        assert rig.delivered == ["bad"]
        assert rig.view()["view"]["last_result"] == f"PROBLEM: {BUCKET_ARN}: AccessDenied"
        await asyncio.sleep(60)

    rig = run(story, failing_on("bad"), batch_size=1, retries_max=0, destination_arn=BUCKET_ARN)
    assert rig.delivered == ["bad", "good"]
    assert len(rig.documents) == 1


@as_aws("on_failure_s3", "documented")
def test_a_bucket_gets_the_whole_event_as_a_json_text() -> None:
    rig = deliver(["bad"], failing_on("bad"), retries_max=0, destination_arn=BUCKET_ARN)
    assert json.loads(rig.documents[0]["payload"]) == rig.sink.invocations[0].event


# Tumbling windows


def summing(event: dict[str, Any]) -> dict[str, Any]:
    """A function whose state is a sum."""
    return {"state": {"sum": event["state"].get("sum", 0) + sum(map(value, event["Records"]))}}


def window_fields(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return the fields of an event about its window."""
    names = ("state", "isFinalInvokeForWindow", "isWindowTerminatedEarly")
    return (event["window"]["start"][11:], *[event[name] for name in names])


@as_aws("tumbling_windows", "documented")
def test_a_window_hands_its_state_on_and_ends_with_a_last_invocation() -> None:
    async def story(rig: Rig) -> None:
        for number in range(3):
            rig.put(number + 1)
            await asyncio.sleep(4)
        await asyncio.sleep(30)

    rig = run(story, summing, tumbling_window_seconds=10)
    events = [each.event for each in rig.sink.invocations]
    assert [window_fields(event) for event in events] == [
        ("00:00:00Z", {}, False, False),
        ("00:00:00Z", {"sum": 1}, False, False),
        ("00:00:00Z", {"sum": 3}, False, False),
        ("00:00:00Z", {"sum": 6}, True, False),
    ]
    assert events[0]["window"] == {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:10Z"}
    assert events[0]["shardId"] == "shardId-000000000000"
    assert events[0]["eventSourceARN"] == events[0]["Records"][0]["eventSourceARN"]
    assert events[-1]["Records"] == []


@as_aws("tumbling_windows", "documented")
def test_a_batch_is_of_one_window_by_the_arrival_of_its_records() -> None:
    async def story(rig: Rig) -> None:
        await rig.kill()
        for number in range(6):
            rig.put(number)
            await asyncio.sleep(4)
        rig.start()
        await asyncio.sleep(30)

    rig = run(story, summing, tumbling_window_seconds=10)
    assert [batch for batch in rig.batches if batch] == [[0, 1, 2], [3, 4], [5]]
    finals = [each.event for each in rig.sink.invocations if not each.event["Records"]]
    assert [event["state"]["sum"] for event in finals] == [3, 7, 5]


@as_aws("tumbling_windows", "documented")
def test_a_batch_that_its_window_has_closed_does_not_wait_for_the_batching_window() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(8)
        rig.put(1)
        await asyncio.sleep(4)
        rig.put(2)
        await asyncio.sleep(100)

    rig = run(story, summing, tumbling_window_seconds=10, batching_window_seconds=60)
    assert rig.at[0] == 12.0  # at the look that finds the second: no more can join the first


@as_aws("tumbling_windows", "documented")
def test_a_state_above_1_mb_ends_the_window_early_and_the_next_begins_fresh() -> None:
    def growing(_event: Any) -> dict[str, Any]:
        return {"state": {"x": "y" * (1024 * 1024)}}

    rig = deliver(range(2), growing, batch_size=1, tumbling_window_seconds=60, seconds=120)
    fields = [window_fields(each.event)[2:] for each in rig.sink.invocations]
    assert fields == [(False, False), (True, True), (False, False), (True, True)]
    assert rig.sink.invocations[2].event["state"] == {}


@as_aws("tumbling_windows", "documented")
def test_the_end_of_a_shard_ends_its_window_and_its_children_begin_fresh() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(2)
        child = rig.stream.add_shard("shardId-000000000000")
        rig.put(2, shard_id=child)
        await asyncio.sleep(10)

    rig = run(story, summing, tumbling_window_seconds=60)
    assert [window_fields(each.event)[1:] for each in rig.sink.invocations] == [
        ({}, False, False),
        ({"sum": 1}, True, False),  # only a state above 1 MB terminates a window early
        ({}, False, False),
    ]


@as_aws("tumbling_windows", "documented")
def test_an_answer_without_state_is_a_failure() -> None:
    rig = deliver([1], lambda _: {}, retries_max=1, tumbling_window_seconds=60, seconds=5)
    assert rig.batches == [[1], [1]]


@as_aws("tumbling_windows", "documented")
def test_a_last_invocation_that_fails_holds_up_the_shard_until_it_succeeds() -> None:
    def never_final(event: dict[str, Any]) -> dict[str, Any]:
        if event["isFinalInvokeForWindow"]:
            raise ValueError
        return summing(event)

    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(15)
        rig.put(2)
        await asyncio.sleep(120)
        assert rig.delivered == [1]
        rig.sink.function = summing
        await asyncio.sleep(120)
        assert rig.delivered == [1, 2]

    run(story, never_final, tumbling_window_seconds=10, retries_max=1)


@as_aws("tumbling_windows", "inferred")
def test_a_restart_keeps_the_state_of_an_open_window() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(3)
        await rig.kill()
        rig.start()
        rig.put(2)
        await asyncio.sleep(60)

    rig = run(story, summing, tumbling_window_seconds=30)
    assert rig.sink.invocations[-1].event["state"] == {"sum": 3}


@as_aws("tumbling_windows", "inferred")
def test_a_shard_whose_windows_tumble_has_one_lane() -> None:
    async def story(rig: Rig) -> None:
        for number in range(20):
            rig.put(number, key=f"device-{number}")
        await asyncio.sleep(5)

    rig = run(story, summing, tumbling_window_seconds=60, parallelization_factor=5)
    assert rig.batches[0] == list(range(20))


# Checkpoints


@as_aws("checkpoint_after_delivery", "inferred")
def test_nothing_is_checkpointed_before_it_is_delivered() -> None:
    async def story(rig: Rig) -> None:
        rig.put(*range(10))
        await asyncio.sleep(5)
        await rig.kill()  # in the middle of the first invocation
        rig.sink.function = lambda _event: None
        rig.start()
        await asyncio.sleep(5)

    rig = run(story, lambda _: asyncio.sleep(60), batch_size=5)
    assert rig.batches == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@as_aws("positions_survive_restart", "inferred")
def test_an_engine_told_to_stop_finishes_its_batch_and_repeats_nothing() -> None:
    async def story(rig: Rig) -> None:
        rig.put(*range(10))
        await asyncio.sleep(5)
        await rig.stop()
        rig.start()
        await asyncio.sleep(300)

    rig = run(story, lambda _: asyncio.sleep(60), batch_size=5)
    assert rig.delivered == list(range(10))


@as_aws("positions_survive_restart", "inferred")
def test_a_killed_engine_repeats_one_batch_of_each_lane_at_most() -> None:
    async def story(rig: Rig) -> None:
        for number in range(1000):
            rig.put(number, key=f"device-{number % 50}")
        for _ in range(40):
            await asyncio.sleep(0.7)
            await rig.kill()
            rig.start()
        await asyncio.sleep(600)

    lanes, batch = 4, 10
    rig = run(story, lambda _: asyncio.sleep(0.3), parallelization_factor=lanes, batch_size=batch)
    assert set(rig.delivered) == set(range(1000))
    assert len(rig.delivered) - 1000 <= 40 * lanes * batch


@as_aws("positions_survive_restart", "inferred")
def test_a_lane_that_is_stuck_makes_the_others_repeat_nothing_after_a_restart() -> None:
    async def story(rig: Rig) -> None:
        for number in range(200):
            rig.put(number, key=f"device-{number}")
        await asyncio.sleep(10)
        stuck = {each for batch in rig.batches if 17 in batch for each in batch}
        for _ in range(5):
            await rig.kill()
            rig.start()
            await asyncio.sleep(10)
        repeated = [each for each in rig.delivered if rig.delivered.count(each) > 1]
        assert set(repeated) <= stuck

    run(story, failing_on(17), parallelization_factor=5, batch_size=10)


@as_aws("positions_survive_restart", "inferred")
def test_a_changed_parallelization_factor_loses_nothing() -> None:
    async def story(rig: Rig) -> None:
        for number in range(200):
            rig.put(number, key=f"device-{number}")
        for factor in (2, 5, 1, 3):
            await asyncio.sleep(0.5)
            rig.change(parallelization_factor=factor)
            await asyncio.sleep(1.5)
        await asyncio.sleep(300)

    rig = run(story, lambda _: asyncio.sleep(0.4), parallelization_factor=4, batch_size=5)
    assert set(rig.delivered) == set(range(200))


@as_aws("positions_survive_restart", "inferred")
def test_records_that_expired_while_the_engine_was_down_are_skipped() -> None:
    async def story(rig: Rig) -> None:
        rig.put(*range(3))
        await asyncio.sleep(5)
        await rig.stop()
        rig.put(*range(3, 9))
        rig.stream.trim("shardId-000000000000", 6)
        rig.start()
        await asyncio.sleep(5)

    assert run(story).delivered == [0, 1, 2, 6, 7, 8]


# Problems of streams


@as_aws("checkpoint_after_delivery", "inferred")
def test_an_expired_cursor_repeats_and_loses_nothing() -> None:
    async def story(rig: Rig) -> None:
        for number in range(20):
            rig.put(number)
            await asyncio.sleep(1)
            if number % 3 == 0:
                rig.stream.expire_cursors()
        await asyncio.sleep(5)

    assert run(story).delivered == list(range(20))


@as_aws("checkpoint_after_delivery", "inferred")
def test_a_stream_that_stops_answering_is_retried_until_it_answers() -> None:
    async def story(rig: Rig) -> None:
        rig.put(0)
        await asyncio.sleep(3)
        rig.stream.problem = "LimitExceededException: Rate exceeded"
        rig.put(1)
        await asyncio.sleep(10)
        state, last_result = rig.checkpoints.known()[rig.mappings[0].uuid]
        assert (state, last_result[:30]) == ("Enabled", "PROBLEM: LimitExceededExceptio")
        rig.stream.problem = None
        await asyncio.sleep(5)

    assert run(story).delivered == [0, 1]


# Mappings that change


@as_aws("follows_mapping", "documented")
def test_a_mapping_created_later_begins_and_a_deleted_one_is_forgotten() -> None:
    async def story(rig: Rig) -> None:
        created = rig.mappings.pop()
        rig.put(1)
        await asyncio.sleep(5)
        assert rig.delivered == []
        rig.mappings.append(created)
        await asyncio.sleep(5)
        assert rig.delivered == [1]
        rig.mappings.clear()
        await asyncio.sleep(2)
        rig.put(2)
        await asyncio.sleep(5)
        assert (rig.delivered, rig.checkpoints.known()) == ([1], {})
        assert rig.checkpoints.load(created.uuid) == {}

    run(story)


@as_aws("follows_mapping", "documented")
def test_a_mapping_enabled_again_goes_on_where_it_was_disabled() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(1)
        rig.put(1)
        await asyncio.sleep(5)
        rig.change(is_enabled=False)
        await asyncio.sleep(5)
        rig.put(2, 3)
        await asyncio.sleep(5)
        assert rig.delivered == [1]
        assert rig.checkpoints.known()[rig.mappings[0].uuid] == ("Disabled", "OK")
        rig.change(is_enabled=True)
        await asyncio.sleep(5)

    assert run(story, starting_position="LATEST").delivered == [1, 2, 3]


@as_aws("follows_mapping", "documented")
def test_a_changed_mapping_takes_effect_and_repeats_nothing() -> None:
    async def story(rig: Rig) -> None:
        rig.put(*range(20))
        await asyncio.sleep(2)
        rig.change(batch_size=2)
        await asyncio.sleep(60)

    rig = run(story, lambda _: asyncio.sleep(1.2), batch_size=5)
    assert rig.delivered == list(range(20))
    sizes = [len(batch) for batch in rig.batches]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes[:2]) == {5}
    assert set(sizes[-4:]) <= {2, 1}


@as_aws("follows_mapping", "inferred")
def test_a_mapping_with_a_slow_batch_delays_no_change_of_another_mapping() -> None:
    async def story(rig: Rig) -> None:
        other = mapping(uuid="other")
        rig.put(1)
        await asyncio.sleep(2)
        rig.change(is_enabled=False)
        rig.mappings.append(other)
        await asyncio.sleep(5)
        assert len(rig.batches) == 2

    run(story, lambda _: asyncio.sleep(900))


# Its state


@as_aws("state_visible", "inferred")
def test_the_saved_text_of_a_shard_has_position_lag_and_counts() -> None:
    async def story(rig: Rig) -> None:
        sequences = rig.put(*[{"n": number} for number in range(6)])
        await asyncio.sleep(20)
        saved = rig.view()
        assert saved["lanes"] == [sequences[1]]
        assert saved["counts"] | {"retries": 0} == {
            "batches": saved["counts"]["batches"], "records": saved["counts"]["records"],
            "retries": 0, "throttles": 0, "filtered": 1, "discarded": 0,
        }  # fmt: skip
        assert saved["counts"]["retries"] >= 4
        view = saved["view"]
        assert (view["waiting"], view["lag_records"]) == (4, 4)
        assert 19_000 <= view["lag_ms"] <= 20_000
        assert view["last_result"] == "PROBLEM: Function call failed"

    patterns = ('{"data":{"n":[{"anything-but":[0]}]}}',)
    run(story, failing_on({"n": 2}), batch_size=1, patterns=patterns)


def test_two_runs_with_the_same_input_are_equal_to_the_byte() -> None:
    def once() -> str:
        rig = deliver(range(50), failing_on(3, 30), bisects=True, retries_max=3)
        events = [(each.at_ms, each.event) for each in rig.sink.invocations]
        return json.dumps([events, rig.checkpoints.load(rig.mappings[0].uuid)])

    assert once() == once()


def test_an_invalid_pattern_is_a_problem_of_its_mapping_alone() -> None:
    async def story(rig: Rig) -> None:
        rig.mappings.append(mapping(uuid="other"))
        rig.put(1)
        await asyncio.sleep(5)
        assert rig.delivered == [1]
        problem = rig.checkpoints.known()[rig.mappings[0].uuid][1]
        assert problem.startswith("PROBLEM: ")

    run(story, patterns=('{"data":1}',))


def test_a_place_to_start_from_survives_being_saved() -> None:
    start = Start("AT_TIMESTAMP", EPOCH_MS)
    assert Start(*json.loads(json.dumps(start))) == start
