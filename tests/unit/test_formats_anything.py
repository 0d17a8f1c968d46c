"""Bytes that nobody should send: a decoder refuses them or reads them, and soon."""

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry.domain.admission import Poster, admit
from telemetry.domain.formats import MEDIA_TYPES, Body, decode
from telemetry.errors import Rejected

from tests import writers
from tests.fakes import KnownSchemas, schema_id
from tests.fuzz.requests import FORMATS, damage, reading
from tests.fuzz.requests import Request as Damaged

NOW_MS = 1_795_224_600_000
MOST = 500
PATIENCE_SECONDS = 5.0  # of CPU, on a busy machine; the slowest known takes 0.4
CONTENT_TYPES = [*MEDIA_TYPES, "application/x-protobuf; messageType=Reading"]
STARTS = [b"", b"Obj\x01", writers.header(schema_id(1)), writers.header(schema_id(3), 5)]
STARTS += [writers.container([])[:-16], writers.header(schema_id(3)) + b"\x01"]


def taken(data: bytes, content_type: str, encoding: str | None = None) -> list[Any] | Rejected:
    """What comes of a body: documents, each of which is a reading or refused, or one refusal."""
    started = time.process_time()
    try:
        documents = decode(Body(data, content_type, encoding), KnownSchemas(), MOST)
        assert 1 <= len(documents) <= MOST
        admission = admit(documents, Poster(None), NOW_MS, 86_400_000, None)
        assert len(admission.readings) + len(admission.refusals) == len(documents)
    except Rejected as error:
        return error
    finally:
        assert time.process_time() - started < PATIENCE_SECONDS
    return documents


@settings(max_examples=300)
@given(
    st.sampled_from(STARTS),
    st.binary(max_size=200),
    st.sampled_from(CONTENT_TYPES),
    st.sampled_from([None, "gzip"]),
)
def test_any_bytes_are_read_or_refused(
    start: bytes, data: bytes, content_type: str, encoding: str | None
) -> None:
    taken(start + data, content_type, encoding)
    taken(writers.zipped(start + data), content_type, encoding)


@settings(max_examples=200)
@given(st.sampled_from(list(FORMATS)), st.integers(0, 2**32), st.booleans())
def test_damaged_readings_are_read_or_refused(name: str, seed: int, is_zipped: bool) -> None:
    chance = random.Random(seed)
    content_type, written = FORMATS[name]
    sent = [reading(chance, f"pump-{at}", NOW_MS) for at in range(1 if name == "one" else 4)]
    made = Damaged(name, written(sent), {}, sent)
    damage(chance, made)
    if is_zipped:
        made.data = writers.zipped(made.data)
        damage(chance, made)
    taken(made.data, content_type, "gzip" if is_zipped else None)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("json", "form")])
def test_a_body_cut_anywhere_never_brings_a_reading_that_was_not_sent(name: str) -> None:
    content_type, written = FORMATS[name]
    chance = random.Random(1)
    sent = [reading(chance, f"pump-{at}", NOW_MS) for at in range(1 if name == "one" else 3)]
    data = written(sent)
    for end in range(len(data)):
        found = taken(data[:end], content_type)
        whole = [] if isinstance(found, Rejected) else [present(each) for each in found]
        whole = [each for each in whole if each.keys() >= WHOLE]
        assert whole == sent[: len(whole)]
        assert len(whole) < len(sent) or end == len(data) - 1  # which is a line's end


# what is cut between two fields of a Protobuf message lacks those behind
WHOLE = {"device_id", "recorded_at", "temperature", "humidity"}


def present(document: Any) -> dict[str, Any]:
    """The fields that a document has; of a line that was refused, none."""
    fields = document if isinstance(document, dict) else {}
    return {name: value for name, value in fields.items() if value is not None}
