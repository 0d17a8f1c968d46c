"""Dispatch stage: turn changes of the alerts table into notices on the queue.

The table's stream is the outbox: `alert` writes only the table, and its changes come here. The
mapping's filter passes this region's own items whose change gets a notice.
"""

import functools
import json
import os
from collections.abc import Sequence
from typing import Any

from telemetry.aws import events
from telemetry.aws.alerts import to_notice
from telemetry.aws.clients import client
from telemetry.aws.observe import count, link, log, observed
from telemetry.aws.quarantine import Quarantine, QuarantineEntry, entry_of_change
from telemetry.aws.queue import Queue
from telemetry.domain.notice import Notice
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import DispatchSettings


def run(event: dict[str, Any], queue: Queue, quarantine: Quarantine) -> dict[str, Any]:
    """Queue a notice for every change; answer with the record to resume from, if any.

    A change that this code can't read goes to quarantine, if it comes before that record. If it
    were retried until the mapping gives up, all later notices would wait. Raise Unavailable if
    nothing succeeded.
    """
    records = event["Records"]
    notices, rejected = _read(records)
    unsent = queue.send([json.dumps(notice._asdict()) for notice in notices.values()])
    failed = {place for index, place in enumerate(notices) if index in unsent}
    to_quarantine = [
        entry for place, entry in rejected.items() if place < min(failed, default=len(records))
    ]
    if not quarantine.keep(to_quarantine):
        failed |= rejected.keys()
        to_quarantine = []
    for entry in to_quarantine:
        log.error("not an episode's change", extra={"record": entry.name, "why": entry.reason})
    count(NoticesQueued=len(notices) - len(unsent), RecordsQuarantined=len(to_quarantine))
    link("notices", (notice.trace_id for notice in notices.values()))
    if not failed:
        return {"batchItemFailures": []}
    if 0 in failed:
        raise Unavailable(f"none of {len(records)} changes could be processed")
    number = records[min(failed)]["dynamodb"]["SequenceNumber"]
    return {"batchItemFailures": [{"itemIdentifier": number}]}


def _read(
    records: Sequence[dict[str, Any]],
) -> tuple[dict[int, Notice], dict[int, QuarantineEntry]]:
    """Return the notices, and quarantine entries for unreadable records, by place in the batch."""
    notices: dict[int, Notice] = {}
    rejected: dict[int, QuarantineEntry] = {}
    for place, record in enumerate(records):
        try:
            notices[place] = to_notice(record["dynamodb"].get("NewImage", {}))
        except Rejected as error:
            rejected[place] = entry_of_change(record, "dispatch", error)
    return notices, rejected


@functools.cache
def wired() -> tuple[Queue, Quarantine]:
    settings = DispatchSettings.read(os.environ)
    return (
        Queue(client("sqs"), settings.notices_url),
        Quarantine(client("s3"), settings.failures_bucket),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A DynamoDB stream event in, a partial batch response out."""
    events.expect("dispatch", event, events.CHANGES)
    return run(event, *wired())
