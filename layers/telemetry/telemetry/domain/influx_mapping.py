"""Points of InfluxDB's line protocol become readings' documents, as `influx.yaml` maps them."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingOf
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from telemetry.domain import yaml_file
from telemetry.domain.admission import Admission, Refusal, to_refusal
from telemetry.domain.line_protocol import NANOSECONDS, Fault, Point, Value
from telemetry.domain.reading import FIELDS, METRICS, shown
from telemetry.domain.times import YEAR_2000_MS, YEAR_2100_MS, to_iso
from telemetry.domain.token import SUBJECT
from telemetry.domain.validation import measured
from telemetry.errors import Rejected, TelemetryError

OTHER_CHARACTER = re.compile("[^A-Za-z0-9_-]")  # that a device id can't have
MAPPING_FILE = Path(__file__).parent.parent / "influx.yaml"
NANOSECONDS_A_MS = 1_000_000
UNIT_METRICS = {FIELDS[metric]["unit"]: metric for metric in METRICS}
LETTERS_ENOUGH = 3  # of a metric's name, to guess the metric
NO_LETTER = re.compile("[^a-z]")
PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_.-]*")  # text that YAML needs no quotes for
Number = Annotated[float, Field(allow_inf_nan=False)]
# Units that fleets measure in, each with the schema's unit that values are converted to.
UNITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "fahrenheit": ("°C", lambda value: (value - 32) * 5 / 9),
    "kelvin": ("°C", lambda value: value - 273.15),
    "pascal": ("hPa", lambda value: value / 100),
    "millivolt": ("V", lambda value: value / 1000),
}


class MappingInvalid(TelemetryError):
    """`influx.yaml` isn't a valid mapping."""


class Entry(BaseModel):
    """A field that becomes a metric, and how its value is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    metric: str
    measurement: str | None = None
    tags: dict[str, str] = {}
    unit: Literal["fahrenheit", "kelvin", "pascal", "millivolt"] | None = None
    scale: Number | None = None
    offset: Number | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> "Entry":
        if self.metric not in METRICS:
            raise ValueError(f"metric {self.metric!r} is not one of {', '.join(METRICS)}")
        if self.unit and (self.scale is not None or self.offset is not None):
            raise ValueError("unit converts already; leave out scale and offset")
        schema_unit = FIELDS[self.metric]["unit"]
        if self.unit and UNITS[self.unit][0] != schema_unit:
            raise ValueError(f"{self.unit} can't become {self.metric}, which is in {schema_unit}")
        return self

    def fits(self, point: Point) -> bool:
        """Return whether the entry applies to a point that has its field."""
        return self.measurement in {None, point.measurement} and all(
            point.tags.get(tag) == value for tag, value in self.tags.items()
        )

    def convert(self, value: float) -> float:
        """Return the value in the metric's unit."""
        if self.unit:
            return UNITS[self.unit][1](value)
        scaled = value if self.scale is None else value * self.scale
        return scaled if self.offset is None else scaled + self.offset


class Device(BaseModel):
    """The tags that name a point's device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tags: Annotated[tuple[str, ...], Field(min_length=1)]
    other_characters: Literal["refuse", "-", "_"] = "refuse"

    def id_of(self, point: Point) -> str | None:
        """Return the id of a point's device, None if no tag names it; raise Rejected if invalid."""
        value = self.named_by(point.tags)
        if value is not None and not SUBJECT.fullmatch(value):
            name = next(tag for tag in self.tags if tag in point.tags)
            reason = f"is no device's id, which matches {SUBJECT.pattern}"
            raise Rejected(reason, field=f"tag {name}", value=value)
        return value

    def named_by(self, tags: MappingOf[str, str]) -> str | None:
        """Return the text by which tags name a device, valid or not; None if none does."""
        value = next((tags[tag] for tag in self.tags if tag in tags), None)
        if value is None or self.other_characters == "refuse":
            return value
        return OTHER_CHARACTER.sub(self.other_characters, value)


class Mapping(BaseModel):
    """The content of `influx.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device
    unmapped: Literal["ignore", "refuse"] = "ignore"
    same_names: bool = True
    metrics: tuple[Entry, ...] = ()

    @cached_property
    def _by_field(self) -> dict[str, list[Entry]]:
        same = [Entry(field=name, metric=name) for name in METRICS] if self.same_names else []
        by_field: dict[str, list[Entry]] = {}
        for entry in (*self.metrics, *same):
            by_field.setdefault(entry.field, []).append(entry)
        return by_field

    def entry_of(self, point: Point, field: str) -> Entry | None:
        """Return the entry that maps a point's field to a metric, or None."""
        entries = self._by_field.get(field, ())
        return next((entry for entry in entries if entry.fits(point)), None)


