"""Faults around the engine of event source mappings lose nothing and stop no other mapping."""

import asyncio
import gc
import json
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from emulator.mappings.aws import ApiError, KinesisSource
from emulator.mappings.lane import Lane
from emulator.mappings.memory import EPOCH_MS, MemoryStream
from emulator.mappings.model import Page, Start
from emulator.mappings.ports import CursorExpired, OutsideProblem
from tests.mapping_rig import (
    QUEUE_ARN,
    UUID,
    Rig,
    deliver,
    failing_on,
    mapping,
    run,
    value,
    values,
)

FIRST = "shardId-000000000000"


# Where a mapping begins


@pytest.mark.parametrize(
    ("position", "at_ms"), [("LATEST", None), ("AT_TIMESTAMP", EPOCH_MS + 2000)]
)
def test_a_mapping_created_disabled_begins_at_its_starting_position_once_it_is_enabled(
    position: str, at_ms: int | None
) -> None:
    async def story(rig: Rig) -> None:
        rig.put("old")
        await asyncio.sleep(3)
        rig.change(is_enabled=True)
        await asyncio.sleep(3)
        rig.put("new")
        await asyncio.sleep(3)

    rig = run(story, starting_position=position, starting_at_ms=at_ms, is_enabled=False)
    assert rig.delivered == ["new"]


def test_a_mapping_whose_stream_could_not_be_read_at_first_still_begins_at_the_latest() -> None:
    async def story(rig: Rig) -> None:
        rig.put("old")
        rig.stream.problem = "AccessDenied: ListShards"
        await asyncio.sleep(3)
        await rig.kill()
        rig.stream.problem = None
        rig.start()
        await asyncio.sleep(3)
        rig.put("new")
        await asyncio.sleep(3)

    assert run(story, starting_position="LATEST").delivered == ["new"]


def test_latest_is_fixed_once_for_each_shard_even_if_that_of_another_fails() -> None:
    async def story(rig: Rig) -> None:
        real, asked = rig.stream.latest, Counter[str]()

        async def latest(shard_id: str) -> Start:
            asked[shard_id] += 1
            if asked[shard_id] == 1 and shard_id != FIRST:
                raise OutsideProblem("Rate exceeded")
            return await real(shard_id)

        rig.stream.latest = latest  # type: ignore[method-assign]
        await asyncio.sleep(0.5)
        rig.put("a", shard_id=FIRST)
        await asyncio.sleep(5)

    assert run(story, starting_position="LATEST", shards=2).delivered == ["a"]


# Shards that go


def test_a_stream_made_again_under_its_name_is_read_from_its_start() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1)
        rig.stream.add_shard(FIRST)
        await asyncio.sleep(5)
        rig.stream.by_id.clear()
        rig.stream.problem = "ResourceNotFoundException"
        await asyncio.sleep(5)
        rig.stream.problem = None
        rig.stream.add_shard()
        rig.put(2, shard_id=FIRST)
        await asyncio.sleep(5)

    assert run(story).delivered == [1, 2]


def test_a_parent_that_leaves_the_stream_before_it_was_read_holds_up_no_child() -> None:
    async def story(rig: Rig) -> None:
        refuse_unknown_shards(rig.stream)
        rig.put(*range(5))
        await asyncio.sleep(2)
        child = rig.stream.add_shard(FIRST)
        rig.stream.problem = "ProvisionedThroughputExceededException"
        await asyncio.sleep(2)
        rig.put("child", shard_id=child)
        del rig.stream.by_id[FIRST]
        rig.stream.problem = None
        await asyncio.sleep(20)
        assert set(rig.checkpoints.load(UUID)) == {child}

    assert run(story).delivered == [*range(5), "child"]


