"""Points of InfluxDB's line protocol become readings' documents, as `influx.yaml` says."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from telemetry.domain.admission import Admission, Refusal, to_refusal
from telemetry.domain.line_protocol import NANOSECONDS, Fault, Point, Value
from telemetry.domain.reading import FIELDS, METRICS, shown
from telemetry.domain.times import YEAR_2000_MS, YEAR_2100_MS, to_iso
from telemetry.domain.token import SUBJECT
from telemetry.errors import Rejected, TelemetryError

OTHER_CHARACTER = re.compile("[^A-Za-z0-9_-]")  # those that a device's id can't have
MAPPING_FILE = Path(__file__).parent.parent / "influx.yaml"
NANOSECONDS_A_MS = 1_000_000
UNIT_METRICS = {FIELDS[metric]["unit"]: metric for metric in METRICS}
LETTERS_ENOUGH = 3  # of a metric's name to guess it by
NO_LETTER = re.compile("[^a-z]")
PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_.-]*")  # what YAML needs no quotes for
Number = Annotated[float, Field(allow_inf_nan=False)]
# Units that fleets measure in, each with the schema's unit that it is converted to.
UNITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "fahrenheit": ("°C", lambda value: (value - 32) * 5 / 9),
    "kelvin": ("°C", lambda value: value - 273.15),
    "pascal": ("hPa", lambda value: value / 100),
    "millivolt": ("V", lambda value: value / 1000),
}


class MappingInvalid(TelemetryError):
    """`influx.yaml` says something that can't be a mapping."""


class Entry(BaseModel):
    """Which field is which metric, and how its value is converted."""

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
        """Whether a point's field of this name is meant."""
        return self.measurement in {None, point.measurement} and all(
            point.tags.get(tag) == value for tag, value in self.tags.items()
        )

    def convert(self, value: float) -> float:
        """The value in the metric's unit."""
        if self.unit:
            return UNITS[self.unit][1](value)
        scaled = value if self.scale is None else value * self.scale
        return scaled if self.offset is None else scaled + self.offset


class Device(BaseModel):
    """Where a point's device is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tags: Annotated[tuple[str, ...], Field(min_length=1)]
    other_characters: Literal["refuse", "-", "_"] = "refuse"

    def of(self, point: Point) -> str | None:
        """The id of a point's device, None where no tag names it; raises Rejected."""
        name = next((tag for tag in self.tags if tag in point.tags), None)
        if name is None:
            return None
        value = point.tags[name]
        if self.other_characters != "refuse":
            value = OTHER_CHARACTER.sub(self.other_characters, value)
        if not SUBJECT.fullmatch(value):
            reason = f"is no device's id, which matches {SUBJECT.pattern}"
            raise Rejected(reason, field=f"tag {name}", value=value)
        return value


class Mapping(BaseModel):
    """What `influx.yaml` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device
    unmapped: Literal["ignore", "refuse"] = "ignore"
    same_names: bool = True
    metrics: tuple[Entry, ...] = ()

    @cached_property
    def _by_field(self) -> dict[str, list[Entry]]:
        same = [Entry(field=name, metric=name) for name in METRICS] if self.same_names else []
        found: dict[str, list[Entry]] = {}
        for entry in (*self.metrics, *same):
            found.setdefault(entry.field, []).append(entry)
        return found

    def entry_of(self, point: Point, field: str) -> Entry | None:
        """The entry that says which metric a point's field is, None where none does."""
        entries = self._by_field.get(field, ())
        return next((entry for entry in entries if entry.fits(point)), None)


class Batch(NamedTuple):
    """A request's points as documents that `admit` takes, and what became of the others.

    `documents[i]` is of `points[i]`. `faults` are of points that aren't kept; `partly` are fields
    refused of those that are, by index. `ignored` counts the fields that no metric is made from;
    `left_out` has the points of which no field is a metric. Times were sent in `precision`.
    """

    documents: list[dict[str, Any]]
    points: list[Point]
    faults: list[Fault]
    ignored: Counter[str]
    partly: list[tuple[int, Rejected]]
    left_out: list[Point]
    precision: str = "ns"

    @property
    def is_kept_none(self) -> bool:
        """Whether there are points, and a metric in none of them."""
        return bool(self.left_out) and not self.points and not self.faults


class Judgement(NamedTuple):
    """What is admitted, all faults in the order of their lines, and how many points aren't kept."""

    admission: Admission
    faults: list[Fault]
    dropped: int


