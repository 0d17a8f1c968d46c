"""Athena's views of the archive: two, in Trino's SQL, over a table of lines.

The table `records` has one column, a record as it was on the stream, so that no record can fail a
query. The view `readings` has the readings that the pipeline's decoder accepts
(telemetry.domain.pack and validation), field by field. An invalid metric is NULL, and so is a value
that metrics.yaml declares to be no measurement. `readings_once` merges repeated readings, as
windows do.

An error of a function would fail the query. So a function gets only arguments that it accepts, or
is in `try` or `try_cast`, which turn an error into NULL
(https://trino.io/docs/current/functions/conditional.html#try).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from telemetry.domain.no_measurement import Declared
from telemetry.domain.pack import AFTER, LOW, MAX_READINGS
from telemetry.domain.validation import BRACKETS_MAX, PACKED

from contract.evolution import IDENTITY, PARTITIONS
from contract.folded import wrapped
from contract.versions import Field, Version

LINES, READINGS, ONCE = "records", "readings", "readings_once"
TYPES = {  # Avro's types, with Glue's (which are Hive's) and Trino's
    "string": ("string", "varchar"),
    "long": ("bigint", "bigint"),
    "double": ("double", "double"),
    "timestamp-millis": ("timestamp", "timestamp(3)"),  # without zone: it is in UTC
}

# Trino's parser gets no line with more { and [ than the decoder accepts. So its behaviour on a line
# that is nested a hundred thousand deep doesn't matter.
OBJECT = r"^\s*\{"
OPENING = f"length(line) - length(replace(replace(line, '{{', ''), '[', '')) <= {BRACKETS_MAX}"
# The decoder reads these as numbers, although JSON doesn't have them; no field may have them.
NOT_A_NUMBER = "(NaN|-?Infinity)"
WHOLE_NUMBER = "^-?[0-9]+$"
WHOLE_NUMBERS = r"^\[\s*[0-9]+(\s*,\s*[0-9]+)*\s*\]$"
NOT_ESCAPED = r'[^"\\]*'  # a string's characters, where a schema has no pattern for them

# A time in ISO 8601 as Python reads it (datetime.fromisoformat): date, a separator, time, offset,
# each with separators of its own or without any. Not by weeks, as 2026-W47-6 is.
INSTANT = '^"([0-9-]+)[^0-9-]([0-9:.,]+)([Zz]|[+-][0-9:]+)"$'
DATE = "^([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8})$"
HOUR, SIXTY, FRACTION = "([01][0-9]|2[0-3])", "[0-5][0-9]", "([.,][0-9]*)?"
SECOND = "([0-5][0-9]|60)"  # 60 is a leap second, and the second after it
EXACT = 2**53  # below it a double holds each whole number


class Column(NamedTuple):
    """A view's column, and its type as Glue and as Trino name it."""

    name: str
    glue_type: str
    trino_type: str


class View(NamedTuple):
    """A view: its name, description, columns and query."""

    name: str
    doc: str
    columns: Sequence[Column]
    sql: str


def views(newest: Version, none: Mapping[str, Sequence[Declared]]) -> list[View]:
    """Return the views of the archive, by the newest version of a reading and by metrics.yaml."""
    columns = [Column(name, *TYPES[type_of(each)]) for name, each in newest.fields.items()]
    partitions = [Column(name, *TYPES["string"]) for name in PARTITIONS]
    merged = [each for each in columns if each.name in newest.device_fields]
    every = "Each record that is a reading, as often as it came"
    once = "Each reading once; any query reads the whole archive"
    return [
        View(READINGS, every, [*columns, *partitions], readings(newest, none)),
        View(ONCE, once, merged, readings_once(newest)),
    ]


def type_of(field: Field) -> str:
    """Return a field's type in Avro without null: the logical one, if it has one."""
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    (kind,) = [each for each in kinds if each != "null"]
    return str(kind.get("logicalType", kind["type"]) if isinstance(kind, dict) else kind)


# Resources of stacks/archive.yaml.


def resources(newest: Version, none: Mapping[str, Sequence[Declared]]) -> Iterator[str]:
    """Yield the lines of the views' resources."""
    for place, view in enumerate(views(newest, none)):
        yield from [""] if place else []
        yield f"{view.name.title().replace('_', '')}View:"
        yield "  Type: AWS::Glue::Table"
        yield "  Properties:"
        yield "    CatalogId: !Ref AWS::AccountId"
        yield "    DatabaseName: !Ref ArchiveDatabase"
        yield "    TableInput:"
        yield f"      Name: {view.name}"
        yield f"      Description: {view.doc}"
        yield "      TableType: VIRTUAL_VIEW"
        yield '      Parameters: {presto_view: "true", comment: Presto View}'
        yield "      StorageDescriptor:"
        yield "        SerdeInfo: {}"
        yield "        Columns:"
        for column in view.columns:
            yield f"          - {{Name: {column.name}, Type: {column.glue_type}}}"
        yield "      ViewExpandedText: /* Presto View */"
        yield "      ViewOriginalText: !Sub"
        yield '        - "/* Presto View: ${View} */"'
        yield "        - View:"
        yield "            Fn::Base64: !Sub >-"
        yield from definition(view)


