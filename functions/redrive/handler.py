"""Redrive: retry batches that mappings gave up on. Operators invoke it until nothing is left.

A batch goes to the function that failed on it: first whole, then record by record, and a pack
reading by reading, so that one that kills the function affects no other. Records that no retry can
process go to quarantine. Records that a retry may process stay for the next redrive. Notices that
couldn't be sent go back to their queue. If an invocation is cut off, the next one repeats its last
step. That changes nothing, because windows are sets, episodes are joins, and notices have claims.
"""

import functools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from telemetry.aws import events
from telemetry.aws.clients import client
from telemetry.aws.failures import (
    Failure,
    Failures,
    GivenUpRecord,
    announced,
    apart,
    entry_of_object,
    event_of,
)
from telemetry.aws.functions import Functions
from telemetry.aws.observe import count, count_at, log, observed, write_counts
from telemetry.aws.quarantine import Quarantine, QuarantineEntry
from telemetry.aws.queue import Queue
from telemetry.domain.reading import shown
from telemetry.errors import Rejected, Unavailable
from telemetry.settings import RedriveSettings

# No batch is begun later than this. A whole batch and its first record may then take 60 s each, so
# the total is less than this function's 180 s.
WORK_SECONDS = 40
INVOKE_SECONDS = 65  # how long to wait for an answer: longer than any function may run
REASONS_TOLD = 5

IsTimeUp = Callable[[], bool]


class Report:
    """Counts of records by outcome; an object that can't be read or deleted counts as one."""

    def __init__(self) -> None:
        self.objects = self.succeeded = self.quarantined = self.left = self.dead_letters = 0
        self.why: Counter[str] = Counter()  # reasons of records that are left or in quarantine

    def answer(self, is_cut_short: bool) -> dict[str, Any]:
        """Return the operator's report; `more` says that another invocation has to go on."""
        return {
            "objects": self.objects,
            "records": self.succeeded + self.quarantined + self.left,
            "succeeded": self.succeeded,
            "quarantined": self.quarantined,
            "left": self.left,
            "dead_letters": self.dead_letters,
            "more": is_cut_short,
            "why": dict(self.why.most_common(REASONS_TOLD)),
        }


class Batches:
    """The batches in the failures bucket; an invocation tries each once, while there is time."""

    def __init__(
        self,
        failures: Failures,
        functions: Functions,
        quarantine: Quarantine,
        report: Report,
        is_time_up: IsTimeUp,
        skip: Iterable[str],
    ) -> None:
        self._failures = failures
        self._functions = functions
        self._quarantine = quarantine
        self._report = report
        self._is_time_up = is_time_up
        self._skip = frozenset(skip)
        self._settled = dict.fromkeys(self._skip, False)

    def settle_announced(self, queue: Queue) -> None:
        """Retry announced batches; a message stays in the queue until its objects are done."""
        unfinished = []
        try:
            while not self._is_time_up() and (messages := queue.receive()):
                unfinished += messages
                for message in messages:
                    if all(self._settle(key) for key in announced(message.body)):
                        queue.delete(message)
                        unfinished.remove(message)
        finally:
            for message in unfinished:
                queue.give_back(message)

    def settle_listed(self) -> None:
        """Retry the batches in the bucket whose announcement is lost or has expired."""
        for key in self._failures.keys():  # noqa: SIM118 - it is no dict
            self._settle(key)

    def kept(self) -> list[str]:
        """Return the objects that this invocation tried and that still have records."""
        left = {key for key, is_settled in self._settled.items() if not is_settled}
        return sorted(left - self._skip)

    def _settle(self, key: str) -> bool:
        """Retry an object's batch once; return whether nothing of it is left."""
        if key in self._settled:
            return self._settled[key]
        if self._is_time_up():
            return False
        try:
            self._settled[key] = self._attempt(key)
        # one object must not stop the others
        except Exception as error:  # noqa: BLE001
            log.warning("left", extra={"key": key, "why": str(error)})
            self._leave(1, str(error) or repr(error))
            self._settled[key] = False
        return self._settled[key]

    def _attempt(self, key: str) -> bool:
        found = self._failures.read(key)
        if found is None:
            return True
        self._report.objects += 1
        try:
            failure = self._failures.parse(key, *found)
        except Rejected as error:
            if not self._put_aside([entry_of_object(key, found[0], error)]):
                return False
            self._failures.remove(key)
            return True
        left = self._retry(failure)
        if not left:
            self._failures.remove(key)
        elif left != failure.records:
            self._failures.keep_only(failure, left)
        return not left

    def _retry(self, failure: Failure) -> list[GivenUpRecord]:
        """Retry a batch's records, at least the first; return those that are left.

        A pack that its function can't take is retried reading by reading.
        """
        stage, records = failure.stage, failure.records
        if len(records) > 1:
            whole = self._functions.invoke(stage, event_of(records))
            if whole.outcome == "done":
                self._report.succeeded += len(records)
                return []
        refused: list[GivenUpRecord] = []
        left: list[GivenUpRecord] = []
        waiting = deque(records)
        while waiting:
            if waiting[0] is not records[0] and self._is_time_up():
                self._leave(len(waiting))
                left += waiting
                break
            record = waiting.popleft()
            verdict = self._functions.invoke(stage, event_of([record]))
            if verdict.outcome == "done":
                self._report.succeeded += 1
            elif verdict.outcome == "later":
                self._leave(1, verdict.why)
                left.append(record)
            elif readings := apart(record):
                waiting.extendleft(reversed(readings))
            else:
                refused.append(record._replace(entry=record.entry._replace(reason=verdict.why)))
        if not self._put_aside([each.entry for each in refused]):
            return left + refused
        if stage == "aggregate":
            _count_settled(refused)
        return left

    def _put_aside(self, entries: list[QuarantineEntry]) -> bool:
        """Quarantine entries; return whether it worked. Otherwise, count their records as left."""
        if not self._quarantine.keep(entries):
            self._leave(len(entries), "the quarantine can't be written")
            return False
        self._report.quarantined += len(entries)
        self._report.why.update(each.reason for each in entries)
        return True

    def _leave(self, records: int, why: str | None = None) -> None:
        self._report.left += records
        if why:
            self._report.why[why] += records