def load_mapping(text: str) -> Mapping:
    """The mapping in `influx.yaml`'s text; raises MappingInvalid naming what is wrong."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MappingInvalid(f"influx.yaml is not YAML: {error}") from None
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        wrong = [_wrong(dict(detail)) for detail in error.errors(include_url=False)]
        raise MappingInvalid("influx.yaml: " + "; ".join(wrong)) from None


def _wrong(detail: dict[str, Any]) -> str:
    place = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in detail["loc"])
    return f"{place.lstrip('.') or 'all'}: {detail['msg']} (it is {detail['input']!r})"


@cache
def shipped_mapping() -> Mapping:
    """The mapping that was deployed with the code."""
    return load_mapping(MAPPING_FILE.read_text("utf-8"))


def translate(
    points: Sequence[Point], mapping: Mapping, device_id: str | None, received_ms: int
) -> Batch:
    """Documents of the points that have metrics.

    `device_id` is who posts, where that is a device: its points need no tag. A point without a
    time was measured when it was received.
    """
    batch = Batch([], [], [], Counter(), [], [])
    for point in points:
        try:
            metrics, unmapped, refused = _metrics(point, mapping)
            if refused and not metrics:
                raise Rejected.all_of(refused)
            if not metrics:
                batch.ignored.update(unmapped)
                batch.left_out.append(point)
                continue
            device = mapping.device.of(point) or device_id
            if device is None:
                tags = ", ".join(mapping.device.tags)
                raise Rejected(f"none of the tags {tags} is there to name the device")
        except Rejected as error:
            reason = told(error.field, error.value, error.reason)
            batch.faults.append(Fault(point.line, None, reason))
            continue
        batch.partly.extend((len(batch.documents), error) for error in refused)
        batch.ignored.update(unmapped)
        at_ms = received_ms if point.time_ns is None else point.time_ns // NANOSECONDS_A_MS
        batch.documents.append({"device_id": device, "recorded_at": at_ms, **metrics})
        batch.points.append(point)
    return batch


def _metrics(point: Point, mapping: Mapping) -> tuple[dict[str, float], list[str], list[Rejected]]:
    """The metrics in a point, its fields that are none, and those that are refused.

    Where two fields are one metric, the larger value stays, as of two points of one instant. Raises
    Rejected for a field without a metric, where the mapping refuses those.
    """
    metrics: dict[str, float] = {}
    names: dict[str, str] = {}
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
        kept = metrics.setdefault(entry.metric, number)
        first = names.setdefault(entry.metric, name)
        if number > kept:
            metrics[entry.metric], names[entry.metric] = number, name
        if number != kept:
            (low, lost), (high, other) = sorted([(kept, first), (number, name)])
            reason = f"{low} differs from {high}, which {other} of this point has for "
            reason += f"{entry.metric}; the larger value is kept"
            refused.append(Rejected(reason, field=lost, value=low))
    if unmapped and mapping.unmapped == "refuse":
        raise Rejected("is no metric by influx.yaml", field=unmapped[0])
    return metrics, unmapped, refused


def _number(name: str, value: Value, metric: str) -> float:
    if isinstance(value, str | bool):
        kind = "a string" if isinstance(value, str) else "a boolean"
        raise Rejected(f"is {kind}; metric {metric} is a number", field=name, value=value)
    return float(value)


def remedy(points: Sequence[Point]) -> str:
    """What would keep a field of points of which none is a metric."""
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
    """The metric that a field is by its name, or by a unit as its measurement; else nothing."""
    letters = NO_LETTER.sub("", field.lower())
    for metric in METRICS:
        begins = len(letters) >= LETTERS_ENOUGH and metric.startswith(letters)
        if begins or letters.startswith(metric[: LETTERS_ENOUGH + 1]):
            return metric
    return UNIT_METRICS.get(measurement, "")


def _yaml(text: str) -> str:
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def judged(batch: Batch, admission: Admission) -> Judgement:
    """What is admitted of a batch, and what became of the rest.

    InfluxDB keeps nanoseconds and tells series apart by their tags; a reading is its device and
    millisecond. So two points may be one reading, and have one metric (`admission.agreeing`).
    """
    taken = set(admission.indexes)
    partly = admission.partly + [
        to_refusal(index, batch.documents[index]["device_id"], error)
        for index, error in batch.partly
        if index in taken
    ]
    refused = [*admission.refusals, *partly]
    faults = batch.faults + [_fault(batch, refusal) for refusal in refused]
    dropped = len(batch.faults) + len(admission.refusals)
    return Judgement(admission._replace(partly=partly), sorted(faults), dropped)


def _fault(batch: Batch, refusal: Refusal) -> Fault:
    """What is wrong with a refused point, or with a field of one that is kept."""
    point = batch.points[refusal["index"]]
    reason = told(refusal["field"], refusal["value"], refusal["reason"])
    if refusal["field"] == "recorded_at":
        reason = _misread(point, batch.precision) or reason
    return Fault(point.line, None, reason)


def _misread(point: Point, precision: str) -> str:
    """What to say of a time before 2000, which nobody means; nothing of another."""
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


def told(field: str | None, value: Any, reason: str) -> str:
    """One refusal as a line of text."""
    text = f"{field}: {reason}" if field else reason
    return text if value is None or str(value) in text else f"{text}; it is {shown(value)!r}"
