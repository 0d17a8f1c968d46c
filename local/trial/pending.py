"""What the pipeline still has to do, and the signs of a machine that is too slow for it.

A reading that doesn't show is lost when nothing is left that could still bring it. Until then
nobody can tell.
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
from local.trial.mapping_state import MappingReader, MappingState

MESSAGES = "mqtt.sqlite3"
OUT_OF_TIME = re.compile(r"Lambda (?:\S+-)?(\S+) timed out after (\d+)s")
COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

Waiting = dict[str, int]
"""How much waits, by where; what can't be seen counts as one."""


@dataclass
class Slowness:
    """Signs of a machine that is too slow, or too busy, for what it has to do."""

    waiting: Waiting = field(default_factory=dict)
    """What the pipeline was still to do when patience was over."""
    still_seconds: float = 0.0
    """How long nothing of it had moved then."""
    out_of_time: dict[str, int] = field(default_factory=dict)
    """Invocations that ran out of time, by function."""
    repeats: int = 0
    """Calls of the check that had to be asked again."""
    no_answer: str | None = None
    """The call without an answer that the check gave up at."""
    fault: str | None = None
    """That the disk is full."""

    def signs(self) -> list[str]:
        """Say each in a line."""
        told = [self.fault] if self.fault else []
        if self.waiting:
            left = ", ".join(f"{count:,} {where}" for where, count in self.waiting.items())
            told.append(f"still to do: {left}; nothing of it moved for {self.still_seconds:.0f} s")
        if self.no_answer:
            told.append(f"the check got no answer: {self.no_answer}")
        if self.repeats:
            told.append(f"{self.repeats:,} calls of the check had to be asked again")
        if self.out_of_time:
            each = ", ".join(f"{name} {count}" for name, count in sorted(self.out_of_time.items()))
            told.append(f"functions ran out of their time (aws.log): {each}")
        return told


class Pending:
    """Looks at what an instance's pipeline still has to do."""

    def __init__(self, instance: Instance) -> None:
        """Look at a deployed instance, from now on."""
        self._state = instance.load()
        self._stream = self._state.outputs["StreamName"]
        self._messages = instance.folder / MESSAGES
        self._mappings = MappingReader(instance)
        self._sqs = client(self._state, "sqs")
        self._log = instance.log("aws")
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._given_up_before = given_up(self._of_stream())

    def waiting(self) -> Waiting:
        """Return what waits now: on the stream, in the overflow queue, with the MQTT broker."""
        try:
            mappings = self._of_stream()
            found = {f"records for {self._short(each)}": each.lag_records for each in mappings} | {
                "messages in the overflow queue": self._overflow()
            }
            for name, count in given_up(mappings).items():
                before = self._given_up_before.get(name, 0)
                found[f"records given up for {self._short_name(name)}"] = count - before
        except (BotoCoreError, ClientError) as error:
            return {f"look that failed ({error})": 1}
        found["MQTT messages that no rule has done with"] = kept_messages(self._messages)
        return {
            where: 1 if count is None else count for where, count in found.items() if count != 0
        }

    def out_of_time(self) -> dict[str, int]:
        """Return how many invocations ran out of time since it was made, by function."""
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode("utf-8", "replace")
            return dict(Counter(found[1] for found in OUT_OF_TIME.finditer(text)))
        return {}

    def _of_stream(self) -> list[MappingState]:
        own = {f"{self._state.stack}-{name}" for name in STREAM_FUNCTIONS}
        found = self._mappings.read()
        return [each for each in found if each.source == self._stream and each.function in own]

    def _short(self, mapping: MappingState) -> str:
        return self._short_name(mapping.function)

    def _short_name(self, function: str) -> str:
        return function.removeprefix(f"{self._state.stack}-")

    def _overflow(self) -> int:
        url = self._state.outputs["OverflowUrl"]
        answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(COUNTS))
        return sum(int(answer["Attributes"][name]) for name in COUNTS)


def given_up(mappings: list[MappingState]) -> dict[str, int]:
    """Return how many records each mapping has given up, by its function."""
    return {each.function: each.count("discarded") for each in mappings}


def kept_messages(file: Path) -> int:
    """Return how many messages the MQTT broker has taken and not done with."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT COUNT(*) FROM messages").fetchone()
    except sqlite3.OperationalError:  # there is none yet
        return 0
    return int(count)


class Stillness:
    """How long nothing has changed."""

    def __init__(self) -> None:
        """Begin now."""
        self._since = time.monotonic()
        self._last: object = None

    def seconds(self, seen: object) -> float:
        """Return for how long what is seen has been the same."""
        now = time.monotonic()
        if seen != self._last:
            self._last, self._since = seen, now
        return now - self._since
