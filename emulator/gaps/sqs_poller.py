"""Closes gaps of the embedded AWS: queues' messages are delivered to functions as on AWS.

AWS's behaviour is documented (https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html, and the
pages below it) or was recorded. The emulator (1.5.33) differs:

- It has no batching window, no batch of more than 10 messages, and no limit of the payload.
- It supports a part of the pattern language. It deletes unmatched messages only with their batch.
- An unreadable partial response counts as success, and a throttled batch as failed.
- It works on one batch of a FIFO queue at a time, even if the groups differ.
- Fields of the event are missing.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator.event_pattern import compile_pattern, parse_event

LOGGER = logging.getLogger(__name__)
Document = dict[str, Any]
Message = Document
"""A message as the emulator stores it, with its receipt handle once it was received."""

BATCH_SIZE_DEFAULT = 10
CONCURRENCY_DEFAULT = 5
"""Batches at once; AWS begins with five and then scales up."""
RECEIVED_MAX = 10
"""The most messages of one receive."""
PAYLOAD_BYTES_MAX = 6 * 1024 * 1024
EVENT_BYTES = 20
"""The size of an event without its records."""
THROTTLED_SECONDS = 0.5
FAILED_SECONDS = 1.0
"""A mapping's pause after a failure; AWS reduces the number of concurrent batches instead."""
SUCCESS: tuple[Any, ...] = (None, "", [], {})


def close(modules: Any) -> None:
    """Close these gaps in the emulator's modules (`emulator.gaps.Modules`)."""
    lambda_svc = modules.service("lambda_svc")
    lambda_svc._poll_sqs = QueuePoller(lambda_svc, modules.service("sqs")).poll


# Decisions


def failed_messages(result: Document, ids: Sequence[str], reports_failures: bool) -> set[str]:
    """Return the ids of a batch's messages that failed, by the function's result.

    All of them fail after an error, and after an unreadable partial response: a wrong key
    (recorded), an identifier that is empty, null or of no message (documented under "Success and
    failure conditions" in the page with-sqs). Without partial responses, every other result is a
    success.
    """
    everything = set(ids)
    if result.get("error"):
        return everything
    answer = result.get("body")
    if not reports_failures or answer in SUCCESS:
        return set()
    failures = answer.get("batchItemFailures") if isinstance(answer, dict) else answer
    if failures in (None, []):
        return set()
    if not isinstance(failures, list):
        return everything
    named = [each.get("itemIdentifier") if isinstance(each, dict) else None for each in failures]
    is_readable = all(isinstance(each, str) and each in everything for each in named)
    return {str(each) for each in named} if is_readable else everything


def passes(record: Document, patterns: Sequence[str]) -> bool:
    """Return whether a record passes any of the patterns, which match a JSON body as JSON.

    A pattern for an object never matches a text (recorded), nor a pattern for a text an object
    (https://docs.aws.amazon.com/lambda/latest/dg/with-sqs-filtering.html).
    """
    if not patterns:
        return True
    seen = record | {"body": decoded(record["body"])}
    return any(compile_pattern(each).matches(seen) for each in patterns)


def decoded(body: str) -> Any:
    """Return a body as JSON if it is an object or an array, otherwise as text."""
    if body.lstrip()[:1] not in {"{", "["}:
        return body
    try:
        return parse_event(body)
    except ValueError:
        return body


def record_of(message: Message, sqs: Any, mapping: Document, region: str) -> Document:
    """Return the record of a message for the function's event.

    Without message attributes, md5OfMessageAttributes is null with a batching window and missing
    without one (recorded; Lambda adds it, SQS's answer has none).
    """
    md5 = sqs._md5_msg_attrs(message["message_attributes"])
    is_shown = md5 or mapping.get("MaximumBatchingWindowInSeconds")
    return {
        "messageId": message["id"],
        "receiptHandle": message["receipt_handle"],
        "body": message["body"],
        "attributes": sqs._build_sys_attrs(message, ["All"]),
        "messageAttributes": {
            name: attribute(value) for name, value in message["message_attributes"].items()
        },
        **({"md5OfMessageAttributes": md5} if is_shown else {}),
        "md5OfBody": message["md5_body"],
        "eventSource": "aws:sqs",
        "eventSourceARN": mapping["EventSourceArn"],
        "awsRegion": region,
    }


def attribute(value: Document) -> Document:
    """Return a message attribute for the function's event, which has two more empty lists."""
    named = {name[0].lower() + name[1:]: each for name, each in value.items()}
    return {"stringListValues": [], "binaryListValues": []} | named


@dataclass
class Gathering:
    """The messages of a mapping's next batch, with their records."""

    began_at: float
    hidden_until: float = math.inf
    """The time when the first of the messages reappears in the queue."""
    messages: list[Message] = field(default_factory=list)
    records: list[Document] = field(default_factory=list)
    size_bytes: int = EVENT_BYTES

    def add(self, message: Message, record: Document) -> bool:
        """Add the message if it is the first or the payload has room; return whether it was."""
        size_bytes = len(json.dumps(record)) + 2
        if self.records and self.size_bytes + size_bytes > PAYLOAD_BYTES_MAX:
            return False
        self.size_bytes += size_bytes
        self.hidden_until = min(self.hidden_until, message["visible_at"])
        self.messages.append(message)
        self.records.append(record)
        return True

    def is_due(self, mapping: Document, is_full: bool, now: float) -> bool:
        """Return whether the batch is ready: it is full, or its window has passed."""
        window = mapping.get("MaximumBatchingWindowInSeconds") or 0
        return bool(self.records) and (is_full or now >= self.began_at + window)


