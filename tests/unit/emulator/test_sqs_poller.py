"""The polling of queues for functions: its decisions, and the poller in virtual time."""

import contextvars
import json
from collections.abc import Callable
from typing import Any

import pytest

from emulator.gaps import sqs_poller
from emulator.gaps.sqs_poller import (
    CONCURRENCY_DEFAULT,
    PAYLOAD_BYTES_MAX,
    QueuePoller,
    failed_messages,
    passes,
)

as_aws = pytest.mark.as_aws
Document = dict[str, Any]
QUEUE_ARN = "arn:aws:sqs:eu-central-1:123456789012:notices"
HIDDEN_SECONDS = 30


class Rig:
    """A poller with one mapping of a queue, and fakes of the emulator's modules.

    Batches run until `finish`; a batch's answer is `result`, or that of `function`.
    """

    def __init__(self, **settings: Any) -> None:
        self.seconds = 1000.0
        self.mapping: Document = {
            "UUID": "m", "EventSourceArn": QUEUE_ARN, "FunctionName": "notify", "BatchSize": 10,
        } | settings  # fmt: skip
        self.mappings = [self.mapping]
        self.queue: Document = {"url": "https://queue", "messages": []}
        self.batches: list[list[str]] = []
        self.function: Callable[[Document], Document] = lambda _event: {"body": None}
        self._at_work: list[Callable[[], None]] = []
        # the parts of ministack.services.lambda_svc and ministack.services.sqs that the poller uses
        self._request_account_id = contextvars.ContextVar[str]("account")
        self._request_region = contextvars.ContextVar[str]("region")
        self._esm_inflight: dict[str, int] = {}
        self._esm_backoff_until: dict[str, float] = {}
        self.poller = QueuePoller(self, self, lambda: self.seconds, self.sleep)

    # For tests

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.queue["messages"].append({
                "id": f"id-{len(self.queue['messages'])}",
                "body": body,
                "md5_body": "",
                "message_attributes": {},
                "receipt_handle": None,
                "visible_at": self.seconds,
                "receive_count": 0,
            })  # fmt: skip

    def poll(self) -> None:
        """Poll as the emulator does, until no more messages come."""
        while self.poller.poll():
            pass

    def finish(self) -> None:
        """End the running batches."""
        while self._at_work:
            self._at_work.pop(0)()
        self._esm_inflight.clear()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and poll each second."""
        for _ in range(round(seconds)):
            self.seconds += 1
            self.poll()
            self.finish()

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    @property
    def left(self) -> list[tuple[str, int]]:
        """Return the bodies of the queue's messages, and how often each was received."""
        return [(each["body"], each["receive_count"]) for each in self.queue["messages"]]

    # Fakes of the emulator's functions

    def _iter_all_esms(self) -> list[tuple[str, str, Document]]:
        return [("123456789012", "eu-central-1", each) for each in self.mappings]

    def _get_func_record_for_qualifier(self, *_: Any) -> tuple[Document, Document]:
        return {}, {}

    def get_region(self) -> str:
        return "eu-central-1"

    def _dispatch_esm_batch(self, uuid: str, deliver: Callable[..., None], *rest: Any) -> None:
        self._esm_inflight[uuid] = self._esm_inflight.get(uuid, 0) + 1
        self._at_work.append(lambda: deliver(*rest))

    def _execute_function(self, _function: Document, event: Document) -> Document:
        self.batches.append([each["body"] for each in event["Records"]])
        return self.function(event)

    def _queue_by_arn(self, arn: str) -> Document | None:
        return self.queue if arn == QUEUE_ARN else None

    def _receive_messages_for_esm(self, _url: str, count: int) -> list[Document]:
        visible = [each for each in self.queue["messages"] if each["visible_at"] <= self.seconds]
        for each in visible[:count]:
            each["receive_count"] += 1
            each["visible_at"] = self.seconds + HIDDEN_SECONDS
            each["receipt_handle"] = f"{each['id']}/{each['receive_count']}"
        return visible[:count]

    def _delete_messages_for_esm(self, _url: str, handles: set[str]) -> None:
        kept = [each for each in self.queue["messages"] if each["receipt_handle"] not in handles]
        self.queue["messages"] = kept

    def _md5_msg_attrs(self, _attributes: Document) -> None:
        return None

    def _build_sys_attrs(self, message: Document, _names: list[str]) -> Document:
        return {"ApproximateReceiveCount": str(message["receive_count"])}


