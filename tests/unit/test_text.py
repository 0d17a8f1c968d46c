"""JSON texts: a name twice, marks before and behind, other encodings, numbers beyond a double."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.domain.decoders.text import bare, json_documents, json_readings, json_value, lines
from telemetry.domain.reading import shown
from telemetry.errors import Rejected

MARK = b"\xef\xbb\xbf"
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


def refused(data: bytes) -> Rejected:
    with pytest.raises(Rejected) as raised:
        json_value(data)
    return raised.value


@given(values)
def test_any_json_is_read_as_the_library_reads_it(value: Any) -> None:
    for indent in (None, 2):
        data = json.dumps(value, indent=indent).encode()
        assert json_value(data) == json.loads(data) == json_value(MARK + data + b"\0\n")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"temperature": 21.5, "temperature": 39.5}', "temperature"),
        ('{"temperature": 21.5, "humidity": 4, "temperature": 21.5}', "temperature"),
        ('{"temperature": 21.5, "tempera\\u0074ure": 39.5}', "temperature"),
        ('{"a": {"b": 1}, "a": null}', "a"),
    ],
)
def test_a_name_that_is_there_twice_is_refused_by_name(text: str, name: str) -> None:
    error = refused(text.encode())
    assert error.field == name
    assert "is there twice, as " in error.reason
    (line,) = lines(text.encode(), 5)
    if name == "temperature":
        assert isinstance(line, Rejected)
        assert (line.field, line.reason) == (name, error.reason)


def test_the_answer_has_both_values_of_a_name_that_is_there_twice() -> None:
    error = refused(b'{"temperature": 21.5, "temperature": 39.5}')
    assert error.reason == "is there twice, as 21.5 and 39.5; leave one out"
    assert error.value == 39.5


def test_a_document_with_a_name_twice_is_refused_without_those_beside_it() -> None:
    text = b'[{"a": 1}, {"b": 1, "b": 2, "battery": 3, "battery": 4}, {"a": 3}]'
    first, second, third = json_documents(text, 3)
    assert (first, third) == ({"a": 1}, {"a": 3})
    assert isinstance(second, Rejected)
    assert second.field == "battery"


def test_a_name_that_is_no_field_of_a_reading_may_be_there_twice_in_one() -> None:
    text = b'{"b": 1, "temperature": 2, "b": {"battery": 1, "battery": 2}}'
    (document,) = json_documents(text, 1)
    (line,) = lines(text, 1)
    for each in (document, line, json_readings(text)):
        assert each["temperature"] == 2
        assert shown(each["b"]) == "battery: is there twice, as 1 and 2; leave one out"
    assert refused(text).field == "b"  # not a reading: any name


def test_a_name_twice_within_a_value_is_seen_by_whoever_looks_at_the_value() -> None:
    (document,) = json_documents(b'{"data": {"b": 1, "b": 2}}', 3)
    assert shown(document["data"]) == "b: is there twice, as 1 and 2; leave one out"


def test_marks_before_and_zero_bytes_behind_each_line_are_no_part_of_it() -> None:
    data = MARK + b'{"a": 1}\0\r\n' + MARK + b'{"a": 2}\n' + MARK + b"\n\0\0\n\n" + b'{"a": 3}\0\0'
    assert lines(data, 5) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("read", [json_value, lambda data: lines(data, 5)])
def test_utf_16_is_named(encoding: str, read: Any) -> None:
    data = '{"device_id": "pump-17"}'.encode(encoding)
    gateways = data.decode("utf-8", "replace").encode()  # as text, which it isn't
    for each in (data, gateways):
        with pytest.raises(Rejected) as raised:
            read(each)
        assert raised.value.reason == "is UTF-16; it has to be UTF-8"


@pytest.mark.parametrize("blank", [b"", b"\0\0", b"\0\0\0\0", b"\0\r\n\0", b" \0"])
def test_a_text_of_zero_bytes_is_empty(blank: bytes) -> None:
    assert bare(blank) == b""


def test_utf_32_is_named() -> None:
    assert refused('{"a": 1}'.encode("utf-32")).reason == "is UTF-32; it has to be UTF-8"


def test_a_zero_byte_within_is_named_as_one() -> None:
    reason = refused(b'{"a": 1}\0garbage').reason
    assert "0x00" in reason
    assert "length" in reason


def test_a_number_of_more_digits_than_python_reads_is_shown_as_it_was_sent() -> None:
    long = b"1" + b"0" * 5000
    first, second = json_documents(b'[{"a": 1}, {"a": ' + long + b"}]", 3)
    assert first == {"a": 1}
    assert shown(second["a"]) == "1" + "0" * 99 + "…"


@pytest.mark.parametrize("text", ["1e400", "-1E+999", "NaN", "Infinity", "-Infinity"])
def test_a_number_that_no_double_holds_is_shown_as_it_was_sent(text: str) -> None:
    assert shown(json_value(text.encode())) == text
