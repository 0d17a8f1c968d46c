"""Redrive: what was given up is tried again, and each record ends in one place."""

import base64
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from telemetry.aws import observe
from telemetry.aws.failures import Failures
from telemetry.aws.functions import Functions
from telemetry.aws.quarantine import Quarantine
from telemetry.aws.queue import Queue
from telemetry.domain import pack as packs
from telemetry.domain.reading import Reading
from telemetry.domain.times import minute_of
from telemetry.errors import Rejected, Unavailable

from functions.redrive.handler import run
from tests.fakes import Client, Crash, MemoryLambda, MemoryS3, MemorySqs
from tests.functions.incoming import (
    NOW_MS,
    SHARD,
    TRACE,
    changes,
    given_up,
    kinesis,
    number,
    reading,
)

PREFIX = "aws/lambda/0af6e1b1/shardId-000000000003/2026/11/21/"
STAGES = ("aggregate", "alert", "dispatch")
Counted = Callable[..., float]


def name_of(index: int) -> str:
    return f"{SHARD}:{number(index)}"


class Stage:
    """The function with what it uses in memory; its clock stands still but for `ticks`."""

    def __init__(self) -> None:
        self.bucket = MemoryS3()
        self.announcements, self.dead, self.notices = MemorySqs(), MemorySqs(), MemorySqs()
        self.functions = MemoryLambda()
        self.processed: Counter[str] = Counter()
        self.unavailable: set[str] = set()
        self.bugs: set[str] = set()
        for stage in STAGES:
            self.functions.functions[f"telemetry-{stage}"] = self.process
        self.now = 0.0
        self.ticks = 0.0

    @property
    def clients(self) -> list[Client]:
        return [self.bucket, self.announcements, self.dead, self.notices, self.functions]

    def process(self, event: dict[str, Any]) -> dict[str, Any]:
        """As the pipeline's own functions do: all that can be done, then the first that can't."""
        self.now += self.ticks
        names = [record["eventID"] for record in event["Records"]]
        if self.bugs & set(names):
            raise KeyError("version")
        self.processed.update(name for name in names if name not in self.unavailable)
        left = [name for name in names if name in self.unavailable]
        if left and left[0] == names[0]:
            raise Unavailable(f"none of {len(names)} records could be processed")
        return {"batchItemFailures": [{"itemIdentifier": name} for name in left[:1]]}

    def give_up(self, stage: str, event: dict[str, Any], key: str = "batch") -> str:
        """Keep a batch in the bucket and announce it, as Lambda and S3 do."""
        self.bucket.objects[PREFIX + key] = given_up(stage, event)
        self.announce(key)
        return PREFIX + key

    def announce(self, key: str) -> None:
        encoded = (PREFIX + key).replace("/", "%2F").replace(" ", "+")
        record = {"s3": {"bucket": {"name": "failures"}, "object": {"key": encoded}}}
        self.announcements.bodies.append(json.dumps({"Records": [record]}))

    def run(self, **event: Any) -> dict[str, Any]:
        return run(
            event,
            Failures(self.bucket, "failures", "telemetry"),
            Functions(self.functions, "telemetry"),
            Quarantine(self.bucket, "failures"),
            Queue(self.announcements, "announcements"),
            Queue(self.dead, "dead letters"),
            Queue(self.notices, "notices"),
            lambda: self.now,
        )

    def kept(self) -> list[str]:
        return [key for key in self.bucket.objects if key.startswith("aws/lambda/")]

    def held(self) -> dict[str, dict[str, Any]]:
        return {held["name"]: held for held in self.bucket.lines()}

    def waiting(self) -> int:
        return len(self.announcements.bodies) + len(self.announcements.taken)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def batch(size: int) -> dict[str, Any]:
    return kinesis(reading(f"pump-{index}") for index in range(size))