FAILED: Document = {"error": True, "body": {"errorMessage": "no"}}
THROTTLED: Document = {"error": True, "throttle": True, "body": {}}
REPORTS = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}


# Failed messages


@as_aws("queue_partial_responses", "documented")
@pytest.mark.parametrize("body", [None, "", [], {}, {"batchItemFailures": []}])
def test_an_answer_that_names_no_message_is_a_success(body: Any) -> None:
    assert failed_messages({"body": body}, ["a", "b"], True) == set()
    assert failed_messages({"body": {"batchItemFailures": None}}, ["a", "b"], True) == set()


@as_aws("queue_partial_responses", "documented")
@pytest.mark.parametrize(
    "failures",
    [
        [{"itemIdentifier": ""}],
        [{"itemIdentifier": None}],
        [{"itemIdentifier": "a"}, {"itemIdentifier": "of no message"}],
        [{"itemIdentifier": "a"}, {"id": "b"}],
        [{"itemIdentifier": {}}],
        ["a"],
        "a",
    ],
)
def test_an_answer_that_cannot_be_read_fails_the_whole_batch(failures: Any) -> None:
    answer = {"body": {"batchItemFailures": failures}}
    assert failed_messages(answer, ["a", "b"], True) == {"a", "b"}


@as_aws("queue_partial_responses", "inferred")
@pytest.mark.parametrize("body", ["failed", 1, ["a"]])
def test_an_answer_that_is_not_an_object_fails_the_whole_batch(body: Any) -> None:
    assert failed_messages({"body": body}, ["a", "b"], True) == {"a", "b"}


def test_only_the_named_messages_have_failed() -> None:
    answer = {"body": {"batchItemFailures": [{"itemIdentifier": "b"}]}}
    assert failed_messages(answer, ["a", "b"], True) == {"b"}


@as_aws("queue_partial_responses", "documented")
def test_without_partial_responses_the_answer_does_not_matter() -> None:
    answer = {"body": {"batchItemFailures": [{"itemIdentifier": "b"}]}}
    assert failed_messages(answer, ["a", "b"], False) == set()


@as_aws("queue_retries", "documented")
def test_after_an_error_all_have_failed() -> None:
    assert failed_messages(FAILED, ["a", "b"], True) == {"a", "b"}


# Filters


@as_aws("queue_filters", "documented")
@pytest.mark.parametrize(
    ("body", "pattern", "expected"),
    [
        ('{"a": {"b": 1}}', {"body": {"$or": [{"a": {"b": [1]}}, {"c": [2]}]}}, True),
        ('{"c": 3}', {"body": {"$or": [{"a": {"b": [1]}}, {"c": [2]}]}}, False),
        ('{"a": "X"}', {"body": {"a": [{"equals-ignore-case": "x"}]}}, True),
        ('{"a": [1, 2]}', {"body": {"a": [2]}}, True),
        ('{"a": 1, "a": 2}', {"body": {"a": [1]}}, True),
        ("text", {"body": ["text"]}, True),
        ("text", {"body": [{"prefix": "te"}]}, True),
        ("text", {"body": {"a": [1]}}, False),
        ('{"a": 1}', {"body": ['{"a": 1}']}, False),
        ("{text", {"body": ["{text"]}, True),
        ("12", {"body": ["12"]}, True),
    ],
)
def test_a_pattern_matches_a_json_body_as_json_and_any_other_as_text(
    body: str, pattern: Document, expected: bool
) -> None:
    assert passes({"body": body}, [json.dumps(pattern)]) is expected
    assert passes({"body": body}, ['{"body": ["another"]}', json.dumps(pattern)]) is expected
    assert passes({"body": body}, [])


