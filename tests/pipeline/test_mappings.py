"""Event source mappings through the real APIs, with the engine's process and the embedded AWS."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.fleet.reading import Reading
from local.trial.mapping_state import MappingReader
from local.trial.poison import Poisoning
from tests.pipeline.consumers import Consumer
from tests.pipeline.deployed import Pipeline, becomes, minutes_ago
from tests.pipeline.faults import without
from tests.pipeline.killing import kill_while_records_flow
from tests.pipeline.notices import queue_open_to

KILLS = 6
MakeConsumer = Callable[..., Consumer]
as_aws = pytest.mark.as_aws


@pytest.fixture
def make(pipeline: Pipeline) -> Iterator[MakeConsumer]:
    """Makes consumers, and deletes their mappings at the end."""
    made: list[Consumer] = []

    def create(name: str, **settings: Any) -> Consumer:
        made.append(Consumer(pipeline.instance, name, **settings))
        return made[-1]

    yield create
    for consumer in made:
        consumer.remove()


@pytest.mark.alone
def test_killing_the_engine_loses_nothing_and_repeats_a_batch_of_each_lane_at_most(
    pipeline: Pipeline,
) -> None:
    outcome = kill_while_records_flow(pipeline.instance, KILLS, seed=1)
    assert (outcome.lost, outcome.out_of_order) == (0, 0)
    assert outcome.put > 0
    assert outcome.repeated <= outcome.repeated_max


@pytest.mark.alone
def test_a_record_that_kills_a_function_is_isolated_kept_and_announced(pipeline: Pipeline) -> None:
    poisoning = Poisoning(pipeline.instance)
    poisoning.begin(seconds=0.1)
    minute = minutes_ago(2)
    for second in range(20):
        pipeline.relay([Reading("healthy", minute + second * 1000, {"temperature": 20.0})])
    found = poisoning.end()
    poisoning.remove()
    assert found.problems() == []
    assert found.splits <= math.ceil(math.log2(found.batch))
    becomes(lambda: pipeline.counts("healthy"), {minute: 20}, "the readings beside it")


@as_aws("on_failure_sqs", "documented")
def test_a_queue_gets_the_document_of_a_given_up_batch(
    pipeline: Pipeline, make: MakeConsumer
) -> None:
    sqs = pipeline.aws("sqs")
    url, arn = queue_open_to(sqs, "given-up", "sns")
    consumer = make("to-queue", fails_on=[1], BatchSize=1, **giving_up_to(arn))
    consumer.put(range(3), keys=1)
    becomes(lambda: consumer.numbers, [0, 2], "the records around it")
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    assert summary(json.loads(message["Body"])) == ("RetryAttemptsExhausted", 2, "Unhandled", 1)


@as_aws("on_failure_sns", "documented")
def test_a_topic_gets_the_document_of_a_given_up_batch(
    pipeline: Pipeline, make: MakeConsumer
) -> None:
    sqs, sns = pipeline.aws("sqs"), pipeline.aws("sns")
    topic = sns.create_topic(Name="given-up")["TopicArn"]
    url, queue = queue_open_to(sqs, "told", "sns")
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue)
    consumer = make("to-topic", fails_on=[1], BatchSize=1, **giving_up_to(topic))
    consumer.put(range(3), keys=1)
    becomes(lambda: consumer.numbers, [0, 2], "the records around it")
    [message] = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=5)["Messages"]
    document = json.loads(json.loads(message["Body"])["Message"])
    assert summary(document) == ("RetryAttemptsExhausted", 2, "Unhandled", 1)


def giving_up_to(arn: str) -> dict[str, Any]:
    """Return a mapping's settings: two tries, then a destination of failures."""
    return {"MaximumRetryAttempts": 1, "DestinationConfig": {"OnFailure": {"Destination": arn}}}


def summary(document: dict[str, Any]) -> tuple[Any, ...]:
    """Return the main fields of a failure's document."""
    context = document["requestContext"]
    return (
        context["condition"],
        context["approximateInvokeCount"],
        document["responseContext"]["functionError"],
        document["KinesisBatchInfo"]["batchSize"],
    )


