"""Rebuild: all windows again, beside the old ones; nothing is lost whatever happens meanwhile."""

import json
import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from telemetry.aws.generations import CACHE_SECONDS
from telemetry.aws.items import Write
from telemetry.aws.pace import Pace
from telemetry.aws.windows import KEY, Windows
from telemetry.domain import generation_pointer
from telemetry.domain import pack as packs
from telemetry.domain.generation_pointer import Pointer
from telemetry.domain.reading import Reading, encode
from telemetry.domain.times import from_iso
from telemetry.domain.window import Fate, Window, decode
from telemetry.errors import Rejected, Unavailable

from functions.rebuild.handler import PAGE_LINES, QUERY_SECONDS, SEGMENTS, Region, run
from tests import writers
from tests.fakes import (
    Crash,
    MemoryArchive,
    MemoryGenerations,
    MemoryItems,
    MemoryWindowReader,
    MemoryWindowTable,
)

NOW_MS = from_iso("2026-11-21T12:00:00Z")
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
RETENTION_MS = 30 * DAY_MS
REGION = "eu-west-1"
Stored = dict[tuple[str, str], dict[str, Any]]


class Clock:
    """Seconds that pass when somebody waits."""

    now = 0.0
    step = 0.0  # that each look takes

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Stage:
    """A region's windows and archive in memory, writers of windows, and the rebuild's machine."""

    def __init__(self) -> None:
        self.items = MemoryItems(KEY)
        self.archive = MemoryArchive()
        self.clock = Clock()
        self.table = MemoryWindowTable(self.items)
        self.restart()

    def restart(self) -> None:
        """A new execution environment of the function."""
        generations = MemoryGenerations(self.items, REGION, self.clock)
        pace = Pace(self.clock, self.clock.sleep)
        self.region = Region(
            REGION, RETENTION_MS, 2, self.archive, generations, self.items, self.table, pace
        )

    def writer(self) -> Windows:
        """A new execution environment of a function that adds readings."""
        generations = MemoryGenerations(self.items, REGION, self.clock)
        return Windows(self.items, REGION, RETENTION_MS, generations.written)

    def archived(self, *readings: Reading) -> None:
        self.archive.keep(NOW_MS - HOUR_MS, *(encode(each) for each in readings))

    def task(self, task: str, **event: Any) -> dict[str, Any]:
        """A task's answer, asked for again until it has no token; and as Lambda passes it on."""
        answer: dict[str, Any] = {"token": None, "done": 0, **event, "task": task}
        while True:
            answer = json.loads(json.dumps(run(answer, NOW_MS, self.region)))
            if answer.get("token") is None:
                return answer

    def steps(self, **request: Any) -> Iterator[Callable[[], Any]]:
        """The state machine: each step may be done twice, or not be done for long."""
        plan: dict[str, Any] = {}
        yield lambda: plan.update(self.task("begin", **request))
        yield lambda: self.clock.sleep(plan["settle_seconds"])
        yield lambda: plan.update(self.task("plan", rebuild=dict(plan)))
        number = {"generation": plan["generation"]}
        shared = {**number, "as_of_ms": plan["as_of_ms"]}
        for part in plan["parts"]:
            yield partial(self.task, "fill", part=part, **shared)
        shared = {**number, "missing": plan["missing"]}
        for segment in plan["segments"]:
            yield partial(self.task, "check", segment=segment, **shared)
        yield partial(self.task, "switch", **number)
        yield lambda: self.clock.sleep(plan["retire_seconds"])
        yield partial(self.task, "settle", **number)
        for segment in plan["segments"]:
            yield partial(self.task, "clean", segment=segment)

    def rebuild(self, **request: Any) -> None:
        for step in self.steps(**request):
            step()

    def give_up(self) -> float:
        """The state machine's other way; how long it waits for readers."""
        began, plan = self.clock.now, self.task("give_up")
        self.clock.sleep(plan["retire_seconds"])
        self.task("settle", generation=plan["generation"])
        for segment in plan["segments"]:
            self.task("clean", segment=segment)
        return self.clock.now - began

    def stored(self) -> Stored:
        """The windows' items, without the pointer."""
        items = deepcopy(self.items.stored)
        return {key: item for key, item in items.items() if not key[0].startswith("#")}

    def pointer(self) -> Pointer:
        return self.region.generations.read()

    def shown(self, device_id: str = "pump-1") -> dict[int, Window]:
        """What readers see of a device."""
        reader = MemoryWindowReader(self.items)
        return dict(reader.between(device_id, NOW_MS - DAY_MS, NOW_MS + DAY_MS))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.aws.items.BACKOFF_SECONDS", 0.0)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def reading(offset_ms: int = 0, device_id: str = "pump-1", **metrics: float) -> Reading:
    at_ms = NOW_MS - HOUR_MS + offset_ms
    return Reading(device_id, at_ms, metrics or {"temperature": 20.0}, at_ms)