DEFINITION_INDENT = 14  # and that of the region


def definition(view: View) -> Iterator[str]:
    """Yield a view as Athena itself keeps one, in Trino's form.

    The form is from Trino's io.trino.plugin.hive.ViewReaderUtil; AWS doesn't document it. Folding
    turns line ends into spaces, which the query allows.
    """
    columns = [json.dumps({"name": each.name, "type": each.trino_type}) for each in view.columns]
    lines = [
        '{"catalog": "awsdatacatalog", "schema": "${ArchiveDatabase}", "columns": [',
        *listed(columns).splitlines(),
        '], "originalSql": "',
        *(json.dumps(line)[1:-1] for line in view.sql.splitlines()),
        '"}',
    ]
    for line in lines:
        yield from wrapped(line, DEFINITION_INDENT)


# SQL.


def readings(newest: Version, none: Mapping[str, Sequence[Declared]]) -> str:
    """Return the query of `readings`, in steps; `none` are values that stand for no measurement.

    A pack is unfolded into its readings. In it `_name` is a field's JSON text, and `_name_` the
    number that it stands for, taken by the decoder or not; `name__` is a metric's column of a pack.
    `date_` and the like are parts of `recorded_at`. No field's name begins or ends so.
    """
    fields = newest.fields
    stamped = [name for name, each in fields.items() if "stamped_by" in each]
    numbers = {
        name: number(name, each) for name, each in fields.items() if type_of(each) != "string"
    }
    return f"""\
{readings_apart(newest)}), parts AS (
SELECT *,
regexp_extract(_recorded_at,
{quoted(INSTANT)}, 1) AS date_,
regexp_extract(_recorded_at,
{quoted(INSTANT)}, 2) AS time_,
regexp_extract(_recorded_at,
{quoted(INSTANT)}, 3) AS offset_
FROM texts
), digits AS (
SELECT *,
CASE WHEN regexp_like(date_, {quoted(DATE)})
THEN replace(date_, '-', '') END AS yyyymmdd_,
CASE WHEN {is_clock("time_", "", SECOND + FRACTION)}
THEN rpad(regexp_extract(replace(time_, ':', ''), '^[0-9]+'), 6, '0') END AS hhmmss_,
rpad(coalesce(regexp_extract(time_, '[.,]([0-9]+)$', 1), ''), 3, '0') AS fraction_,
CASE WHEN offset_ IN ('Z', 'z')
OR {is_clock("offset_", "[+-]", SIXTY)}
THEN rpad(translate(offset_, 'Zz:', '++'), 7, '0') END AS shhmmss_
FROM parts
), numbers AS (
SELECT *,
{listed(f"{each} AS _{name}_" for name, each in numbers.items())}
FROM digits
), typed AS (
SELECT *,
{listed(f"{value(name, each, none)} AS {column(name)}" for name, each in fields.items())}
FROM numbers
)
SELECT {", ".join([*map(column, fields), *PARTITIONS])}
FROM typed
WHERE {all_of(f"{column(name)} IS NOT NULL" for name in IDENTITY)}
AND coalesce({", ".join(map(column, newest.metrics))}) IS NOT NULL
AND {all_of(f"(_{name} IS NULL OR {column(name)} IS NOT NULL)" for name in stamped)}
"""  # noqa: S608 - names are in snake case (contract.evolution), the rest is quoted


