"""Which of the documents of a request are readings that the pipeline takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from telemetry.domain.reading import Reading, check_time, shown
from telemetry.domain.validation import parse
from telemetry.errors import Rejected

MAX_READINGS = 500  # of a request, and of a PutRecords call


class Poster(NamedTuple):
    """Who posts: one device (`device_id`), or a gateway for devices whose id starts so."""

    device_id: str | None
    prefix: str = ""


class Admission(NamedTuple):
    """`readings[i]` came from the document at `indexes[i]`; `refusals` are as the API has them."""

    readings: list[Reading]
    indexes: list[int]
    refusals: list[dict[str, Any]]


def admit(
    documents: Sequence[Any], poster: Poster, now_ms: int, retention_ms: int, trace_id: str | None
) -> Admission:
    """Check every document; stamp the readings with when and on which trace they came.

    A document that its format's decoder refused, and no other with it, is that Rejected.
    """
    admission = Admission([], [], [])
    for index, document in enumerate(documents):
        try:
            if isinstance(document, Rejected):
                raise document
            reading = parse(document, poster.device_id)
            if not reading.device_id.startswith(poster.prefix):
                reason = f"is not one of this gateway's devices, whose ids start {poster.prefix!r}"
                raise Rejected(reason, field="device_id", value=reading.device_id)
            check_time(reading, now_ms, retention_ms, document.get("recorded_at"))
        except Rejected as error:
            refusal = {
                "index": index,
                "field": error.field,
                "value": shown(error.value),
                "reason": error.reason,
            }
            admission.refusals.append(refusal)
        else:
            stamped = reading._replace(received_at_ms=now_ms, trace_id=trace_id)
            admission.readings.append(stamped)
            admission.indexes.append(index)
    return admission
