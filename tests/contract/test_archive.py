"""The archive in memory and in S3 are held to one behaviour."""

import gzip
from collections.abc import Callable
from typing import Any, NamedTuple

import boto3
import pytest
from botocore.stub import Stubber
from telemetry.aws.archive_bucket import Archive, Position
from telemetry.domain.archive_layout import prefix_at
from telemetry.domain.times import from_iso
from telemetry.errors import Rejected, Unavailable

from tests.fakes import MemoryArchive

TEN = from_iso("2026-11-21T10:00:00Z")
HOUR_MS = 3_600_000
EVER_MS = 4_102_444_800_000  # the year 2100
PART = "2026-11-21T10"
START = Position()


class Store(NamedTuple):
    """An archive; `keep` writes an object of an hour and gives its key."""

    archive: Archive
    keep: Callable[..., str]


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        memory = MemoryArchive()
        return Store(memory, memory.keep)
    request.getfixturevalue("in_moto")
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="archive")
    keys: list[str] = []

    def keep(arrived_ms: int, *lines: bytes) -> str:
        keys.append(f"{prefix_at(arrived_ms)}telemetry-archive-1-{len(keys):04}.gz")
        body = gzip.compress(b"".join(line + b"\n" for line in lines))
        s3.put_object(Bucket="archive", Key=keys[-1], Body=body)
        return keys[-1]

    return Store(Archive(s3, "archive"), keep)


def read(store: Store, after: Position = START, as_of_ms: int = EVER_MS) -> list[bytes]:
    return [line.data for line in store.archive.lines(PART, after, as_of_ms)]


def test_partitions_are_the_hours_of_a_span_that_have_objects(store: Store) -> None:
    for hours in (-11, -1, 0, 0, 1, 14, 24 * 31, 24 * 400):
        store.keep(TEN + hours * HOUR_MS, b"x")
    found = store.archive.partitions(TEN - HOUR_MS, TEN + 15 * HOUR_MS)
    assert found == [prefix_at(TEN + hours * HOUR_MS) for hours in (-1, 0, 1, 14)]
    assert store.archive.partitions(TEN, TEN + HOUR_MS) == [prefix_at(TEN)]
    assert len(store.archive.partitions(0, TEN + 401 * 24 * HOUR_MS)) == 7
    assert store.archive.partitions(TEN + 2 * HOUR_MS, TEN + 3 * HOUR_MS) == []


def test_lines_come_in_order_as_they_were_on_the_stream(store: Store) -> None:
    lines = [b'{"a":1}', b"", b"\xff\x00\r", b"last"]
    store.keep(TEN, *lines[:3])
    store.keep(TEN, lines[3])
    store.keep(TEN + HOUR_MS, b"of another hour")
    assert read(store) == lines


def test_reading_goes_on_behind_any_line_and_repeats_none(store: Store) -> None:
    lines = [f"{number}".encode() for number in range(7)]
    store.keep(TEN, *lines[:4])
    store.keep(TEN, *lines[4:])
    found = list(store.archive.lines(PART, START, EVER_MS))
    for index, line in enumerate(found):
        assert read(store, line.position) == lines[index + 1 :]


def test_objects_written_after_a_time_are_left_out(store: Store) -> None:
    store.keep(TEN, b"x")
    assert read(store, as_of_ms=1) == []


def test_a_day_is_a_part_too(store: Store) -> None:
    for hours in (-10, 0, 13, 14):
        store.keep(TEN + hours * HOUR_MS, f"{hours}".encode())
    lines = store.archive.lines("2026-11-21", START, EVER_MS)
    assert [line.data for line in lines] == [b"-10", b"0", b"13"]


@pytest.mark.usefixtures("in_moto")
def test_a_bucket_that_can_not_be_read_is_unavailable() -> None:
    s3 = boto3.client("s3")
    archive = Archive(s3, "archive")
    stubs: list[tuple[str, Callable[[], Any]]] = [
        ("list_objects_v2", lambda: archive.partitions(TEN, TEN + 1)),
        ("list_objects_v2", lambda: list(archive.lines(PART, START, EVER_MS))),
        ("get_object", lambda: list(archive.lines(PART, Position("key", 1), EVER_MS))),
    ]
    for operation, call in stubs:
        with Stubber(s3) as stub:
            stub.add_client_error(operation, "AccessDenied")
            with pytest.raises(Unavailable, match="the archive can't be read"):
                call()


@pytest.mark.parametrize("body", [b"not gzip", gzip.compress(b"a\nb\n" * 1000)[:-9]])
def test_an_object_that_is_damaged_is_named(in_moto: None, body: bytes) -> None:  # noqa: ARG001
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="archive")
    key = f"{prefix_at(TEN)}telemetry-archive-1-0001.gz"
    s3.put_object(Bucket="archive", Key=key, Body=body)
    with pytest.raises(Rejected, match="is damaged, or not packed by gzip") as caught:
        list(Archive(s3, "archive").lines(PART, START, EVER_MS))
    assert caught.value.field == key
