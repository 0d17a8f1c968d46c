"""The pipeline's pending work, and the signs of a machine that is too slow for it.

A missing reading is lost once no pending work is left that could store it. Until then the run can't
tell.
"""

import re
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from botocore.exceptions import BotoCoreError, ClientError

from local.deployment import STREAM_FUNCTIONS, client
from local.instance import Instance
from local.tables import counted
from local.trial.mapping_state import MappingReader, MappingState

MESSAGES = "mqtt.sqlite3"
OUT_OF_TIME = re.compile(r"Lambda (?:\S+-)?(\S+) timed out after (\d+)s")
COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

Waiting = dict[str, int]
"""The number of waiting items, by place; a place that can't be read counts as one."""


@dataclass
class Slowness:
    """Signs of a machine that is too slow, or too busy."""

    waiting: Waiting = field(default_factory=dict)
    """The pending work when patience was over."""
    still_seconds: float = 0.0
    """How long the pending work hadn't changed by then."""
    out_of_time: dict[str, int] = field(default_factory=dict)
    """Number of invocations that timed out, by function."""
    repeats: int = 0
    """Number of the check's calls that were repeated."""
    no_answer: str | None = None
    """The unanswered call at which the check gave up."""
    fault: str | None = None
    """A message that the disk is full."""

    def signs(self) -> list[str]:
        """Return each sign as a line of text."""
        lines = [self.fault] if self.fault else []
        if self.waiting:
            work = ", ".join(f"{count:,} {where}" for where, count in self.waiting.items())
            lines.append(f"still to do: {work}; none of it moved for {self.still_seconds:.0f} s")
        if self.no_answer:
            lines.append(f"the check got no answer: {self.no_answer}")
        if self.repeats:
            lines.append(f"the check repeated {counted(self.repeats, 'call')}")
        if self.out_of_time:
            each = ", ".join(f"{name} {count}" for name, count in sorted(self.out_of_time.items()))
            lines.append(f"functions timed out (aws.log): {each}")
        return lines


class Pending:
    """Looks at the pending work of an instance's pipeline."""

    def __init__(self, instance: Instance) -> None:
        """Take a deployed instance; given-up records and timeouts count from now on."""
        self._state = instance.load()
        self._stream = self._state.outputs["StreamName"]
        self._messages = instance.folder / MESSAGES
        self._mappings = MappingReader(instance)
        self._sqs = client(self._state, "sqs")
        self._log = instance.log("aws")
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._given_up_before = given_up(self._of_stream())

    def waiting(self) -> Waiting:
        """Return the work that waits: on the stream, in the overflow queue, at the MQTT broker."""
        try:
            mappings = self._of_stream()
            work = {f"records for {self._short(each)}": each.lag_records for each in mappings} | {
                "messages in the overflow queue": self._overflow()
            }
            for name, count in given_up(mappings).items():
                before = self._given_up_before.get(name, 0)
                work[f"records given up for {self._short_name(name)}"] = count - before
        except (BotoCoreError, ClientError) as error:
            return {f"look that failed ({error})": 1}
        work["MQTT messages that wait for their rules"] = waiting_messages(self._messages)
        return {where: 1 if count is None else count for where, count in work.items() if count != 0}

    def out_of_time(self) -> dict[str, int]:
        """Return the number of invocations that timed out since the start, by function."""
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode("utf-8", "replace")
            return dict(Counter(found[1] for found in OUT_OF_TIME.finditer(text)))
        return {}

    def _of_stream(self) -> list[MappingState]:
        own = {f"{self._state.stack}-{name}" for name in STREAM_FUNCTIONS}
        mappings = self._mappings.read()
        return [each for each in mappings if each.source == self._stream and each.function in own]

    def _short(self, mapping: MappingState) -> str:
        return self._short_name(mapping.function)

    def _short_name(self, function: str) -> str:
        return function.removeprefix(f"{self._state.stack}-")

    def _overflow(self) -> int:
        url = self._state.outputs["OverflowUrl"]
        answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(COUNTS))
        return sum(int(answer["Attributes"][name]) for name in COUNTS)


def given_up(mappings: list[MappingState]) -> dict[str, int]:
    """Return the number of records that each mapping gave up, by function."""
    return {each.function: each.count("discarded") for each in mappings}


def waiting_messages(file: Path) -> int:
    """Return the number of messages that the MQTT broker took and hasn't finished."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT COUNT(*) FROM messages").fetchone()
    except sqlite3.OperationalError:  # the broker hasn't made the file yet
        return 0
    return int(count)


class Stillness:
    """Measures how long a value has stayed the same."""

    def __init__(self) -> None:
        """Start the clock."""
        self._since = time.monotonic()
        self._last: object = None

    def seconds(self, seen: object) -> float:
        """Return the seconds since `seen` last changed."""
        now = time.monotonic()
        if seen != self._last:
            self._last, self._since = seen, now
        return now - self._since
