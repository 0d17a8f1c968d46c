"""Line protocol: what InfluxDB's writers write is read, and a fault says where and what is right.

The oracles are the line-protocol writers of InfluxDB's own two Python clients. The cases by hand
are as InfluxDB 1.6.7 answered them, except for those of the last lists, which say how they differ.
"""

import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb.line_protocol import make_lines
from influxdb_client.client.write.point import Point as ClientPoint
from telemetry.domain.line_protocol import MAX_LINES, Fault, Point, TooManyLines, parse
from telemetry.errors import Rejected


def points(text: str | bytes, precision: str = "ns") -> list[Point]:
    found, faults = parse(text if isinstance(text, bytes) else text.encode(), precision)
    assert faults == []
    return found


def fault(text: str | bytes) -> str:
    found, faults = parse(text if isinstance(text, bytes) else text.encode(), "ns")
    assert (found, len(faults)) == ([], 1)
    return str(faults[0])


def one(text: str) -> Point:
    (found,) = points(text)
    return found


def test_a_line_is_a_measurement_tags_fields_and_a_time() -> None:
    line = (
        'weather,location=us-midwest,device=a temperature=82,wet=true,note="dry \\"now\\"",n=-3i 7'
    )
    assert points(line) == [
        Point(
            line=1,
            measurement="weather",
            tags={"location": "us-midwest", "device": "a"},
            fields={"temperature": 82.0, "wet": True, "note": 'dry "now"', "n": -3},
            time_ns=7,
        )
    ]


def test_tags_and_time_may_be_missing() -> None:
    assert points("a v=1") == [Point(1, "a", {}, {"v": 1.0}, None)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("01", 1.0),
        ("1e5", 100_000.0),
        ("-1.5E+5", -150_000.0),
        ("1e-2", 0.01),
        ("-0i", 0),
        ("9223372036854775807i", 9_223_372_036_854_775_807),
        ("-9223372036854775808i", -9_223_372_036_854_775_808),
        ("18446744073709551615u", 18_446_744_073_709_551_615),
        ("t", True),
        ("T", True),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("f", False),
        ("F", False),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        ('""', ""),
        ('"a b,c=d"', "a b,c=d"),
        (r'"\\ \" \n \x"', r'\ " \n \x'),
        ('"two\nlines"', "two\nlines"),
    ],
)
def test_a_field_has_one_of_five_kinds(value: str, expected: Any) -> None:
    found = one(f"a v={value} 1").fields["v"]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "+1",
            "+1i",
            "-",
            "1e",
            "0x1",
            "1_0",
            "NaN",
            "nan",
            "inf",
            "-Infinity",
            "tRUE",
            "yes",
        ),
        *("1.0i", "-1u", "1e400", "9223372036854775808i", "18446744073709551616u", "\u0661"),
        "9" * 5_000 + "i",
    ],
)
def test_what_is_no_value_is_told_with_what_would_be_right(value: str) -> None:
    told = fault(f"a v={value} 1")
    assert told.startswith("line 1, column 5: field v: ")
    assert ("is none of 21.5, 21i" in told) or ("is out of" in told)
    assert len(told) < 250


@pytest.mark.parametrize(
    ("line", "measurement", "tags", "fields"),
    [
        (r"a\,b\ c\=d,t\,\ \==x\,\ \=y v\,\ \==1", "a,b c=d", {"t, =": "x, =y"}, ["v, ="]),
        (r"a\\b,t=\\x v=1", r"a\\b", {"t": r"\\x"}, ["v"]),
        ("a=b v=1", "a=b", {}, ["v"]),
        ('a,t="q\\ u" "v"=1', "a", {"t": '"q u"'}, ['"v"']),
        ('a,t="x v=1', "a", {"t": '"x'}, ["v"]),
        (r"a,t=x\  v=1", "a", {"t": "x "}, ["v"]),
        ("é,t=ü v=1", "é", {"t": "ü"}, ["v"]),
    ],
)
def test_a_backslash_escapes_what_ends_a_name_and_nothing_else(
    line: str, measurement: str, tags: dict[str, str], fields: list[str]
) -> None:
    found = one(line)
    assert (found.measurement, found.tags, list(found.fields)) == (measurement, tags, fields)


@pytest.mark.parametrize(
    ("precision", "time_ns"),
    [
        ("n", 3),
        ("ns", 3),
        ("u", 3_000),
        ("us", 3_000),
        ("ms", 3_000_000),
        ("s", 3_000_000_000),
        ("m", 180_000_000_000),
        ("h", 10_800_000_000_000),
    ],
)
def test_times_are_in_the_requests_precision(precision: str, time_ns: int) -> None:
    assert points("a v=1 3", precision)[0].time_ns == time_ns
    assert points("a v=1 -3", precision)[0].time_ns == -time_ns


def test_another_precision_is_refused() -> None:
    with pytest.raises(Rejected, match="not one of n, ns, u, us, ms, s, m, h") as caught:
        parse(b"a v=1 1", "ps")
    assert (caught.value.field, caught.value.value) == ("precision", "ps")


