"""What the pipeline's answer to a batch means: a pure function, for whoever sends.

A batch is a list of readings; an answer speaks of them by index. Whatever isn't plainly said to be
taken or refused is sent again: the pipeline counts a reading once, however often it comes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, NamedTuple

RETRY_AFTER_S_MAX = 3600.0
TEXT_LENGTH = 200
BUSY = {408, 425, 429}
UNREADABLE = {400, 415, 422}


class Answer(NamedTuple):
    """An HTTP answer, as far as it matters."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the pipeline will never take a reading of the batch, or a metric of one."""

    index: int
    field: str | None
    value: Any
    reason: str


class Remedy(Enum):
    """What helps, before the readings that are left are sent again."""

    NOTHING = "nothing is left"
    LATER = "a pause"
    LESS = "a pause, and fewer readings in a request"
    SMALLER = "fewer readings in a request"
    PLAINER = "JSON without compression"
    PERSON = "somebody who corrects the address, the token or the disk"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of each reading of a batch, and what to do about the rest.

    `partly` are metrics that were refused of readings that are taken without them.
    """

    taken: list[int] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    remedy: Remedy = Remedy.NOTHING
    problem: str | None = None
    retry_after_s: float = 0.0
    partly: list[Rejection] = field(default_factory=list)


def judge(answer: Answer | None, count: int, *, is_plain: bool = True, now_s: float = 0) -> Verdict:
    """What an answer, or None for none, says of a batch of `count` readings.

    `is_plain`: it was sent as JSON, without compression. `now_s`: epoch seconds, for an answer that
    names a date.
    """
    everything = list(range(count))
    if answer is None:
        return Verdict(again=everything, remedy=Remedy.LESS, problem="no answer")
    document = json_object(answer.body)
    retry_after_s = retry_after_seconds(answer.retry_after, now_s)
    by_reading = of_each(document, answer.status, count, retry_after_s)
    if by_reading:
        return by_reading
    message = text_of(document.get("message"))
    said = "no answer of the pipeline's" if message is None else message
    problem = f"{answer.status}: {said}"
    is_unreadable = answer.status in UNREADABLE and message is not None
    if is_unreadable and not is_plain:
        return Verdict(again=everything, remedy=Remedy.PLAINER, problem=problem)
    if answer.status == 413 or (is_unreadable and answer.status != 415):
        if count > 1:
            return Verdict(again=everything, remedy=Remedy.SMALLER, problem=problem)
        named = text_of(document.get("field"))
        if named is None:  # of another server, or a proxy: it would refuse every reading
            return Verdict(again=everything, remedy=Remedy.PERSON, problem=problem)
        return Verdict(rejected=[Rejection(0, named, shown(document.get("value")), problem)])
    is_passing = answer.status in BUSY or answer.status >= 500
    is_foreign = answer.status < 300 or answer.status == 400
    remedy = Remedy.LATER if is_passing or is_foreign else Remedy.PERSON
    return Verdict([], [], everything, remedy, problem, retry_after_s)


def of_each(
    document: dict[str, Any], status: int, count: int, retry_after_s: float
) -> Verdict | None:
    """The verdict where the answer tells the fate of every reading; None where it doesn't."""
    if status not in {202, 400, 503}:
        return None
    entries = document.get("partly", [])
    rejected = rejections(document.get("rejected"), count)
    again = indexes(document.get("not_taken", []), count)
    if rejected is None or again is None:
        return None
    settled = {each.index for each in rejected} | set(again)
    taken = [index for index in range(count) if index not in settled]
    if document.get("accepted") != len(taken) or len(settled) != len(rejected) + len(again):
        return None
    partly = [each for each in rejections(entries, count) or [] if each.index not in settled]
    if not again:
        return Verdict(taken, rejected, partly=partly)
    problem = f"{status}: {len(again)} of {count} readings weren't taken"
    return Verdict(taken, rejected, again, Remedy.LATER, problem, retry_after_s, partly)


def rejections(entries: Any, count: int) -> list[Rejection] | None:
    """What was refused; None where the list isn't one of the pipeline's."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if any(indexes([entry.get("index")], count) is None for entry in entries):
        return None
    return [
        Rejection(
            entry["index"],
            text_of(entry.get("field")),
            shown(entry.get("value")),
            text_of(entry.get("reason")) or "no reason was given",
        )
        for entry in entries
    ]


def text_of(value: Any) -> str | None:
    """A text of an answer, of bounded length and such as can be stored; None where it is none."""
    if not isinstance(value, str):
        return None
    return value[:TEXT_LENGTH].encode("utf-8", "replace").decode()


def shown(value: Any) -> Any:
    """A value of an answer; None where it is longer than the pipeline shows one."""
    return value if len(json.dumps(value)) <= TEXT_LENGTH else None


def indexes(found: Any, count: int) -> list[int] | None:
    """Different indexes of the batch, in order; None where it is anything else."""
    if not isinstance(found, Iterable) or isinstance(found, str):
        return None
    listed = list(found)
    if not all(type(index) is int and 0 <= index < count for index in listed):
        return None
    return sorted(listed) if len(set(listed)) == len(listed) else None


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, or an empty one if there is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def retry_after_seconds(text: str | None, now_s: float) -> float:
    """The pause that an answer asks for, in seconds or by a date; 0 when it asks for none."""
    if not text:
        return 0.0
    try:
        seconds = float(text) if text.strip().isdigit() else seconds_until(text, now_s)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX)


def seconds_until(date: str, now_s: float) -> float:
    """How long it is until an HTTP date."""
    return parsedate_to_datetime(date).timestamp() - now_s