@as_aws("parents_before_children", "inferred")
def test_records_of_a_key_stay_in_order_over_a_split_and_a_merge(make: MakeConsumer) -> None:
    consumer = make("resharded", seconds=0.05, BatchSize=10)
    consumer.put(range(100))
    kinesis, name = consumer.kinesis, consumer.name
    [first] = kinesis.list_shards(StreamName=name)["Shards"]
    kinesis.split_shard(
        StreamName=name, ShardToSplit=first["ShardId"], NewStartingHashKey=str(2**127)
    )
    consumer.put(range(100, 200))
    left, right = sorted(each["ShardId"] for each in open_shards(kinesis, name))
    kinesis.merge_shards(StreamName=name, ShardToMerge=left, AdjacentShardToMerge=right)
    consumer.put(range(200, 300))
    becomes(lambda: sorted(consumer.numbers), list(range(300)), "all records, once each")
    for key in range(40):
        own = [number for name, number in consumer.deliveries if name == f"key-{key}"]
        assert own == list(range(key, 300, 40))


def open_shards(kinesis: Any, name: str) -> list[dict[str, Any]]:
    """Return the shards that still take records."""
    shards = kinesis.list_shards(StreamName=name)["Shards"]
    return [each for each in shards if "EndingSequenceNumber" not in each["SequenceNumberRange"]]


@as_aws("follows_mapping", "documented")
def test_a_mapping_is_seen_to_be_created_disabled_enabled_and_updated(make: MakeConsumer) -> None:
    consumer = make("changing", BatchSize=5)
    state = lambda: consumer.mapping()["State"]  # noqa: E731
    assert consumer.created["State"] == "Creating"
    becomes(state, "Enabled", "the mapping taken up")
    assert consumer.mapping()["LastProcessingResult"] == "No records processed"
    consumer.put(range(5))
    becomes(lambda: consumer.mapping()["LastProcessingResult"], "OK", "the result")
    consumer.lambdas.update_event_source_mapping(UUID=consumer.mapping_id, Enabled=False)
    becomes(state, "Disabled", "the mapping disabled")
    consumer.put(range(5, 25))
    consumer.lambdas.update_event_source_mapping(
        UUID=consumer.mapping_id, Enabled=True, BatchSize=4
    )
    becomes(lambda: sorted(consumer.numbers), list(range(25)), "what came meanwhile")
    sizes = [len(batch["records"]) for batch in consumer.batches[1:]]
    assert max(sizes) <= 4


@as_aws("tumbling_windows", "documented")
def test_the_api_keeps_a_tumbling_window_and_the_engine_fails_an_answer_without_state(
    make: MakeConsumer,
) -> None:
    consumer = make("tumbling", TumblingWindowInSeconds=5, MaximumRetryAttempts=0)
    assert consumer.mapping()["TumblingWindowInSeconds"] == 5
    consumer.put(range(1))
    last = lambda: consumer.mapping()["LastProcessingResult"]  # noqa: E731
    becomes(last, "PROBLEM: Function call failed", "the answer without state")


@pytest.mark.alone
@as_aws("state_visible", "documented")
def test_a_missing_permission_is_a_problem_of_its_mapping(pipeline: Pipeline) -> None:
    reader = MappingReader(pipeline.instance)

    def aggregate() -> str:
        name = f"{pipeline.state.stack}-aggregate"
        return next(each.last_result for each in reader.read() if each.function == name)

    pipeline.send("permitted", {"recorded_at": minutes_ago(2), "temperature": 20.0})
    becomes(aggregate, "OK", "aggregate's mapping")
    with without(pipeline, "aggregate", "kinesis:GetRecords"):
        denied = becomes(aggregate, lambda text: text.startswith("PROBLEM"), "the denial")
        assert "kinesis:GetRecords" in denied
    pipeline.passed(minutes_ago(1), "permitted")
    becomes(aggregate, "OK", "aggregate's mapping again")


@pytest.mark.alone
@as_aws("state_visible", "documented")
def test_mappings_show_position_lag_and_counts_of_each_shard(pipeline: Pipeline) -> None:
    minute = minutes_ago(2)
    pipeline.send("shown", {"recorded_at": minute, "temperature": 20.0})
    becomes(lambda: pipeline.counts("shown"), {minute: 1}, "its window")

    def caught_up() -> dict[str, tuple[int, int | None]]:
        found = MappingReader(pipeline.instance).read()
        return {each.function: (len(each.shards), each.lag_records) for each in found}

    expected = {"telemetry-aggregate": (4, 0), "telemetry-alert": (4, 0)}
    becomes(caught_up, lambda seen: expected.items() <= seen.items(), "the stream's mappings")
    shards = [shard for each in MappingReader(pipeline.instance).read() for shard in each.shards]
    assert sum(shard.counts["records"] for shard in shards) > 0
    assert any(shard.position for shard in shards)
