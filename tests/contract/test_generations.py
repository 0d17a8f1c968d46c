"""Generations' pointers and the windows table as a whole: memory and DynamoDB, one behaviour."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import boto3
import pytest
from botocore.stub import Stubber
from telemetry.aws.generations import CACHE_SECONDS, Generations
from telemetry.aws.items import Attributes, DynamoItems, Items
from telemetry.aws.window_scan import WindowTable, key_of, to_key
from telemetry.aws.windows import KEY, WindowReader, Windows
from telemetry.domain import generation_pointer
from telemetry.domain.generation_pointer import FIRST, Pointer
from telemetry.domain.reading import Reading
from telemetry.domain.times import from_iso
from telemetry.errors import Rejected, Unavailable

from tests.contract.conftest import create_table
from tests.fakes import MemoryGenerations, MemoryItems, MemoryWindowReader, MemoryWindowTable

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

NOW_MS = from_iso("2026-11-21T01:30:00Z")
MINUTE_MS = 60_000
RETENTION_MS = 30 * 86_400_000
serials = itertools.count()


class Clock:
    """Stands where it is put."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Store(NamedTuple):
    """A windows table, and what looks at it."""

    items: Items
    table: WindowTable
    generations: Callable[[str, Clock], Generations]
    reader: Callable[[], WindowReader]


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        items = MemoryItems(KEY)
        return Store(
            items,
            MemoryWindowTable(items),
            lambda region, clock: MemoryGenerations(items, region, clock),
            lambda: MemoryWindowReader(items),
        )
    dynamodb: DynamoDBClient = request.getfixturevalue("embedded_dynamodb")
    name = f"generations-{next(serials)}"
    create_table(dynamodb, name, *KEY)
    stored = DynamoItems(dynamodb, name, KEY)
    return Store(
        stored,
        WindowTable(dynamodb, name, lambda _seconds: None),
        lambda region, clock: Generations(dynamodb, name, region, stored, clock),
        lambda: WindowReader(dynamodb, name),
    )


def reading(minute: int = 0, offset_ms: int = 0, device_id: str = "a") -> Reading:
    return Reading(device_id, NOW_MS + minute * MINUTE_MS + offset_ms, {"temperature": 20.0})


def add(store: Store, generation: int, *readings: Reading, region: str = "eu-west-1") -> None:
    windows = Windows(store.items, region, RETENTION_MS, lambda: (generation,))
    assert None not in windows.add(readings).fates


def test_a_region_without_a_pointer_has_its_first_generation(store: Store) -> None:
    assert store.generations("eu-west-1", Clock()).read() == FIRST
    assert store.generations("eu-west-1", Clock()).written() == (0,)


def test_a_pointer_is_changed_and_read_by_region(store: Store) -> None:
    ours, theirs = (store.generations(name, Clock()) for name in ("eu-west-1", "us-east-1"))
    assert ours.change(generation_pointer.begin) == Pointer(0, 1, None, 1)
    assert ours.change(lambda pointer: generation_pointer.switch(pointer, 1)) == Pointer(
        1, None, 0, 1
    )
    assert ours.read() == Pointer(1, None, 0, 1)
    assert theirs.read() == FIRST
    with pytest.raises(Rejected):
        ours.change(lambda pointer: generation_pointer.switch(pointer, 5))


def test_two_concurrent_changes_of_a_pointer_both_succeed(store: Store) -> None:
    ours, others = (store.generations("eu-west-1", Clock()) for _ in range(2))
    meanwhile = iter([others])

    def begin_anew(pointer: Pointer) -> Pointer:
        for each in meanwhile:  # after it was read, before it is written
            each.change(generation_pointer.begin)
        return generation_pointer.begin(pointer, anew=True)

    assert ours.change(begin_anew) == Pointer(0, 2, None, 2)


def test_a_pointer_is_read_again_when_it_is_no_longer_fresh(store: Store) -> None:
    clock = Clock()
    generations = store.generations("eu-west-1", clock)
    assert generations.written() == (0,)
    store.generations("eu-west-1", Clock()).change(generation_pointer.begin)
    clock.now += CACHE_SECONDS - 0.1
    assert generations.written() == (0,)
    clock.now += 0.2
    assert generations.written() == (0, 1)


def test_a_clock_that_was_set_back_makes_no_pointer_fresh(store: Store) -> None:
    clock = Clock()
    generations = store.generations("eu-west-1", clock)
    generations.written()
    store.generations("eu-west-1", Clock()).change(generation_pointer.begin)
    clock.now -= 3600
    assert generations.written() == (0, 1)


def test_a_reader_whose_clock_was_set_back_goes_by_no_old_pointer() -> None:
    items, clock = MemoryItems(KEY), Clock()
    Windows(items, "eu-west-1", RETENTION_MS, lambda: (0,)).add([reading(0, 1)])
    Windows(items, "eu-west-1", RETENTION_MS, lambda: (1,)).add([reading(0, 2)])
    reader = MemoryWindowReader(items, clock)

    def seen() -> list[int]:
        found = reader.between("a", NOW_MS, NOW_MS + MINUTE_MS)
        return [offset for _, window in found for offset in window]

    assert seen() == [1]
    generations = MemoryGenerations(items, "eu-west-1")
    generations.change(generation_pointer.begin)
    generations.change(lambda pointer: generation_pointer.switch(pointer, 1))
    clock.now -= 3600
    assert seen() == [2]