def change_events(size: int) -> dict[str, Any]:
    event = changes({"device_id": {"S": f"pump-{index}"}} for index in range(size))
    for index, record in enumerate(event["Records"]):
        record["eventID"] = f"change-{index}"
    return event


def counts(report: dict[str, Any]) -> tuple[int, ...]:
    names = ("objects", "records", "succeeded", "quarantined", "left")
    return tuple(report[name] for name in names)


def test_a_batch_goes_whole_to_the_function_that_gave_up_and_is_gone(
    stage: Stage, counted: Counted
) -> None:
    stage.give_up("alert", batch(3))
    report = stage.run()
    assert stage.functions.batches == [("telemetry-alert", [name_of(each) for each in range(3)])]
    assert counts(report) == (1, 3, 3, 0, 0)
    assert (stage.kept(), stage.waiting()) == ([], 0)
    assert counted("RecordsRedriven") == 3
    assert not report["more"]


def test_a_key_with_spaces_and_signs_is_found_by_its_announcement(stage: Stage) -> None:
    stage.give_up("aggregate", batch(1), "a batch+more")
    stage.announcements.bodies[0] = stage.announcements.bodies[0].replace(
        "batch+more", "batch%2Bmore"
    )
    stage.bucket.page_keys = 0  # the list shows nothing
    assert counts(stage.run()) == (1, 1, 1, 0, 0)


def test_a_record_that_kills_the_function_kills_only_its_own_invocation(
    stage: Stage, counted: Counted
) -> None:
    event = batch(4)
    stage.give_up("aggregate", event)
    stage.functions.deadly = {name_of(2)}
    report = stage.run()
    assert [len(names) for _, names in stage.functions.batches] == [4, 1, 1, 1, 1]
    assert counts(report) == (1, 4, 3, 1, 0)
    assert report["why"] == {"Runtime.ExitError: exit status 137": 1}
    assert sorted(stage.processed) == [name_of(0), name_of(1), name_of(3)]
    assert (stage.kept(), stage.waiting()) == ([], 0)
    (held,) = stage.held().values()
    assert held["name"] == name_of(2)
    assert (held["function"], held["source"]) == ("aggregate", "kinesis")
    assert held["reason"] == "Runtime.ExitError: exit status 137"
    assert held["data"] == event["Records"][2]["kinesis"]["data"]
    assert held["partition_key"] == "pump-1"
    assert counted("RecordsQuarantined") == counted("ReadingsQuarantined") == 1


def test_a_record_alone_is_invoked_once_not_as_a_batch_and_again(stage: Stage) -> None:
    stage.give_up("aggregate", batch(1))
    stage.functions.deadly = {name_of(0)}
    stage.run()
    assert len(stage.functions.batches) == 1


TEN = [reading("pump-1", NOW_MS + at, temperature=20.0 + at) for at in range(10)]


def test_a_reading_that_kills_the_function_takes_no_other_of_its_pack_along(
    stage: Stage, counted: Counted
) -> None:
    event = kinesis([reading("pump-0"), packs.encode(TEN), reading("pump-2")])
    stage.give_up("aggregate", event)
    stage.functions.deadly = {name_of(1), f"{name_of(1)}#4"}
    report = stage.run()
    assert counts(report) == (1, 12, 11, 1, 0)
    alone = [f"{name_of(1)}#{place}" for place in range(10) if place != 4]
    assert sorted(stage.processed) == sorted([name_of(0), *alone, name_of(2)])
    (held,) = stage.held().values()
    assert held["name"] == f"{name_of(1)}#4"
    assert json.loads(base64.b64decode(held["data"])) == {
        "device_id": "pump-1",
        "recorded_at": NOW_MS + 4,
        "temperature": 24.0,
        "received_at": NOW_MS,
        "trace_id": TRACE,
    }
    assert counted("ReadingsQuarantined", minute_of(NOW_MS)) == 1
    assert stage.kept() == []