class Batch(NamedTuple):
    """A request's points as documents that `admit` takes, and the points that gave none.

    `documents[i]` comes from `points[i]`. `faults` are of points that aren't stored. `partly` has
    the refused fields of documents, with the document's index. `ignored` counts the fields that
    aren't metrics. `left_out` has the points without any metric. `not_measured` has the index of a
    document for each value that stands for no measurement, beside a value that the document has.
    `precision` is the times' unit.
    """

    documents: list[dict[str, Any]]
    points: list[Point]
    faults: list[Fault]
    ignored: Counter[str]
    partly: list[tuple[int, Rejected]]
    left_out: list[Point]
    not_measured: list[int]
    precision: str = "ns"

    @property
    def has_no_metric(self) -> bool:
        """Whether there are points, but none of them has a metric."""
        return bool(self.left_out) and not self.points and not self.faults


class Named(NamedTuple):
    """A value in its metric's unit, and its field's name with the measurement."""

    field: str
    value: float


class Choice(NamedTuple):
    """One metric's value in a point's document, None if it has none, and the point's others.

    `not_measured` counts the others that stand for no measurement.
    """

    value: float | None
    refused: Sequence[Rejected] = ()
    not_measured: int = 0


class Judgement(NamedTuple):
    """The admission, all faults in line order, and the number of points that aren't stored."""

    admission: Admission
    faults: list[Fault]
    dropped: int


def load_mapping(text: str) -> Mapping:
    """Return the mapping in `influx.yaml`'s text; raise MappingInvalid that names the mistakes."""
    try:
        document = yaml_file.read(text)
    except yaml.YAMLError as error:
        raise MappingInvalid(f"influx.yaml is not YAML: {error}") from None
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        wrong = yaml_file.mistakes(error)
        raise MappingInvalid("influx.yaml: " + "; ".join(wrong)) from None


@cache
def shipped_mapping() -> Mapping:
    """Return the mapping that was deployed with the code."""
    return load_mapping(MAPPING_FILE.read_text("utf-8"))


def translate(
    points: Sequence[Point], mapping: Mapping, device_id: str | None, received_ms: int
) -> Batch:
    """Return the documents of the points that have metrics, and the faults of the others.

    `device_id` is the posting device, None for a gateway; a device's points need no tag. A point
    without a time gets `received_ms`.
    """
    batch = Batch([], [], [], Counter(), [], [], [])
    for point in points:
        try:
            values, unmapped, refused = _values(point, mapping)
            if refused and not values:
                raise Rejected.all_of(refused)
            if not values:
                batch.ignored.update(unmapped)
                batch.left_out.append(point)
                continue
            device = mapping.device.id_of(point) or device_id
            if device is None:
                tags = ", ".join(mapping.device.tags)
                raise Rejected(f"none of the tags {tags} is there to name the device")
            chosen = {metric: _choose(device, metric, found) for metric, found in values.items()}
            refused += [error for each in chosen.values() for error in each.refused]
            metrics = {
                metric: each.value for metric, each in chosen.items() if each.value is not None
            }
            if not metrics:
                raise Rejected.all_of(refused)
        except Rejected as error:
            batch.faults.append(_to_fault(point, error))
            continue
        index = len(batch.documents)
        batch.partly.extend((index, error) for error in refused)
        batch.not_measured.extend([index] * sum(each.not_measured for each in chosen.values()))
        batch.ignored.update(unmapped)
        at_ms = received_ms if point.time_ns is None else point.time_ns // NANOSECONDS_A_MS
        batch.documents.append({"device_id": device, "recorded_at": at_ms, **metrics})
        batch.points.append(point)
    return batch


def _values(
    point: Point, mapping: Mapping
) -> tuple[dict[str, list[Named]], list[str], list[Rejected]]:
    """Return a point's values by metric, its fields that aren't metrics, and its refused fields.

    Raise Rejected for a field without a metric, if the mapping refuses such fields.
    """
    values: dict[str, list[Named]] = {}
    unmapped: list[str] = []
    refused: list[Rejected] = []
    for field, value in point.fields.items():
        name = f"{point.measurement}.{field}"
        entry = mapping.entry_of(point, field)
        if entry is None:
            unmapped.append(name)
            continue
        try:
            number = entry.convert(_number(name, value, entry.metric))
        except Rejected as error:
            refused.append(error)
            continue
        values.setdefault(entry.metric, []).append(Named(name, number))
    if unmapped and mapping.unmapped == "refuse":
        raise Rejected("is no metric by influx.yaml", field=unmapped[0])
    return values, unmapped, refused


def _choose(device_id: str, metric: str, values: Sequence[Named]) -> Choice:
    """Return the one value of a metric that a point's document has; the others are refused.

    Of the valid values, the larger stays, as with two points of one instant. So each value is
    checked before they are compared. A single value is checked with its document.
    """
    if len(values) == 1:
        return Choice(values[0].value)
    valid: list[Named] = []
    none: list[Named] = []
    refused: list[Rejected] = []
    for each in values:
        try:
            is_none = measured(device_id, metric, each.value) is None
        except Rejected as error:
            refused.append(Rejected(error.reason, field=each.field, value=each.value))
        else:
            (none if is_none else valid).append(each)
    if refused and not valid:
        return Choice(None, refused, len(none))
    if not valid:  # the document has one of those that stand for none, and is judged by it
        return Choice(none[0].value, not_measured=len(none) - 1)
    winner = max(valid, key=lambda each: each.value)
    for each in valid:
        if each.value != winner.value:
            reason = f"{each.value} differs from {winner.value}, which {winner.field} of this "
            reason += f"point has for {metric}; the larger value is kept"
            refused.append(Rejected(reason, field=each.field, value=each.value))
    return Choice(winner.value, refused, len(none))


