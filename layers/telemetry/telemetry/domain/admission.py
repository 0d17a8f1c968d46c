"""Admission: which documents of a request are readings that the pipeline accepts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from telemetry.domain.reading import Reading, check_time, shown
from telemetry.domain.validation import NothingMeasured, Parsed, parse
from telemetry.errors import Rejected

MAX_READINGS = 500  # in a request, and in a PutRecords call
Refusal = dict[str, Any]  # index, device_id, field, value, reason, as in the API's answers


class Poster(NamedTuple):
    """The sender: one device (`device_id`), or a gateway for ids that start with `prefix`."""

    device_id: str | None
    prefix: str = ""


class Admission(NamedTuple):
    """The accepted readings of a request, and its refusals.

    `readings[i]` came from the document at `indexes[i]`. `refusals` has one entry for each document
    that isn't accepted. `partly` has the refused metrics of accepted documents. `left_out` counts
    values that stand for no measurement. `empty` has the indexes of documents with no other value;
    they are among the refusals, too.
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
    """Check every document; stamp the accepted readings with the time and trace of their arrival.

    A document that the decoder refused comes as a Rejected in its place; the others are unaffected.
    The result doesn't depend on the documents' order. `places` names the documents in messages, by
    index; without it they are `reading 0` and so on.
    """
    accepted: dict[int, Parsed] = {}
    refused: dict[int, Rejected] = {}
    for index, document in enumerate(documents):
        try:
            accepted[index] = _checked(document, poster, now_ms, retention_ms)
        except Rejected as error:
            refused[index] = error
    names = [f"reading {index}" if places is None else places[index] for index in accepted]
    readings = [each.reading for each in accepted.values()]
    for index, result in zip(list(accepted), resolve_conflicts(readings, names), strict=True):
        if isinstance(result, Rejected):
            refused[index] = result
            del accepted[index]
        else:
            parsed = accepted[index]
            refused_metrics = parsed.refused + result.refused
            accepted[index] = Parsed(result.reading, refused_metrics, parsed.left_out)
    empty = {i: each.left_out for i, each in refused.items() if isinstance(each, NothingMeasured)}
    return Admission(
        [
            each.reading._replace(received_at_ms=now_ms, trace_id=trace_id)
            for each in accepted.values()
        ],
        list(accepted),
        [
            to_refusal(index, _device_of(documents[index], poster), error)
            for index, error in sorted(refused.items())
        ],
        [
            to_refusal(index, each.reading.device_id, error)
            for index, each in accepted.items()
            for error in each.refused
        ],
        sum(each.left_out for each in accepted.values()) + sum(empty.values()),
        frozenset(empty),
    )


def _checked(document: Any, poster: Poster, now_ms: int, retention_ms: int) -> Parsed:
    """Return a document's reading; raise Rejected if it has none, or another device's."""
    if isinstance(document, Rejected):
        raise document
    parsed = parse(document, poster.device_id)
    if not parsed.reading.device_id.startswith(poster.prefix):
        reason = f"is not one of this gateway's devices, whose ids start {poster.prefix!r}"
        raise Rejected(reason, field="device_id", value=parsed.reading.device_id)
    check_time(parsed.reading, now_ms, retention_ms, document.get("recorded_at"))
    return parsed


def resolve_conflicts(
    readings: Sequence[Reading], places: Sequence[str]
) -> list[Parsed | Rejected]:
    """Return each reading of a request without the values that lose to another reading's.

    A metric has one value at an instant. Where readings of one device and instant differ, the
    largest value stays, as it does between requests (telemetry.domain.window.merge). The others
    are refused by name; equal values are duplicates. A reading that loses all of its metrics comes
    as a Rejected. `places` names each reading in messages.
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
        _without_losers(reading, largest[reading.device_id, reading.recorded_at_ms])
        for reading in readings
    ]


def _without_losers(reading: Reading, largest: dict[str, tuple[float, str]]) -> Parsed | Rejected:
    refused = []
    for metric, value in reading.metrics.items():
        winner, place = largest[metric]
        if value != winner:
            reason = f"{value} differs from {winner}, which {place} has for the same device and "
            reason += "instant; the larger value is kept"
            refused.append(Rejected(reason, field=metric, value=value))
    if not refused:
        return Parsed(reading)
    losers = {error.field for error in refused}
    winners = {metric: value for metric, value in reading.metrics.items() if metric not in losers}
    if not winners:
        return Rejected.all_of(refused)
    return Parsed(reading._replace(metrics=winners), tuple(refused))


def _device_of(document: Any, poster: Poster) -> Any:
    """Return the device that a document names or the poster is; None where neither says."""
    named = document.get("device_id") if isinstance(document, dict) else None
    if isinstance(document, Rejected):
        named = document.device_id
    return shown(poster.device_id if named is None else named)


def to_refusal(index: int, device_id: Any, error: Rejected) -> Refusal:
    """Return the answer's entry for a refused document, or for one refused metric of it."""
    return {
        "index": index,
        "device_id": device_id,
        "field": error.field,
        "value": shown(error.value),
        "reason": error.reason,
    }