@as_aws("queue_filters", "documented")
def test_unmatched_messages_are_deleted_even_if_their_batch_fails() -> None:
    rig = Rig(FilterCriteria={"Filters": [{"Pattern": '{"body": {"a": [1]}}'}]})
    rig.function = lambda _event: FAILED
    rig.send('{"a": 1}', '{"a": 2}', "text")
    rig.poll()
    rig.finish()
    assert rig.batches == [['{"a": 1}']]
    assert rig.left == [('{"a": 1}', 1)]


@as_aws("queue_filters", "documented")
def test_the_function_is_not_invoked_if_no_message_matches() -> None:
    rig = Rig(FilterCriteria={"Filters": [{"Pattern": '{"body": {"a": [1]}}'}]})
    rig.send(*["text"] * 25)
    rig.pass_time(5)
    assert rig.batches == []
    assert rig.left == []


# Batches


def test_without_a_window_the_available_messages_are_a_batch() -> None:
    rig = Rig()
    rig.send("a", "b")
    rig.poll()
    rig.finish()
    assert rig.batches == [["a", "b"]]
    assert rig.left == []


@as_aws("queue_batches", "documented")
def test_messages_within_the_window_are_one_batch() -> None:
    rig = Rig(MaximumBatchingWindowInSeconds=5, BatchSize=100)
    for number in range(8):
        rig.send(f"{number}")
        rig.pass_time(1)
    rig.pass_time(10)
    assert rig.batches == [["0", "1", "2", "3", "4", "5"], ["6", "7"]]


@as_aws("queue_batches", "documented")
def test_a_full_batch_does_not_wait() -> None:
    rig = Rig(MaximumBatchingWindowInSeconds=20, BatchSize=25)
    rig.send(*map(str, range(30)))
    rig.poll()
    rig.finish()
    assert [len(batch) for batch in rig.batches] == [25]
    rig.pass_time(20)
    assert [len(batch) for batch in rig.batches] == [25, 5]


@as_aws("queue_batches", "documented")
def test_a_batch_has_at_most_six_megabytes_and_the_rest_comes_with_the_next() -> None:
    rig = Rig(MaximumBatchingWindowInSeconds=20, BatchSize=100)
    sizes = []

    def function(event: Document) -> Document:
        sizes.append(len(json.dumps(event)))
        return {"body": None}

    rig.function = function
    rig.send(*["x" * 1_000_000] * 8)
    rig.poll()
    rig.finish()
    assert [len(batch) for batch in rig.batches] == [6]
    assert sizes[0] <= PAYLOAD_BYTES_MAX < sizes[0] + 1_000_000
    assert [count for _, count in rig.left] == [1, 1], "received for the batch that is gathered now"
    rig.pass_time(20)
    assert [len(batch) for batch in rig.batches] == [6, 2]


def test_a_single_message_is_never_too_large() -> None:
    rig = Rig()
    rig.send("x" * PAYLOAD_BYTES_MAX)
    rig.pass_time(1)
    assert len(rig.batches) == 1
    assert rig.left == []


@as_aws("queue_batches", "documented")
@pytest.mark.parametrize("limit", [2, 7])
def test_a_mapping_has_no_more_concurrent_batches_than_its_limit(limit: int) -> None:
    rig = Rig(BatchSize=1, ScalingConfig={"MaximumConcurrency": limit})
    rig.send(*map(str, range(9)))
    rig.poll()
    assert rig._esm_inflight == {"m": limit}
    rig.finish()
    rig.poll()
    assert rig._esm_inflight == {"m": min(limit, 9 - limit)}


@as_aws("queue_batches", "documented")
def test_a_mapping_has_five_concurrent_batches_by_default() -> None:
    rig = Rig(BatchSize=1)
    rig.send(*map(str, range(9)))
    rig.poll()
    assert rig._esm_inflight == {"m": CONCURRENCY_DEFAULT} == {"m": 5}


