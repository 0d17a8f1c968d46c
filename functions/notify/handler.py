"""Notify stage: publish each notice on the queue, once per episode and change."""

import functools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from telemetry.aws import events
from telemetry.aws.claims import Claims
from telemetry.aws.clients import client
from telemetry.aws.observe import count, link, log, observed
from telemetry.aws.publishers import Bus, Publisher, Topic
from telemetry.domain.notice import Notice
from telemetry.errors import Unavailable
from telemetry.settings import NotifySettings

# As long as this function may run. If the holder of a claim dies, the notice is only delayed.
LEASE_SECONDS = 30


def run(
    event: dict[str, Any], now_seconds: int, claims: Claims, publishers: Sequence[Publisher]
) -> dict[str, Any]:
    """Send every notice to every publisher; answer with the messages that must come back."""
    failures, published = [], 0
    for message in event["Records"]:
        try:
            notice = Notice(**json.loads(message["body"]))
            link("notice", [notice.trace_id], device_id=notice.device_id, rule=notice.rule)
            sent, errors = _publish_all(notice, publishers, claims, now_seconds)
            published += sent
            if errors:
                raise Unavailable("; ".join(errors))
        # a body that isn't a notice goes to the dead letters, like a notice that can't be sent
        except (Unavailable, TypeError, ValueError, RecursionError) as error:
            why = {"id": message["messageId"], "why": str(error)}
            log.warning("notice not sent", extra=why)
            failures.append({"itemIdentifier": message["messageId"]})
    count(NoticesPublished=published)
    return {"batchItemFailures": failures}


def _publish_all(
    notice: Notice, publishers: Sequence[Publisher], claims: Claims, now_seconds: int
) -> tuple[int, list[str]]:
    """Return how many publishers got the notice, and the others' errors; each is tried."""
    sent, errors = 0, []
    for publisher in publishers:
        try:
            sent += _publish_once(notice, publisher, claims, now_seconds)
        except Unavailable as error:
            errors.append(str(error))
    return sent, errors


def _publish_once(notice: Notice, publisher: Publisher, claims: Claims, now_seconds: int) -> int:
    """Send a notice to one publisher; return 1, or 0 if it was sent before."""
    name = f"{notice.notice_id}/{publisher.name}"
    match claims.take(notice.device_id, name, now_seconds, LEASE_SECONDS):
        case "done":
            return 0
        case "held":
            raise Unavailable(f"{name} is being sent by another invocation")
    publisher.publish(notice)
    claims.done(notice.device_id, name)
    return 1


@functools.cache
def wired() -> tuple[Claims, tuple[Topic, Bus]]:
    settings = NotifySettings.read(os.environ)
    return (
        Claims(client("dynamodb"), settings.alerts_table),
        (
            Topic(client("sns"), settings.notices_topic_arn),
            Bus(client("events"), settings.event_bus_name),
        ),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """An SQS event in, a partial batch response out."""
    events.expect("notify", event, events.MESSAGES)
    return run(event, int(time.time()), *wired())