def readings_apart(newest: Version) -> str:
    """Return the first steps: the JSON text of each field, for each reading of each line."""
    fields = newest.fields
    return f"""\
WITH parsed AS (
SELECT *,
CASE WHEN regexp_like(line, {quoted(OBJECT)})
AND {OPENING}
THEN try(json_parse({as_json("line")})) END AS parsed_
FROM {LINES}
), objects AS (
SELECT *, try_cast(parsed_ AS map(varchar, json)) AS fields
FROM parsed
), unfolded AS (
SELECT *,
try_cast(CASE WHEN {is_object(f"element_at(fields, {quoted(PACKED)})")}
THEN element_at(fields, {quoted(PACKED)}) END AS map(varchar, json)) AS columns_
FROM objects
), packs AS (
SELECT *,
{listed(f"{array(name)} AS {name}__" for name in (AFTER, *newest.metrics))}
FROM unfolded
), texts AS (
SELECT day, hour,
{listed(f"{json_text(name, newest)} AS _{name}" for name in fields)}
FROM packs CROSS JOIN UNNEST(sequence(1,
CASE WHEN columns_ IS NULL THEN 1
ELSE least(cardinality({AFTER}__), {MAX_READINGS + 1}) END)) AS places (place_)
WHERE columns_ IS NULL
AND {all_of(named_once(name) for name in fields)}
OR columns_ IS NOT NULL
AND {all_of(is_pack(newest))}
"""  # noqa: S608 - the same


def times(name: str, line: str = "line") -> str:
    """Return an expression for the number of times that a line has a name, nested or not."""
    named = f'"{name}"' + r"\s*:"
    return f"cardinality(regexp_extract_all({line}, {quoted(named)}))"


def named_once(name: str) -> str:
    """Return a condition: no object in a line has a name twice.

    The decoder refuses a reading that has one of its fields twice. Trino's parser keeps the last
    value, so the parsed line has the name less often than the line. If only a nested object has it
    twice, the decoder takes the reading, and the view leaves it out.
    """
    return f"{times(name)} <= {times(name, 'json_format(parsed_)')}"


def as_json(line: str) -> str:
    """Return an expression for a line with true, no field's value, in place of what JSON lacks."""
    for before in (":", ",", "["):
        odd = rf"{re.escape(before)}\s*{NOT_A_NUMBER}"
        line = f"regexp_replace({line}, {quoted(odd)}, '{before}true')"
    return line


def is_object(json_value: str) -> str:
    """Return a condition: a JSON value is an object."""
    return f"substr(ltrim(json_format({json_value})), 1, 1) = '{{'"


def array(name: str) -> str:
    """Return an expression for a pack's column: its values as JSON; NULL if it has none."""
    return f"try_cast(element_at(columns_, {quoted(name)}) AS array(json))"


def is_pack(newest: Version) -> Iterator[str]:
    """Yield the conditions under which the decoder takes a pack's form (telemetry.domain.pack)."""
    for name in newest.fields:
        yield f"{times(name)} <= {3 if name in newest.metrics else 1}"
    for name in (AFTER, LOW, PACKED):
        yield f"{times(name)} <= 1"
    first, low = (f"element_at(fields, {quoted(name)})" for name in ("recorded_at", LOW))
    yield f"regexp_like(json_format({first}), {quoted(WHOLE_NUMBER)})"
    yield is_object(low)
    after = f"json_format(element_at(columns_, {quoted(AFTER)}))"
    yield f"regexp_like({after},\n{quoted(WHOLE_NUMBERS)})"
    yield f"cardinality({AFTER}__) BETWEEN 1 AND {MAX_READINGS}"
    for name in newest.fields:
        if name not in newest.metrics:
            yield f"element_at(columns_, {quoted(name)}) IS NULL"
    lows = f"try_cast({low} AS map(varchar, json))"
    for name in newest.metrics:
        numbers = (
            f"filter(transform({name}__, each_ -> try_cast(json_format(each_) AS double)),\n"
            "each_ -> each_ IS NOT NULL)"
        )
        top = f"json_format(element_at(fields, {quoted(name)}))"
        lowest = f"json_format(element_at({lows}, {quoted(name)}))"
        yield f"""(CASE WHEN element_at(columns_, {quoted(name)}) IS NULL
THEN coalesce({top}, 'null') = 'null'
WHEN cardinality({name}__) <> cardinality({AFTER}__) THEN false
WHEN cardinality({numbers}) = 0 THEN true
ELSE try_cast({top} AS double) >= array_max({numbers})
AND try_cast({lowest} AS double) <= array_min({numbers}) END)"""


def readings_once(newest: Version) -> str:
    """Return the query of `readings_once`: metric by metric, of two values the larger.

    As telemetry.domain.window.merge has it.
    """
    identity = ", ".join(map(column, IDENTITY))
    return f"""\
SELECT {identity},
{listed(f"max({column(name)}) AS {column(name)}" for name in newest.metrics)}
FROM {READINGS}
GROUP BY {identity}
"""  # noqa: S608 - the same


