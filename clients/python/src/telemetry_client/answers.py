"""Interprets the pipeline's answer to a batch, as a pure function.

A batch is a list of readings; an answer names them by index. Readings that an answer doesn't name
as taken or refused are sent again: the pipeline counts a reading once, however often it comes.
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
    """The relevant parts of an HTTP answer."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason for which the pipeline refused a reading of the batch, or one of its metrics."""

    index: int
    field: str | None
    value: Any
    reason: str


class Remedy(Enum):
    """The measure to take before the remaining readings are sent again."""

    NOTHING = "nothing is left"
    LATER = "a pause"
    LESS = "a pause, and fewer readings in a request"
    SMALLER = "fewer readings in a request"
    PLAINER = "JSON without compression"
    PERSON = "a person who corrects the address, the token or the disk"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The results of a batch's readings, and the remedy for those to be sent again.

    `taken` and `again` have indexes. `partly` has the refused metrics of taken readings.
    """

    taken: list[int] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    remedy: Remedy = Remedy.NOTHING
    problem: str | None = None
    retry_after_s: float = 0.0
    partly: list[Rejection] = field(default_factory=list)


def judge(answer: Answer | None, count: int, *, is_plain: bool = True, now_s: float = 0) -> Verdict:
    """Return the verdict on a batch of `count` readings; `answer` is None if there was none.

    `is_plain`: the batch was sent as uncompressed JSON. `now_s`: epoch seconds, for an answer whose
    Retry-After is a date.
    """
    everything = list(range(count))
    if answer is None:
        return Verdict(again=everything, remedy=Remedy.LESS, problem="no answer")
    document = json_object(answer.body)
    retry_after_s = retry_after_seconds(answer.retry_after, now_s)
    verdict = verdict_by_reading(document, answer.status, count, retry_after_s)
    if verdict:
        return verdict
    message = text_of(document.get("message"))
    text = "not an answer of the pipeline" if message is None else message
    problem = f"{answer.status}: {text}"
    is_unreadable = answer.status in UNREADABLE and message is not None
    if is_unreadable and not is_plain:
        return Verdict(again=everything, remedy=Remedy.PLAINER, problem=problem)
    if answer.status == 413 or (is_unreadable and answer.status != 415):
        if count > 1:
            return Verdict(again=everything, remedy=Remedy.SMALLER, problem=problem)
        named = text_of(document.get("field"))
        if named is None:  # of another server or a proxy, which would refuse every reading
            return Verdict(again=everything, remedy=Remedy.PERSON, problem=problem)
        return Verdict(rejected=[Rejection(0, named, short(document.get("value")), problem)])
    is_temporary = answer.status in BUSY or answer.status >= 500
    is_unknown = answer.status < 300 or answer.status == 400
    remedy = Remedy.LATER if is_temporary or is_unknown else Remedy.PERSON
    return Verdict([], [], everything, remedy, problem, retry_after_s)


def verdict_by_reading(
    document: dict[str, Any], status: int, count: int, retry_after_s: float
) -> Verdict | None:
    """Return the verdict if the answer has a result for every reading, else None."""
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
    """Return the rejections in a list of the answer; None if the pipeline gives no such list."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return None
    if any(indexes([entry.get("index")], count) is None for entry in entries):
        return None
    return [
        Rejection(
            entry["index"],
            text_of(entry.get("field")),
            short(entry.get("value")),
            text_of(entry.get("reason")) or "no reason was given",
        )
        for entry in entries
    ]


def text_of(value: Any) -> str | None:
    """Return a string of an answer, cut, in valid Unicode; None for any other value."""
    if not isinstance(value, str):
        return None
    return value[:TEXT_LENGTH].encode("utf-8", "replace").decode()


def short(value: Any) -> Any:
    """Return a value of an answer; None if it is longer than the pipeline's values are."""
    return value if len(json.dumps(value)) <= TEXT_LENGTH else None


def indexes(value: Any, count: int) -> list[int] | None:
    """Return distinct indexes of the batch, in order; None if `value` isn't a list of such."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        return None
    listed = list(value)
    if not all(type(index) is int and 0 <= index < count for index in listed):
        return None
    return sorted(listed) if len(set(listed)) == len(listed) else None


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; an empty one if the body has none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def retry_after_seconds(text: str | None, now_s: float) -> float:
    """Return the seconds of a Retry-After, which has seconds or a date; 0 without one."""
    if not text:
        return 0.0
    try:
        seconds = float(text) if text.strip().isdigit() else seconds_until(text, now_s)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), RETRY_AFTER_S_MAX)


def seconds_until(date: str, now_s: float) -> float:
    """Return the seconds until an HTTP date."""
    return parsedate_to_datetime(date).timestamp() - now_s
