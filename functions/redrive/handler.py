"""Redrive: try once more what was given up. Operators invoke it until nothing is left.

A batch that a mapping gave up on goes to the very function that gave up: first whole, then record
by record, so that one that kills the function takes no other with it. What no retry mends goes to
quarantine; what a retry can mend stays for the next redrive. Notices that could not be sent go
back to their queue. Cut off at any step, the next invocation does that step again: windows are
sets, episodes joins, and notices claimed, so again changes nothing.
"""

import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from telemetry.aws import events
from telemetry.aws.clients import client
from telemetry.aws.failures import (
    Failure,
    Failures,
    GivenUpRecord,
    announced,
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

# Nothing is begun later than this. A whole batch and its first record may then take 60 s each,
# which is less than this function's 180 s in all.
WORK_SECONDS = 40
INVOKE_SECONDS = 65  # how long to wait for an answer: longer than any function may run
REASONS_TOLD = 5

IsTimeUp = Callable[[], bool]


class Report:
    """How many records went where; an object that S3 doesn't give, or delete, counts as one."""

    def __init__(self) -> None:
        self.objects = self.succeeded = self.quarantined = self.left = self.dead_letters = 0
        self.why: Counter[str] = Counter()  # reasons of what is left or in quarantine

    def answer(self, is_cut_short: bool) -> dict[str, Any]:
        """What the operator gets; `more`: another invocation goes on where this one was cut."""
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
    """The batches in the failures bucket; each has one turn an invocation, while there is time."""

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
        """What the queue names; a message stays as long as anything of its objects is left."""
        kept = []
        try:
            while not self._is_time_up() and (messages := queue.receive()):
                kept += messages
                for message in messages:
                    if all(self._settle(key) for key in announced(message.body)):
                        queue.delete(message)
                        kept.remove(message)
        finally:
            for message in kept:
                queue.give_back(message)

    def settle_listed(self) -> None:
        """What is in the bucket though its announcement is lost, or was too long ago."""
        for key in self._failures.keys():  # noqa: SIM118 - it is no dict
            self._settle(key)

    def kept(self) -> list[str]:
        """The objects that had their turn now, and of which something is left."""
        left = {key for key, is_settled in self._settled.items() if not is_settled}
        return sorted(left - self._skip)

    def _settle(self, key: str) -> bool:
        """Whether nothing of this object is left."""
        if key in self._settled:
            return self._settled[key]
        if self._is_time_up():
            return False
        try:
            self._settled[key] = self._attempt(key)
        # whatever is wrong with one object, the others have their turn
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
        elif len(left) < len(failure.records):
            self._failures.keep_only(failure, left)
        return not left

    def _retry(self, failure: Failure) -> list[GivenUpRecord]:
        """Those of a batch's records that are left; at least the first has its turn."""
        stage, records = failure.stage, failure.records
        if len(records) > 1:
            whole = self._functions.invoke(stage, event_of(records))
            if whole.outcome == "done":
                self._report.succeeded += len(records)
                return []
        refused, left = [], []
        for index, record in enumerate(records):
            if index and self._is_time_up():
                self._leave(len(records) - index)
                left += records[index:]
                break
            verdict = self._functions.invoke(stage, event_of([record]))
            if verdict.outcome == "done":
                self._report.succeeded += 1
            elif verdict.outcome == "later":
                self._leave(1, verdict.why)
                left.append(record)
            else:
                refused.append(record._replace(entry=record.entry._replace(reason=verdict.why)))
        if not self._put_aside([each.entry for each in refused]):
            return left + refused
        if stage == "aggregate":
            _count_settled(refused)
        return left

    def _put_aside(self, entries: list[QuarantineEntry]) -> bool:
        """Whether these are in quarantine; else they are left."""
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
    """Count readings in the minute in which they were accepted.

    Nobody has counted the arrival of foreign records that `aggregate` couldn't take: to count their
    end would hide losses of that minute.
    """
    for record in quarantined:
        if record.accepted_at_ms is not None:
            count_at(record.accepted_at_ms, ReadingsQuarantined=1)
    write_counts()  # once the batch is deleted, nobody comes back to it


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
    """Redrive for `event["seconds"]` at most; answer with how many records went where.

    `event["skip"]` are objects that had their turn: what an invocation answers as `kept`, the next
    one skips, so that all have a turn though the first ones take all the time. Raises Rejected for
    other values, and Unavailable where a queue or the bucket's list is out of reach: nothing is
    lost by that, and what was done stays done.
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
    """Dead letters into the queue that they came from, whose function sends each notice once."""
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
    # tried once: what an invocation that wasn't waited for does can't be known
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