def test_spaces_between_the_parts_and_around_them_say_nothing() -> None:
    assert one(" \ta  v=1 \t 1  \t\r\n") == Point(1, "a", {}, {"v": 1.0}, 1)
    assert one("a v=1\r\n") == Point(1, "a", {}, {"v": 1.0}, None)


def test_comments_and_empty_lines_are_skipped_and_counted_as_lines() -> None:
    body = '# why\n\na v="x\ny" 1\n \r\n\t# "quoted\nb v=2 2\n#'
    assert [(each.line, each.measurement) for each in points(body)] == [(3, "a"), (7, "b")]
    assert points("") == points("\n\n#") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (",t=1 v=1", "column 1: the measurement is missing"),
        ("a", "column 2: the fields are missing"),
        ("a\tv=1", "column 6: the fields are missing"),
        ("a,t=1", "column 6: the fields are missing"),
        ("a, v=1", "column 3: a tag's key is missing"),
        ("a,=1 v=1", "column 3: a tag's key is missing"),
        ("a,t v=1", "column 4: tag t has no value"),
        ("a,t= v=1", "column 5: tag t has an empty value"),
        ("a,t=1,t=2 v=1", "column 7: tag t is there twice"),
        ("a,t=b=c v=1", r"column 6: in a tag's value an equals sign is written \="),
        ("a v", "column 4: field v has no value"),
        ("a =1", "column 3: a field's key is missing"),
        ("a v=1, 1", "column 7: a field's key is missing"),
        ("a v=1 1 2", "column 9: '2' follows the timestamp"),
        ("a v=1 1x", "column 8: 'x' follows the timestamp"),
        ("a v=1 +1", "column 7: '+1' is not a timestamp"),
        ("a v=1 1.5", "column 8: '.5' follows the timestamp"),
        ("a v=1 99999999999999999999", "column 7: timestamp 99999999999999999999 is out of range"),
        ("a v=1 9223372036854775808", "column 7: timestamp 9223372036854775808 is out of range"),
        ('a v="x', 'column 5: the string of field v has no closing "'),
        ('a v="\\" 1', 'column 5: the string of field v has no closing "'),
    ],
)
def test_a_fault_says_where_and_what_would_be_right(line: str, expected: str) -> None:
    told = fault(line)
    assert told.startswith(f"line 1, {expected}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # InfluxDB keeps the last one
        ("a v=1,v=2", "column 7: field v is there twice"),
        # InfluxDB stores what is behind the quote too, and part of the quotes
        ('a v="x"y', "column 8: 'y' follows a value; a comma or a space should"),
        # InfluxDB lets a tag's value begin with what it may not have elsewhere
        ("a,t==b v=1", "column 5: tag t has an empty value"),
    ],
)
def test_what_influxdb_takes_and_makes_something_else_of_is_refused(
    line: str, expected: str
) -> None:
    assert fault(line).startswith(f"line 1, {expected}")


def test_a_byte_that_is_not_utf_8_spoils_its_own_line() -> None:
    found, faults = parse("é,t=ü v=1\na,t=".encode() + b"x\xff v=1\nb v=1", "ns")
    assert [each.measurement for each in found] == ["é", "b"]
    assert faults == [Fault(2, 6, "byte 0xff is not UTF-8", {"t": "x\udcff"})]


def test_a_faulty_line_leaves_the_others_alone() -> None:
    body = 'a v=1\nb,t= v=1\nc v=1\nd v="x\ny" z\ne v=1\nh,t="q v=1 x\ni,u=" v=1\nf v="open\ng v=1'
    found, faults = parse(body.encode(), "ns")
    assert [(each.line, each.measurement) for each in found] == [
        (1, "a"),
        (3, "c"),
        (6, "e"),
        (8, "i"),
        (10, "g"),
    ]
    assert [(each.line, each.column) for each in faults] == [(2, 5), (5, 4), (7, 12), (9, 5)]


def test_a_faulty_line_that_is_indented_by_a_tab_leaves_the_others_alone() -> None:
    found, faults = parse(b'\t a,t="b v=1x\nc v=1\nd v="e"', "ns")
    assert [each.line for each in faults] == [1]
    assert [each.measurement for each in found] == ["c", "d"]


def test_a_request_has_up_to_5000_points() -> None:
    body = b"# none\n" + b"a v=1\n" * MAX_LINES
    assert len(parse(body, "ns")[0]) == 5_000
    with pytest.raises(TooManyLines, match="more than 5000 points"):
        parse(body + b"a", "ns")


@pytest.mark.parametrize(
    "body",
    [
        b"a" + b"\\" * 1_000_000,
        b'a v="' + b'\\"' * 500_000,
        b'a v="x\n' * 4_000,
        b"a," * 500_000,
        b" " * 1_000_000,
        b"\n" * 1_000_000,
        b'a v="' + b"x\n" * 500_000,
        b"a v=" + b"1" * 1_000_000 + b".e",
        b"a v=1e" + b"1" * 1_000_000 + b"x",
        b"a v=1 " + b"1" * 1_000_000 + b"x",
        b"a v=1 " + b"0" * 1_000_000 + b"x",
        b"a v=" + b"0" * 1_000_000 + b"1i",
        b"a v=1" + b"\0" * 1_000_000 + b"x",
        b"a v=1\n" + b"\0" * 1_000_000 + b"x",
    ],
)
def test_a_mebibyte_of_malice_costs_no_more_than_a_second(body: bytes) -> None:
    started = time.process_time()
    with suppress(TooManyLines):
        parse(body, "ns")
    assert time.process_time() - started < 1