def json_text(name: str, newest: Version) -> str:
    """Return a field's JSON text; NULL where the field isn't there, or null."""
    single = f"json_format(element_at(fields, {quoted(name)}))"
    if name in newest.metrics:
        packed = f"json_format(element_at({name}__, place_))"
    elif name == "recorded_at":
        after = f"json_format(element_at({AFTER}__, place_))"
        at_ms = f"try_cast({single} AS bigint)\n+ try_cast({after} AS bigint)"
        packed = f"try(CAST({at_ms} AS varchar))"
    else:
        return f"nullif({single}, 'null')"
    return f"nullif(CASE WHEN columns_ IS NULL THEN {single}\nELSE {packed} END, 'null')"


def number(name: str, field: Field) -> str:
    """Return the number that a field's JSON text stands for."""
    if type_of(field) == "double":
        return f"try_cast(_{name} AS double)"
    whole = f"try_cast(regexp_extract(_{name}, {quoted(WHOLE_NUMBER)}) AS bigint)"
    if name != "recorded_at":
        return whole
    double = f"try_cast(_{name} AS double)"
    as_float = (
        f"CASE WHEN abs({double}) < {EXACT} AND {double} = floor({double})\nTHEN {double} END"
    )
    return f"coalesce({whole},\ntry_cast({as_float} AS bigint),\n{written_instant()})"


def written_instant() -> str:
    """Epoch milliseconds by the digits of a date, a time and an offset."""
    return f"""\
1000 * (86400 * date_diff('day', DATE '1970-01-01', try_cast(substr(yyyymmdd_, 1, 4)
|| '-' || substr(yyyymmdd_, 5, 2) || '-' || substr(yyyymmdd_, 7, 2) AS date))
+ {seconds("hhmmss_", 1)}
- CASE substr(shhmmss_, 1, 1) WHEN '-' THEN -1 ELSE 1 END *
({seconds("shhmmss_", 2)}))
+ {digits("fraction_", 1, 3)}"""


def seconds(text: str, start: int) -> str:
    """Return the seconds that the digits of hour, minute and second are."""
    hour, minute, second = (digits(text, start + at, 2) for at in (0, 2, 4))
    return f"3600 * {hour}\n+ 60 * {minute}\n+ {second}"


def digits(text: str, start: int, length: int) -> str:
    """Return the number that some digits are."""
    return f"try_cast(substr({text}, {start}, {length}) AS bigint)"


def is_clock(text: str, before: str, second: str) -> str:
    """Return a condition: a text is hours, minutes and seconds, or only the first of these."""
    marked = f"^{before}{HOUR}(:{SIXTY}(:{second})?)?$"
    bare = f"^{before}{HOUR}({SIXTY}({second})?)?$"
    return f"(regexp_like({text}, {quoted(marked)})\nOR regexp_like({text}, {quoted(bare)}))"


def value(name: str, field: Field, none: Mapping[str, Sequence[Declared]]) -> str:
    """Return an expression for a field's value; NULL if the decoder would refuse it."""
    text, number = f"_{name}", f"_{name}_"
    kind = type_of(field)
    if kind == "string":
        pattern = field.get("pattern", NOT_ESCAPED).removeprefix("^").removesuffix("$")
        taken = quoted(f'^"{pattern}"$')
        inside = f"substr({text}, 2, length({text}) - 2)"
        return f"CASE WHEN regexp_like({text}, {taken})\nTHEN {inside} END"
    low, high = field.get("minimum", number), field.get("maximum", number)
    instant = f"CAST(from_unixtime({number} / 1e3, 'UTC') AS timestamp(3))"
    shown = f"\nTHEN {instant}" if kind == "timestamp-millis" else f" THEN {number}"
    measured = "".join(f"\nAND NOT ({is_declared(number, each)})" for each in none.get(name, ()))
    return f"CASE WHEN {number} BETWEEN {low} AND {high}{measured}{shown} END"


def is_declared(number: str, declared: Declared) -> str:
    """Return a condition: a number stands for no measurement."""
    values = ", ".join(f"CAST('{each!r}' AS double)" for each in sorted(declared.values))
    is_value = f"{number} IN ({values})"
    if declared.devices is None:
        return is_value
    pattern = declared.devices.pattern.removeprefix("^").removesuffix("$")
    return f"""{is_value}\nAND regexp_like(_device_id, {quoted(f'^"{pattern}"$')})"""


def column(name: str) -> str:
    """Return a field's column. Quoted, since a metric may be named as a word of SQL."""
    return f'"{name}"'


def quoted(text: str) -> str:
    """Return a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def listed(items: Iterable[str]) -> str:
    """Return the items of a list, a line each."""
    return ",\n".join(items)


def all_of(conditions: Iterable[str]) -> str:
    """Join conditions by AND, a line each."""
    return "\nAND ".join(conditions)