def test_a_pack_goes_whole_where_the_function_takes_it(stage: Stage) -> None:
    stage.give_up("aggregate", kinesis([packs.encode(TEN)]))
    assert counts(stage.run()) == (1, 1, 1, 0, 0)
    assert stage.functions.batches == [("telemetry-aggregate", [name_of(0)])]


def test_readings_of_a_pack_for_which_there_is_no_time_are_left_alone(stage: Stage) -> None:
    stage.give_up("aggregate", kinesis([packs.encode(TEN)]))
    stage.functions.deadly = {name_of(0), f"{name_of(0)}#1"}
    stage.ticks = 3.0
    done, quarantined, skipped = 0, 0, 0
    while stage.kept():
        report = stage.run(seconds=10)
        done, quarantined = done + report["succeeded"], quarantined + report["quarantined"]
        skipped += report["left"]
    assert (done, quarantined) == (9, 1)
    assert skipped > 0
    names = [f"{name_of(0)}#{place}" for place in range(10)]
    assert stage.processed == Counter(names[:1] + names[2:])


def test_a_change_that_is_no_episode_is_held_with_its_whole_event(
    stage: Stage, counted: Counted
) -> None:
    event = change_events(2)
    stage.give_up("dispatch", event)
    stage.bugs = {"change-1"}
    assert counts(stage.run()) == (1, 2, 1, 1, 0)
    held = stage.held()["change-1"]
    assert (held["function"], held["source"]) == ("dispatch", "dynamodb")
    assert json.loads(base64.b64decode(held["data"])) == event["Records"][1]
    assert held["reason"] == "KeyError: 'version'"
    assert counted("RecordsQuarantined") == 1
    with pytest.raises(KeyError):  # no reading, so it isn't in the readings' balance
        counted("ReadingsQuarantined")


