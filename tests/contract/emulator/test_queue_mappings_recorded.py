"""Queues' event source mappings behave as recorded on AWS: the recordings are replayed.

They run on the usual embedded AWS: its queues, its poller (`emulator.gaps.sqs_poller`), functions
in their own processes. Each recording is replayed from its first call to its last, in real time.
Many are replayed at once, because most of the time is waiting. Then the tests compare the results.
A batching window of 10 s in a recording is 2 s here.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.contract.emulator.queues import (
    AT_ONCE,
    REAPPEAR_SECONDS,
    Queue,
    Stage,
    wait_until,
)
from tests.recordings import (
    ACCOUNT,
    FORMS,
    Document,
    Recording,
    as_recorded,
    needed,
    recorded_of,
)

pytestmark = needed
as_aws = pytest.mark.as_aws

HERE = {"<region>": "us-east-1", "<partition>": "aws", ACCOUNT: "0" * 12}


@dataclass
class Played:
    """The result of replaying a recording."""

    parts: dict[str, Any]
    """Answers and events of functions, by the recording's names."""
    invocations: list[Document] = field(default_factory=list)
    left: int = 0
    """How many messages are in the queue at the end."""


Story = Callable[[Stage, Document], Played]
STORIES: dict[str, Story] = {}
"""The function that replays each recording."""


def plays(*names: str) -> Callable[[Story], Story]:
    """Register a function for the recordings that it replays."""

    def keep(story: Story) -> Story:
        STORIES.update(dict.fromkeys([f"sqs__{name}" for name in names], story))
        return story

    return keep


def recorded(*names: str) -> pytest.MarkDecorator:
    """Run a test with each of these recordings."""
    return pytest.mark.parametrize("name", [f"sqs__{name}" for name in names])


class QueueRecording(Recording):
    """A recording of mappings of a queue."""

    forms = FORMS | {"sequence-number": r"\d{20}"}

    def __init__(self, name: str) -> None:
        """Read a recording; its functions sent events to a queue, here they write them to files."""
        super().__init__(name, HERE)
        self.content.pop("get_destination_queue_url", None)
        for part, value in self.content.items():
            if part.endswith(("_attempt", "_invocation")):
                self.content[part] = value["Messages"][0]["Body"]


@pytest.fixture(scope="module")
def stage(
    session: boto3.Session, embedded_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    own = Stage(session, embedded_endpoint, tmp_path_factory.mktemp("invocations"))
    yield own
    own.end()


@pytest.fixture(scope="module")
def all_played(request: pytest.FixtureRequest, stage: Stage) -> dict[str, "Future[Played]"]:
    """Replay every recording that a test of this run needs."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {call.params.get("name") for call in calls if call}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return {
            name: threads.submit(story, stage, QueueRecording(name).content)
            for name, story in STORIES.items()
            if name in wanted
        }


@pytest.fixture
def played(all_played: dict[str, "Future[Played]"], name: str) -> Played:
    """Return the result of one recording; raise the error of its replay."""
    return all_played[name].result()


def differences(name: str, played: Played) -> list[str]:
    """Return the differences between a replay and its recording."""
    recording = QueueRecording(name)
    return list(recording.differences(as_recorded(played.parts), recording.content))


def tries(invocations: list[Document], kind: str, *parts: str) -> Document:
    """Return the events of functions, by the names in such recordings."""
    names = (f"{number}_{kind}" for number in ("first", "second", "third", "fourth"))
    noted = ({part: each[part] for part in parts} for each in invocations)
    return dict(zip(names, noted, strict=False))


def refusal(call: Callable[[], object]) -> Document:
    """Return AWS's answer to a refused call."""
    with pytest.raises(ClientError) as error:
        call()
    answer: Any = error.value.response
    return dict(answer)


def test_no_recording_of_a_queue_is_forgotten() -> None:
    assert recorded_of("sqs") == sorted(STORIES)


# Retries: the slow ones begin first


def with_dead_letters(stage: Stage, suffix: str = "") -> tuple[Queue, Queue]:
    """Make a queue whose messages go to a dead letter queue after two tries; return both."""
    fifo = {"FifoQueue": "true"} if suffix else {}
    dead = stage.queue(suffix, **fifo)
    redrive = json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 2})
    hidden = {"VisibilityTimeout": REAPPEAR_SECONDS}
    return stage.queue(suffix, RedrivePolicy=redrive, **hidden, **fifo), dead


