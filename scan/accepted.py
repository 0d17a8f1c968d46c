"""Reads accepted.yaml: the accepted findings, with the reasons.

For each check and rule it has reasons: a `why`, and the places, `at`, that it is for. A finding
that isn't accepted fails the scan, and so does an acceptance without a finding.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scan.tool import Finding

ACCEPTED = Path(__file__).parent / "accepted.yaml"

Names = frozenset[tuple[str, str]]  # findings' names: rule and place


class Unreadable(Exception):
    """The file can't be read. The message says where, and what would be right."""


def load(text: str) -> dict[str, Names]:
    """Return the accepted findings of each check."""
    checks = mapping("the file", yaml.safe_load(text) or {})
    return {check: names(check, rules) for check, rules in checks.items()}


def names(check: str, rules: Any) -> Names:
    seen: set[tuple[str, str]] = set()
    for rule, entries in mapping(check, rules).items():
        for place in places(f"{check}: {rule}", entries):
            if (rule, place) in seen:
                raise Unreadable(f"{check}: {rule}: {place} is there twice")
            seen.add((rule, place))
    return frozenset(seen)


def mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unreadable(f"{where}: {value} isn't a mapping")
    return value


def places(where: str, entries: Any) -> Iterator[str]:
    for entry in entries:
        match entry:
            case {"why": str(why), "at": [*at]} if why.strip() and at and len(entry) == 2:
                yield from map(str, at)
            case _:
                raise Unreadable(f"{where}: {entry} isn't a reason, `why`, with places, `at`")


def new(findings: list[Finding], accepted: Names) -> list[Finding]:
    """Return the findings that aren't accepted."""
    return [each for each in findings if (each.rule, each.place) not in accepted]


def stale(findings: list[Finding], accepted: Names) -> list[tuple[str, str]]:
    """Return the acceptances that don't occur any more."""
    return sorted(accepted - {(each.rule, each.place) for each in findings})