@given(st.binary(max_size=200) | st.text('a,= "\\\n1.ite-#', max_size=60).map(str.encode))
def test_no_body_makes_it_fail_and_each_line_has_one_end(body: bytes) -> None:
    try:
        found, faults = parse(body, "ns")
    except Rejected as error:
        assert error.reason.startswith("is UTF-")  # noqa: PT017 - most bodies aren't
        return
    lines = [each.line for each in found] + [each.line for each in faults]
    assert len(set(lines)) == len(lines)


# What InfluxDB's own writers write. Neither escapes a backslash in a name, nor can it be: InfluxDB
# takes two for two.

names = st.text('ab=, ü"é', min_size=1, max_size=6).filter(lambda name: name != "time")
values: st.SearchStrategy[Any] = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.text('ab=, "\\é', max_size=8)
)
dicts = st.dictionaries(names, names, max_size=3)
written = st.tuples(
    names.filter(lambda name: not name.startswith("#")),
    dicts,
    st.dictionaries(names, values, min_size=1, max_size=4),
    st.none() | st.integers(-(10**18), 10**18),
)


@given(st.lists(written, min_size=1, max_size=4))
def test_what_the_client_of_influxdb_1_writes_is_read_as_it_was(
    batch: list[tuple[str, dict[str, str], dict[str, Any], int | None]],
) -> None:
    documents = [
        {"measurement": name, "tags": tags, "fields": fields, "time": at}
        for name, tags, fields, at in batch
    ]
    lines: str = make_lines({"points": documents}, precision="n")
    expected = [Point(index + 1, *point) for index, point in enumerate(batch)]
    assert points(lines) == expected


@given(st.lists(written, min_size=1, max_size=4))
def test_what_the_client_of_influxdb_2_writes_is_read_as_it_was(
    batch: list[tuple[str, dict[str, str], dict[str, Any], int | None]],
) -> None:
    client_point: Any = ClientPoint  # has no types
    lines = []
    for name, tags, fields, at in batch:
        point = client_point(name)
        for key, value in tags.items():
            point.tag(key, value)
        for key, value in fields.items():
            point.field(key, value)
        lines.append(point.time(at, "ns").to_line_protocol())
    expected = [Point(index + 1, *point) for index, point in enumerate(batch)]
    assert points("\n".join(lines)) == expected


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("0009223372036854775807i", 9_223_372_036_854_775_807),
        ("-0009223372036854775808i", -9_223_372_036_854_775_808),
        ("000000000000000000000000000000000001i", 1),
        ("0000000000000000000018446744073709551615u", 18_446_744_073_709_551_615),
        ("-000i", 0),
        ("0" * 5_000 + "1i", 1),
    ],
)
def test_leading_zeros_of_a_whole_number_are_passed_over(word: str, value: int) -> None:
    ((point,), faults) = parse(f"m v={word}".encode(), "ns")
    assert (point.fields, faults) == ({"v": value}, [])


@pytest.mark.parametrize(
    ("digits", "time_ns"), [("00000000000000000000001", 1), ("-0000000000000000000000002", -2)]
)
def test_leading_zeros_of_a_timestamp_are_passed_over(digits: str, time_ns: int) -> None:
    ((point,), _) = parse(f"m v=1 {digits}".encode(), "ns")
    assert point.time_ns == time_ns


def test_the_times_of_influxdb_1_are_the_first_and_last_that_are_taken() -> None:
    times = [2**63 - 1, 2**63 - 2, -(2**63) + 2, -(2**63) + 1]
    points, faults = parse("\n".join(f"m v=1 {each}" for each in times).encode(), "ns")
    assert [point.time_ns for point in points] == times[1:3]
    assert [fault.line for fault in faults] == [1, 4]


def test_a_byte_order_mark_is_no_part_of_the_first_measurement() -> None:
    for head in ("temp,host=a", "# comment\ntemp"):
        points, faults = parse(b"\xef\xbb\xbf" + f"{head} v=1 1\n".encode(), "ns")
        assert ([point.measurement for point in points], faults) == (["temp"], [])


def test_a_c_strings_end_is_no_part_of_a_line() -> None:
    body = b'm v=1 1\0\nm v=2\0\r\nm v="x"\0\n\0\nm v=3i 4 \0\0\n\0'
    points, faults = parse(body, "ns")
    assert faults == []
    found = [(point.fields["v"], point.time_ns, point.line) for point in points]
    assert found == [(1, 1, 1), (2, None, 2), ("x", None, 3), (3, 4, 5)]


def test_utf_16_is_named() -> None:
    with pytest.raises(Rejected, match="is UTF-16"):
        parse("m v=1 1".encode("utf-16"), "ns")