def refuse_unknown_shards(stream: MemoryStream) -> None:
    """Make the stream answer as AWS does for a shard that it doesn't have."""

    def checked(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def ask(shard_id: str, *rest: Any) -> Any:
            if shard_id not in stream.by_id:
                raise OutsideProblem("ResourceNotFoundException")
            return await real(shard_id, *rest)

        return ask

    stream.fetch = checked(stream.fetch)  # type: ignore[method-assign,assignment]
    stream.open = checked(stream.open)  # type: ignore[method-assign,assignment]


def test_a_closed_shard_is_not_finished_by_a_stop_in_the_middle() -> None:
    async def story(rig: Rig) -> None:
        rig.put(*range(10))
        rig.stream.add_shard(FIRST)
        await asyncio.sleep(1)
        await rig.stop()
        rig.start()
        await asyncio.sleep(60)

    assert run(story, lambda _: asyncio.sleep(3), batch_size=2).delivered == list(range(10))


# Unexpected exceptions


def test_an_unexpected_error_of_a_lane_runs_no_function_twice_at_once_on_a_record() -> None:
    running: Counter[int] = Counter()
    most = 0

    async def story(rig: Rig) -> None:
        nonlocal most
        for number in range(20):
            rig.put(number, key=f"device-{number}")
        real = rig.sink.invoke

        async def note(event: dict[str, Any]) -> None:
            nonlocal most
            numbers = [value(record) for record in event["Records"]]
            running.update(numbers)
            most = max([most, *running.values()])
            await asyncio.sleep(30)
            running.subtract(numbers)

        async def invoke(function_arn: str, event: dict[str, Any]) -> Any:
            if 7 in [value(record) for record in event["Records"]]:
                raise RecursionError("nobody thought of this")
            await asyncio.shield(asyncio.ensure_future(note(event)))  # as a thread, it goes on
            return await real(function_arn, event)

        rig.sink.invoke = invoke  # type: ignore[method-assign]
        await asyncio.sleep(100)
        assert rig.checkpoints.known()[UUID][1] == (
            "PROBLEM: RecursionError('nobody thought of this')"
        )

    run(story, parallelization_factor=3)
    assert most == 1


def test_a_reader_that_fails_unexpectedly_reports_it_and_begins_again() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1)
        real = rig.stream.fetch

        async def fetch(*_: Any) -> Page:
            raise KeyError("Records")

        rig.stream.fetch = fetch  # type: ignore[method-assign,assignment]
        await asyncio.sleep(5.5)
        assert rig.checkpoints.known()[UUID] == ("Enabled", "PROBLEM: KeyError('Records')")
        rig.stream.fetch = real  # type: ignore[method-assign]
        await asyncio.sleep(3)
        assert rig.checkpoints.known()[UUID] == ("Enabled", "OK")

    assert run(story).delivered == [1]


@pytest.mark.parametrize("broken", ["{}", "not JSON"])
def test_a_position_that_cannot_be_read_stops_its_mapping_alone(broken: str) -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(1.5)
        await rig.stop()
        rig.checkpoints.save(UUID, [(FIRST, broken)])
        rig.mappings.append(mapping(uuid="other"))
        rig.start()
        rig.put(1)
        await asyncio.sleep(5)
        assert rig.checkpoints.known()[UUID][1].startswith("PROBLEM: ")

    assert run(story).delivered == [1]


def test_an_error_of_a_source_is_a_problem_of_its_mapping_alone() -> None:
    async def story(rig: Rig) -> None:
        broken = MemoryStream(rig.loop.now_ms)

        async def shards() -> Any:
            raise TypeError("no shards")

        broken.shards = shards  # type: ignore[method-assign]
        rig.ports.source_of = lambda each: broken if each.uuid == "other" else rig.stream
        rig.mappings.append(mapping(uuid="other"))
        await asyncio.sleep(2)
        rig.put(1)
        await asyncio.sleep(5)
        assert rig.checkpoints.known()["other"][1] == "PROBLEM: TypeError('no shards')"

    assert run(story).delivered == [1]


@pytest.mark.parametrize("refused", ["database or disk is full", "database is locked"])
def test_after_positions_could_not_be_written_for_a_while_the_engine_goes_on(refused: str) -> None:
    async def story(rig: Rig) -> None:
        rig.put({"n": 1}, key="a")
        await asyncio.sleep(5)
        save, note = rig.checkpoints.save, rig.checkpoints.note

        def fail(*_args: Any) -> None:
            raise sqlite3.OperationalError(refused)

        rig.checkpoints.save = rig.checkpoints.note = fail  # type: ignore[method-assign,assignment]
        rig.put({"n": 2}, key="a")
        await asyncio.sleep(20)
        rig.checkpoints.save, rig.checkpoints.note = save, note  # type: ignore[method-assign]
        rig.put({"n": 3}, key="a")
        await asyncio.sleep(20)

    rig = run(story)
    delivered = [each["n"] for each in rig.delivered]
    assert delivered[0] == 1
    assert delivered[-1] == 3
    assert set(delivered) == {1, 2, 3}  # 2 more than once: its position wasn't kept
    last = rig.stream.by_id["shardId-000000000000"].records[-1].sequence
    assert rig.view()["lanes"] == [last]