# The poller


class QueuePoller:
    """Polls the queues of all mappings; the emulator's thread calls it repeatedly."""

    def __init__(
        self,
        lambda_svc: Any,
        sqs: Any,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Use the emulator's modules; times are in seconds since 1970."""
        self.lambda_svc = lambda_svc
        self.sqs = sqs
        self.now = now
        self.sleep = sleep
        self.gatherings: dict[str, Gathering] = {}

    def poll(self) -> bool:
        """Poll each mapping once; return whether any received a message."""
        found = False
        mappings = list(self.lambda_svc._iter_all_esms())
        for account, region, mapping in mappings:
            account_token = self.lambda_svc._request_account_id.set(account)
            region_token = self.lambda_svc._request_region.set(region)
            try:
                found = self.look(mapping) or found
            except Exception:  # the other mappings still get their turn
                LOGGER.exception("a look at the queue of %s", mapping["UUID"])
            finally:
                self.lambda_svc._request_account_id.reset(account_token)
                self.lambda_svc._request_region.reset(region_token)
        for uuid in self.gatherings.keys() - {mapping["UUID"] for _, _, mapping in mappings}:
            self.give_back(self.gatherings.pop(uuid).messages)
        return found

    def look(self, mapping: Document) -> bool:
        """Gather messages for the mapping's next batch, and deliver it once it is ready."""
        uuid = mapping["UUID"]
        queue = self.sqs._queue_by_arn(mapping["EventSourceArn"])
        function, _ = self.lambda_svc._get_func_record_for_qualifier(
            mapping["FunctionName"], mapping.get("Qualifier")
        )
        if not mapping.get("Enabled", True) or queue is None or function is None:
            if uuid in self.gatherings:
                self.give_back(self.gatherings.pop(uuid).messages)
            return False
        if not self.may_gather(mapping):
            return False
        gathering = self.gatherings.pop(uuid, None) or Gathering(self.now())
        found, is_full = self.gather(gathering, mapping, queue["url"])
        if gathering.is_due(mapping, is_full, self.now()):
            self.lambda_svc._dispatch_esm_batch(
                uuid, self.deliver, mapping, function, queue["url"], gathering
            )
        elif gathering.records:
            self.gatherings[uuid] = gathering
        return found

    def may_gather(self, mapping: Document) -> bool:
        """Return whether the mapping may work on one more batch.

        That holds for a FIFO queue, too: it gives no messages of groups that are being worked on
        (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html).
        """
        uuid = mapping["UUID"]
        limit = (mapping.get("ScalingConfig") or {}).get("MaximumConcurrency")
        at_work: int = self.lambda_svc._esm_inflight.get(uuid, 0)
        paused_until: float = self.lambda_svc._esm_backoff_until.get(uuid, 0)
        return at_work < (limit or CONCURRENCY_DEFAULT) and paused_until <= self.now()

    def gather(self, gathering: Gathering, mapping: Document, url: str) -> tuple[bool, bool]:
        """Receive messages for a batch; return (whether any came, whether the batch is full).

        Unmatched messages are deleted. Messages that don't fit into the payload go back.
        """
        filters = (mapping.get("FilterCriteria") or {}).get("Filters") or []
        patterns = [each["Pattern"] for each in filters]
        region = self.lambda_svc.get_region()
        size = mapping.get("BatchSize") or BATCH_SIZE_DEFAULT
        found = False
        for _ in range(0, size, RECEIVED_MAX):
            room = min(size - len(gathering.records), RECEIVED_MAX)
            received = self.sqs._receive_messages_for_esm(url, room) if room > 0 else []
            if not received:
                break
            found = True
            dropped: list[Document] = []
            excess: list[Message] = []
            for message in received:
                record = record_of(message, self.sqs, mapping, region)
                if not passes(record, patterns):
                    dropped.append(record)
                elif excess or not gathering.add(message, record):
                    excess.append(message)
            self.delete(url, dropped)
            if excess:
                self.give_back(excess)
                return found, True
        return found, len(gathering.records) >= size

    def deliver(
        self, mapping: Document, function: Document, url: str, gathering: Gathering
    ) -> None:
        """Invoke the function with a batch; delete the messages that it processed."""
        result = self.invoke(function, gathering)
        reports_failures = "ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or [])
        ids = [record["messageId"] for record in gathering.records]
        failed = failed_messages(result, ids, reports_failures)
        if result.get("error"):
            source = mapping["EventSourceArn"]
            LOGGER.warning("a batch of %s has failed: %s", source, result.get("body"))
        if failed and not reports_failures:
            self.lambda_svc._esm_backoff_until[mapping["UUID"]] = self.now() + FAILED_SECONDS
        self.delete(url, [each for each in gathering.records if each["messageId"] not in failed])

    def invoke(self, function: Document, gathering: Gathering) -> Document:
        """Return the function's result; if throttled, retry until the messages reappear.

        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
        """
        while True:
            result: Document = self.lambda_svc._execute_function(
                function, {"Records": gathering.records}
            )
            if (
                not result.get("throttle")
                or self.now() + THROTTLED_SECONDS >= gathering.hidden_until
            ):
                return result
            self.sleep(THROTTLED_SECONDS)

    def delete(self, url: str, records: Sequence[Document]) -> None:
        """Delete the messages of records, except messages that were received again since."""
        self.sqs._delete_messages_for_esm(url, {each["receiptHandle"] for each in records})

    def give_back(self, messages: Sequence[Message]) -> None:
        """Return messages to the queue as if they hadn't been received."""
        for message in messages:
            message["visible_at"] = self.now()
            message["receive_count"] -= 1