def test_a_reading_in_quarantine_is_counted_in_the_minute_in_which_it_was_received(
    stage: Stage, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(observe, "_flush", lambda: written.append(len(stage.bucket.objects)))
    stage.give_up("aggregate", batch(1))
    stage.functions.deadly = {name_of(0)}
    stage.run()
    assert counted("ReadingsQuarantined", minute_of(NOW_MS)) == 1
    assert written[0] == 2  # while the batch is still there, beside the record in quarantine


def test_a_breach_that_kills_alert_is_not_in_the_readings_balance(
    stage: Stage, counted: Counted
) -> None:
    stage.give_up("alert", batch(1))  # aggregate has counted it, or will
    stage.functions.deadly = {name_of(0)}
    assert stage.run()["quarantined"] == 1
    with pytest.raises(KeyError):
        counted("ReadingsQuarantined")


def test_when_a_change_was_made_is_held_where_its_record_tells(stage: Stage) -> None:
    event = change_events(2)
    event["Records"][0]["dynamodb"]["ApproximateCreationDateTime"] = NOW_MS / 1000
    stage.give_up("dispatch", event)
    stage.bugs = {"change-0", "change-1"}
    stage.run()
    arrived = {name: held["arrived_at_ms"] for name, held in stage.held().items()}
    assert arrived == {"change-0": NOW_MS, "change-1": None}


def test_an_object_that_can_not_be_read_now_is_left_and_told_and_the_others_are_settled(
    stage: Stage,
) -> None:
    stage.give_up("aggregate", batch(2), "first")
    stage.give_up("aggregate", batch(1), "second")
    get_object = stage.bucket.get_object

    def failing(**call: Any) -> Any:
        stage.bucket.down = call["Key"].endswith("first")
        try:
            return get_object(**call)
        finally:
            stage.bucket.down = False

    stage.bucket.get_object = failing  # type: ignore[method-assign]
    report = stage.run()
    assert (counts(report), report["kept"]) == ((1, 2, 1, 0, 1), [f"{PREFIX}first"])
    assert ["first can't be read" in why for why in report["why"]] == [True]
    assert stage.waiting() == 1


def test_only_messages_that_are_not_done_are_given_back(stage: Stage) -> None:
    stage.give_up("aggregate", batch(1), "done")
    stage.give_up("dispatch", change_events(1), "left")
    stage.unavailable = {"change-0"}
    given_back: list[str] = []
    change = stage.announcements.change_message_visibility

    def noted(**call: Any) -> None:
        given_back.append(stage.announcements.taken.get(call["ReceiptHandle"], "a deleted one"))
        change(**call)

    stage.announcements.change_message_visibility = noted  # type: ignore[method-assign]
    stage.run()
    assert ["left" in body for body in given_back] == [True]


@pytest.mark.parametrize("foreign", [reading()._replace(received_at_ms=None), b"no reading"])
def test_a_foreign_record_in_quarantine_hides_no_loss_of_its_minute(
    stage: Stage, counted: Counted, foreign: Reading | bytes
) -> None:
    # aggregate counts the arrival of what is foreign, and died of this before it could
    stage.give_up("aggregate", kinesis([foreign]))
    stage.functions.deadly = {name_of(0)}
    assert stage.run()["quarantined"] == 1
    assert counted("RecordsQuarantined") == 1
    with pytest.raises(KeyError):
        counted("ReadingsQuarantined")


def test_a_batch_is_invoked_with_no_more_bytes_than_it_was_given_up_with(stage: Stage) -> None:
    payload = json.dumps(batch(3), separators=(",", ":"))  # as Lambda writes it
    document = json.loads(given_up("alert", batch(3)))
    stage.give_up("alert", batch(3))
    stage.bucket.objects[PREFIX + "batch"] = json.dumps({**document, "payload": payload}).encode()
    sent: list[bytes] = []
    invoke = stage.functions.invoke

    def weighed(**call: Any) -> Any:
        sent.append(call["Payload"])
        return invoke(**call)

    stage.functions.invoke = weighed  # type: ignore[method-assign]
    stage.run()
    assert [len(each) for each in sent] == [len(payload.encode())]


def test_a_record_that_a_retry_may_process_is_left_for_the_next_redrive(stage: Stage) -> None:
    stage.give_up("aggregate", batch(4))
    stage.unavailable = {name_of(0), name_of(2)}
    report = stage.run()
    assert counts(report) == (1, 4, 2, 0, 2)
    assert stage.held() == {}
    assert len(stage.announcements.bodies) == 1  # given back: it is to be had at once
    stage.unavailable = set()
    stage.functions.batches.clear()
    assert counts(stage.run()) == (1, 2, 2, 0, 0)
    # what was settled before isn't sent again
    assert stage.functions.batches == [("telemetry-aggregate", [name_of(0), name_of(2)])]
    assert (stage.kept(), stage.waiting()) == ([], 0)


@pytest.mark.parametrize(
    "code", ["ServiceUnavailable", "TooManyRequestsException", "ResourceNotFoundException"]
)
def test_a_function_that_is_away_throttled_or_gone_loses_nothing(stage: Stage, code: str) -> None:
    key = stage.give_up("aggregate", batch(2))
    before = stage.bucket.objects[key]
    process = stage.functions.functions["telemetry-aggregate"]
    if code == "ResourceNotFoundException":
        del stage.functions.functions["telemetry-aggregate"]
    else:
        stage.functions.down, stage.functions.down_with = True, code
    report = stage.run()
    assert counts(report) == (1, 2, 0, 0, 2)
    assert [code in why for why in report["why"]] == [True]
    assert stage.bucket.objects == {key: before}
    stage.functions.down = False
    stage.functions.functions["telemetry-aggregate"] = process
    assert counts(stage.run()) == (1, 2, 2, 0, 0)


def test_a_batch_whose_announcement_is_lost_is_found_in_the_bucket(stage: Stage) -> None:
    for index in range(5):
        stage.give_up("aggregate", batch(1), f"batch-{index}")
    stage.announcements.bodies.clear()
    stage.bucket.page_keys = 2
    assert counts(stage.run()) == (5, 5, 5, 0, 0)
    assert stage.kept() == []


@pytest.mark.parametrize(
    "body",
    [
        '{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"failures"}',
        '{"Records":[{"s3":{"object":{"key":"elsewhere/object"}}}]}',
        '{"Records":[{}]}',
        '{"Records":7}',
        "[]",
        "not JSON",
    ],
)
def test_a_message_that_announces_no_batch_is_deleted(stage: Stage, body: str) -> None:
    stage.announcements.bodies.append(body)
    assert counts(stage.run()) == (0, 0, 0, 0, 0)
    assert stage.waiting() == 0


def test_a_message_for_an_object_that_is_gone_is_deleted(stage: Stage) -> None:
    stage.announce("gone")
    stage.give_up("aggregate", batch(1))
    stage.announce("batch")  # S3 announces at least once
    assert counts(stage.run()) == (1, 1, 1, 0, 0)
    assert stage.waiting() == 0


def other(**changed: Any) -> bytes:
    return json.dumps({**json.loads(given_up("aggregate", batch(1))), **changed}).encode()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"\x00\xff", "document"),
        (b"[]", "document"),
        (other(requestContext={}), "document"),
        (other(payload="not JSON"), "document"),
        (other(payload='{"Records":[]}'), "Records"),
        (other(payload='{"Records":[{}]}'), "neither Kinesis nor DynamoDB"),
        (other(payload='{"Records":[{"kinesis":{"data":"eA=="}}]}'), "neither Kinesis nor"),
        (given_up("notify", batch(1)), "telemetry-aggregate, telemetry-alert, telemetry-dispatch"),
        (given_up("aggregate", batch(1)).replace(b"telemetry-", b"other-"), "not a function"),
    ],
)
def test_an_object_that_is_no_batch_of_these_functions_goes_to_quarantine_whole(
    stage: Stage, body: bytes, word: str
) -> None:
    key = stage.give_up("aggregate", batch(1))
    stage.bucket.objects[key] = body
    assert counts(stage.run()) == (1, 1, 0, 1, 0)
    assert stage.functions.batches == []
    (held,) = stage.held().values()
    assert (held["name"], held["source"]) == (f"object:{key}", "object")
    assert base64.b64decode(held["data"]) == body
    assert word in held["reason"]
    assert (stage.kept(), stage.waiting()) == ([], 0)