def test_errors_of_several_lanes_are_all_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed, go_on = list[Lane](), Lane.run

    async def crash(self: Lane) -> None:
        if len(crashed) < 2:
            crashed.append(self)
            raise ZeroDivisionError
        await go_on(self)

    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(5)

    monkeypatch.setattr(Lane, "run", crash)
    assert run(story, parallelization_factor=2).delivered == [1]
    gc.collect()  # a task whose error nobody has read reports it when it is collected
    assert f"shard {FIRST}: another part failed, too" in caplog.text
    assert "never retrieved" not in caplog.text


def test_a_mapping_whose_positions_cannot_be_written_stops_no_other_mapping() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1, key="a")
        await asyncio.sleep(5)
        save = rig.checkpoints.save

        def fail(uuid: str, shards: Any) -> None:
            if uuid == UUID:
                raise sqlite3.OperationalError("database or disk is full")
            save(uuid, shards)

        rig.checkpoints.save = fail  # type: ignore[method-assign]
        rig.put(2, key="a")
        rig.mappings.append(mapping(uuid="other"))
        await asyncio.sleep(20)
        assert rig.checkpoints.known()["other"] == ("Enabled", "OK")
        rig.checkpoints.save = save  # type: ignore[method-assign]

    run(story)


# Slow parts


def test_a_stream_that_does_not_answer_holds_up_neither_changes_nor_the_end() -> None:
    async def story(rig: Rig) -> None:
        await asyncio.sleep(2)

        async def hanging() -> Any:
            await asyncio.sleep(900)

        rig.stream.shards = hanging  # type: ignore[method-assign]
        await asyncio.sleep(5)
        rig.change(is_enabled=False)
        await asyncio.sleep(5)
        assert rig.checkpoints.known()[UUID][0] == "Disabled"
        rig.change(is_enabled=True)
        await asyncio.sleep(5)
        before = rig.loop.time()
        await rig.stop()
        assert rig.loop.time() - before < 1

    run(story)


def test_a_source_that_keeps_refusing_cursors_is_not_asked_without_pause() -> None:
    async def story(rig: Rig) -> None:
        asked = 0

        async def fetch(*_: Any) -> Page:
            nonlocal asked
            asked += 1
            raise CursorExpired

        rig.stream.fetch = fetch  # type: ignore[method-assign,assignment]
        await asyncio.sleep(10)
        assert 9 <= asked <= 12

    run(story)


def test_a_shard_too_far_behind_to_fill_a_batch_of_each_lane_does_not_wait_for_windows() -> None:
    async def story(rig: Rig) -> None:
        for number in range(30_000):
            rig.put(number, key=f"device-{number % 1000}")
        await asyncio.sleep(20)
        assert len(rig.delivered) >= 15_000

    run(story, batch_size=10_000, parallelization_factor=10, batching_window_seconds=300)


@pytest.mark.parametrize(
    ("put", "size", "most"), [(40_000, 10, 20_000), (100, 900_000, 55)], ids=["records", "bytes"]
)
def test_reading_ahead_of_a_slow_function_is_limited(put: int, size: int, most: int) -> None:
    async def story(rig: Rig) -> None:
        rig.put(*["x" * size] * put)
        await asyncio.sleep(30)
        view = rig.view()["view"]
        assert view["lag_records"] == put  # the rest is known of
        assert 0 < view["waiting"] <= most

    run(story, lambda _: asyncio.sleep(900), batch_size=1)


# Giving up


def test_a_stop_while_a_destination_fails_drops_no_batch() -> None:
    async def story(rig: Rig) -> None:
        rig.destination.failures = 3
        rig.put("bad")
        await asyncio.sleep(0.6)
        await rig.stop()
        assert rig.documents == []
        rig.start()
        await asyncio.sleep(60)

    rig = run(story, failing_on("bad"), retries_max=0, destination_arn=QUEUE_ARN)
    assert len(rig.documents) == 1


def test_records_that_expire_one_by_one_cause_no_storm_of_invocations() -> None:
    async def story(rig: Rig) -> None:
        for number in range(100):
            rig.put(number)
            await asyncio.sleep(0.02)
        await asyncio.sleep(300)

    rig = run(story, failing_on(*range(100)), age_seconds_max=60, destination_arn=QUEUE_ARN)
    assert len(rig.at) < 15
    assert sum(each["KinesisBatchInfo"]["batchSize"] for each in rig.documents) == 100
    assert len(rig.documents) < 5