def test_readers_see_each_regions_current_generation(store: Store) -> None:
    add(store, 0, reading(0, 1), reading(1, 1))
    add(store, 1, reading(0, 2))
    add(store, 0, reading(0, 3), region="us-east-1")
    ends = NOW_MS, NOW_MS + 2 * MINUTE_MS

    def seen() -> list[list[int]]:
        return [sorted(window) for _, window in store.reader().between("a", *ends)]

    assert seen() == [[1, 3], [1]]
    generations = store.generations("eu-west-1", Clock())
    generations.change(generation_pointer.begin)
    assert seen() == [[1, 3], [1]]
    generations.change(lambda pointer: generation_pointer.switch(pointer, 1))
    assert seen() == [[2, 3]]  # a minute that has only other generations' windows is none
    newest = store.reader().between("a", *ends, page_size=1, newest_first=True)
    assert sorted(next(newest)[1]) == [2, 3]


def test_segments_have_every_item_once(store: Store) -> None:
    devices = [f"device-{index}" for index in range(30)]
    for device in devices:
        add(store, 0, reading(0, device_id=device), reading(1, device_id=device))
    seen: list[str] = []
    for segment in range(4):
        after: Attributes | None = None
        while True:
            items, after = store.table.scan(segment, 4, after)
            seen += [key_of(item)[0] for item in items]
            if after is None:
                break
    assert sorted(seen) == sorted(devices * 2)


def test_items_are_got_and_deleted_by_key_however_many(store: Store) -> None:
    add(store, 0, *(reading(minute) for minute in range(130)))
    minutes = [
        f"2026-11-21T{1 + (30 + each) // 60:02}:{(30 + each) % 60:02}:00Z" for each in range(131)
    ]
    keys = [to_key("a", f"{minute}#eu-west-1") for minute in minutes]
    found = store.table.get(keys)
    assert found.keys() == {key_of(key) for key in keys[:130]}
    store.table.delete(keys[1:])
    assert store.table.get(keys).keys() == {key_of(keys[0])}
    assert store.table.get([]) == {}


@pytest.mark.usefixtures("in_moto")
def test_a_table_that_can_not_be_read_is_unavailable() -> None:
    dynamodb = boto3.client("dynamodb")
    items = DynamoItems(dynamodb, "windows", KEY)
    table = WindowTable(dynamodb, "windows", lambda _seconds: None)
    generations = Generations(dynamodb, "windows", "eu-west-1", items)
    calls: list[tuple[str, Callable[[], object]]] = [
        ("get_item", generations.written),
        ("scan", lambda: table.scan(0, 1, None)),
        ("batch_get_item", lambda: table.get([to_key("a", "b")])),
        ("batch_write_item", lambda: table.delete([to_key("a", "b")])),
    ]
    for operation, call in calls:
        with Stubber(dynamodb) as stub:
            stub.add_client_error(operation, "InternalServerError")
            with pytest.raises(Unavailable):
                call()


@pytest.mark.usefixtures("in_moto")
def test_a_rebuild_reads_consistently() -> None:
    dynamodb = boto3.client("dynamodb")
    table = WindowTable(dynamodb, "windows", lambda _seconds: None)
    scanned = {"TableName": "windows", "Segment": 0, "TotalSegments": 1, "ConsistentRead": True}
    wanted = {"windows": {"Keys": [to_key("a", "b")], "ConsistentRead": True}}
    pointer = {
        "TableName": "windows",
        "Key": to_key("#generations", "eu-west-1"),
        "ConsistentRead": True,
    }
    with Stubber(dynamodb) as stub:
        stub.add_response("scan", {"Items": []}, scanned)
        assert table.scan(0, 1, None) == ([], None)
        stub.add_response("batch_get_item", {"Responses": {}}, {"RequestItems": wanted})
        assert table.get([to_key("a", "b")]) == {}
        stub.add_response("get_item", {}, pointer)
        items = DynamoItems(dynamodb, "windows", KEY)
        assert Generations(dynamodb, "windows", "eu-west-1", items).read() == FIRST


@pytest.mark.usefixtures("in_moto")
def test_a_table_that_throttles_for_long_is_unavailable_not_empty() -> None:
    dynamodb = boto3.client("dynamodb")
    table = WindowTable(dynamodb, "windows", lambda _seconds: None)
    key = to_key("a", "b")
    left = {"windows": {"Keys": [key], "ConsistentRead": True}}
    with Stubber(dynamodb) as stub:
        for _ in range(8):
            stub.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": left})
        with pytest.raises(Unavailable, match="throttles"):
            table.get([key])
    requests = {"windows": [{"DeleteRequest": {"Key": key}}]}
    with Stubber(dynamodb) as stub:
        for _ in range(8):
            stub.add_response("batch_write_item", {"UnprocessedItems": requests})
        with pytest.raises(Unavailable, match="throttles"):
            table.delete([key])


@pytest.mark.usefixtures("in_moto")
def test_keys_that_dynamodb_leaves_undone_are_asked_for_again() -> None:
    dynamodb = boto3.client("dynamodb")
    slept: list[float] = []
    table = WindowTable(dynamodb, "windows", slept.append)
    item = {**to_key("a", "b"), "version": {"N": "1"}}
    left = {"windows": {"Keys": [to_key("a", "b")], "ConsistentRead": True}}
    with Stubber(dynamodb) as stub:
        stub.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": left})
        found = {"Responses": {"windows": [item]}, "UnprocessedKeys": {}}
        stub.add_response("batch_get_item", found, {"RequestItems": left})
        assert table.get([to_key("a", "b")]) == {("a", "b"): item}
    requests = {"windows": [{"DeleteRequest": {"Key": to_key("a", "b")}}]}
    with Stubber(dynamodb) as stub:
        stub.add_response("batch_write_item", {"UnprocessedItems": requests})
        stub.add_response("batch_write_item", {}, {"RequestItems": requests})
        table.delete([to_key("a", "b")])
    assert slept == [0.05, 0.05]