def test_nothing_is_deleted_before_it_is_in_quarantine(stage: Stage) -> None:
    keys = [stage.give_up("aggregate", batch(2)), stage.give_up("alert", batch(1), "broken")]
    stage.bucket.objects[keys[1]] = b"broken"
    stage.functions.deadly = {name_of(1)}
    put_object = stage.bucket.put_object

    def refusing(**call: Any) -> dict[str, str]:
        stage.bucket.down = call["Key"].startswith("quarantine/")
        try:
            return put_object(**call)
        finally:
            stage.bucket.down = False

    stage.bucket.put_object = refusing  # type: ignore[method-assign]
    report = stage.run()
    assert counts(report) == (2, 3, 1, 0, 2)
    assert report["why"]["the quarantine can't be written"] == 2
    assert sorted(stage.kept()) == sorted(keys)
    assert stage.waiting() == 2  # the alarm goes on
    stage.bucket.put_object = put_object  # type: ignore[method-assign]
    assert counts(stage.run()) == (2, 2, 0, 2, 0)
    assert stage.kept() == []


def test_when_time_is_up_the_rest_waits_and_each_redrive_gets_further(stage: Stage) -> None:
    stage.give_up("aggregate", batch(6))
    stage.functions.deadly = {name_of(5)}
    stage.ticks = 10.0  # seconds that each invocation takes
    first = stage.run(seconds=15)
    assert (counts(first), first["more"]) == ((1, 6, 2, 0, 4), True)
    second = stage.run(seconds=15)
    assert (counts(second), second["more"]) == ((1, 4, 2, 0, 2), True)
    assert counts(stage.run(seconds=15)) == (1, 2, 1, 1, 0)
    assert all(times == 1 for times in stage.processed.values())
    assert (stage.kept(), list(stage.held())) == ([], [name_of(5)])