# Tumbling windows


def test_a_window_whose_state_is_too_large_is_ended_after_a_kill_too() -> None:
    async def slow_to_end(event: dict[str, Any]) -> dict[str, Any]:
        if event["isFinalInvokeForWindow"]:
            await asyncio.sleep(60)
        return {"state": {"x": "y" * (1024 * 1024)}}

    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(3)
        await rig.kill()
        rig.start()
        rig.put(2)
        await asyncio.sleep(100)

    rig = run(story, slow_to_end, tumbling_window_seconds=600)
    third = rig.sink.invocations[2].event
    assert (third["Records"], third["isFinalInvokeForWindow"]) == ([], True)


def test_a_window_that_is_open_when_windows_are_switched_off_is_ended() -> None:
    def counting(event: dict[str, Any]) -> dict[str, Any]:
        if event.get("isFinalInvokeForWindow", True):
            return {}
        return {"state": {"n": event["state"].get("n", 0) + len(event["Records"])}}

    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(3)
        rig.change(tumbling_window_seconds=0)
        await asyncio.sleep(5)
        rig.put(2)
        await asyncio.sleep(5)

    rig = run(story, counting, tumbling_window_seconds=600)
    events = [each.event for each in rig.sink.invocations]
    assert [each.get("isFinalInvokeForWindow") for each in events] == [False, True, None]
    assert events[1]["state"] == {"n": 1}


def test_a_window_is_not_over_before_its_records_were_read() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1)
        await asyncio.sleep(2)
        rig.stream.problem = "Rate exceeded"
        rig.put(2)
        await asyncio.sleep(20)
        rig.stream.problem = None
        await asyncio.sleep(20)

    def listing(event: dict[str, Any]) -> dict[str, Any]:
        seen = event["state"].get("seen", [])
        return {"state": {"seen": seen + [value(each) for each in event["Records"]]}}

    rig = run(story, listing, tumbling_window_seconds=10)
    assert rig.sink.invocations[-1].event["state"] == {"seen": [1, 2]}


# Small things


def test_a_partition_key_with_half_a_surrogate_pair_has_its_lane_too() -> None:
    async def story(rig: Rig) -> None:
        rig.put(1, 2, key="\ud83d")
        await asyncio.sleep(5)

    assert run(story, parallelization_factor=3).delivered == [1, 2]


def test_nan_and_infinity_are_not_json() -> None:
    data = [b'{"a":NaN}', b'{"a":Infinity}', b' {"a":1}']
    rig = deliver(data, patterns=('{"data":{"a":[{"exists":true}]}}',))
    assert [values(each) for each in rig.sink.invocations] == [[{"a": 1}]]


def test_a_problem_of_a_shard_that_is_finished_is_over() -> None:
    async def story(rig: Rig) -> None:
        rig.put("bad")
        await asyncio.sleep(2)
        child = rig.stream.add_shard(FIRST)
        await asyncio.sleep(5)
        rig.put("good", shard_id=child)
        await asyncio.sleep(5)
        assert rig.checkpoints.known()[UUID] == ("Enabled", "OK")

    run(story, failing_on("bad"), retries_max=0)


def test_a_role_is_looked_up_again_after_a_call_was_refused() -> None:
    class Account:
        """Answer by the role that the function has at that time."""

        roles = iter(["old", "new"])

        def role_of(self, _function_arn: str) -> str:
            return next(self.roles)

        def call(self, _api: Any, _action: str, _body: Any, role_arn: str) -> Any:
            if role_arn == "old":
                raise ApiError("AccessDeniedException", "not this role")
            return {"role": role_arn}

    source = KinesisSource(Account(), mapping())  # type: ignore[arg-type]
    with pytest.raises(OutsideProblem):
        source._call("ListShards")
    assert source._call("ListShards") == {"role": "new"}


def test_a_killed_engine_leaves_a_position_that_is_whole_json() -> None:
    async def story(rig: Rig) -> None:
        rig.put(*range(5))
        await asyncio.sleep(3)
        await rig.kill()
        saved = json.loads(rig.checkpoints.load(UUID)[FIRST])
        assert saved["lanes"] == [rig.stream.by_id[FIRST].records[-1].sequence]

    run(story)