def _count_settled(quarantined: Iterable[GivenUpRecord]) -> None:
    """Count quarantined readings in the minute in which they were accepted.

    Records that bypassed `ingest` don't count here. Their arrival wasn't counted, so to count their
    end would hide losses of that minute.
    """
    for record in quarantined:
        if record.accepted_at_ms is not None:
            count_at(record.accepted_at_ms, ReadingsQuarantined=1)
    write_counts()  # once the batch is deleted, no retry would count it again


def run(
    event: dict[str, Any],
    failures: Failures,
    functions: Functions,
    quarantine: Quarantine,
    announcements: Queue,
    dead_letters: Queue,
    notices: Queue,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Redrive for `event["seconds"]` at most; answer with the counts of records by outcome.

    `event["skip"]` has the objects that earlier invocations answered as `kept`, so that all objects
    have a turn even if the first ones take all the time. Raise Rejected for other values. Raise
    Unavailable if a queue or the bucket's list can't be read: nothing is lost, and finished batches
    stay finished.
    """
    end, skip = clock() + _seconds(event), _skip(event)

    def is_time_up() -> bool:
        return clock() >= end

    report = Report()
    batches = Batches(failures, functions, quarantine, report, is_time_up, skip)
    try:
        batches.settle_announced(announcements)
        batches.settle_listed()
        _send_back(dead_letters, notices, report, is_time_up)
    finally:
        count(
            RecordsRedriven=report.succeeded,
            RecordsQuarantined=report.quarantined,
            NoticesRedriven=report.dead_letters,
        )
    answer = report.answer(is_time_up())
    log.info("redriven", extra=answer)
    return {**answer, "kept": batches.kept()}


def _seconds(event: dict[str, Any]) -> float:
    seconds = event.get("seconds", WORK_SECONDS)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 1 <= seconds <= WORK_SECONDS:
        reason = f"is {shown(seconds)}: a number from 1 to {WORK_SECONDS} was expected"
        raise Rejected(reason, field="seconds", value=seconds)
    return float(seconds)


def _skip(event: dict[str, Any]) -> list[str]:
    skip = event.get("skip", [])
    if not isinstance(skip, list) or not all(isinstance(key, str) for key in skip):
        raise Rejected(f"is {shown(skip)}: a list of keys was expected", field="skip", value=skip)
    return skip


def _send_back(dead: Queue, notices: Queue, report: Report, is_time_up: IsTimeUp) -> None:
    """Move dead letters back to the queue that they came from; `notify` sends each notice once."""
    while not is_time_up():
        messages = dead.receive()
        if not messages:
            return
        failed = notices.send([message.body for message in messages])
        for index, message in enumerate(messages):
            if index in failed:
                dead.give_back(message)
            else:
                dead.delete(message)
        report.dead_letters += len(messages) - len(failed)
        if failed:
            raise Unavailable(f"{len(failed)} notices could not be queued")


@functools.cache
def wired() -> tuple[Failures, Functions, Quarantine, Queue, Queue, Queue]:
    settings = RedriveSettings.read(os.environ)
    s3, sqs = client("s3"), client("sqs")
    # tried once: after a timeout, the first invocation may still be running
    aws_lambda = client("lambda", attempts=1, read_timeout_seconds=INVOKE_SECONDS)
    return (
        Failures(s3, settings.failures_bucket, settings.pipeline_name),
        Functions(aws_lambda, settings.pipeline_name),
        Quarantine(s3, settings.failures_bucket),
        Queue(sqs, settings.failures_url),
        Queue(sqs, settings.notices_dead_letters_url),
        Queue(sqs, settings.notices_url),
    )


@observed
def handler(event: dict[str, Any], _context: Any) -> dict[str, Any]:
    """`{"seconds": 10, "skip": []}` in, or less; the report out."""
    events.expect("redrive", event, events.options("seconds", "skip"))
    return run(event, *wired())