def test_what_has_no_turn_any_more_stays_announced(stage: Stage) -> None:
    for key in ("first", "second", "third"):
        stage.give_up("aggregate", batch(1), key)
    stage.ticks = 10.0
    report = stage.run(seconds=5)
    assert (report["objects"], report["more"]) == (1, True)
    assert (len(stage.kept()), stage.waiting()) == (2, 2)
    assert stage.announcements.taken == {}  # and is there for the next one at once


def test_when_time_is_up_no_record_that_was_not_tried_is_forgotten(stage: Stage) -> None:
    key = stage.give_up("aggregate", batch(5))
    stage.functions.deadly, stage.unavailable = {name_of(1)}, {name_of(0)}
    stage.ticks = 10.0
    stage.run(seconds=15)
    (left,) = [json.loads(body) for name, body in stage.bucket.objects.items() if name == key]
    records = json.loads(left["payload"])["Records"]
    assert [each["eventID"] for each in records] == [name_of(index) for index in (0, 3, 4)]


@pytest.mark.parametrize("seconds", [1, 1.5, 40])
def test_it_may_work_from_1_to_40_seconds(stage: Stage, seconds: float) -> None:
    stage.give_up("aggregate", batch(1))
    assert stage.run(seconds=seconds)["succeeded"] == 1


def test_a_batch_that_takes_all_the_time_still_gets_further(stage: Stage) -> None:
    stage.give_up("aggregate", batch(3))
    stage.bugs = {name_of(0)}
    stage.ticks = 100.0
    assert counts(stage.run()) == (1, 3, 0, 1, 2)
    assert counts(stage.run()) == (1, 2, 2, 0, 0)


def test_two_redrives_at_once_bring_nothing_back(stage: Stage) -> None:
    key = stage.give_up("aggregate", batch(3))
    stage.unavailable = {name_of(2)}
    process = stage.functions.functions["telemetry-aggregate"]

    def overtaken(event: dict[str, Any]) -> Any:
        answer = process(event)
        stage.bucket.objects.pop(key, None)  # another redrive has settled it all
        return answer

    stage.functions.functions["telemetry-aggregate"] = overtaken
    stage.run()
    assert stage.kept() == []


def test_notices_that_could_not_be_sent_go_back_to_their_queue(
    stage: Stage, counted: Counted
) -> None:
    stage.dead.bodies = [f"notice {index}" for index in range(25)]
    assert stage.run()["dead_letters"] == 25
    assert sorted(stage.notices.bodies) == sorted(f"notice {index}" for index in range(25))
    assert (stage.dead.bodies, stage.dead.taken) == ([], {})
    assert counted("NoticesRedriven") == 25


def test_a_notice_that_the_queue_does_not_take_stays_a_dead_letter(
    stage: Stage, counted: Counted
) -> None:
    stage.dead.bodies = ["notice 0", "notice 1"]
    stage.notices.refuses = lambda body: body == "notice 1"
    with pytest.raises(Unavailable):
        stage.run()
    assert (stage.notices.bodies, stage.dead.bodies) == (["notice 0"], ["notice 1"])
    assert counted("NoticesRedriven") == 1


@pytest.mark.parametrize("seconds", [0, 41, -1, "40", True, None])
def test_other_seconds_than_it_may_work_are_refused_by_name_and_value(
    stage: Stage, seconds: Any
) -> None:
    with pytest.raises(Rejected, match=r"seconds: is .*: a number from 1 to 40 was expected"):
        stage.run(seconds=seconds)


