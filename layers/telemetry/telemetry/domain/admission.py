"""Which of the documents of a request are readings that the pipeline takes, and which metrics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from telemetry.domain.reading import Reading, check_time, shown
from telemetry.domain.validation import NothingMeasured, Parsed, parse
from telemetry.errors import Rejected

MAX_READINGS = 500  # of a request, and of a PutRecords call
Refusal = dict[str, Any]  # index, device_id, field, value, reason, as the API has them


class Poster(NamedTuple):
    """Who posts: one device (`device_id`), or a gateway for devices whose id starts so."""

    device_id: str | None
    prefix: str = ""


class Admission(NamedTuple):
    """What is taken of a request's documents, and what isn't.

    `readings[i]` came from the document at `indexes[i]`. `refusals` are the documents that are no
    readings, one each; `partly` are metrics refused of documents whose other metrics are taken.
    `left_out` is the number of values that stand for no measurement; of `empty` documents, by
    index, nothing is left without them. These are among the refusals, too.
    """

    readings: list[Reading]
    indexes: list[int]
    refusals: list[Refusal]
    partly: list[Refusal]
    left_out: int = 0
    empty: frozenset[int] = frozenset()


def admit(
    documents: Sequence[Any],
    poster: Poster,
    now_ms: int,
    retention_ms: int,
    trace_id: str | None,
    places: Sequence[str] | None = None,
) -> Admission:
    """Check every document; stamp the readings with when and on which trace they came.

    A document that its format's decoder refused, and no other with it, is that Rejected. What is
    taken doesn't depend on the documents' order. `places` is how answers call the documents, by
    index; `reading 0` and so on without it.
    """
    taken: dict[int, Parsed] = {}
    refused: dict[int, Rejected] = {}
    for index, document in enumerate(documents):
        try:
            taken[index] = _checked(document, poster, now_ms, retention_ms)
        except Rejected as error:
            refused[index] = error
    names = [f"reading {index}" if places is None else places[index] for index in taken]
    readings = [each.reading for each in taken.values()]
    for index, found in zip(list(taken), agreeing(readings, names), strict=True):
        if isinstance(found, Rejected):
            refused[index] = found
            del taken[index]
        else:
            earlier = taken[index]
            taken[index] = Parsed(found.reading, earlier.refused + found.refused, earlier.left_out)
    empty = {i: each.left_out for i, each in refused.items() if isinstance(each, NothingMeasured)}
    return Admission(
        [
            each.reading._replace(received_at_ms=now_ms, trace_id=trace_id)
            for each in taken.values()
        ],
        list(taken),
        [
            to_refusal(index, _device_of(documents[index], poster), error)
            for index, error in sorted(refused.items())
        ],
        [
            to_refusal(index, each.reading.device_id, error)
            for index, each in taken.items()
            for error in each.refused
        ],
        sum(each.left_out for each in taken.values()) + sum(empty.values()),
        frozenset(empty),
    )


def _checked(document: Any, poster: Poster, now_ms: int, retention_ms: int) -> Parsed:
    """The reading in a document; raises Rejected where it isn't one, or isn't the poster's."""
    if isinstance(document, Rejected):
        raise document
    parsed = parse(document, poster.device_id)
    if not parsed.reading.device_id.startswith(poster.prefix):
        reason = f"is not one of this gateway's devices, whose ids start {poster.prefix!r}"
        raise Rejected(reason, field="device_id", value=parsed.reading.device_id)
    check_time(parsed.reading, now_ms, retention_ms, document.get("recorded_at"))
    return parsed


def agreeing(readings: Sequence[Reading], places: Sequence[str]) -> list[Parsed | Rejected]:
    """What stays of readings that came together, where some have one device and instant.

    A metric has one value at an instant. Of values that differ the largest stays, as it does
    between requests (telemetry.domain.window.merge), and the others are refused by name; equal
    ones are duplicates. A reading of which no metric stays is a Rejected. `places` is how an
    answer calls each reading.
    """
    largest: dict[tuple[str, int], dict[str, tuple[float, str]]] = {}
    for reading, place in zip(readings, places, strict=True):
        values = largest.setdefault((reading.device_id, reading.recorded_at_ms), {})
        for metric, value in reading.metrics.items():
            if metric not in values or value > values[metric][0]:
                values[metric] = value, place
    if len(largest) == len(readings):
        return [Parsed(reading) for reading in readings]
    return [
        _agreeing(reading, largest[reading.device_id, reading.recorded_at_ms])
        for reading in readings
    ]


def _agreeing(reading: Reading, largest: dict[str, tuple[float, str]]) -> Parsed | Rejected:
    refused = []
    for metric, value in reading.metrics.items():
        kept, place = largest[metric]
        if value != kept:
            reason = f"{value} differs from {kept}, which {place} has for the same device and "
            reason += "instant; the larger value is kept"
            refused.append(Rejected(reason, field=metric, value=value))
    if not refused:
        return Parsed(reading)
    lost = {error.field for error in refused}
    rest = {metric: value for metric, value in reading.metrics.items() if metric not in lost}
    if not rest:
        return Rejected.all_of(refused)
    return Parsed(reading._replace(metrics=rest), tuple(refused))


def _device_of(document: Any, poster: Poster) -> Any:
    """Whose a document says it is, None where it doesn't."""
    named = document.get("device_id") if isinstance(document, dict) else None
    return shown(poster.device_id if named is None else named)


def to_refusal(index: int, device_id: Any, error: Rejected) -> Refusal:
    """What an answer says of a document, or of one of its metrics, that isn't taken."""
    return {
        "index": index,
        "device_id": device_id,
        "field": error.field,
        "value": shown(error.value),
        "reason": error.reason,
    }