@pytest.mark.parametrize("end", ["disabled", "deleted", "without a queue"])
def test_messages_gathered_for_a_deleted_mapping_can_be_received_again(end: str) -> None:
    rig = Rig(MaximumBatchingWindowInSeconds=20)
    rig.send("a")
    rig.poll()
    assert rig.left == [("a", 1)]
    if end == "disabled":
        rig.mapping["Enabled"] = False
    elif end == "deleted":
        rig.mappings = []
    else:
        rig.mapping["EventSourceArn"] = QUEUE_ARN + "-gone"
    rig.pass_time(100)
    assert rig.batches == []
    assert rig.left == [("a", 0)]
    assert [each["body"] for each in rig._receive_messages_for_esm("", 10)] == ["a"]


# Failures


@as_aws("queue_retries", "documented")
def test_a_failed_batch_comes_back_when_its_messages_reappear() -> None:
    rig = Rig()
    rig.function = lambda _event: FAILED if len(rig.batches) == 1 else {"body": None}
    rig.send("a", "b")
    rig.pass_time(HIDDEN_SECONDS)
    assert rig.batches == [["a", "b"]]
    rig.pass_time(1)
    assert rig.batches == [["a", "b"]] * 2
    assert rig.left == []


@as_aws("queue_retries", "documented")
def test_a_throttled_batch_is_tried_until_it_runs() -> None:
    rig = Rig()
    rig.function = lambda _event: THROTTLED if len(rig.batches) < 5 else {"body": None}
    rig.send("a")
    rig.poll()
    rig.finish()
    assert rig.batches == [["a"]] * 5
    assert rig.left == []


@as_aws("queue_retries", "documented")
def test_a_throttled_batch_is_dropped_once_its_messages_reappear() -> None:
    rig = Rig()
    rig.function = lambda _event: THROTTLED
    rig.send("a")
    rig.poll()
    began_at = rig.seconds
    rig.finish()
    assert rig.seconds < began_at + HIDDEN_SECONDS
    assert len(rig.batches) == HIDDEN_SECONDS / sqs_poller.THROTTLED_SECONDS
    assert rig.left == [("a", 1)]


@as_aws("queue_retries", "documented")
@pytest.mark.parametrize(("settings", "goes_on"), [({}, False), (REPORTS, True)])
def test_after_a_failure_a_mapping_without_partial_responses_pauses(
    settings: Document, goes_on: bool
) -> None:
    rig = Rig(BatchSize=1, ScalingConfig={"MaximumConcurrency": 1}, **settings)
    rig.function = lambda _event: FAILED
    rig.send("a", "b")
    rig.poll()
    rig.finish()
    rig.poll()
    rig.finish()
    assert rig.batches == ([["a"], ["b"]] if goes_on else [["a"]])
    rig.pass_time(1)
    assert rig.batches == [["a"], ["b"]]


@as_aws("queue_partial_responses", "documented")
def test_unreported_messages_are_deleted_and_only_reported_ones_come_back() -> None:
    rig = Rig(**REPORTS)

    def function(event: Document) -> Document:
        failed = [each for each in event["Records"] if each["body"] == "b"]
        named = [{"itemIdentifier": each["messageId"]} for each in failed]
        return {"body": {"batchItemFailures": named}}

    rig.function = function
    rig.send("a", "b", "c")
    rig.pass_time(1 + HIDDEN_SECONDS)
    assert rig.batches == [["a", "b", "c"], ["b"]]
    assert rig.left == [("b", 2)]


def test_a_message_received_anew_outlives_the_late_end_of_an_older_batch() -> None:
    rig = Rig()
    rig.send("a")
    rig.poll()
    rig.seconds += HIDDEN_SECONDS
    rig._receive_messages_for_esm("", 1)
    rig.finish()
    assert rig.left == [("a", 2)]


def test_a_mapping_that_cannot_be_polled_stops_no_other_mapping(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    rig.mappings = [{"UUID": "broken"}, rig.mapping]
    rig.send("a")
    rig.pass_time(1)
    assert rig.batches == [["a"]]
    assert "a look at the queue of broken" in caplog.text