def _number(name: str, value: Value, metric: str) -> float:
    if isinstance(value, str | bool):
        kind = "a string" if isinstance(value, str) else "a boolean"
        raise Rejected(f"is {kind}; metric {metric} is a number", field=name, value=value)
    return float(value)


def remedy(points: Sequence[Point]) -> str:
    """Return a hint how to map a field of points that have no metric."""
    numbers = [
        (point, field)
        for point in points
        for field, value in point.fields.items()
        if not isinstance(value, str | bool)
    ]
    if not numbers:
        return "none of their fields is a number"
    guessed = ((point, field, _guess(point.measurement, field)) for point, field in numbers)
    point, field, metric = next((each for each in guessed if each[2]), (*numbers[0], ""))
    entry = {"field": field, "metric": metric or "METRIC"}
    if point.measurement in UNIT_METRICS:
        entry = {"measurement": point.measurement, **entry}
    listed = ", ".join(f"{name}: {_yaml(text)}" for name, text in entry.items())
    which = "" if metric else f", METRIC being {' or '.join(METRICS)}"
    return f"an entry under `metrics` in influx.yaml keeps one: {{{listed}}}{which}"


def _guess(measurement: str, field: str) -> str:
    """Guess a field's metric from its name, or from a unit as the measurement; "" if unknown."""
    letters = NO_LETTER.sub("", field.lower())
    for metric in METRICS:
        begins = len(letters) >= LETTERS_ENOUGH and metric.startswith(letters)
        if begins or letters.startswith(metric[: LETTERS_ENOUGH + 1]):
            return metric
    return UNIT_METRICS.get(measurement, "")


def _yaml(text: str) -> str:
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def judge_batch(batch: Batch, admission: Admission) -> Judgement:
    """Return a batch's admission with the faults of its points, from translation and admission.

    InfluxDB identifies a point by its tags and nanosecond, the pipeline a reading by its device and
    millisecond. So two points may become one reading, and disagree on a metric
    (`admission.resolve_conflicts`).
    """
    accepted = set(admission.indexes)
    counted = accepted | admission.empty
    left_out = admission.left_out + sum(index in counted for index in batch.not_measured)
    partly = admission.partly + [
        to_refusal(index, batch.documents[index]["device_id"], error)
        for index, error in batch.partly
        if index in accepted
    ]
    refused = [*admission.refusals, *partly]
    faults = batch.faults + [_fault(batch, refusal) for refusal in refused]
    faults.sort(key=lambda each: (each.line, each.column or 0, each.reason))
    dropped = len(batch.faults) + len(admission.refusals)
    judged = admission._replace(partly=partly, left_out=left_out)
    return Judgement(judged, faults, dropped)


def name_devices(faults: Sequence[Fault], mapping: Mapping, device_id: str | None) -> list[Fault]:
    """Return the faults with their devices, by their tags; `device_id` is the posting device."""
    return [
        fault._replace(device_id=mapping.device.named_by(fault.tags) or device_id)
        for fault in faults
    ]


def _to_fault(point: Point, error: Rejected) -> Fault:
    reason = to_line(error.field, error.value, error.reason)
    return Fault(point.line, None, reason, point.tags, field=error.field, value=error.value)


def _fault(batch: Batch, refusal: Refusal) -> Fault:
    """Return the fault of a refused point, or of a refused field of an accepted point."""
    point = batch.points[refusal["index"]]
    reason = to_line(refusal["field"], refusal["value"], refusal["reason"])
    if refusal["field"] == "recorded_at":
        reason = _misread(point, batch.precision) or reason
    return Fault(point.line, None, reason)


def _misread(point: Point, precision: str) -> str:
    """Return a message about a time before 2000, as a wrong precision makes it; else ""."""
    if point.time_ns is None or point.time_ns >= YEAR_2000_MS * NANOSECONDS_A_MS:
        return ""
    sent = point.time_ns // NANOSECONDS[precision]
    fitting = (
        f" It looks like `precision={unit}`."
        for unit in ("s", "ms", "us", "ns")
        if YEAR_2000_MS <= sent * NANOSECONDS[unit] // NANOSECONDS_A_MS < YEAR_2100_MS
    )
    read = to_iso(point.time_ns // NANOSECONDS_A_MS)
    return f"timestamp {sent} in {precision} is {read}; is `precision` right?{next(fitting, '')}"


def to_line(field: str | None, value: Any, reason: str) -> str:
    """Return one refusal as a line of text."""
    text = f"{field}: {reason}" if field else reason
    return text if value is None or str(value) in text else f"{text}; it is {shown(value)!r}"