def some_readings() -> list[Reading]:
    """Of several devices and minutes, with duplicates, conflicts and late ones among them."""
    chance = random.Random(7)
    found = [
        reading(chance.randrange(5 * MINUTE_MS), f"pump-{device}", temperature=float(value))
        for device in range(5)
        for value in range(20)
    ]
    conflicting = [each._replace(metrics={"temperature": 50.0}) for each in found[:5]]
    late = [each._replace(recorded_at_ms=each.recorded_at_ms - DAY_MS) for each in found[5:9]]
    found += found[3:30] + conflicting + late
    chance.shuffle(found)
    return found


def first_generation(stored: Stored) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Bytes and expiry by the keys that the first generation has."""
    return {
        (device_id, "#".join(minute_region.split("#")[:2])): (item["readings"], item["expires_at"])
        for (device_id, minute_region), item in stored.items()
    }


def test_a_rebuild_leaves_out_readings_that_aggregate_quarantines_for_their_time(
    stage: Stage,
) -> None:
    good = [reading(1), reading(2)._replace(via="mqtt"), reading(3)._replace(received_at_ms=None)]
    ahead = reading(2 * DAY_MS)  # by a device's clock; past `ingest` nobody had looked
    received_ms = NOW_MS - HOUR_MS
    stage.archived(
        *good,
        ahead._replace(received_at_ms=received_ms, via="mqtt"),
        ahead._replace(received_at_ms=None),
    )
    stage.rebuild()
    assert [sorted(window) for window in stage.shown().values()] == [[1, 2, 3]]
    assert len(stage.stored()) == 1


def test_a_rebuild_has_each_reading_of_a_record_with_several_once(stage: Stage) -> None:
    foreign = [reading(each)._replace(received_at_ms=None) for each in range(4)]
    lines = [encode(each) for each in foreign]
    copies = [each._replace(received_at_ms=NOW_MS - HOUR_MS, via="stream") for each in foreign]
    twice = lines[0].replace(b"{", b'{"temperature":1,')
    stage.archive.keep(
        NOW_MS - HOUR_MS, b"[" + b",".join([*lines[:2], twice]) + b"]", writers.kpl(lines[1:])
    )
    stage.archived(*copies[:2])  # `aggregate` has put these back
    stage.rebuild()
    (window,) = stage.shown().values()
    assert window == {offset: {"temperature": 20.0} for offset in range(4)}


def test_a_rebuild_equals_the_original_byte_for_byte(stage: Stage) -> None:
    readings = some_readings()
    for each in readings:
        stage.writer().add([each])
    original = stage.stored()
    stage.archived(*reversed(readings))
    stage.rebuild()
    rebuilt = stage.stored()
    assert len(original) > 20
    assert {key[1].rpartition("#")[2] for key in rebuilt} == {"1"}  # and the old ones are gone
    assert first_generation(rebuilt) == first_generation(original)
    assert stage.pointer() == Pointer(1, None, None, 1)


def test_a_rebuild_from_packs_equals_the_original_byte_for_byte(stage: Stage) -> None:
    readings = [each._replace(received_at_ms=NOW_MS - HOUR_MS) for each in some_readings()]
    for each in readings:
        stage.writer().add([each])
    original = stage.stored()
    records = [record.data for record in packs.pack(readings)]
    assert len(records) == 5  # one a device
    stage.archive.keep(NOW_MS - HOUR_MS, *records)
    stage.rebuild()
    assert first_generation(stage.stored()) == first_generation(original)


def test_a_rebuild_has_the_good_readings_of_a_pack_with_bad_ones(stage: Stage) -> None:
    pack = packs.encode([reading(each)._replace(received_at_ms=None) for each in range(3)])
    bad = pack.replace(b"[20.0,20.0,20.0]", b'[20.0,"hot",20.0]')
    stage.archive.keep(NOW_MS - HOUR_MS, bad)
    stage.rebuild()
    (window,) = stage.shown().values()
    assert sorted(window) == [0, 2]


def test_a_window_that_was_wrong_is_right_after_a_rebuild(stage: Stage) -> None:
    stage.writer().add([reading(0), reading(1, temperature=99.0)])
    stage.archived(reading(0), reading(1, temperature=21.0))
    stage.rebuild(missing="drop")
    assert stage.shown() == {NOW_MS - HOUR_MS: {0: {"temperature": 20.0}, 1: {"temperature": 21.0}}}


def test_readers_see_one_generation_all_the_time(stage: Stage) -> None:
    stage.writer().add([reading(0)])
    stage.archived(reading(0))
    for step in stage.steps():
        assert stage.shown() == {NOW_MS - HOUR_MS: {0: {"temperature": 20.0}}}
        step()
    assert stage.shown() == {NOW_MS - HOUR_MS: {0: {"temperature": 20.0}}}


def test_other_regions_windows_are_left_alone(stage: Stage) -> None:
    other = Windows(stage.items, "us-east-1", RETENTION_MS, lambda: (0,))
    other.add([reading(0), reading(1)])
    stage.writer().add([reading(2)])
    stage.archived(reading(2))
    stage.rebuild()
    assert sorted(stage.shown()[NOW_MS - HOUR_MS]) == [0, 1, 2]


def test_a_rebuild_stops_where_the_archive_lacks_readings_and_nothing_has_changed(
    stage: Stage,
) -> None:
    stage.writer().add([reading(0), reading(1)])
    stage.archived(reading(0))
    with pytest.raises(
        Rejected, match="lacks readings that generation 0 has, as of pump-1"
    ) as caught:
        stage.rebuild()
    assert caught.value.field == "missing"
    assert stage.pointer().current == 0
    assert sorted(stage.shown()[NOW_MS - HOUR_MS]) == [0, 1]
    stage.archived(reading(1))  # it comes into the archive, late
    stage.rebuild()
    assert stage.pointer() == Pointer(1, None, None, 1)  # the one that was begun
    assert sorted(stage.shown()[NOW_MS - HOUR_MS]) == [0, 1]


@pytest.mark.parametrize(("missing", "offsets"), [("keep", [0, 1]), ("drop", [0])])
def test_readings_that_the_archive_lacks_are_kept_or_dropped_as_the_operator_chooses(
    stage: Stage, missing: str, offsets: list[int]
) -> None:
    stage.writer().add([reading(0), reading(1)])
    stage.writer().add([reading(0, "pump-2")])
    stage.archived(reading(0), reading(0, "pump-2"))
    stage.rebuild(missing=missing)
    assert sorted(stage.shown()[NOW_MS - HOUR_MS]) == offsets


def test_a_value_that_the_archive_has_otherwise_is_lacking_where_it_would_be_lost(
    stage: Stage,
) -> None:
    stage.writer().add([reading(0, temperature=30.0)])
    stage.archived(reading(0, temperature=20.0))
    with pytest.raises(Rejected, match="lacks readings"):
        stage.rebuild()


def test_an_archive_with_more_readings_than_the_windows_lacks_nothing(stage: Stage) -> None:
    stage.writer().add([reading(0, temperature=20.0)])
    stage.archived(reading(0, temperature=30.0), reading(1))
    stage.rebuild()
    assert stage.shown() == {NOW_MS - HOUR_MS: {0: {"temperature": 30.0}, 1: {"temperature": 20.0}}}


def test_a_metric_that_the_archive_lacks_of_an_instant_is_lacking_until_it_is_kept(
    stage: Stage,
) -> None:
    stage.writer().add([reading(0, temperature=-18.5, battery=3.0), reading(1, humidity=40.0)])
    stage.archived(reading(0, temperature=-20.5, pressure=990.0), reading(1, humidity=50.0))
    with pytest.raises(Rejected, match="lacks readings"):
        stage.rebuild()
    stage.rebuild(missing="keep")
    assert stage.shown() == {
        NOW_MS - HOUR_MS: {
            0: {"temperature": -18.5, "battery": 3.0, "pressure": 990.0},
            1: {"humidity": 50.0},
        }
    }


def test_rebuilt_readings_merge_with_another_regions_of_the_same_instant(
    stage: Stage,
) -> None:
    for region in ("ap-south-1", "us-east-1"):  # before and after this one in the keys' order
        other = Windows(stage.items, region, RETENTION_MS, lambda: (0,))
        other.add([reading(0, temperature=-20.5, humidity=40.0)])
    mine = reading(0, temperature=-18.5, battery=3.0)
    stage.writer().add([mine])
    stage.archived(mine)
    merged = {NOW_MS - HOUR_MS: {0: {"temperature": -18.5, "battery": 3.0, "humidity": 40.0}}}
    for step in stage.steps():
        assert stage.shown() == merged
        step()
    assert stage.shown() == merged


def test_kept_readings_are_counted_and_those_that_cannot_be_kept_now_are_retried(
    stage: Stage,
) -> None:
    stage.writer().add([reading(0), reading(1)])
    stage.archived(reading(0))
    generation = stage.task("begin")["generation"]
    stage.task("fill", part="2026-11-21T11", as_of_ms=NOW_MS, generation=generation)
    segment = zlib.crc32(b"pump-1") % SEGMENTS
    check = {"segment": segment, "generation": generation, "missing": "keep"}
    stage.items.fault = lambda _write: "before"
    with pytest.raises(Unavailable, match="doesn't take the readings"):
        stage.task("check", **check)
    stage.items.fault = lambda _write: ""
    assert stage.task("check", **check)["done"] == 1


def test_dropped_readings_are_counted(stage: Stage) -> None:
    stage.writer().add([reading(0), reading(0, "pump-2")])
    generation = stage.task("begin")["generation"]
    dropped = [
        stage.task("check", segment=segment, generation=generation, missing="drop")["done"]
        for segment in range(SEGMENTS)
    ]
    assert sum(dropped) == 2


def test_readings_without_room_in_a_full_new_window_are_not_dropped_unasked(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.writer().add([reading(0), reading(1)])
    stage.archived(reading(2), reading(3))
    monkeypatch.setattr("telemetry.domain.window.MAX_READINGS", 3)
    with pytest.raises(Rejected, match=r"the window of pump-1 at .* is full in the new one"):
        stage.rebuild(missing="keep")
    assert stage.pointer().current == 0


@pytest.mark.parametrize("missing", ["refuse", "keep"])
def test_a_window_that_cannot_be_read_is_named_and_dropping_it_goes_on(
    stage: Stage, missing: str
) -> None:
    stage.writer().add([reading(0, "pump-1"), reading(0, "pump-2")])
    (item,) = [each for key, each in stage.items.stored.items() if key[0] == "pump-1"]
    item["readings"] = {"B": b"\x02" + item["readings"]["B"][1:]}
    stage.archived(reading(0, "pump-1"), reading(0, "pump-2"))
    with pytest.raises(Rejected, match=r"window of pump-1, .* can't be read.*drop goes on"):
        stage.rebuild(missing=missing)
    assert stage.pointer().current == 0
    stage.give_up()
    stage.rebuild(missing="drop")
    for device_id in ("pump-1", "pump-2"):
        assert stage.shown(device_id) == {NOW_MS - HOUR_MS: {0: {"temperature": 20.0}}}


def test_an_unknown_choice_for_missing_readings_is_named(stage: Stage) -> None:
    with pytest.raises(Rejected, match="missing: is none of refuse, keep, drop"):
        stage.rebuild(missing="guess")


def test_where_one_window_is_not_taken_its_page_is_filled_again(stage: Stage) -> None:
    stage.archived(reading(0), reading(0, "pump-2"))
    generation, part = stage.task("begin")["generation"], "2026-11-21T11"
    stage.items.fault = lambda write: "before" if write.item["device_id"]["S"] == "pump-2" else ""
    fill = {"generation": generation, "part": part, "as_of_ms": NOW_MS}
    with pytest.raises(Unavailable, match="doesn't take the readings"):
        stage.task("fill", **fill)
    stage.items.fault = lambda _write: ""
    assert stage.task("fill", **fill)["done"] == 2
    assert len(stage.stored()) == 2


def test_a_part_is_filled_by_as_many_invocations_as_it_takes_each_line_once(stage: Stage) -> None:
    count = 2 * PAGE_LINES + 1
    stage.archived(*(reading(offset) for offset in range(count)))
    generation = stage.task("begin")["generation"]
    stage.clock.step = 20.0  # of 30 s that an invocation has
    fill = {"generation": generation, "part": "2026-11-21T11", "as_of_ms": NOW_MS}
    assert stage.task("fill", **fill)["done"] == count
    (item,) = stage.stored().values()
    assert len(decode(item["readings"]["B"])) == count


def test_before_it_reads_the_archive_it_waits_for_writers_and_for_firehose(stage: Stage) -> None:
    begun = stage.task("begin")
    # the cache and the clocks 5 s each, Firehose's buffer of 2 s twice; then a reader's 25 s
    assert (begun["settle_seconds"], begun["retire_seconds"]) == (14, 35)


def test_a_plan_goes_back_as_far_as_readings_of_windows_that_are_kept_may_lie(
    stage: Stage, counted: Callable[[str], float]
) -> None:
    # sent four minutes ahead of its time by a device's clock, and filed under the hour before
    received_ms = NOW_MS - RETENTION_MS - 4 * MINUTE_MS
    ahead = reading()._replace(
        recorded_at_ms=NOW_MS - RETENTION_MS + MINUTE_MS, received_at_ms=received_ms
    )
    stage.archive.keep(received_ms - HOUR_MS, encode(ahead))
    stage.archive.keep(received_ms - 2 * HOUR_MS, encode(ahead))
    stage.archive.keep(NOW_MS, encode(reading(HOUR_MS)))  # this very millisecond's
    assert stage.task("plan", rebuild={})["parts"] == ["2026-10-22T10", "2026-11-21T12"]
    stage.rebuild()
    assert sorted(minute for _, minute in stage.stored()) == [
        "2026-10-22T12:01:00Z#eu-west-1#1",
        "2026-11-21T12:00:00Z#eu-west-1#1",
    ]
    assert counted("ReadingsRebuilt") == 2


def test_a_window_whose_time_ends_now_is_not_made_again(stage: Stage) -> None:
    ending = reading()._replace(recorded_at_ms=NOW_MS - RETENTION_MS, received_at_ms=None)
    staying = ending._replace(recorded_at_ms=NOW_MS - RETENTION_MS + MINUTE_MS)
    stage.archive.keep(NOW_MS - RETENTION_MS, *map(encode, (ending, staying)))
    stage.rebuild()
    assert [minute for _, minute in stage.stored()] == ["2026-10-22T12:01:00Z#eu-west-1#1"]


def test_an_invocation_uses_its_own_time_however_long_the_one_before_took(
    stage: Stage,
) -> None:
    stage.archived(*(reading(offset) for offset in range(2 * PAGE_LINES + 1)))
    fill = {"task": "fill", "generation": stage.task("begin")["generation"], "done": 0}
    fill |= {"part": "2026-11-21T11", "as_of_ms": NOW_MS, "token": None}
    stage.clock.sleep(3_600)  # since this environment was made
    answer = run(fill, NOW_MS, stage.region)
    assert (answer["token"], answer["done"]) == (None, 2 * PAGE_LINES + 1)


def test_windows_whose_time_is_over_are_not_made_again(stage: Stage) -> None:
    old = reading()._replace(recorded_at_ms=NOW_MS - RETENTION_MS - MINUTE_MS)
    stage.writer().add([old, reading(0)])
    stage.archived(reading(0), old)
    stage.rebuild()
    assert len(stage.stored()) == 1


def test_a_reading_on_its_way_into_both_generations_is_not_taken_for_missing(
    stage: Stage,
) -> None:
    stage.task("begin")
    stage.clock.sleep(CACHE_SECONDS + 1)
    stage.writer().add([reading(0)])
    (new,) = [key for key in stage.items.stored if key[1].endswith("#1")]
    arriving = stage.items.stored.pop(new)  # the writer is between its two writes
    stage.table.between_gets = lambda: stage.items.stored.update({new: arriving})
    for segment in range(SEGMENTS):
        stage.task("check", segment=segment, generation=1, missing="refuse")


@pytest.mark.parametrize(("is_lacking", "seconds"), [(False, 0), (True, 9)])
def test_a_check_waits_between_looks_and_only_where_readings_lack(
    stage: Stage, is_lacking: bool, seconds: int
) -> None:
    stage.writer().add([reading(0)])
    generation = stage.task("begin")["generation"]
    if not is_lacking:
        Windows(stage.items, REGION, RETENTION_MS, lambda: (generation,)).add([reading(0)])
    began, segment = stage.clock.now, zlib.crc32(b"pump-1") % SEGMENTS
    stage.task("check", segment=segment, generation=generation, missing="drop")
    assert stage.clock.now - began == seconds


def test_a_rebuild_begun_anew_leaves_the_first_ones_mistakes_behind(stage: Stage) -> None:
    stage.writer().add([reading(0)])
    stage.task("begin")
    Windows(stage.items, REGION, RETENTION_MS, lambda: (1,)).add([reading(0, temperature=99.0)])
    stage.archived(reading(0))
    stage.rebuild(anew=True)
    assert stage.pointer() == Pointer(2, None, None, 2)
    assert list(stage.stored()) == [("pump-1", "2026-11-21T11:00:00Z#eu-west-1#2")]
    assert stage.shown() == {NOW_MS - HOUR_MS: {0: {"temperature": 20.0}}}
    with pytest.raises(Rejected, match="generation: is not being built"):
        stage.task("switch", generation=1)  # by the machine that was given up


def test_a_machine_that_was_given_up_neither_fills_nor_checks(stage: Stage) -> None:
    stage.archived(reading(0))
    stage.task("begin")
    stage.task("begin", anew=True)
    for task in ("fill", "check"):
        more = {"part": "2026-11-21T11", "as_of_ms": NOW_MS, "segment": 0, "missing": "refuse"}
        with pytest.raises(Rejected, match="generation: is not being built"):
            stage.task(task, generation=1, **more)
    assert stage.stored() == {}


def test_an_invocation_checks_and_cleans_its_share_and_the_next_goes_on(stage: Stage) -> None:
    stage.writer().add([reading(minute * MINUTE_MS) for minute in range(5)])
    segment, generation = zlib.crc32(b"pump-1") % SEGMENTS, stage.task("begin")["generation"]
    stage.clock.step = 40.0  # of 30 s that an invocation has
    event = {"task": "check", "segment": segment, "generation": generation, "missing": "drop"}
    answer: dict[str, Any] = {**event, "token": None, "done": 0}
    done: list[int] = []
    while not done or answer["token"]:
        answer = run(answer, NOW_MS, stage.region)
        done.append(answer["done"])
    assert done == [2, 4, 5]


def test_a_rebuild_that_is_given_up_leaves_no_trace(stage: Stage) -> None:
    stage.writer().add([reading(0)])
    before = stage.stored()
    stage.task("begin")
    stage.clock.sleep(CACHE_SECONDS + 1)
    stage.writer().add([reading(1, "pump-2")])
    assert stage.give_up() == 0
    assert [key for key in stage.stored() if key[0] == "pump-2"] == [
        ("pump-2", "2026-11-21T11:00:00Z#eu-west-1")
    ]
    assert {key: item for key, item in stage.stored().items() if key[0] == "pump-1"} == before
    assert stage.pointer().written == (0,)


@pytest.mark.parametrize("is_another_begun", [False, True])
def test_a_rebuild_given_up_when_it_has_switched_leaves_the_new_windows_only(
    stage: Stage, is_another_begun: bool
) -> None:
    stage.writer().add([reading(0)])
    stage.archived(reading(0))
    for step in stage.steps():
        step()
        if stage.pointer().current == 1:
            break
    if is_another_begun:
        stage.task("begin")
    assert stage.give_up() > QUERY_SECONDS  # readers may go by the old pointer
    assert stage.pointer().written == (1,)  # what comes is written once again
    assert list(stage.stored()) == [("pump-1", "2026-11-21T11:00:00Z#eu-west-1#1")]


def test_cleaning_spares_a_generation_that_was_begun_meanwhile(stage: Stage) -> None:
    stage.writer().add([reading(0)])
    stage.archived(reading(0))
    stage.rebuild()
    stage.task("begin")
    stage.clock.sleep(CACHE_SECONDS + 1)
    stage.writer().add([reading(1)])
    for segment in range(SEGMENTS):
        stage.task("clean", segment=segment)
    keys = {key[1].rpartition("#")[2] for key in stage.stored()}
    assert keys == {"1", "2"}


def test_cleaning_spares_a_generation_that_is_begun_while_it_cleans(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.writer().add([reading(0)])
    stage.archived(reading(0))
    stage.rebuild()
    scan = stage.table.scan

    def begin_and_scan(*where: Any) -> Any:
        stage.region.generations.change(generation_pointer.begin)
        stage.writer().add([reading(1)])
        return scan(*where)

    monkeypatch.setattr(stage.table, "scan", begin_and_scan)
    stage.task("clean", segment=zlib.crc32(b"pump-1") % SEGMENTS)
    assert {key[1].rpartition("#")[2] for key in stage.stored()} == {"1", "2"}


def test_a_writer_with_an_outdated_pointer_loses_no_reading(
    stage: Stage,
) -> None:
    writer = stage.writer()
    added = []
    for offset, step in enumerate(stage.steps()):
        assert writer.add([reading(offset)]).fates == [Fate.STORED]
        # no more time passes than the steps take
        stage.archived(reading(offset))
        added.append(offset)
        step()
    assert stage.pointer().current == 1
    assert sorted(stage.shown()[NOW_MS - HOUR_MS]) == added


def test_a_reader_with_an_outdated_pointer_sees_every_reading_at_once(
    stage: Stage,
) -> None:
    reader = MemoryWindowReader(stage.items, stage.clock)
    for offset, step in enumerate(stage.steps()):
        stage.writer().add([reading(offset)])
        stage.archived(reading(offset))
        (window,) = dict(reader.between("pump-1", NOW_MS - HOUR_MS, NOW_MS)).values()
        assert sorted(window) == list(range(offset + 1))
        step()


def test_a_zombie_that_writes_the_old_generation_changes_nothing_that_readers_see(
    stage: Stage,
) -> None:
    stage.writer().add([reading(0)])
    stage.archived(reading(0))
    stage.rebuild()
    zombie = Windows(stage.items, REGION, RETENTION_MS, lambda: (0,))
    zombie.add([reading(5)])
    assert stage.shown() == {NOW_MS - HOUR_MS: {0: {"temperature": 20.0}}}
    (_, left) = sorted(stage.stored().values(), key=lambda item: len(item["minute_region"]["S"]))
    assert left["expires_at"]


def test_a_writer_that_began_before_the_rebuild_answers_only_when_both_have_the_reading(
    stage: Stage,
) -> None:
    writer = stage.writer()
    assert writer.add([reading(0)]).fates == [Fate.STORED]

    def slow(_write: Any) -> str:  # while the writer writes, a rebuild begins
        stage.items.fault = lambda _write: ""
        stage.task("begin")
        stage.clock.sleep(CACHE_SECONDS + 1)
        return ""

    stage.items.fault = slow
    assert writer.add([reading(1)]).fates == [Fate.STORED]
    offsets = {
        key[1]: sorted(decode(item["readings"]["B"])) for key, item in stage.stored().items()
    }
    minute = "2026-11-21T11:00:00Z#eu-west-1"
    assert offsets == {minute: [0, 1], f"{minute}#1": [1]}


def test_a_reading_that_one_generation_does_not_take_is_not_stored_yet(stage: Stage) -> None:
    stage.task("begin")
    stage.items.fault = lambda write: (
        "before" if write.item["minute_region"]["S"].endswith("#1") else ""
    )
    added = stage.writer().add([reading(0)])
    assert added.fates == [None]
    stage.items.fault = lambda _write: ""
    added = stage.writer().add([reading(0)])
    assert added.fates == [Fate.DUPLICATE]


def test_without_a_readable_pointer_no_reading_is_stored(stage: Stage) -> None:
    generations = MemoryGenerations(stage.items, REGION, stage.clock)
    generations.down = True
    added = Windows(stage.items, REGION, RETENTION_MS, generations.written).add([reading(0)])
    assert (added.fates, added.conflicts) == ([None], {})
    assert stage.stored() == {}


class Course:
    """Writers that die, and a rebuild whose steps die and are done again, by chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.stage = Stage()
        self.writers = [self.stage.writer() for _ in range(3)]
        self.stored: set[tuple[str, int]] = set()  # what somebody was told is stored
        self.unarchived: list[Reading] = []

    def archive(self) -> None:
        self.stage.archived(*self.unarchived)
        self.unarchived.clear()

    def write(self, during: Callable[[], Any] = lambda: None) -> None:
        """A writer gets some readings; a while passes; Firehose delivers, or it doesn't yet.

        `during` is done when the writer has decided what to write, and hasn't written it yet.
        """
        chance, items = self.chance, self.stage.items
        index = chance.randrange(len(self.writers))
        batch = [
            reading(chance.randrange(3 * MINUTE_MS), f"pump-{chance.randrange(3)}")
            for _ in range(chance.randrange(1, 5))
        ]
        self.unarchived += batch

        def interrupted(_write: Write) -> str:
            items.crash_after, items.fault = None, lambda _write: ""
            during()
            self.stage.clock.sleep(chance.choice([0.0, CACHE_SECONDS + 1]))
            items.crash_after = chance.choice([None, None, 0, 1, 2])
            items.fault = lambda _write: chance.choice(["", "", "", "before", "after"])
            return ""

        items.fault = interrupted
        try:
            fates = self.writers[index].add(batch).fates
            self.stored |= {identity(each) for each, fate in zip(batch, fates, strict=True) if fate}
        except Crash:
            self.writers[index] = self.stage.writer()
        finally:
            items.crash_after, items.fault = None, lambda _write: ""
        self.stage.clock.sleep(chance.choice([0.0, 0.1, 2.0]))
        if chance.random() < 0.3:
            self.archive()

    def do(self, step: Callable[[], Any]) -> None:
        """A step: cut off some times, done in the middle of a write, and perhaps once more."""
        while self.chance.random() < 0.4:
            self.stage.items.crash_after = self.chance.choice([0, 1, 2])
            with suppress(Crash):
                step()
            self.stage.items.crash_after = None
            self.stage.restart()
            self.write()
        times = 0

        def once_more() -> None:
            nonlocal times
            times += 1
            step()

        self.write(during=once_more)
        if not times or self.chance.random() < 0.3:
            once_more()

    def rebuild(self, missing: str) -> bool:
        """Whether the machine came to its end: it doesn't where the archive lacks something."""
        try:
            for step in self.stage.steps(missing=missing):
                self.do(step)
                assert all_shown(self.stage) >= self.stored
        except Rejected:
            self.archive()
            return False
        return True


@pytest.mark.parametrize("seed", range(40))
def test_no_reading_is_lost_whatever_dies_or_is_late_while_windows_are_rebuilt(seed: int) -> None:
    course = Course(seed)
    for _ in range(5):
        course.write()
    course.rebuild(course.chance.choice(["refuse", "keep"]))
    course.rebuild("refuse")
    assert course.rebuild("keep")
    assert course.stage.pointer().current >= 1
    assert len(course.stored) > 20


def identity(each: Reading) -> tuple[str, int]:
    return each.device_id, each.recorded_at_ms


def all_shown(stage: Stage) -> set[tuple[str, int]]:
    """Every reading that readers see."""
    return {
        (device_id, minute_ms + offset)
        for device_id in ("pump-0", "pump-1", "pump-2")
        for minute_ms, window in stage.shown(device_id).items()
        for offset in window
    }
