"""Bundles: records of the stream with several readings, as other producers write them."""

import hashlib
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from telemetry.domain.bundle import MAX_READINGS, Bundle, Member, content, opened
from telemetry.domain.reading import Reading, encode
from telemetry.errors import Rejected

from tests import writers

AT_MS = 1_795_224_600_000
FIRST = Reading("pump-1", AT_MS, {"temperature": 20.0})
SECOND = Reading("pump-2", AT_MS + 1, {"humidity": 40.5, "battery": 3.5}, trace_id="1-2")
DOCUMENTS = [json.loads(encode(each)) for each in (FIRST, SECOND)]
ONE, TWO = map(encode, (FIRST, SECOND))
MARK = b"\xef\xbb\xbf"


def refused(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as raised:
        opened(data)
    return raised.value


@pytest.mark.parametrize(
    "data",
    [
        writers.kpl([ONE, TWO]),
        writers.kpl([json.dumps(DOCUMENTS, indent=1).encode()]),
        writers.kpl([ONE + b"\n" + TWO + b"\n"]),
        writers.kpl([MARK + ONE + b"\0", TWO + b"\n"]),
        json.dumps(DOCUMENTS).encode(),
        b"\n " + json.dumps(DOCUMENTS, indent=2).encode() + b"\n\0",
        MARK + json.dumps(DOCUMENTS).encode(),
        ONE + b"\n" + TWO,
        MARK + ONE + b"\r\n\r\n" + MARK + TWO + b"\0\n",
    ],
)
def test_the_readings_in_a_bundle_are_found_in_their_order(data: bytes) -> None:
    assert opened(data) == Bundle([Member(FIRST), Member(SECOND)], 0, None)
    assert content(data) == ([FIRST, SECOND], [])


@pytest.mark.parametrize("data", [MARK + ONE, ONE + b"\0", MARK + ONE + b"\0\0\n"])
def test_a_reading_with_a_mark_is_a_bundle_of_one(data: bytes) -> None:
    assert opened(data) == Bundle([Member(FIRST)], 0, None)


@pytest.mark.parametrize(
    "data",
    [
        ONE,
        b" " + ONE + b"\n",
        json.dumps(DOCUMENTS[0], indent=2).encode(),
        json.dumps({**DOCUMENTS[0], "temperature": "warm"}, indent=2).encode(),
        ONE.replace(b"{", b'{"temperature":1,'),
        b"",
        b"not JSON",
        b"21.5",
        b"null\nnull",
        b"{\n]",
        b'{"device_id":\n"pump-1"',
        b"[" + ONE,
        b"\xf3\x89\x9a",
        b"\xff\xff" + ONE,
    ],
)
def test_what_is_one_reading_or_none_is_no_bundle(data: bytes) -> None:
    assert opened(data) is None


def test_what_is_no_reading_in_a_bundle_is_counted_and_the_first_is_told() -> None:
    warm = {**DOCUMENTS[0], "temperature": "warm"}
    for data in (
        json.dumps([DOCUMENTS[0], warm, 17]).encode(),
        writers.kpl([ONE, json.dumps(warm).encode(), b"\x01"]),
        ONE + b"\n" + json.dumps(warm).encode() + b"\nx",
    ):
        bundle = opened(data)
        assert bundle is not None
        assert (bundle.members, bundle.refused) == ([Member(FIRST)], 2)
        assert bundle.rejected is not None
        assert (bundle.rejected.field, bundle.rejected.value) == ("temperature", "warm")
        assert bundle.rejected.reason == (
            "is not a finite number of °C (reading 2 of 3 in the record; 2 are refused)"
        )


def test_a_name_twice_in_a_bundle_is_refused_by_name() -> None:
    twice = ONE.replace(b"{", b'{"temperature":1,')
    bundle = opened(b"[" + twice + b"," + TWO + b"]")
    assert bundle is not None
    assert bundle.members == [Member(SECOND)]
    assert bundle.rejected is not None
    assert bundle.rejected.field == "temperature"
    (only,) = (opened(MARK + twice),)
    assert only is not None
    assert only.rejected is not None
    assert only.rejected.reason == "is there twice, as 1 and 20.0; leave one out"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (writers.kpl([ONE])[:-1], "MD5"),
        (writers.kpl([ONE])[:25], "MD5"),
        (writers.kpl([ONE]).replace(b"pump-1", b"pump-2"), "MD5"),
        (writers.KPL_MAGIC, "MD5"),
        (writers.kpl([]), "no record"),
    ],
)
def test_a_damaged_aggregated_record_is_told_to_be_kpls(data: bytes, reason: str) -> None:
    error = refused(data)
    assert error.reason.startswith("is a KPL-aggregated record ")
    assert reason in error.reason
    assert content(data) == ([], [data])


def test_utf_16_is_named() -> None:
    assert refused(json.dumps(DOCUMENTS).encode("utf-16")).reason.startswith("is UTF-16")


def test_a_bundle_has_a_reading_and_no_more_than_can_be_put_back() -> None:
    assert refused(b"[]").reason == "has 0 readings; a record of another producer has 1 to 5000"
    most = opened(b"[" + b",".join([ONE] * MAX_READINGS) + b"]")
    assert most is not None
    assert len(most.members) == MAX_READINGS
    assert "has 5001 readings" in refused(b"[" + b",".join([ONE] * 5001) + b"]").reason
    assert "has 5001 readings" in refused(writers.kpl([ONE] * 5001)).reason


pieces = st.sampled_from([ONE, TWO, MARK, b"[", b"]", b",", b"\n", b"\0", b"{", b"}", b'"', b"1"])


@given(st.lists(pieces, max_size=8).map(b"".join) | st.binary(), st.booleans())
@example(b"[" * 100_000, False)
@example(b"[" * 100_000, True)
@example(b"{\n" * 100_000, False)
def test_any_bytes_are_opened_or_rejected(data: bytes, is_aggregated: bool) -> None:
    data = writers.kpl([data]) if is_aggregated else data
    found: Any = None
    with suppress(Rejected):
        found = opened(data)
    if found is not None:
        assert found.refused + len(found.members) > 0
        assert content(data).readings == [member.reading for member in found.members]


@given(st.binary(max_size=60))
def test_any_message_with_its_md5_is_opened_or_rejected(message: bytes) -> None:
    md5 = hashlib.md5(message, usedforsecurity=False).digest()
    with suppress(Rejected):
        opened(writers.KPL_MAGIC + message + md5)