GROUPED = {
    "MessageGroupId": lambda _number: "1",
    "MessageDeduplicationId": lambda number: f"dedup-{number}",
}


@plays("report_batch_item_failures")
def report_three_of_four(stage: Stage, _content: Document) -> Played:
    queue, dead = with_dead_letters(stage, ".fifo")
    fails = {1: 0, 2: 1, 3: 1, 4: 2}
    bodies = [json.dumps({"message": each, "fail_attempts": fails[each]}) for each in fails]
    parts = {"send_message_batch": queue.send(*bodies, **GROUPED)}
    parts["create_event_source_mapping"] = stage.mapping(
        queue,
        stage.failing(DOES="report"),
        BatchSize=10,
        MaximumBatchingWindowInSeconds=0,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    wait_until(lambda: dead.left() > 0)
    parts |= tries(stage.invocations(queue), "invocation", "event", "result")
    return Played(parts | {"dlq_response": dead.received()}, left=queue.left())


@as_aws("queue_partial_responses", "recorded")
@as_aws("queue_retries", "recorded")
@recorded("report_batch_item_failures")
def test_messages_reported_as_failed_come_back_in_order(name: str, played: Played) -> None:
    assert differences(name, played) == []
    assert played.left == 0


@plays(
    "report_batch_item_failures_invalid_result_json_batch_fails",
    "report_batch_item_failures_empty_json_batch_succeeds",
)
def answer_as_recorded(stage: Stage, content: Document) -> Played:
    queue, dead = with_dead_letters(stage)
    answer = json.dumps(content["first_invocation"]["result"])
    stage.mapping(
        queue,
        stage.failing(DOES="report", ANSWER=answer),
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    queue.send(json.dumps({"message": 1, "fail_attempts": 0}))
    wait_until(lambda: bool(stage.invocations(queue)) and queue.left() == 0)
    parts = tries(stage.invocations(queue), "invocation", "event", "result")
    dead_letters = dead.received()
    if "Messages" in dead_letters:
        parts["dlq_response"] = dead_letters
    return Played(parts)


@as_aws("queue_partial_responses", "recorded")
@recorded("report_batch_item_failures_invalid_result_json_batch_fails")
def test_an_answer_with_a_wrong_key_fails_the_batch(name: str, played: Played) -> None:
    assert differences(name, played) == []


@as_aws("queue_partial_responses", "recorded")
@recorded("report_batch_item_failures_empty_json_batch_succeeds")
def test_an_empty_answer_is_a_success(name: str, played: Played) -> None:
    assert differences(name, played) == []


@plays("report_batch_item_failures_on_lambda_error")
def raise_for_one_of_two(stage: Stage, _content: Document) -> Played:
    queue, dead = with_dead_letters(stage)
    queue.send("{not a json body", json.dumps({"message": 2, "fail_attempts": 0}))
    stage.mapping(
        queue, stage.failing(DOES="raise"), FunctionResponseTypes=["ReportBatchItemFailures"]
    )
    wait_until(lambda: dead.left() == 2)
    messages = sorted(dead.received()["Messages"], key=lambda each: str(each["MD5OfBody"]))
    return Played({"dlq_messages": messages}, left=queue.left())


@as_aws("queue_partial_responses", "recorded")
@as_aws("queue_retries", "recorded")
@recorded("report_batch_item_failures_on_lambda_error")
def test_an_error_also_fails_the_batchs_good_messages(name: str, played: Played) -> None:
    assert differences(name, played) == []
    assert played.left == 0


@plays("redrive_policy_with_failing_lambda")
def fail_to_the_end(stage: Stage, _content: Document) -> Played:
    queue, dead = with_dead_letters(stage)
    stage.mapping(queue, stage.failing(DOES="raise"), BatchSize=1)
    queue.send(json.dumps({"destination": queue.url, "fail_attempts": 2}))
    wait_until(lambda: dead.left() > 0)
    parts = tries(stage.invocations(queue), "attempt", "event", "error")
    return Played(parts | {"dlq_response": dead.received()}, left=queue.left())


@as_aws("queue_retries", "recorded")
@recorded("redrive_policy_with_failing_lambda")
def test_a_message_given_up_keeps_its_id_and_body(name: str, played: Played) -> None:
    assert differences(name, played) == []
    assert played.left == 0


@plays("failing_lambda_retries_after_visibility_timeout")
def fail_once(stage: Stage, _content: Document) -> Played:
    queue = stage.queue(VisibilityTimeout=REAPPEAR_SECONDS)
    created = stage.mapping(queue, stage.failing(DOES="raise"), BatchSize=1)
    answer = stage.lambdas.get_event_source_mapping(UUID=created["UUID"])
    queue.send(json.dumps({"destination": queue.url, "fail_attempts": 1}))
    wait_until(lambda: queue.left() == 0)
    invocations = stage.invocations(queue)
    parts = tries(invocations, "attempt", "event", "error")
    return Played(parts | {"event_source_mapping": answer}, invocations)


@as_aws("queue_retries", "recorded")
@recorded("failing_lambda_retries_after_visibility_timeout")
def test_after_an_error_a_message_comes_back_once_it_is_visible(name: str, played: Played) -> None:
    assert differences(name, played) == []
    first, second = played.invocations
    [record] = second["event"]["Records"]
    received_at = int(record["attributes"]["ApproximateFirstReceiveTimestamp"]) / 1000
    assert received_at <= first["began"] < received_at + REAPPEAR_SECONDS <= second["began"]


# FIFO


@plays("fifo_message_group_parallelism")
def enable_on_five_of_a_group(stage: Stage, _content: Document) -> Played:
    queue = stage.queue(
        ".fifo", FifoQueue="true", ContentBasedDeduplication="true", VisibilityTimeout=60
    )
    function = stage.function(DOES="echo", SECONDS="0.3")
    created = stage.mapping(queue, function, Enabled=False, BatchSize=1)
    queue.send(*[f"message-{number}" for number in range(5)], MessageGroupId=lambda _number: "one")
    which = {"UUID": created["UUID"]}
    parts = {"create_esm_disabled": created}
    parts["update_esm_enabling"] = stage.lambdas.update_event_source_mapping(Enabled=True, **which)
    parts["get_esm_enabled"] = stage.lambdas.get_event_source_mapping(**which)
    wait_until(lambda: queue.left() == 0)
    return Played(parts, stage.invocations(queue))


@as_aws("queue_fifo", "recorded")
@as_aws("queue_states", "recorded")
@recorded("fifo_message_group_parallelism")
def test_a_groups_messages_come_one_after_the_other(name: str, played: Played) -> None:
    assert differences(name, played) == []
    bodies = [each["event"]["Records"][0]["body"] for each in played.invocations]
    assert bodies == [f"message-{number}" for number in range(5)]
    ended = 0.0
    for each in played.invocations:
        assert each["began"] >= ended
        ended = each["ended"]


@as_aws("queue_fifo", "documented")
def test_two_groups_are_worked_on_at_once_each_in_its_order(stage: Stage) -> None:
    queue = stage.queue(".fifo", FifoQueue="true", ContentBasedDeduplication="true")
    function = stage.function(DOES="echo", SECONDS="1")
    groups = ["a", "b", "a", "b"]
    queue.send(
        *[f"{group}-{number}" for number, group in enumerate(groups)],
        MessageGroupId=lambda number: groups[number - 1],
    )
    stage.mapping(queue, function, BatchSize=1)
    wait_until(lambda: queue.left() == 0)
    spans = {
        each["event"]["Records"][0]["body"]: (each["began"], each["ended"])
        for each in stage.invocations(queue)
    }
    assert spans["a-0"][1] <= spans["a-2"][0]
    assert spans["b-1"][1] <= spans["b-3"][0]
    assert max(spans["a-0"][0], spans["b-1"][0]) < min(spans["a-2"][1], spans["b-3"][1])


# The event


@plays("message_body_and_attributes_passed_correctly")
def send_attributes(stage: Stage, _content: Document) -> Played:
    queue = stage.queue()
    stage.mapping(queue, stage.failing(DOES="raise"), BatchSize=1)
    texts = {"Title": "The Whistler", "Author": "John Grisham"}
    attributes = {name: {"DataType": "String", "StringValue": text} for name, text in texts.items()}
    attributes["WeeksOn"] = {"DataType": "Number", "StringValue": "6"}
    body = json.dumps({"destination": queue.url, "fail_attempts": 0})
    queue.send(body, MessageAttributes=lambda _number: attributes)
    wait_until(lambda: queue.left() == 0)
    return Played(tries(stage.invocations(queue), "attempt", "event", "error"))


@as_aws("queue_event", "recorded")
@recorded("message_body_and_attributes_passed_correctly")
def test_a_function_gets_a_messages_attributes(name: str, played: Played) -> None:
    assert differences(name, played) == []


@plays("sqs_event_source_mapping")
def send_one(stage: Stage, _content: Document) -> Played:
    queue = stage.queue()
    created = stage.mapping(queue, stage.echo, MaximumBatchingWindowInSeconds=1)
    queue.send(json.dumps({"foo": "bar"}))
    wait_until(lambda: queue.left() == 0)
    parts = {"create-event-source-mapping-response": created}
    return Played(parts | {"events": stage.events(queue)})


@as_aws("queue_event", "recorded")
@recorded("sqs_event_source_mapping")
def test_a_message_comes_to_the_function_as_a_text_and_is_deleted(
    name: str, played: Played
) -> None:
    assert differences(name, played) == []
    assert played.parts["events"][0]["Records"][0]["body"] == '{"foo": "bar"}'


# Batches

SIZES = ["15", "100", "1000", "10000"]


@plays(*[f"sqs_event_source_mapping_batch_size_{size}" for size in SIZES])
def send_fifteen(stage: Stage, content: Document) -> Played:
    recorded = content["create-event-source-mapping-response"]
    queue = stage.queue()
    created = stage.mapping(
        queue, stage.echo, MaximumBatchingWindowInSeconds=2, BatchSize=recorded["BatchSize"]
    )
    window = "MaximumBatchingWindowInSeconds"
    parts = {"create-event-source-mapping-response": created | {window: recorded[window]}}
    for turn, count in enumerate([10, 5]):
        parts[f"send-message-batch-result-{count}"] = queue.send(
            *[f"{number}-{turn}-message-{number}" for number in range(count)],
            Id=lambda number, turn=turn: f"{number - 1}-{turn}",
        )
    wait_until(lambda: queue.left() == 0)
    return Played(parts | {"Records": stage.records(queue)}, stage.invocations(queue))


@as_aws("queue_batches", "recorded")
@recorded(*[f"sqs_event_source_mapping_batch_size_{size}" for size in SIZES])
def test_a_batch_is_gathered_for_as_long_as_the_window(name: str, played: Played) -> None:
    assert differences(name, played) == []
    assert len(played.invocations) == 1


@plays("sqs_event_source_mapping_batching_reserved_concurrency")
def send_thirty(stage: Stage, _content: Document) -> Played:
    queue, function = stage.queue(), stage.function(DOES="echo")
    limit = stage.lambdas.put_function_concurrency(
        FunctionName=function, ReservedConcurrentExecutions=2
    )
    created = stage.mapping(
        queue,
        function,
        MaximumBatchingWindowInSeconds=1,
        BatchSize=20,
        ScalingConfig={"MaximumConcurrency": 2},
    )
    for turn in range(3):
        queue.send(*[f"{number}-{turn}-message" for number in range(10)])
    wait_until(lambda: queue.left() == 0)
    batches = {"total_batches_received": len(stage.invocations(queue))}
    return Played({
        "put_concurrency_resp": limit,
        "create-event-source-mapping-response": created,
        "batch_info": batches,
        "Records": stage.records(queue),
    })  # fmt: skip


@as_aws("queue_batches", "recorded")
@recorded("sqs_event_source_mapping_batching_reserved_concurrency")
def test_thirty_messages_are_two_batches_of_up_to_twenty(name: str, played: Played) -> None:
    assert differences(name, played) == []


# Filters

NOT_MATCHING: dict[str, Any] = {
    "single": {"my-key": "other-value"},
    "or": {"my-key": "other-value"},
    "and": {"my-key-one": "other-value-", "my-key-two": "my-value-two"},
    "exists": {"other-key": "any-value-two"},
    "numeric_bigger": {"my-number": 100},
    "numeric_smaller": {"my-number": 100},
    "numeric-range": {"my-number": 200},
    "prefix": {"my-key": "no-value"},
    "valid-json-filter": "plain-string",
    "single_filter": {"testItem": "another"},
    "or_filter": {"testItem": "another"},
    "and_filter": {"testItem": "test67", "test2": "go"},
    "exists_filter": {"test5": "7411"},
    "numeric_prefix": {"test2": "eu-1-48454"},
    "filter0_item_matching0_item_not_matching0": {"testItem": "another"},
    "filter1_item_matching1_item_not_matching1": {"testItem": "another"},
    "filter2_item_matching2_item_not_matching2": {"testItem": "test67", "test2": "go"},
    "filter3_item_matching3_item_not_matching3": {"test5": "7411"},
    "filter4_item_matching4_this_is_a_test_string": "this is a test string",
    "filter5_item_matching5_item_not_matching5": {"test2": 105},
    "filter6_item_matching6_item_not_matching6": {"test2": 200},
    "filter7_item_matching7_item_not_matching7": {"test2": "eu-1-48454"},
}
"""The second bodies, which were not delivered."""


def filtered(not_matching: Any) -> Story:
    """Send the message that was delivered, and another."""

    def story(stage: Stage, content: Document) -> Played:
        [record] = content["invocation_events"][0]["Records"]
        filters = content["create_event_source_mapping_response"]["FilterCriteria"]["Filters"]
        is_text = isinstance(not_matching, str)
        queue = stage.queue()
        queue.send(
            json.dumps(record["body"]), not_matching if is_text else json.dumps(not_matching)
        )
        created = stage.mapping(
            queue,
            stage.echo,
            MaximumBatchingWindowInSeconds=1,
            FilterCriteria={
                "Filters": [{"Pattern": json.dumps(each["Pattern"])} for each in filters]
            },
        )
        wait_until(lambda: queue.left() == 0)
        parts = {"create_event_source_mapping_response": created}
        return Played(parts | {"invocation_events": stage.events(queue)})

    return story


for case, not_matching in NOT_MATCHING.items():
    plays(f"sqs_event_filter_{case}")(filtered(not_matching))


@as_aws("queue_filters", "recorded")
@recorded(*[f"sqs_event_filter_{case}" for case in NOT_MATCHING])
def test_unmatched_messages_are_deleted_and_never_delivered(name: str, played: Played) -> None:
    assert differences(name, played) == []


# Refused mappings


@plays("duplicate_event_source_mappings")
def map_twice(stage: Stage, _content: Document) -> Played:
    queue, function = stage.queue(), stage.function(DOES="echo")
    created = stage.mapping(queue, function)
    error = refusal(lambda: stage.mapping(queue, function))
    stage.mapping(queue, stage.function(DOES="echo"))
    return Played({"create": created, "error": error})


@plays("esm_with_not_existing_sqs_queue")
def map_no_queue(stage: Stage, _content: Document) -> Played:
    nowhere = Queue(stage.sqs, "", f"arn:aws:sqs:us-east-1:{'0' * 12}:nowhere")
    return Played({"error": refusal(lambda: stage.mapping(nowhere, stage.echo))})


@plays("event_source_mapping_default_batch_size")
def map_big_batches(stage: Stage, _content: Document) -> Played:
    created = stage.mapping(stage.queue(), stage.echo)
    update = stage.lambdas.update_event_source_mapping
    other = stage.queue()
    return Played({
        "create-event-source-mapping": created,
        "invalid-update-event-source-mapping": refusal(
            lambda: update(UUID=created["UUID"], FunctionName=stage.echo, BatchSize=11)
        ),
        "invalid-create-event-source-mapping": refusal(
            lambda: stage.mapping(other, stage.echo, BatchSize=11)
        ),
    })  # fmt: skip


INVALID_PATTERNS = {
    "None": "null",
    "simple_string": "simple string",
    "invalid_filter2": '{"eventSource": "aws:sqs"}',
    "invalid_filter3": '{"eventSource": []}',
}


def filtered_by(pattern: str) -> Story:
    """Create a mapping with an invalid pattern."""

    def story(stage: Stage, _content: Document) -> Played:
        settings: Document = {"FilterCriteria": {"Filters": [{"Pattern": pattern}]}}
        queue = stage.queue()
        error = refusal(lambda: stage.mapping(queue, stage.echo, **settings))
        return Played({"create_event_source_mapping_exception": error})

    return story


for case, pattern in INVALID_PATTERNS.items():
    plays(f"sqs_invalid_event_filter_{case}")(filtered_by(pattern))


@as_aws("queue_states", "recorded")
@recorded(
    "duplicate_event_source_mappings",
    "esm_with_not_existing_sqs_queue",
    "event_source_mapping_default_batch_size",
    *[f"sqs_invalid_event_filter_{case}" for case in INVALID_PATTERNS],
)
def test_an_invalid_mapping_is_refused_in_awss_words(name: str, played: Played) -> None:
    assert differences(name, played) == []


# Updates


@plays("sqs_event_source_mapping_update")
def map_another_version(stage: Stage, _content: Document) -> Played:
    queue, function = stage.queue(), stage.function(DOES="echo")

    def version(variable: str) -> str:
        settings = {"DOES": "echo", "FOLDER": str(stage.folder), "CUSTOM_VAR": variable}
        stage.lambdas.update_function_configuration(
            FunctionName=function, Environment={"Variables": settings}
        )
        return str(stage.lambdas.publish_version(FunctionName=function)["FunctionArn"])

    def told() -> list[Document]:
        parts = ("function_version", "CUSTOM_VAR", "event")
        return [{part: each[part] for part in parts} for each in stage.invocations(queue)]

    created = stage.mapping(queue, version("a"), MaximumBatchingWindowInSeconds=1)
    queue.send(json.dumps({"foo": "bar"}))
    wait_until(lambda: queue.left() == 0)
    parts = {"create-event-source-mapping-response": created, "events": told()}
    parts["updated_esm"] = stage.lambdas.update_event_source_mapping(
        UUID=created["UUID"], FunctionName=version("b")
    )
    parts["updated_event_source_mapping"] = stage.lambdas.get_event_source_mapping(
        UUID=created["UUID"]
    )
    queue.send(json.dumps({"foo": "bar2"}))
    wait_until(lambda: queue.left() == 0)
    return Played(parts | {"events_postupdate": told()})


@as_aws("queue_states", "recorded")
@recorded("sqs_event_source_mapping_update")
def test_after_an_update_messages_come_to_the_other_version(name: str, played: Played) -> None:
    assert differences(name, played) == []


# Dead letters of functions that are invoked without waiting


@plays("sqs_queue_as_lambda_dead_letter_queue")
def invoke_in_vain(stage: Stage, content: Document) -> Played:
    dead = stage.queue()
    function = stage.function(DOES="raise")
    config = stage.lambdas.update_function_configuration(
        FunctionName=function, DeadLetterConfig={"TargetArn": dead.arn}
    )
    stage.lambdas.put_function_event_invoke_config(FunctionName=function, MaximumRetryAttempts=0)
    [message] = content["messages"]["Messages"]
    stage.lambdas.invoke(
        FunctionName=function, InvocationType="Event", Payload=json.dumps(message["Body"])
    )
    wait_until(lambda: dead.left() > 0)
    return Played({
        "lambda-response-dlq-config": config["DeadLetterConfig"],
        "messages": dead.received(MessageAttributeNames=["All"]),
    })  # fmt: skip


@recorded("sqs_queue_as_lambda_dead_letter_queue")
def test_an_event_that_failed_is_a_dead_letter_as_it_came(name: str, played: Played) -> None:
    assert differences(name, played) == []
