"""`quarantine release`: send records back to where they came from, and find each one's outcome."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from ops.quarantine_store import Line, ObjectListing, Store, data_of, describe_mistake
from ops.stored import Sample, Windows, samples, to_stream
from ops.target import Target

POLL_SECONDS = 2.0
STORED, THERE, REFUSED, PASSED, UNKNOWN = (
    "stored",
    "stored before",
    "refused again",
    "handed on",
    "couldn't tell",
)
"""The outcomes of a released record."""


@dataclass
class Sent:
    """A record that was sent, the name under which it would come back, and its outcome."""

    line: Line
    again: str | None  # its new name on the stream; None if it keeps its name
    release: str  # the mark on a message or change, if it comes back to quarantine
    samples: tuple[Sample, ...]  # its readings, as far as this code can decode them
    outcome: str = ""
    why: str = ""
    name: str = ""  # its name in quarantine, if it came back

    def is_it(self, line: Line) -> bool:
        """Return whether a line of the quarantine is this record, which came back."""
        if self.again is not None:
            return bool(line["name"].partition("#")[0] == self.again)  # # and a place in a pack
        return line["name"] == self.line["name"] and line.get("released") == self.release


class Identity(NamedTuple):
    """A record and its receiver, every consumer or one function: the pair is sent only once."""

    name: str
    receiver: str


class Sender:
    """Sends records back to where they came from, each once, even if several objects have it."""

    def __init__(self, target: Target, store: Store) -> None:
        """Send to the stack's stream, its queue and its functions."""
        self._name = target.output("Name")
        self._stream = target.output("StreamName")
        self._kinesis = target.connect("kinesis")
        self._lambda = target.connect("lambda")
        self._target = target
        self._store = store
        self.sent: dict[Identity, Sent] = {}
        self.failed: dict[str, str] = {}

    def send(self, line: Line) -> bool:
        """Send a record; return whether it is sent. If not, `failed` has the reason."""
        of_one = line["function"] if line["source"] == "dynamodb" else "every consumer"
        identity = Identity(line["name"], of_one)
        if identity in self.sent:
            return True
        sent = Sent(line, None, release_of(line), tuple(samples(line)))
        try:
            why = self._send(line, sent)
        except (ClientError, BotoCoreError) as error:
            why = str(error)
        if why:
            self.failed[line["name"]] = why
            return False
        self.sent[identity] = sent
        return True

    def _send(self, line: Line, sent: Sent) -> str | None:
        """Send a line; return the error of the function that got it, or None."""
        match line["source"]:
            case "dynamodb":
                sent.outcome, sent.why = PASSED, f"{line['function']} has taken it"
                return self._invoke(line, sent.release)
            case "object":
                self._store.put_back(line)
                sent.outcome, sent.why = PASSED, "`redrive` finds it where it was"
            case "mqtt":  # `drain` takes it like a message that IoT couldn't deliver
                self._target.connect("sqs").send_message(
                    QueueUrl=self._target.output("OverflowUrl"),
                    MessageBody=marked(data_of(line), sent.release),
                )
            case _:
                key, data = line["partition_key"], to_stream(line)
                answer = self._kinesis.put_record(
                    StreamName=self._stream, PartitionKey=key, Data=data
                )
                if answer:
                    sent.again = f"{answer['ShardId']}:{answer['SequenceNumber']}"
        return None

    def _invoke(self, line: Line, release: str) -> str | None:
        record = {**json.loads(data_of(line)), "released": release}
        answer = self._lambda.invoke(
            FunctionName=f"{self._name}-{line['function']}",
            Payload=json.dumps({"Records": [record]}).encode(),
        )
        payload = json.loads(answer["Payload"].read()) or {}
        if answer.get("FunctionError"):
            return f"{payload.get('errorType')}: {payload.get('errorMessage')}"
        return "the function asks for it again" if payload.get("batchItemFailures") else None


class Watch:
    """Finds the outcome of records: in the windows, or in quarantine again."""

    def __init__(
        self,
        target: Target,
        store: Store,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look into the stack's windows and quarantine."""
        self._store = store
        self._windows = Windows(target)
        self._clock = clock
        self._sleep = sleep
        self._seen: set[tuple[str, str]] = set()
        self._there: dict[tuple[str, str], bool] = {}

    def before(self, lines: list[Line]) -> None:
        """Remember the quarantine's objects, and which records are stored, before a release."""
        self._seen = {(each.key, each.etag) for each in self._store.list_objects()}
        for line in lines:
            found = tuple(samples(line))
            self._there[line["name"], line["source"]] = self._windows.have(found)

    def settle(self, sent: list[Sent], seconds: float) -> None:
        """Wait until each record's outcome is known, or until the time is over."""
        until = self._clock() + seconds
        while True:
            self._look(sent)
            if not any(is_open(each) for each in sent) or self._clock() >= until:
                break
            self._sleep(POLL_SECONDS)
        for each in sent:
            if is_open(each):
                each.outcome, each.why = UNKNOWN, unknown(each, self._windows.why, seconds)

    def _look(self, sent: list[Sent]) -> None:
        back = list(self._new_lines())
        for each in sent:
            # a function that got a record may have quarantined it itself
            line = next((line for line in back if each.is_it(line)), None)
            if line is not None:
                each.outcome, each.why, each.name = REFUSED, describe_mistake(line), line["name"]
            elif is_open(each) and each.samples and self._windows.have(each.samples):
                was_there = self._there.get((each.line["name"], each.line["source"]), False)
                each.outcome = THERE if was_there else STORED

    def _new_lines(self) -> Iterator[Line]:
        new: list[ObjectListing] = []
        for each in self._store.list_objects():
            if (each.key, each.etag) not in self._seen:
                new.append(each)
                self._seen.add((each.key, each.etag))
        for changed in self._store.objects(new):
            yield from changed.lines


def is_open(sent: Sent) -> bool:
    """Return whether a record's outcome isn't known yet."""
    return not sent.outcome


def unknown(sent: Sent, why: str, seconds: float) -> str:
    """Return why a record's outcome is unknown."""
    if why:
        return why
    if not sent.samples:
        return f"not in quarantine after {seconds:g} s; which readings are in it can't be told here"
    return f"neither stored nor in quarantine after {seconds:g} s: it may be on its way"


def release_of(line: Line) -> str:
    """Return the mark of a release; each release of a record has another."""
    text = json.dumps({**line, "data": None}, sort_keys=True) + line["data"]
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def marked(event: bytes, release: str) -> str:
    """Return a message's event with the mark of its release, to recognize it if it comes back."""
    document = json.loads(event)
    return json.dumps({**document, "released": release})


def counted(sent: list[Sent]) -> Counter[str]:
    """Return the number of records by outcome."""
    return Counter(each.outcome for each in sent if each.outcome)
