"""Recordings of AWS, and their comparison with the results here.

A recording is what a test of LocalStack saw on AWS: answers, functions' events, messages of queues.
Its name implies the actions in between, and the messages that were sent and never arrived.

A placeholder stands for each value that differs from run to run; equal placeholders are equal
values. Texts that begin with "{" are recorded parsed: patterns, bodies of messages. The order of
keys isn't compared.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

Document = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "shared" / "conformance"
FILES = {path.stem: path for path in sorted(FOLDER.glob("snapshots*/*__*.json"))}
"""The recordings by name: the service, two underscores, the test."""
needed = pytest.mark.skipif(
    not FILES, reason="the recordings of AWS are not in this clone: ../shared/conformance/snapshots"
)


def recorded_of(*services: str) -> list[str]:
    """Return the names of all recordings of these services' mappings."""
    return sorted(name for name in FILES if name.partition("__")[0] in services)


ACCOUNT = "1" * 12
PLACEHOLDER = re.compile(rf"(<[^<>]+>|{ACCOUNT})")
UUID_FORM = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
FORMS = {
    "uuid": UUID_FORM,
    "request-id": UUID_FORM,
    "sequence-number": r"[1-9]\d{20,55}",
    "event-i-d": r"[0-9a-f]{32}",
    "shard-id": r"shardId-\d{20}-[0-9a-f]{8}",
    "kinesis-shard-id": r"shardId-\d{12}",
    "resource": r"[\w.:-]+",
    "region": r"[a-z]+-[a-z]+-\d",
    "partition": r"aws[a-z-]*",
    "queue-url": r"https?://\S+",
    "receipt-handle": r"\S+",
    "sender-id": r"[\w:-]+",
    "md5-of-body": r"[0-9a-f]{32}",
    "m-d5-of-body": r"[0-9a-f]{32}",
    ACCOUNT: r"\d{12}",
}
FORMS_ALONE = {
    "<timestamp:2022-07-13T13:48:01.000Z>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "<timestamp:2022-07-13T13:48:01Z>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "<datetime>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*",
    "<approximate-first-receive-timestamp>": r"\d{13}",
    "<md5-hash>": r"[0-9a-f]{32}",
    "sent-timestamp": r"\d{13}",
    "sender-id": r"[\w:-]+",
}
"""Placeholders that the recorder wrote for any value: only the value's form is compared."""


def kind_of(placeholder: str) -> str:
    """Return the kind of value that a placeholder stands for; sequence numbers are one kind."""
    return placeholder.strip("<>").partition(":")[0].removeprefix("start-")


class Recording:
    """A recording, and the values found for its placeholders."""

    forms = FORMS

    def __init__(self, name: str, bound: Mapping[str, str]) -> None:
        """Read a recording; the region's and the account's placeholders have known values."""
        self.name = name
        self.content: Document = json.loads(FILES[name].read_text("utf-8"))["content"]
        self.bound = dict(bound)

    def differences(self, actual: Any, expected: Any, at: str = "") -> Iterator[str]:
        """Yield each place where a document differs from the recording."""
        if isinstance(expected, dict) and isinstance(actual, str) and actual.startswith("{"):
            actual = json.loads(actual)
        if isinstance(expected, dict) and isinstance(actual, dict):
            for key in sorted(expected.keys() | actual.keys()):
                if key not in actual:
                    yield f"{at}.{key} is missing"
                elif key not in expected:
                    yield f"{at}.{key} was not recorded"
                else:
                    yield from self.differences(actual[key], expected[key], f"{at}.{key}")
        elif isinstance(expected, list) and isinstance(actual, list):
            if len(expected) != len(actual):
                yield f"{at} has {len(actual)} elements, recorded are {len(expected)}"
            for place, (ours, theirs) in enumerate(zip(actual, expected, strict=False)):
                yield from self.differences(ours, theirs, f"{at}[{place}]")
        elif not self.is_as(actual, expected):
            yield f"{at} is {actual!r}, recorded is {expected!r}"

    def is_as(self, actual: Any, expected: Any) -> bool:
        """Return whether a plain value equals the recorded one."""
        if not isinstance(expected, str):
            return type(actual) is type(expected) and bool(actual == expected)
        if not isinstance(actual, str):
            return False
        if expected in FORMS_ALONE:
            return bool(re.fullmatch(FORMS_ALONE[expected], actual))
        parts = PLACEHOLDER.split(expected)
        names = parts[1::2]
        forms = [
            f"({self.forms[kind_of(part)]})" if place % 2 else re.escape(part)
            for place, part in enumerate(parts)
        ]
        match = re.fullmatch("".join(forms), actual)
        if not match:
            return False
        return all(self._binds(*each) for each in zip(names, match.groups(), strict=True))

    def _binds(self, placeholder: str, value: str) -> bool:
        """Return whether a placeholder can stand for a value: always this one, and alone."""
        kind = kind_of(placeholder)
        if (kind, value) not in {(kind_of(name), each) for name, each in self.bound.items()}:
            self.bound.setdefault(placeholder, value)
        return self.bound.get(placeholder) == value


def as_recorded(answer: Any) -> Any:
    """Return an answer of boto3 as a recorder writes it: times as texts, no HTTP headers."""
    if isinstance(answer, datetime):
        return answer.isoformat()
    if isinstance(answer, list):
        return [as_recorded(each) for each in answer]
    if not isinstance(answer, dict):
        return answer
    plain = {name: as_recorded(value) for name, value in answer.items()}
    if "ResponseMetadata" in answer:
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        plain["ResponseMetadata"] = {"HTTPHeaders": {}, "HTTPStatusCode": status}
    return plain


def with_pattern_texts(reply: Document) -> Document:
    """Return a recorded mapping with its patterns as texts, as AWS answers them.

    What a pattern says of a time became a placeholder.
    """
    if "FilterCriteria" not in reply:
        return reply
    lost, condition = '"<approximate-creation-datetime>"', '[{"numeric":[">",0]}]'
    patterns = [each["Pattern"] for each in reply["FilterCriteria"]["Filters"]]
    texts = [json.dumps(pattern).replace(lost, condition) for pattern in patterns]
    return reply | {"FilterCriteria": {"Filters": [{"Pattern": text} for text in texts]}}