def test_other_skips_than_a_list_of_keys_are_refused_by_name_and_value(stage: Stage) -> None:
    for skip in ("key", [1], None):
        with pytest.raises(Rejected, match=r"skip: is .*: a list of keys was expected"):
            stage.run(skip=skip)


def test_a_batch_that_takes_all_the_time_and_stays_keeps_no_other_from_its_turn(
    stage: Stage,
) -> None:
    first = stage.give_up("aggregate", batch(1), "first")
    second = stage.give_up("dispatch", change_events(2), "second")
    stage.unavailable = {name_of(0)}
    stage.ticks = 100.0
    report = stage.run()
    assert (counts(report), report["more"], report["kept"]) == ((1, 1, 0, 0, 1), True, [first])
    assert stage.kept() == [first, second]
    stage.announcements.time_passes()
    report = stage.run(skip=[first])
    assert (counts(report), report["kept"]) == ((1, 2, 2, 0, 0), [])
    assert stage.kept() == [first]
    assert stage.waiting() == 1  # of the two messages, the first's


class Cut:
    """Ends the process before, or after, the n-th call of any client; no call is made then."""

    def __init__(self, stage: Stage, call: int, is_after: bool) -> None:
        self.left = call
        self.is_over = False
        for client in stage.clients:
            for name in CALLS:
                if hasattr(client, name):
                    setattr(client, name, self._cutting(getattr(client, name), is_after))

    def _cutting(self, call: Callable[..., Any], is_after: bool) -> Callable[..., Any]:
        def cut(**arguments: Any) -> Any:
            self.left -= 1
            if not self.is_over and (self.left < 0 or (self.left == 0 and not is_after)):
                raise Crash
            try:
                return call(**arguments)
            finally:
                if self.left == 0:
                    raise Crash

        return cut


CALLS = (
    "receive_message",
    "delete_message",
    "change_message_visibility",
    "send_message_batch",
    "list_objects_v2",
    "get_object",
    "put_object",
    "delete_object",
    "invoke",
)


def troubled() -> Stage:
    """A bit of everything: 10 records in four batches, a broken object, stray messages, notices."""
    stage = Stage()
    stage.give_up("aggregate", batch(4), "mixed")
    stage.give_up("dispatch", change_events(2), "changes")
    stage.bucket.objects[PREFIX + "unannounced"] = given_up("alert", change_events(1))
    stage.bucket.objects[PREFIX + "broken"] = b"broken"
    stage.announce("broken")
    stage.announce("gone")
    stage.functions.deadly = {name_of(1)}
    stage.bugs = {"change-1"}
    stage.dead.bodies = ["notice 0", "notice 1"]
    return stage


def calls_of_a_whole_redrive() -> int:
    stage = troubled()
    many = 1_000
    cut = Cut(stage, many, is_after=False)
    stage.run()
    return many - cut.left


@pytest.mark.parametrize("is_after", [False, True], ids=["before a call", "after a call"])
def test_cut_off_at_any_step_and_run_again_each_record_ends_in_one_place(is_after: bool) -> None:
    calls = calls_of_a_whole_redrive()
    assert calls > 25
    for call in range(1, calls + 1):
        stage = troubled()
        cut = Cut(stage, call, is_after)
        with pytest.raises(Crash):
            stage.run()
        cut.is_over = True
        for queue in (stage.announcements, stage.dead):
            queue.time_passes()
        last = stage.run()
        assert (last["left"], last["more"]) == (0, False), call
        assert (stage.kept(), stage.waiting()) == ([], 0), call
        succeeded = {name_of(index) for index in (0, 2, 3)} | {"change-0"}
        assert set(stage.processed) == succeeded, call
        assert set(stage.held()) == {name_of(1), "change-1", f"object:{PREFIX}broken"}, call
        assert set(stage.notices.bodies) == {"notice 0", "notice 1"}, call
        assert (stage.dead.bodies, stage.dead.taken) == ([], {}), call
