"""Breaches that the alert's filters can't see, because AWS doesn't compare their numbers.

Filters compare numbers of at most 15 digits, six of them decimals (telemetry.domain.pack). `ingest`
writes such numbers only. A record that bypassed it has its sender's digits, for example those of a
32-bit float in full: 38.299999237060547. If it breaches a rule, `aggregate` puts its reading on the
stream again, in a form that filters see.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from telemetry.domain.pack import COMPARABLE_MAX
from telemetry.domain.reading import Reading
from telemetry.domain.rule import Rule

# What filters surely compare, if it isn't above COMPARABLE_MAX. All that telemetry.domain.pack
# writes on top is such a number. Trailing zeros count, and there is no exponent: a reading that a
# filter sees twice is a duplicate, and one that it never sees is a missed alert.
COMPARED = re.compile(r"-?([0-9]{1,9}(\.[0-9]{1,6})?|[0-9]{10}(\.[0-9]{1,5})?)")


def limits_of(rules: Iterable[Rule]) -> dict[str, float]:
    """Return, by metric, the lowest value above which a rule is breached."""
    limits: dict[str, float] = {}
    for rule in rules:
        limits[rule.metric] = min(rule.above, limits.get(rule.metric, rule.above))
    return limits


def is_unseen(record: bytes, reading: Reading, limits: Mapping[str, float]) -> bool:
    """Return whether a reading breaches a rule, and filters can't see that.

    `record` has the bytes of its stream record, which for a pack holds further readings. Only a
    breach costs more than a few comparisons.
    """
    metrics = reading.metrics
    breached = [name for name, above in limits.items() if metrics.get(name, above) > above]
    return bool(breached) and not all(name in _compared_in(record) for name in breached)


@lru_cache(1)  # a pack's readings come one after another
def _compared_in(record: bytes) -> frozenset[str]:
    """Return the names of a record's numbers on top that filters surely compare."""
    try:
        document = json.loads(
            record.decode(), parse_float=_Digits, parse_int=_Digits, parse_constant=_refuse
        )
    except ValueError:  # NaN, which the pipeline reads although it isn't JSON; no filter does
        return frozenset()
    return frozenset(
        name
        for name, value in document.items()
        if isinstance(value, _Digits)
        and COMPARED.fullmatch(value)
        and abs(float(value)) <= COMPARABLE_MAX
    )


class _Digits(str):
    """A number's text."""

    __slots__ = ()


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
