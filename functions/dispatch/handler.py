"""Dispatch stage: turn changes of the alerts table into notices on the queue.

The table's stream is the outbox: `alert` writes only the table, and what it wrote gets here. The
mapping's filter passes this region's own items whose change is worth a notice.
"""

import functools
import json
import os
from typing import Any

from telemetry.aws.alerts import to_notice
from telemetry.aws.clients import client
from telemetry.aws.observe import count, link, observed
from telemetry.aws.queue import Queue
from telemetry.errors import Unavailable
from telemetry.settings import DispatchSettings


def run(event: dict[str, Any], queue: Queue) -> dict[str, Any]:
    """Queue a notice for every change; answer with the record to resume from, if any.

    Raises Unavailable where no notice could be queued.
    """
    records = [record["dynamodb"] for record in event["Records"]]
    notices = [to_notice(record["NewImage"]) for record in records]
    failed = queue.send([json.dumps(notice._asdict()) for notice in notices])
    count(NoticesQueued=len(notices) - len(failed))
    link("notices", (notice.trace_id for notice in notices))
    if not failed:
        return {"batchItemFailures": []}
    if 0 in failed:
        raise Unavailable(f"none of {len(notices)} notices could be queued")
    return {"batchItemFailures": [{"itemIdentifier": records[min(failed)]["SequenceNumber"]}]}


@functools.cache
def wired() -> tuple[Queue]:
    settings = DispatchSettings.read(os.environ)
    return (Queue(client("sqs"), settings.notices_url),)


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """A DynamoDB stream event in, a partial batch response out."""
    return run(event, *wired())
