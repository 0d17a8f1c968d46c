"""Firehose's delivery in the embedded AWS: in objects, without loss, by the role's permissions."""

import gzip
import hashlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.gaps.firehose import Delivery, Undelivered, deaggregated, delimiter_of
from tests import writers

STREAM = "arn:aws:kinesis:us-east-1:123456789012:stream/readings"
ROLE = "arn:aws:iam::123456789012:role/archive"
TEN = 1_795_255_200  # 2026-11-21T10:00:00Z
NEWLINE = {
    "Processors": [
        {
            "Type": "AppendDelimiterToRecord",
            "Parameters": [{"ParameterName": "Delimiter", "ParameterValue": "\\n"}],
        }
    ]
}


class Emulator:
    """The emulator's modules that the gap changes."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = {
            "BucketARN": "arn:aws:s3:::archive",
            "RoleARN": ROLE,
            "BufferingHints": {"IntervalInSeconds": 60, "SizeInMBs": 1},
            "CompressionFormat": "GZIP",
            "ProcessingConfiguration": NEWLINE,
        }
        self.streams: dict[str, Any] = {
            "archive": {
                "name": "archive",
                "arn": "arn:of:archive",
                "version": 1,
                "kinesis_source": {"KinesisStreamARN": STREAM, "RoleARN": ROLE},
                "destinations": [{"type": "ExtendedS3", "config": self.config}],
            }
        }
        self.objects: dict[str, bytes] = {}
        self.denied = ""
        self.is_away = False

    def delivery(self) -> Delivery:
        serials: Iterator[int] = iter(range(100))
        firehose = SimpleNamespace(
            _streams=self.streams,
            _java_time=lambda _pattern, at: time.strftime("%Y-%m-%d-%H-%M-%S", at),
            _evaluate_prefix=lambda _prefix, at: time.strftime("hour=%H/", at),
            _s3_bucket_from_arn=lambda arn: arn.rpartition(":")[2],
            new_uuid=lambda: next(serials),
        )
        iam = SimpleNamespace(
            EvalContext=lambda *asked: SimpleNamespace(action=asked[3], resource_arn=asked[4]),
            _gather_role_policies=lambda *_role: [],
            evaluate=lambda asked, _policies: SimpleNamespace(
                decision="Deny" if asked.action == self.denied else "Allow"
            ),
        )
        return Delivery(firehose, iam, self.put)

    def put(self, path: str, body: bytes) -> None:
        if self.is_away:
            raise Undelivered("503")
        self.objects[path] = body


@pytest.fixture
def emulator() -> Emulator:
    return Emulator()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(at=float(TEN))
    monkeypatch.setattr("emulator.gaps.firehose.time.time", lambda: now.at)
    return now


def test_records_of_a_while_are_one_compressed_object_a_line_each(
    emulator: Emulator, clock: SimpleNamespace
) -> None:
    delivery = emulator.delivery()
    delivery.note(STREAM, [("a", b"one"), ("b", b"two")])
    clock.at += 59
    delivery.note(STREAM, [("a", b"three")])
    delivery.deliver_due()
    assert emulator.objects == {}
    clock.at += 1
    delivery.deliver_due()
    # named by the arrival of its oldest record
    ((path, body),) = emulator.objects.items()
    assert path == "/archive/hour=10/archive-1-2026-11-21-10-00-00-0.gz"
    assert gzip.decompress(body) == b"one\ntwo\nthree\n"
    clock.at += 1000
    delivery.deliver_due()
    assert len(emulator.objects) == 1


def test_a_record_that_kpl_aggregated_is_delivered_as_the_records_in_it(
    emulator: Emulator, clock: SimpleNamespace
) -> None:
    whole = writers.kpl([b"one", b"", b"two"])
    numbers = bytes.fromhex("f3899ac208051001")  # fields of numbers and no MD5
    delivery = emulator.delivery()
    delivery.note(STREAM, [("a", whole), ("a", whole[:-1]), ("a", writers.kpl([])), ("a", numbers)])
    clock.at += 60
    delivery.deliver_due()
    (body,) = emulator.objects.values()
    expected = [b"one", b"", b"two", whole[:-1], writers.kpl([]), numbers]
    assert gzip.decompress(body) == b"".join(each + b"\n" for each in expected)


@given(st.binary(max_size=40))
def test_any_bytes_with_an_md5_are_delivered(message: bytes) -> None:
    md5 = hashlib.md5(message, usedforsecurity=False).digest()
    assert deaggregated(writers.KPL_MAGIC + message + md5)


def test_a_full_buffer_is_delivered_at_once(emulator: Emulator) -> None:
    delivery = emulator.delivery()
    delivery.note(STREAM, [("a", b"x" * 1024 * 1024)])
    delivery.deliver_due()
    assert len(emulator.objects) == 1


def test_records_of_other_streams_are_not_delivered(
    emulator: Emulator, clock: SimpleNamespace
) -> None:
    delivery = emulator.delivery()
    delivery.note("another", [("a", b"one")])
    emulator.streams["archive"]["destinations"][0]["type"] = "Splunk"
    delivery.note(STREAM, [("a", b"one")])
    clock.at += 1000
    delivery.deliver_due()
    assert emulator.objects == {}


@pytest.mark.parametrize("denied", ["kinesis:GetRecords", "s3:PutObject"])
def test_records_wait_until_the_role_has_the_permission(
    emulator: Emulator, clock: SimpleNamespace, denied: str
) -> None:
    delivery, emulator.denied = emulator.delivery(), denied
    delivery.note(STREAM, [("a", b"one")])
    clock.at += 60
    with pytest.raises(Undelivered, match=f"isn't allowed {denied}"):
        delivery.deliver_due()
    delivery.note(STREAM, [("a", b"two")])
    emulator.denied = ""
    delivery.deliver_due()
    assert [gzip.decompress(body) for body in emulator.objects.values()] == [b"one\ntwo\n"]


def test_records_that_the_bucket_refuses_are_kept(
    emulator: Emulator, clock: SimpleNamespace
) -> None:
    delivery, emulator.is_away = emulator.delivery(), True
    delivery.note(STREAM, [("a", b"one")])
    clock.at += 60
    with pytest.raises(Undelivered, match="503"):
        delivery.deliver_due()
    emulator.is_away = False
    delivery.deliver_due()
    assert len(emulator.objects) == 1


def test_records_are_unchanged_without_delimiter_and_compression(
    emulator: Emulator, clock: SimpleNamespace
) -> None:
    emulator.config |= {"ProcessingConfiguration": {}, "CompressionFormat": "UNCOMPRESSED"}
    assert delimiter_of(emulator.config) == b""
    delivery = emulator.delivery()
    delivery.note(STREAM, [("a", b"one"), ("a", b"two")])
    clock.at += 60
    delivery.deliver_due()
    assert list(emulator.objects.values()) == [b"onetwo"]
